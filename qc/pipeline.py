"""From disk to verdict, top to bottom. Read this first."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.clustering import cosine_distances, merge_heights
from embeddings.preprocess import GRID, STRETCHES, at_standard_light, block_statistics
from embeddings.residual import Residual
from qc import database
from qc.choices import InForce
from qc.database import File, Judged, Measured, Reference
from qc.errors import (
    ConfigurationError,
    DeadReadOut,
    FrameError,
    NotForUs,
    UnreadableFrame,
    WrongShape,
)
from qc.features import Description, differences_of, looks_of, predict
from qc.files import is_fits_name, printable
from qc.frames import Extension, Frame, read_frame
from qc.judge import REFERENCE_NEEDED, Evidence, Prediction, Status, judge, limits_for
from qc.metrics import measure, z_scores
from qc.runtime import Runtime
from qc.tables import ExtensionRow, FrameState, LabelName
from qc.thresholds import Threshold

Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

_REFERENCES_TO_CLUSTER = 2  # a tree of reference and new needs two references to be a tree
FLAGGED_BAD = 0.9  # of the flagged images, those expected to be bad: one in ten is a false alarm
_BRIGHTEST_ADU = 1e12  # beyond it squares overflow float32; no detector has a millionth of it


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its state and why, and the verdict of each extension."""

    path: Path
    state: FrameState
    reason: str = ""
    judged: tuple[Judged, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Say whether a person should look: an extension stands apart, or the file is broken."""
        return self.state is FrameState.FAILED or any(
            each.verdict.status is Status.ANOMALOUS for each in self.judged
        )


@dataclass(frozen=True)
class Arrival:
    """A frame that has been read and measured; `frame` has lost its pixels.

    Attributes
    ----------
    measured, thresholds : tuple
        One for each extension.
    """

    file: File
    frame: Frame
    measured: tuple[Measured, ...]
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True)
class Rejudged:
    """A stored extension that was judged again.

    Attributes
    ----------
    name : str
        Of its frame.
    before : Status
        Of the newest verdict until now.
    """

    name: str
    before: Status
    judged: Judged

    @property
    def is_changed(self) -> bool:
        """Say whether it stands elsewhere than before."""
        return self.before != self.judged.verdict.status


def find_frames(paths: Iterable[Path]) -> list[Path]:
    """Return the files given, and the FITS files below the folders given, each once.

    Raises
    ------
    UnreadableFrame
        If one of `paths` does not exist: a slip of the pen, not a lost frame.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [one for one in path.rglob("*") if is_fits_name(one.name) and one.is_file()]
        elif path.exists():
            found.append(path)
        else:
            raise UnreadableFrame(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def process_frame(path: Path, runtime: Runtime, label: LabelName | None = None) -> Outcome:
    """Follow one file from disk to verdict; all of it is stored, or none.

    Parameters
    ----------
    label : LabelName, optional
        What a person has already said of this frame; an earlier word stands.

    Raises
    ------
    FrameError
        If this file cannot be judged. Nothing has been stored.
    """
    arrival = read_and_measure(path, runtime)
    embeddings = embed([arrival], runtime)
    judged = judge_frame(arrival, embeddings, runtime)
    return record(arrival, judged, runtime, label)


def process_frames(
    paths: Iterable[Path], runtime: Runtime, label: LabelName | None = None
) -> Iterator[Outcome]:
    """Process many files in order of their names, which in an ESO archive is that of time.

    A file that was processed before costs a look at its date. One that cannot be judged is
    recorded with the reason, and the night goes on.

    Yields
    ------
    Outcome
        One for each path, as soon as it is stored.
    """
    ordered = sorted(paths, key=lambda path: (path.name, path))
    step = runtime.settings.batch_frames
    for start in range(0, len(ordered), step):
        arrivals = []
        for path in ordered[start : start + step]:
            arrived = _arrive(path, runtime, label)
            if isinstance(arrived, Outcome):
                yield arrived
            else:
                arrivals.append(arrived)
        embeddings = embed(arrivals, runtime)  # (n, d)
        for arrival in arrivals:
            own, embeddings = np.split(embeddings, [len(arrival.measured)])
            yield record(arrival, judge_frame(arrival, own, runtime), runtime, label)


def judge_again(
    runtime: Runtime,
    first: date = date.min,
    last: date = date.max,
    in_force: InForce = InForce.DATED,
) -> Iterator[Rejudged]:
    """Judge what is stored as if it came today: with today's encoder, thresholds and labels.

    Night after night, so that each is held against references judged anew. A verdict is added,
    none replaced. What was stored before enough was kept of it is left out, and what no
    instrument file describes any more.

    Parameters
    ----------
    first, last : date
        Nights.
    in_force : InForce
        Whether the thresholds' entry of the frame's own night counts, or the newest.
    """
    with runtime.reads() as session:
        nights = database.nights_between(session, first, last)
    for night in nights:
        for row, arrival, embeddings in _stored(night, runtime, in_force):
            [judged] = judge_frame(arrival, embeddings, runtime)
            with runtime.adds.begin() as session:
                before = database.newest_status(session, row.id)
                database.record_verdict(
                    session,
                    row.id,
                    judged,
                    encoder=runtime.encoder,
                    thresholds_digest=runtime.thresholds.digest,
                )
            yield Rejudged(arrival.frame.name, before, judged)


def _stored(
    night: date, runtime: Runtime, in_force: InForce
) -> Iterator[tuple[ExtensionRow, Arrival, Floats]]:
    """Yield a night's extensions as arrivals, each with its embedding, (1, d)."""
    for row in _extensions_of(night, runtime):
        with runtime.reads() as session:
            arrival = _arrival_of(session, row, runtime, in_force)
            known = database.find_embedding(session, row.id, runtime.encoder.fingerprint)
        if arrival is not None:
            yield row, arrival, embed([arrival], runtime) if known is None else known[np.newaxis]


def _extensions_of(night: date, runtime: Runtime) -> Sequence[ExtensionRow]:
    with runtime.reads() as session:
        return database.extensions_of(session, night)


def _arrival_of(
    session: Session, row: ExtensionRow, runtime: Runtime, in_force: InForce
) -> Arrival | None:
    """Return a stored extension as if it had just been read.

    None if too little was kept of it, or no instrument file describes it any more.
    """
    frame, setup = database.frame_of(row.frame), row.setup
    described = [one for one in runtime.instruments if one.name == frame.instrument]
    if not any(setup.image_type in one.image_types() for one in described):
        return None
    limits = described[0].limits_of(setup.image_type, setup.chip, setup.read_mode)
    measured = database.measured_of(session, row, limits)
    if measured is None:
        return None
    night = frame.night if in_force is InForce.DATED else date.max
    threshold = runtime.thresholds.threshold(setup.image_type, night, runtime.encoder.fingerprint)
    file = File(frame.path, row.frame.file_bytes, row.frame.modified_ns)
    return Arrival(file, frame, (measured,), (threshold,))


def _arrive(path: Path, runtime: Runtime, label: LabelName | None) -> Arrival | Outcome:
    """Read and measure a file; or say why not, which is then on record."""
    file = File(printable(path), 0, 0)
    try:
        file = _stat(file.path)
        if _recognise_unread(file, runtime, label):
            return Outcome(file.path, FrameState.KNOWN)
        frame = read_frame(file.path, runtime.instruments)
        with runtime.adds.begin() as session:
            if database.recognise(session, file, frame.sha256, label):
                return Outcome(file.path, FrameState.KNOWN)
        return measure_frame(file, frame, runtime)
    except FrameError as error:
        state = FrameState.SKIPPED if isinstance(error, NotForUs) else FrameState.FAILED
        return _record_unprocessed(file, state, str(error), runtime)


def record_failure(path: Path, reason: str, runtime: Runtime) -> Outcome:
    """Keep that a file could not be processed, though it is not known to be at fault."""
    return _record_unprocessed(_stat(printable(path)), FrameState.FAILED, reason, runtime)


def _record_unprocessed(file: File, state: FrameState, reason: str, runtime: Runtime) -> Outcome:
    with runtime.adds.begin() as session:
        patience = runtime.settings.watch.patience
        database.record_unprocessed(session, file, state, reason, patience)
    facts = {"frame": file.path.name, "reason": reason}
    logger.log(_LEVEL[state], "file %s", state, extra=facts)
    return Outcome(file.path, state, reason)


def _recognise_unread(file: File, runtime: Runtime, label: LabelName | None) -> bool:
    """Say whether the file was processed before; its frames may be certified only now."""
    with runtime.reads() as session:
        known = database.is_known(session, file)
    if known and label is not None:
        with runtime.adds.begin() as session:
            database.certify(session, file, label)
    return known


_LEVEL = {FrameState.SKIPPED: logging.INFO, FrameState.FAILED: logging.WARNING}


def _stat(path: Path) -> File:
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableFrame(f"{path}: {error.strerror}") from error
    return File(path, status.st_size, status.st_mtime_ns)


def read_and_measure(path: Path, runtime: Runtime) -> Arrival:
    """Read a file and reduce each of its images to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If it cannot be read to its end, or is not a frame that can be judged.
    """
    file = _stat(printable(path))
    return measure_frame(file, read_frame(file.path, runtime.instruments), runtime)


def measure_frame(file: File, frame: Frame, runtime: Runtime) -> Arrival:
    """Reduce each image of a frame to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If it is of no type that has a threshold, or not an image that can be judged.
    """
    encoder = runtime.encoder.fingerprint
    try:
        thresholds = tuple(
            runtime.thresholds.threshold(extension.setup.image_type, frame.night, encoder)
            for extension in frame.extensions
        )
        for extension in frame.extensions:
            _check_measurable(extension)
    except FrameError as error:
        raise type(error)(f"{file.path}: {error}") from None
    measured = tuple(_measure(extension) for extension in frame.extensions)
    return Arrival(file, replace(frame, extensions=()), measured, thresholds)


def _check_measurable(extension: Extension) -> None:
    """Refuse what would stop the night, or go through it as infinity."""
    ny, nx = extension.pixels.shape
    if ny < GRID[0] or nx < GRID[1]:
        raise WrongShape(f"expected at least {GRID[0]}x{GRID[1]} pixels, got {ny}x{nx}")
    highest = max(abs(float(extension.pixels.min())), abs(float(extension.pixels.max())))
    if highest / (extension.promised_light or 1) > _BRIGHTEST_ADU:
        raise DeadReadOut(
            f"expected pixels of a detector, got up to {highest:.3g} ADU at "
            f"{extension.promised_light:.3g} of the standard exposure"
        )


def _measure(extension: Extension) -> Measured:
    return Measured(
        number=extension.number,
        setup=extension.setup,
        shape=extension.pixels.shape,
        light=extension.light,
        frame_class=extension.frame_class,
        zero_adu=extension.detector.bias_adu,
        gain_e_per_adu=extension.detector.gain_e_per_adu,
        read_noise_adu=extension.detector.read_noise_adu,
        stretch_adu=extension.stretch_adu,
        promised_light=extension.promised_light,
        limits=extension.limits,
        statistics=block_statistics(extension.pixels),
        metrics=measure(extension),
        pixels_sha256=hashlib.sha256(np.ascontiguousarray(extension.pixels).data).hexdigest(),
    )


def embed(arrivals: Sequence[Arrival], runtime: Runtime) -> Floats:
    """Return the embeddings of all extensions, in order: (n, d)."""
    inputs = [
        network_input(measured, runtime.encoder.stretch)
        for arrival in arrivals
        for measured in arrival.measured
    ]
    if not inputs:
        return np.empty((0, 0), np.float32)
    embeddings = runtime.encoder.embed(np.stack(inputs))
    if not np.isfinite(embeddings).all():
        raise ConfigurationError(
            f"encoder {runtime.encoder.fingerprint}: gave an embedding that is not of numbers; "
            "its weights are damaged, or not for this network"
        )
    return embeddings


def network_input(measured: Measured, stretch: str) -> Floats:
    """Return what the encoder sees of an extension: (h, w, 3)."""
    statistics = at_standard_light(
        measured.statistics,
        measured.metrics.get("bias_level", measured.zero_adu),
        measured.promised_light,
    )
    return STRETCHES[stretch](statistics, measured.zero_adu, measured.stretch_adu)


def judge_frame(arrival: Arrival, embeddings: Floats, runtime: Runtime) -> tuple[Judged, ...]:
    """Hold each extension of a frame against its references."""
    return tuple(
        _judge(arrival.frame, measured, embedding, threshold, runtime)
        for measured, embedding, threshold in zip(
            arrival.measured, embeddings, arrival.thresholds, strict=True
        )
    )


def record(
    arrival: Arrival, judged: tuple[Judged, ...], runtime: Runtime, label: LabelName | None
) -> Outcome:
    """Keep a frame and everything learnt from it, all or nothing, unless another was first."""
    with runtime.adds.begin() as session:
        is_new = database.record_frame(
            session,
            arrival.file,
            arrival.frame,
            judged,
            encoder=runtime.encoder,
            thresholds_digest=runtime.thresholds.digest,
            label=label,
        )
    if not is_new:
        return Outcome(arrival.file.path, FrameState.KNOWN)
    for each in judged:
        facts = {
            "frame": arrival.frame.name,
            "extension": each.measured.number,
            "image_type": each.measured.setup.image_type,
            "status": str(each.verdict.status),
            "score": round(each.verdict.score, 2),
        }
        logger.info("extension judged", extra=facts)
    return Outcome(arrival.file.path, FrameState.PROCESSED, judged=judged)


def _judge(
    frame: Frame, measured: Measured, embedding: Floats, threshold: Threshold, runtime: Runtime
) -> Judged:
    """Answer the one question: does this extension belong with its kind."""
    encoder = runtime.encoder.fingerprint
    with runtime.reads() as session:
        reference = database.reference_for(session, frame, measured.setup, encoder)
        twin = database.duplicate_of(session, measured, frame)
        residual = _residual(session, frame, measured, reference, runtime)
    evidence = _weigh(measured, embedding, reference, residual, twin)
    prediction = _predict(frame, measured, embedding, evidence, threshold, runtime)
    evidence = replace(evidence, prediction=prediction)
    return Judged(
        measured=measured,
        embedding=embedding,
        evidence=evidence,
        verdict=judge(evidence, threshold, measured.limits),
        threshold=threshold,
        nearest_id=_nearest(embedding, reference),
    )


def _residual(
    session: Session, frame: Frame, measured: Measured, reference: Reference, runtime: Runtime
) -> Residual | None:
    """Return what nominal variation cannot explain; None with too few references to know it."""
    if len(reference.extension_ids) < REFERENCE_NEEDED:
        return None
    settled = reference.settled(frame.night)
    return runtime.expectations.residual(session, measured, settled)


def _weigh(
    measured: Measured,
    embedding: Floats,
    reference: Reference,
    residual: Residual | None,
    twin: str,
) -> Evidence:
    m = len(reference.extension_ids)
    enough = m >= _REFERENCES_TO_CLUSTER
    height, usual = merge_heights(reference.embeddings, embedding) if enough else (None, 0.0)
    return Evidence(
        merge_height=height,
        usual_merge_height=usual,
        residual=residual.score if residual else None,
        usual_residual=residual.usual if residual else 0.0,
        pattern=_in_words(residual, measured) if residual else "",
        patterns=residual.oddness if residual else {},
        reference_size=m,
        widened=reference.widened,
        metrics=measured.metrics,
        z=z_scores(measured.metrics, reference.metrics),
        duplicate_of=twin,
    )


def _predict(
    frame: Frame,
    measured: Measured,
    embedding: Floats,
    evidence: Evidence,
    threshold: Threshold,
    runtime: Runtime,
) -> Prediction | None:
    """Return what the classifier says: what it looks like, and what is wrong with it."""
    if runtime.classifier is None:
        return None
    description = describe(measured, embedding, evidence, threshold)
    [instrument] = [one for one in runtime.instruments if one.name == frame.instrument]
    # What the clustering flags is seldom good: then the question is what is wrong, not whether.
    flagged = judge(evidence, threshold, measured.limits).status is Status.ANOMALOUS
    least = FLAGGED_BAD if flagged else 0.0
    expected = instrument.expected_faults(measured.frame_class, least or None)
    return predict(runtime.classifier, description, measured.setup.image_type, expected, least)


def describe(
    measured: Measured, embedding: Floats, evidence: Evidence, threshold: Threshold
) -> Description:
    """Return what the classifier is told of an extension."""
    size = evidence.reference_size
    differences = differences_of(
        evidence.z,
        evidence.patterns,
        evidence.merge_height,
        evidence.residual,
        limits_for(threshold, size).merge_height,
    )
    looks = looks_of(measured.appearance, measured.metrics)
    return Description(embedding, looks, differences if size >= REFERENCE_NEEDED else {})


_QUANTITIES = {"level": "level", "scatter": "noise", "peak": "brightest pixel"}
_EVERYWHERE = {
    "power": "the whole frame",
    "outliers": "many blocks",
    "dark outliers": "many dark blocks",
}


def _in_words(residual: Residual, measured: Measured) -> str:
    """Say what stands out most, and where on the detector: pixels from 0, as read."""
    quantity, shape = residual.strongest.split(maxsplit=1)
    if shape in _EVERYWHERE:
        return f"the {_QUANTITIES[quantity]} of {_EVERYWHERE[shape]}"
    block = zip(residual.place, measured.shape, measured.statistics.shape[:2], strict=True)
    y, x = (round((index + 0.5) * pixels / blocks) for index, pixels, blocks in block)
    return f"the {_QUANTITIES[quantity]} of a {shape} around x {x}, y {y}"


def _nearest(embedding: Floats, reference: Reference) -> int | None:
    if not reference.extension_ids:
        return None
    distances = cosine_distances(reference.embeddings, embedding[np.newaxis])[:, 0]
    return reference.extension_ids[int(distances.argmin())]
