"""How well an image's type can be told from its picture, for the forerunner's eleven types.

``python -m benchmarks.image_type --work /tmp/image_type``

Simulates training nights and, after at least one intervention, test nights months later; each
frame is read, measured and embedded by the product. A night that is in the folder is not
simulated again, so that more test nights may be added (``--nights``). Writes
``docs/image_type.json``, the figures in ``docs/image_type.md`` and a picture of the confusions.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.detection.figures import CONFIDENCE, Interval
from benchmarks.detection.report import update_markdown, write_json
from embeddings.classifier import DenseClassifier, Features
from embeddings.preprocess import Floats
from qc import pipeline
from qc.database import Measured
from qc.errors import FrameError
from qc.metrics import METRICS
from qc.runtime import Runtime, create_project, open_runtime, read_settings
from qc.simulator import (
    FULL_PLAN,
    Case,
    Exposure,
    Plan,
    Stream,
    make_case,
    plan_night,
    possible_faults,
    render,
    state_at,
)
from qc.simulator.faults import spoil_header
from qc.simulator.headers import primary_header
from qc.simulator.nights import frame_bytes, frame_rng

SEED = 51  # of the history that is reported; 53 was for choosing the network
FIRST_TRAINING = date(2025, 1, 13)
_TRAINING_APART = timedelta(days=10)
FIRST_TEST = date(2025, 6, 30)  # after three interventions of this seed's year
_TEST_APART = timedelta(days=17)
_GOOD = 8  # frames of each group and night: one of them unbinned, where there are both
_FAULTY = 2  # more, on test nights
_WORKERS = 2
TYPES = (
    "UBB0", "URB1", "URB2", "UBW1", "UBW2", "UD1BF0", "UD1BDF0", "UD1RF1", "UD1RF2", "URW1", "URW2",
)  # fmt: skip
# Of the pixels alone: most other numbers are there only if the header promises a lamp.
NUMBERS = ("bias_level", "read_noise")
ALONE, AIDED = "dense, embedding", "dense, embedding and two numbers"
_ENCODER = "resnet50-untrained"
_SURE = 0.9
_RIGHT = "header's type"
_SAID = 4  # answers named in the table
_BASELINES = {
    "nearest centroid": make_pipeline(StandardScaler(), NearestCentroid()),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
}
# The header and the picture tell of different things.
CONTRADICTIONS = (
    "mislabelled", "chips_swapped", "chip_duplicated", "lamp_wrong", "setting_wrong", "lamp_off",
)  # fmt: skip
# The pictures that there are, are good ones; or the reader refuses the file.
_NOT_JUDGED = ("frame_repeated", "chip_missing", "keyword_missing", "binning_misreported")


@dataclass(frozen=True)
class Images:
    """What was seen of n images, and the truth about them.

    Attributes
    ----------
    embeddings : (n, d) float32 array
    numbers : (n, k) float64 array
        Detector numbers in the order of `METRICS`; NaN where one has no meaning.
    types, settings, nights, faults, strengths : (n,) str array
        The header's image type, wavelength and binning; the night; empty for a good image.
    """

    embeddings: Floats
    numbers: NDArray[np.float64]
    types: NDArray[np.str_]
    settings: NDArray[np.str_]
    nights: NDArray[np.str_]
    faults: NDArray[np.str_]
    strengths: NDArray[np.str_]


@dataclass(frozen=True)
class Answers:
    """The most probable type of each image, (n,) str, and its probability, (n,) float64."""

    types: NDArray[np.str_]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class _Shot:
    exposure: Exposure
    case: Case | None


def simulate(work: Path, nights: Sequence[date], seed: int) -> None:
    """Simulate, read, measure and embed the nights that are not yet in the folder."""
    missing = [night for night in nights if not _stored(work, night).exists()]
    # One thread for each process: two that share two cores hinder each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
        shares = [missing[i::_WORKERS] for i in range(_WORKERS)]
        list(pool.map(partial(_observe_all, work=work, seed=seed), shares))


def read_images(work: Path, nights: Sequence[date]) -> Images:
    """Return the images of some nights that were simulated."""
    parts = []
    for night in nights:
        with np.load(_stored(work, night), allow_pickle=False) as stored:
            parts.append(dict(stored))
    return Images(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _stored(work: Path, night: date) -> Path:
    return work / f"{night}.npz"


def _observe_all(nights: Sequence[date], work: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        create_project(Path(folder))
        with open_runtime(read_settings(Path(folder))) as runtime:
            for night in nights:
                images = _observe(_shots(night, seed), night, seed, runtime)
                unfinished = work / f".{night}.npz"
                np.savez(unfinished, **vars(images))
                unfinished.replace(_stored(work, night))
                print(f"{night}: {len(images.types)} images", flush=True)


def _shots(night: date, seed: int) -> Iterator[_Shot]:
    """Plan a night in random order; every frame is a set of its own, with its own exposure time."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, night.toordinal()]))
    extra = _FAULTY if night >= FIRST_TEST else 0
    wishes = [
        (stream, index >= _GOOD)
        for group in _groups()
        for index, stream in enumerate(_mix(group, night, _GOOD + extra))
    ]
    rng.shuffle(wishes)
    plan = Plan(tuple(stream for stream, _ in wishes), aborted=0.0)
    for (_, is_faulty), exposure in zip(wishes, plan_night(plan, night, seed), strict=True):
        yield _Shot(exposure, _draw(exposure, rng) if is_faulty else None)


def _groups() -> list[list[Stream]]:
    """Return the streams of the full plan that have one of the eleven types, by their kind."""
    groups: dict[tuple[str, str], list[Stream]] = {}
    for stream in FULL_PLAN.streams:
        is_ours = {
            "bias": True,
            "flat": stream.path == "DICHR#1",
            "dflat": stream.path == "DICHR#1",
            "arc": stream.path == "RED" or stream.two_ports,
        }
        if is_ours.get(stream.image_class, False):
            groups.setdefault((stream.image_class, stream.arm), []).append(stream)
    return list(groups.values())


def _mix(group: Sequence[Stream], night: date, count: int) -> Iterator[Stream]:
    """Yield a night's frames of a group: settings in turn, the first unbinned, the rest 2x2."""
    turn = night.toordinal() // 7
    for index in range(count):
        unbinned = [one for one in group if (one.binning == (1, 1)) == (index == 0)] or group
        chosen = unbinned[(turn + index) % len(unbinned)]
        yield replace(chosen, set_size=1, every_nights=1)


def _draw(exposure: Exposure, rng: np.random.Generator) -> Case:
    """Draw a fault; every other one has the header contradict the picture."""
    kinds = [one for one in possible_faults(exposure) if one.kind not in _NOT_JUDGED]
    contradicting = [one for one in kinds if one.kind in CONTRADICTIONS]
    others = [one for one in kinds if one.kind not in CONTRADICTIONS]
    some = contradicting if rng.random() < 0.5 else others
    fault = some[rng.integers(len(some))]
    strength = str(rng.choice(fault.classes[exposure.stream.image_class]))
    return make_case(exposure, fault.kind, strength, rng)


def _observe(shots: Iterator[_Shot], night: date, seed: int, runtime: Runtime) -> Images:
    """Let the product read, measure and embed a night's frames."""
    rows, arrivals = [], []
    for shot in shots:
        path = runtime.settings.project / f"{shot.exposure.archive_name}.fits"
        _write(path, shot, seed)
        try:
            arrival = pipeline.read_and_measure(path, runtime)
        except FrameError as error:
            print(f"{night}: {shot.case} refused: {error}", flush=True)
            continue
        finally:
            path.unlink()
        arrivals.append(arrival)
        rows += [_truth(shot, measured, night) for measured in arrival.measured]
    embeddings = pipeline.embed(arrivals, runtime)
    numbers = [
        [measured.metrics.get(name, np.nan) for name in METRICS]
        for arrival in arrivals
        for measured in arrival.measured
    ]
    return Images(embeddings, np.array(numbers), *map(np.array, zip(*rows, strict=True)))


def _write(path: Path, shot: _Shot, seed: int) -> None:
    state = state_at(shot.exposure.start, seed)
    images = render(shot.exposure, state, frame_rng(seed, shot.exposure, "pixels"), shot.case)
    header = primary_header(shot.exposure, state)
    if shot.case is not None:
        spoil_header(header, shot.case)
    path.write_bytes(frame_bytes(header, shot.exposure, images))


def _truth(shot: _Shot, measured: Measured, night: date) -> tuple[str, ...]:
    """Return header's type, setting, night, fault and strength of one image."""
    setup = measured.setup
    light = f"{setup.wavelength_nm:.0f} nm " if setup.wavelength_nm else ""
    is_bad = shot.case is not None and shot.case.hits(measured.number)
    fault = (shot.case.kind, shot.case.strength) if is_bad and shot.case else ("", "")
    return setup.image_type, f"{light}{setup.binning}", night.isoformat(), *fault


# --- what is learnt ------------------------------------------------------------------------------


def classify(training: Images, tests: Images) -> dict[str, Answers]:
    """Return each method's answers to the tests."""
    alone, aided = _features(training), _features(training, NUMBERS)
    answers = {}
    for name, known, asked in (
        (ALONE, alone, _features(tests)),
        (AIDED, aided, _features(tests, NUMBERS)),
    ):
        trained = DenseClassifier.fit(known, list(training.types), list(training.nights))
        found = trained.predict_proba(asked)
        answers[name] = Answers(np.array(trained.classes)[found.argmax(axis=1)], found.max(axis=1))
        print(f"{name}: {trained.training}")
    for name, numbers in (("", ()), (" and two numbers", NUMBERS)):
        learnt, tested = _plain(training, numbers), _plain(tests, numbers)
        for method, model in _BASELINES.items():
            model.fit(learnt, training.types)
            found = model.predict_proba(tested)
            best = model.classes_[found.argmax(axis=1)]
            answers[f"{method}, embedding{name}"] = Answers(best, found.max(axis=1))
    return answers


def _features(images: Images, names: tuple[str, ...] = ()) -> Features:
    numbers = _numbers(images, names) if names else None
    return Features(images.embeddings, _ENCODER, numbers, names)


def _numbers(images: Images, names: Sequence[str]) -> NDArray[np.float64]:
    return images.numbers[:, [list(METRICS).index(name) for name in names]]


def _plain(images: Images, names: Sequence[str]) -> NDArray[np.float64]:
    """Return embeddings and numbers side by side; a missing number is 0."""
    return np.hstack([images.embeddings, np.nan_to_num(_numbers(images, names))])


# --- figures -------------------------------------------------------------------------------------


def share(right: NDArray[np.bool_]) -> Interval:
    """Return the share that is right with its 95 % interval of Clopper and Pearson (1934)."""
    count, of = int(right.sum()), len(right)
    limits = binomtest(count, of).proportion_ci(CONFIDENCE, method="exact")
    return Interval(count / of, float(limits.low), float(limits.high))


def _by_type(tests: Images, answers: Answers) -> dict[str, Interval]:
    good = tests.faults == ""
    right = answers.types == tests.types
    return {name: share(right[good & (tests.types == name)]) for name in TYPES}


def figures_of(tests: Images, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Return all figures, as they are written to JSON."""
    good = tests.faults == ""
    return {
        "images": {name: int((good & (tests.types == name)).sum()) for name in TYPES},
        "methods": {
            method: {
                "all": asdict(share((each.types == tests.types)[good])),
                **{name: asdict(one) for name, one in _by_type(tests, each).items()},
            }
            for method, each in answers.items()
        },
        "faults": {
            method: {
                kind: _of_fault(tests, answers[method], tests.faults == kind)
                for kind in sorted(set(tests.faults) - {""})
            }
            for method in (ALONE, AIDED)
        },
    }


def _of_fault(tests: Images, answers: Answers, hit: NDArray[np.bool_]) -> dict[str, Any]:
    said = Counter(zip(tests.types[hit].tolist(), answers.types[hit].tolist(), strict=True))
    return {
        "images": int(hit.sum()),
        _RIGHT: int((answers.types == tests.types)[hit].sum()),
        "doubted": int((answers.probabilities[hit] < _SURE).sum()),
        "said": {f"{header} -> {answer}": count for (header, answer), count in said.items()},
    }


# --- the page ------------------------------------------------------------------------------------


def sections(figures: Mapping[str, Any]) -> list[str]:
    """Write the tables."""
    return [
        f"### Good images, by type\n\n{_types_table(figures)}",
        f"### Methods on the same images\n\n{_methods_table(figures)}",
        f"### Where header and picture tell of different things\n\n{_faults_table(figures)}",
        f"### Other faults\n\n{_others(figures)}",
    ]


def _types_table(figures: Mapping[str, Any]) -> str:
    methods = (ALONE, AIDED)
    rows = [
        [name, str(figures["images"].get(name, sum(figures["images"].values())))]
        + [_percent(figures["methods"][method][name]) for method in methods]
        for name in (*TYPES, "all")
    ]
    return _table(("type", "images", *methods), rows)


def _methods_table(figures: Mapping[str, Any]) -> str:
    rows = []
    for method, shares in figures["methods"].items():
        worst = min(TYPES, key=lambda name: shares[name]["value"])
        perfect = sum(shares[name]["value"] == 1 for name in TYPES)
        worst_share = f"{100 * shares[worst]['value']:.2f} % {worst}" if perfect < 11 else ""
        rows.append([method, _percent(shares["all"]), worst_share, f"{perfect} of {len(TYPES)}"])
    return _table(("method", "right", "worst type", "types without an error"), rows)


def _faults_table(figures: Mapping[str, Any]) -> str:
    rows = []
    for kind in CONTRADICTIONS:
        for method in (ALONE, AIDED):
            found = figures["faults"][method].get(kind)
            if found is not None:
                noticed = found["images"] - found[_RIGHT]
                common = sorted(found["said"].items(), key=lambda item: -item[1])[:_SAID]
                rows.append(
                    [kind.replace("_", " "), method, str(found["images"]), str(noticed),
                     str(found["doubted"]), ", ".join(f"{said} ({n})" for said, n in common)]
                )  # fmt: skip
    head = ("fault", "method", "images", "another type", f"below {_SURE}", "header -> answer")
    return _table(head, rows)


def _others(figures: Mapping[str, Any]) -> str:
    lines = []
    for method in (ALONE, AIDED):
        kinds = figures["faults"][method]
        some = [found for kind, found in kinds.items() if kind not in CONTRADICTIONS]
        right, of = sum(one[_RIGHT] for one in some), sum(one["images"] for one in some)
        lost = [
            f"{kind.replace('_', ' ')} {found['images'] - found[_RIGHT]} of {found['images']}"
            for kind, found in kinds.items()
            if kind not in CONTRADICTIONS and found["images"] > found[_RIGHT]
        ]
        wrong = ", ".join(lost) or "none"
        lines.append(f"*{method}*: the type is right in {right} of {of} images. Wrong: {wrong}.")
    return "\n\n".join(lines)


def _percent(one: Mapping[str, float]) -> str:
    value, low, high = (100 * one[name] for name in ("value", "low", "high"))
    return f"{value:.2f} % ({low:.2f}-{high:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def draw(tests: Images, answers: Mapping[str, Answers], path: Path) -> None:
    """Draw which type was taken for which, good images only."""
    good = tests.faults == ""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    for axes, method in zip(figure.subplots(1, 2), (ALONE, AIDED), strict=True):
        said = answers[method].types[good]
        counts = confusion_matrix(tests.types[good], said, labels=list(TYPES))
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues")
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if 2 * count > counts[row].sum() else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(TYPES)), TYPES, rotation=90)
        axes.set_yticks(range(len(TYPES)), TYPES)
        axes.set(xlabel="said to be", ylabel="is", title=method)
    figure.suptitle(f"{good.sum()} good images of nights that nothing was learnt from")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Simulate what is missing, learn, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the nights; resumable")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of image_type.md")
    parser.add_argument("--training", type=int, default=8, help="training nights")
    parser.add_argument("--nights", type=int, default=12, help="test nights, 88 good images each")
    parser.add_argument("--seed", type=int, default=SEED, help="of the simulated history")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    learnt = [FIRST_TRAINING + i * _TRAINING_APART for i in range(arguments.training)]
    tested = [FIRST_TEST + i * _TEST_APART for i in range(arguments.nights)]
    simulate(arguments.work, [*learnt, *tested], arguments.seed)
    training, tests = (read_images(arguments.work, nights) for nights in (learnt, tested))
    answers = classify(training, tests)
    figures = {
        "seed": arguments.seed,
        "training": [str(night) for night in learnt],
        "tests": [str(night) for night in tested],
        **figures_of(tests, answers),
    }
    write_json(arguments.docs / "image_type.json", figures)
    update_markdown(arguments.docs / "image_type.md", sections(figures))
    draw(tests, answers, arguments.docs / "pictures" / "image_type.png")
    print(_types_table(figures))


if __name__ == "__main__":
    main()
