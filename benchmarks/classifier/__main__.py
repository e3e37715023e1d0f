"""Train the classifier on simulated faults and measure it on another history.

``python -m benchmarks.classifier --work A --nominal B --learn-from C --test-on D --real R --ship``

B is a folder that ``benchmarks.thresholds`` has filled, with good images of every type; C and D
are the validation and the test history of ``benchmarks.detection``. Faults that are not yet in A
are simulated against B's good nights (a quarter of an hour on two cores). R are real frames. Writes
``benchmarks/results/classifier.json``, the tables in ``docs/results/classifier.md`` and pictures;
with ``--ship`` also the examples and the classifier that come with the program.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classifier import measuring, report
from benchmarks.classifier.examples import LabelledSet, read_history, read_nominal
from benchmarks.classifier.faults import spoil
from benchmarks.classifier.other_instrument import read_efosc2
from benchmarks.detection.report import update_markdown, write_json
from benchmarks.paths import PAGES, PICTURES, RESULTS
from embeddings.classifier import DenseClassifier
from embeddings.classifier_data import Examples

WEIGHTS = Path("embeddings/weights")
_RATE = 0.02  # of bad images, on a good telescope
_NOMINAL_OF_TYPE = 40  # good examples of each type
_SEED = 5


def main() -> None:
    """Read, train, measure, write."""
    arguments = _parser().parse_args()
    spoil(arguments.work, arguments.nominal)
    history = read_history(arguments.work) + read_history(arguments.learn_from)
    test = read_history(arguments.test_on)
    labelled = simulated_examples(history, read_nominal(arguments.nominal))
    examples = Examples.load(labelled.save())  # as the program will read them
    classifier = DenseClassifier.fit(examples)
    if arguments.ship:
        (WEIGHTS / "examples.npz").write_bytes(examples.save())
        (WEIGHTS / "classifier.dense").write_bytes(classifier.save())
    report.draw(classifier, test, PICTURES)
    results: dict[str, Any] = {
        "examples": dict(classifier.examples),
        "types": measuring.of_types(classifier, test),
        "kinds": measuring.of_kinds(classifier, test),
        "seldom": measuring.of_seldom(classifier, test, _RATE),
        "retraining_s": measuring.retraining(examples, test.examples),
        "transfer": _transfers(history, arguments.real),
    }
    write_json(RESULTS / "classifier.json", results)
    update_markdown(PAGES / "classifier.md", report.sections(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for simulated faults; resumable")
    add("--learn-from", type=Path, required=True, help="a history with faults to learn from too")
    add("--nominal", type=Path, required=True, help="good nights of every image type")
    add("--test-on", type=Path, required=True, help="a history that nothing was tuned on")
    add("--real", type=Path, help="real frames, for the transfer to EFOSC2")
    add("--ship", action="store_true", help="keep examples and classifier as the program's")
    return parser


def simulated_examples(history: LabelledSet, nominal: LabelledSet) -> Examples:
    """Return the images of a history, and some good ones of every image type."""
    rng = np.random.default_rng(_SEED)
    rows = [
        row
        for name in np.unique(nominal.headers)
        for row in rng.permutation(np.flatnonzero(nominal.headers == name))[:_NOMINAL_OF_TYPE]
    ]
    return _as_headers_say(history) + nominal.examples[np.sort(rows)]


def _as_headers_say(labelled: LabelledSet) -> Examples:
    return replace(labelled.examples, types=tuple(map(str, labelled.headers)))


def _transfers(history: LabelledSet, real: Path | None) -> dict[str, Any]:
    """Return how much twenty labelled images are worth beside another instrument's examples."""
    is_red = np.char.find(known_arm(history), "red") >= 0
    blue, red = history[~is_red], history[is_red]
    results = {"blue arm to red arm": measuring.transfer(blue.examples, red)}
    if real is not None:
        results["UVES to EFOSC2, real frames"] = measuring.transfer(
            history.examples, read_efosc2(real)
        )
    return results


def known_arm(labelled: LabelledSet) -> Any:
    """Return the arm of each image, by its type: UVES' blue ones have a B after the mode."""
    blue = np.array([name.lstrip("U").lstrip("D12").startswith("B") for name in labelled.headers])
    return np.where(blue, "blue", "red")


if __name__ == "__main__":
    main()
