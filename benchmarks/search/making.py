"""Embeddings with the structure of real ones, and databases full of them.

Measured on 19,417 embeddings of simulated UVES frames, good and faulty, by the
encoder in use (resnet50-untrained-physical-233c98921cb7), as the benchmarks of detection and
training leave them. All lie within a cosine distance of 0.003 of each other; those of one setup
within 1e-6 (flats) to 1e-4 (biases) of their nearest; the variances along principal axes fall as
a power of their rank, over many hundred axes, which setups share for the most part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from qc.core.enums import FrameState, LabelName
from qc.core.verdict import Status
from qc.db.schema.models import (
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Integers = NDArray[np.int64]

D = 2048
RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 300, 400, 600)
# Variances along the principal axes of these ranks, of good frames.
SPECTRA = """
UBB0    3.3e-4 2.6e-4 1.1e-4 4.1e-5 1.1e-5 3.7e-6 1.2e-6 4.3e-7 1.6e-7 8.2e-8 4.8e-8 2.0e-8
URB1    2.5e-4 1.7e-4 7.1e-5 2.2e-5 8.0e-6 3.4e-6 1.1e-6 4.6e-7 1.7e-7 8.8e-8 5.3e-8 2.3e-8
URB2    2.5e-4 1.3e-4 6.9e-5 2.2e-5 6.7e-6 2.7e-6 8.6e-7 3.3e-7 1.3e-7 6.5e-8 3.8e-8 1.6e-8
UD1RF1  2.6e-5 1.5e-5 6.0e-6 1.3e-6 1.5e-7 3.0e-8 1.1e-8 4.7e-9 1.9e-9 1.0e-9 6.0e-10 2.4e-10
UD1RF2  1.8e-5 1.6e-5 1.0e-5 1.3e-6 3.7e-7 3.7e-8 1.2e-8 5.2e-9 2.0e-9 1.1e-9 6.5e-10 2.6e-10
UD1BF0  2.0e-5 7.5e-6 3.2e-6 1.5e-6 1.1e-7 3.5e-8 1.3e-8 5.6e-9 2.1e-9 1.1e-9 6.5e-10 2.4e-10
UD1BDF0 2.1e-5 7.1e-6 6.2e-6 1.2e-6 1.6e-7 4.4e-8 1.7e-8 7.1e-9 2.8e-9 1.4e-9 8.3e-10 3.1e-10
UBW1    1.0e-4 2.9e-5 2.6e-5 1.7e-5 5.0e-6 1.4e-6 4.7e-7 2.0e-7 7.5e-8 3.8e-8 2.2e-8 8.6e-9
UBW2    1.1e-4 4.0e-5 2.4e-5 1.4e-5 5.7e-6 1.9e-6 6.1e-7 2.6e-7 9.1e-8 4.7e-8 2.7e-8 1.1e-8
URW1    7.5e-5 2.0e-5 1.4e-5 9.9e-6 4.2e-6 1.9e-6 7.5e-7 3.3e-7 1.2e-7 6.2e-8 3.6e-8 1.4e-8
URW2    7.0e-5 4.2e-5 2.1e-5 1.2e-5 4.1e-6 1.6e-6 6.1e-7 2.6e-7 9.6e-8 4.9e-8 2.8e-8 1.1e-8
"""
# How many there were, and the median cosine distances to the nearest and the tenth nearest.
SPACINGS = {
    "UBB0": (1253, 1.4e-4, 1.7e-4),
    "URB1": (1339, 1.5e-4, 1.8e-4),
    "URB2": (1324, 1.1e-4, 1.2e-4),
    "UD1RF1": (1023, 1.2e-6, 1.5e-6),
    "UD1RF2": (1017, 1.4e-6, 1.6e-6),
    "UD1BF0": (857, 1.5e-6, 1.9e-6),
    "UD1BDF0": (935, 1.8e-6, 2.2e-6),
    "UBW1": (1123, 4.4e-5, 5.6e-5),
    "UBW2": (1150, 5.6e-5, 7.2e-5),
    "URW1": (1007, 8.3e-5, 9.9e-5),
    "URW2": (976, 6.5e-5, 8.0e-5),
}
TAIL = 0.45  # of the squared distance to the nearest, that the best 127 common axes leave out

_MODES = 600  # principal axes that are made
_LASTING, _STATES, _WITHIN = 10, 20, 0.15  # axes whose state lasts, states, and scatter in one
_QUIET, _QUIET_SHARE = 0.55, 0.85  # variance of most frames, for a mean of 1
_COPIES = 4  # setups like each of those measured: 44 in all
_OWN = 0.2  # of each axis, a setup's own: so that common axes leave out `TAIL`
_BETWEEN = 1.5e-3  # cosine distance between setups,
_BETWEEN_BIASES = 3e-5  # of biases,
_BETWEEN_COPIES = 2.4e-4  # and of one type
_FAULTY, _KINDS = 0.05, 12
_FAULT_AWAY = (3e-3, 5e-2)  # as lengths: cosine distances of 4e-6 to 1e-3
_COPIED, _LABELLED = 0.01, 0.05
BLOCK = 10_000

FIRST, LAST = date(2010, 1, 1), date(2019, 12, 31)
FINGERPRINT = "made-up-like-resnet50-untrained-physical"


@dataclass(frozen=True)
class Setup:
    """One setup's cloud.

    Attributes
    ----------
    centre : (d,) float32 array
    modes : (m, d) float32 array
        Axes, each as long as the scatter along it.
    states : (states, lasting) float32 array
        Where the setup is for a while along the first axes.
    faults : (kinds, d) float32 array
        Directions of length 1.
    """

    image_type: str
    centre: Floats
    modes: Floats
    states: Floats
    faults: Floats


def image_types() -> list[str]:
    """Name the setups' image types, in their order."""
    return [f"{name}.{copy}" for name in SPACINGS for copy in range(_COPIES)]


def make_setups(copies: int = _COPIES, seed: int = 1) -> list[Setup]:
    """Make the clouds of an archive, so many like each that was measured."""
    random = np.random.default_rng(seed)
    base = np.abs(random.normal(size=D))
    base /= np.linalg.norm(base)
    common, _ = np.linalg.qr(random.standard_normal((D, _MODES), np.float32))
    biases = _step(random, _BETWEEN)
    result = []
    for line in SPECTRA.strip().splitlines():
        name, *variances = line.split()
        is_bias = name[2] == "B"
        centre = biases + _step(random, _BETWEEN_BIASES) if is_bias else _step(random, _BETWEEN)
        for copy in range(copies):
            offset = _step(random, _BETWEEN_BIASES if is_bias else _BETWEEN_COPIES)
            result.append(
                Setup(
                    image_type=f"{name}.{copy}",
                    centre=(base + centre + offset).astype(np.float32),
                    modes=_modes(random, common.T, np.array(variances, float)),
                    states=random.standard_normal((_STATES, _LASTING), np.float32),
                    faults=_faults(random, common.T),
                )
            )
    return result


def _step(random: np.random.Generator, distance: float) -> NDArray[np.float64]:
    """Return an offset: two such in any directions are at this cosine distance."""
    step = random.normal(size=D)
    away: NDArray[np.float64] = step / np.linalg.norm(step) * np.sqrt(distance)
    return away


def _modes(random: np.random.Generator, common: Floats, variances: NDArray[np.float64]) -> Floats:
    ranks = np.arange(1, _MODES + 1)
    along = np.exp(np.interp(np.log(ranks), np.log(RANKS), np.log(variances)))
    order = np.argsort(np.log(ranks) + random.normal(0, 0.3, _MODES))  # alike, not the same
    axes = random.standard_normal((_MODES, D), np.float32) * np.float32(_OWN / np.sqrt(D))
    axes += np.sqrt(1 - _OWN**2) * common[order]
    scaled: Floats = axes * np.sqrt(along).astype(np.float32)[:, np.newaxis]
    return scaled


def _faults(random: np.random.Generator, common: Floats) -> Floats:
    """Half of each lies where frames vary anyway, half of it nowhere near."""
    usual = random.normal(size=(_KINDS, 300)) @ common[:300]
    unusual = random.normal(size=(_KINDS, D))
    both = [item / np.linalg.norm(item, axis=1, keepdims=True) for item in (usual, unusual)]
    away = both[0] + both[1]
    result: Floats = (away / np.linalg.norm(away, axis=1, keepdims=True)).astype(np.float32)
    return result


@dataclass(frozen=True)
class EmbeddingBlock:
    """Some embeddings in the order of time: n of them.

    Attributes
    ----------
    start : int
        The number of the first; its extension's id is one more.
    vectors : (n, d) float16 array
    setups : (n,) int array
        Which setup's.
    nights : (n,) int array
        As `date.toordinal`.
    labelled : (n,) bool array
    """

    start: int
    vectors: Halves
    setups: Integers
    nights: Integers
    labelled: NDArray[np.bool_]


def make_blocks(setups: list[Setup], total: int) -> Iterator[EmbeddingBlock]:
    """Yield an archive of ten years, a block at a time; the same blocks whenever it is asked."""
    for start in range(0, total, BLOCK):
        yield make_block(setups, total, start)


def make_block(setups: list[Setup], total: int, start: int) -> EmbeddingBlock:
    """Return the block of an archive that begins with this number."""
    random = np.random.default_rng([total, start])
    n = min(BLOCK, total - start)
    which = random.integers(len(setups), size=n)
    vectors = np.empty((n, D), np.float16)
    for number in np.unique(which):
        rows = np.flatnonzero(which == number)
        vectors[rows] = draw(setups[number], len(rows), random)
    copied = np.flatnonzero(random.random(n - 1) < _COPIED) + 1
    vectors[copied], which[copied] = vectors[copied - 1], which[copied - 1]
    span = LAST.toordinal() - FIRST.toordinal()
    nights = FIRST.toordinal() + (start + np.arange(n)) * span // total
    return EmbeddingBlock(start, vectors, which, nights, random.random(n) < _LABELLED)


def draw(setup: Setup, n: int, random: np.random.Generator) -> Halves:
    """Return n embeddings of a setup, (n, d): good ones, and some with faults."""
    scores = random.standard_normal((n, _MODES), np.float32)
    loud = (1 - _QUIET * _QUIET_SHARE) / (1 - _QUIET_SHARE)
    scores *= np.sqrt(np.where(random.random((n, 1)) < _QUIET_SHARE, _QUIET, loud))
    scores[:, :_LASTING] *= _WITHIN
    scores[:, :_LASTING] += setup.states[random.integers(_STATES, size=n)]
    away = scores @ setup.modes
    faulty = np.flatnonzero(random.random(n) < _FAULTY)
    least, most = np.log(_FAULT_AWAY)
    strengths = np.exp(random.uniform(float(least), float(most), len(faulty)))
    kinds = random.integers(_KINDS, size=len(faulty))
    wobble = random.standard_normal((len(faulty), D), np.float32) * (0.1 / np.sqrt(D))
    away[faulty] += strengths[:, np.newaxis] * (setup.faults[kinds] + wobble)
    result = setup.centre + away
    halves: Halves = (result / np.linalg.norm(result, axis=1, keepdims=True)).astype(np.float16)
    return halves


def fill(writes: sessionmaker[Session], setups: list[Setup], total: int) -> None:
    """Put an archive into an empty database, a frame of one extension for each embedding."""
    with writes.begin() as session:
        encoder = EncoderRow(fingerprint=FINGERPRINT, name="made up", stretch="physical")
        session.add(encoder)
        session.flush()
        encoder_id = encoder.id
    for some in make_blocks(setups, total):
        with writes.begin() as session:
            for table, rows in _rows(some, setups, encoder_id).items():
                if rows:
                    session.execute(insert(table), rows)


def _rows(
    some: EmbeddingBlock, setups: list[Setup], encoder_id: int
) -> dict[type, list[dict[str, Any]]]:
    rows: dict[type, list[dict[str, Any]]] = {
        table: [] for table in (FrameRow, ExtensionRow, EmbeddingRow, VerdictRow, LabelRow)
    }
    whole = some.vectors.astype(np.float32)
    for place, night in enumerate(some.nights.tolist()):
        number = some.start + place + 1
        at = datetime.combine(date.fromordinal(night), datetime.min.time(), UTC)
        at += timedelta(seconds=number % 40_000)
        rows[FrameRow].append(_frame(number, at))
        rows[ExtensionRow].append(_extension(number, setups[some.setups[place]].image_type))
        key = {"extension_id": number, "encoder_id": encoder_id}
        rows[EmbeddingRow].append({"id": number, "vector": whole[place], **key})
        rows[VerdictRow].append({"judged_at": at, **key, **_VERDICT})
        if some.labelled[place]:
            answer = {"label": LabelName.GOOD, "kind": "", "who": "kim", "at": at, "note": ""}
            rows[LabelRow].append({"extension_id": number, **answer})
    return rows


def _frame(number: int, at: datetime) -> dict[str, Any]:
    return {
        "id": number,
        "state": FrameState.PROCESSED,
        "path": f"/archive/{number}.fits",
        "file_bytes": 1,
        "modified_ns": 1,
        "processed_at": at,
        "sha256": f"{number:064x}",
        "name": f"UVES.{number}",
        "instrument": "UVES",
        "observed_at": at,
        "night": at.date(),
        "exposure_s": 1.0,
    }


def _extension(number: int, image_type: str) -> dict[str, Any]:
    return {
        "id": number,
        "frame_id": number,
        "number": 0,
        "image_type": image_type,
        "chip": "CCD",
        "binning": "1x1",
        "read_mode": "only",
        "optics": "",
        "frame_class": "bias",
        "ny": 2048,
        "nx": 2048,
        "pixels_sha256": f"{number:064x}",
        "promised_light": 0.0,
        "zero_adu": 100.0,
        "stretch_adu": 10.0,
        "metrics": {},
    }


_VERDICT = {
    "status": Status.NOMINAL,
    "score": 0.5,
    "reasons": [],
    "merge_height": 1e-4,
    "residual": 5.0,
    "threshold": 5e-4,
    "thresholds_digest": "0" * 64,
    "reference_size": 100,
    "widened": "",
    "z": {},
}
