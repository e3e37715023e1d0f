"""Measure detection on a simulated history that nothing was tuned on.

``python -m benchmarks.detection --work /tmp/detection --learn-from /tmp/detection-validation``

Simulates and judges the frames that are not yet in the folders (half an hour on two cores), then
scores every method and writes ``benchmarks/results/detection.json``, the tables in
``docs/results/detection.md`` and the pictures; with ``--history fresh`` the file and the page of
the fresh history, and no pictures.
The methods that need labelled bad images learn from the second folder's history.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.detection import (
    analysis,
    features,
    methods,
    pictures,
    report,
    robustness,
    supervised,
    unseen,
    visibility,
)
from benchmarks.detection.evidence import Record, Sample, prepare
from benchmarks.detection.history import ARMS, FRESH, TEST, VALIDATION, History, plan_shots
from benchmarks.paths import PAGES, PICTURES, RESULTS

_HISTORIES = {"test": TEST, "validation": VALIDATION, "fresh": FRESH}
_NO_FOLDER = "no methods that learn from bad images: no --learn-from"
_NO_WEIGHTS = "no network with ImageNet's weights: no --imagenet-resnet50, no --imagenet-vgg16"
_NO_ENCODER = "no other encoder: no --encoder"


def main() -> None:
    """Simulate and judge missing frames; measure; write."""
    arguments = _parser().parse_args()
    history = _HISTORIES[arguments.history]
    networks = _networks(arguments)
    _prepare(arguments.work, history, again=arguments.again, networks=networks)
    if arguments.learn_from:
        _prepare(arguments.learn_from, VALIDATION, again=arguments.again)
    rows = (*methods.FIELD, *methods.rows_of_features(networks), *methods.OURS)
    records = [Record(arguments.work, arm, networks) for arm in ARMS]
    labelled = _examples(arguments.learn_from) if arguments.learn_from else None
    _measure(records, rows, labelled, arguments.history, _skipped(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for databases; resumable")
    add(
        "--history",
        choices=tuple(_HISTORIES),
        default="test",
        help="which is in --work",
    )
    add("--learn-from", type=Path, help="folder for the validation history, with labelled faults")
    add("--again", action="store_true", help="judge anew what is in the folders, as shipped today")
    add("--imagenet-resnet50", type=Path, help="Keras' ImageNet weights of ResNet-50, without top")
    add("--imagenet-vgg16", type=Path, help="Keras' ImageNet weights of VGG16, without top")
    add("--encoder", action="append", default=[], help="weights of another ResNet-50; repeatable")
    return parser


def _prepare(
    work: Path, history: History, *, again: bool, networks: features.Networks | None = None
) -> None:
    context = multiprocessing.get_context("spawn")
    one_arm = partial(prepare, work=work, history=history, again=again, networks=networks)
    with ProcessPoolExecutor(len(ARMS), mp_context=context) as pool:
        list(pool.map(one_arm, ARMS))


def _networks(arguments: argparse.Namespace) -> features.Networks:
    resnets = (*arguments.encoder, arguments.imagenet_resnet50)
    vggs = (None, arguments.imagenet_vgg16) if arguments.imagenet_vgg16 else (None,)
    return features.Networks(tuple(str(resnet) for resnet in resnets if resnet), vggs)


def _skipped(arguments: argparse.Namespace) -> list[str]:
    """Print the missing rows with the reason."""
    values = {
        _NO_FOLDER: arguments.learn_from,
        _NO_WEIGHTS: arguments.imagenet_resnet50 or arguments.imagenet_vgg16,
        _NO_ENCODER: arguments.encoder,
    }
    return [reason for reason, value in values.items() if not value]


def _examples(work: Path) -> supervised.Examples:
    """Return every image of a history that had references, with its label."""
    groups = (group for arm in ARMS for group in Record(work, arm).groups())
    labelled = supervised.join(supervised.examples_of(group) for group in groups)
    return labelled.only(~np.isin(labelled.faults, list(analysis.COUNTED_APART)))


def _measure(
    records: Sequence[Record],
    rows: Sequence[methods.Row],
    examples: supervised.Examples | None,
    name: str,
    skipped: Sequence[str],
) -> None:
    history = _HISTORIES[name]
    samples = [sample for record in records for sample in record.samples]
    scores = analysis.score_all(records, rows)
    if examples is not None:
        for learner in supervised.ROWS:
            scores.teach(learner, examples)
    misses = analysis.misses(samples)
    visible = _visibility(records, analysis.hard(scores), history)
    results = {
        "seed": history.seed,
        "not measured": skipped,
        "product": analysis.product_table(samples),
        "methods": analysis.method_tables(scores),
        "costs": scores.columns,
        "by_strength": analysis.by_strength(scores),
        "unseen": unseen.measure(scores, supervised.ROWS, examples),
        "at_budget": analysis.at_budget(scores),
        "robustness": robustness.measure(records, scores, supervised.TRIED_ON_BAD_LABELS, examples),
        "calibration": analysis.calibration(scores),
        "recall_by_fault": analysis.recall_by_fault(samples),
        "by_reference_size": analysis.by_reference_size(samples),
        "by_brightness": analysis.by_brightness(scores),
        "new_lamp": analysis.with_a_new_lamp(samples),
        "signal_to_noise": {sample.name: ratio for sample, ratio in visible.items()},
    }
    suffix = "" if history is TEST else f"_{name}"
    report.write_json(RESULTS / f"detection{suffix}.json", results)
    alarms = analysis.false_alarms(samples)
    tables = report.sections(results, misses, visible, alarms)
    report.update_markdown(PAGES / f"detection{suffix.replace('_', '-')}.md", tables)
    if history is TEST:
        pictures.draw_all(scores, results, misses, history, PICTURES)


def _visibility(
    records: Sequence[Record], missed: Sequence[Sample], history: History
) -> dict[Sample, float]:
    """Return the signal-to-noise ratio of faults that are in the pictures and were missed."""
    by_arm = {record.arm: record for record in records}
    shots = {
        (arm, shot.name): shot
        for arm in ARMS
        for some in plan_shots(arm, history).values()
        for shot in some
    }
    return {
        sample: visibility.of_sample(
            sample, shots[sample.arm, sample.truth.file], by_arm[sample.arm]
        )
        for sample in missed
        if sample.truth.fault not in visibility.IN_THE_HEADER
    }


if __name__ == "__main__":
    main()
