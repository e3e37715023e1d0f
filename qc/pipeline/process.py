"""From disk to verdict, top to bottom. Read this first."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from embeddings.clustering import cosine_distances, merge_heights
from embeddings.encoder import Encoder, WeightsError
from embeddings.preprocess import STRETCHES, at_standard_light
from embeddings.residual import Residual
from qc import db
from qc._files import is_fits_name, printable
from qc.core.enums import FrameState, LabelName, ThresholdPolicy
from qc.core.frame import Frame, Setup
from qc.core.measurement import FileInfo, Measurement
from qc.core.reference import REFERENCE_NEEDED, Reference
from qc.core.verdict import Evidence, Prediction, Status
from qc.db.models import ExtensionRow
from qc.db.reference_models import ReferenceModelCache, sensor_of
from qc.detection.classifier_features import ClassifierFeatures, differences_of, looks_of, predict
from qc.detection.decision import judge, limits_for
from qc.detection.judgement import Judgement
from qc.detection.metrics import z_scores
from qc.detection.thresholds import Threshold
from qc.errors import (
    ConfigurationError,
    FrameError,
    QCError,
    UnreadableFrameError,
    UnsupportedFrameError,
)
from qc.pipeline.readers import (
    FrameReading,
    ReaderPool,
    cores,
    read_file,
    reduce_frame,
    workers_for,
)
from qc.project import Project

Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

OF_NO_FILE = (OSError, QCError, WeightsError)  # what is wrong with all files, and ends a run
_REFERENCES_TO_CLUSTER = 2  # a tree of reference and new needs two references to be a tree
LEARNT_AT_ONCE = 4  # setups of an archive; each takes some 300 MB meanwhile
FLAGGED_BAD = 0.9  # of the flagged images, those expected to be bad: one in ten is a false alarm


@dataclass(frozen=True)
class ProcessingOutcome:
    """What became of one file: its state and why, and the verdict of each extension."""

    path: Path
    state: FrameState
    reason: str = ""
    judged: tuple[Judgement, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Say whether a person should look: an extension stands apart, or the file is broken."""
        return self.state is FrameState.FAILED or any(
            each.verdict.status is Status.ANOMALOUS for each in self.judged
        )


@dataclass(frozen=True)
class MeasuredFrame:
    """A frame that has been read and measured; `frame` has lost its pixels.

    Attributes
    ----------
    measured, thresholds : tuple
        One for each extension.
    """

    file: FileInfo
    frame: Frame
    measured: tuple[Measurement, ...]
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True)
class VerdictChange:
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
    judged: Judgement

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
            raise UnreadableFrameError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def process_frame(
    path: Path, project: Project, label: LabelName | None = None
) -> ProcessingOutcome:
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
    arrival = read_and_measure(path, project)
    embeddings = embed([arrival], project)
    judged = judge_frame(arrival, embeddings, project)
    [outcome] = record([(arrival, judged)], project, label)
    return outcome


def process_frames(
    paths: Iterable[Path], project: Project, label: LabelName | None = None
) -> Iterator[ProcessingOutcome]:
    """Process many files in order of their names, which in an ESO archive is that of time.

    A file that was processed before costs a look at its date. One that cannot be judged is
    recorded with the reason, and the night goes on. Many are read in processes beside this one;
    the verdicts are the same, and so is their order.

    Yields
    ------
    Outcome
        One for each path, as soon as it is stored.
    """
    ordered = sorted(paths, key=lambda path: (path.name, path))
    waiting: list[MeasuredFrame] = []
    for arrived in _arrivals(ordered, project, label):
        if isinstance(arrived, ProcessingOutcome):
            yield arrived
            continue
        waiting.append(arrived)
        if len(waiting) == project.settings.batch_frames:
            yield from _judge_patiently(waiting, project, label)
            waiting = []
    yield from _judge_patiently(waiting, project, label)


def _arrivals(
    paths: Sequence[Path], project: Project, label: LabelName | None
) -> Iterator[MeasuredFrame | ProcessingOutcome]:
    """Read and measure files, in their order; or say why not, which is then on record."""
    workers = workers_for(len(paths), project.settings.workers)
    with ReaderPool(project.instruments, workers) as readers:
        # While a batch is judged, the next one is read; what is in hand is bounded by that.
        ahead = readers.ahead and readers.ahead + project.settings.batch_frames
        begun: deque[Callable[[], MeasuredFrame | ProcessingOutcome]] = deque()
        for path in paths:
            begun.append(_begin(path, readers, project, label))
            if len(begun) > ahead:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()


def _begin(
    path: Path, readers: ReaderPool, project: Project, label: LabelName | None
) -> Callable[[], MeasuredFrame | ProcessingOutcome]:
    """Have a file read, unless it is known; what is returned waits for it."""
    file = FileInfo(printable(path), 0, 0)
    try:
        file = _stat(file.path)
    except FrameError as error:
        outcome = record_unprocessed(file, FrameState.FAILED, str(error), project)
        return lambda: outcome
    if recognise_unread(file, project, label):
        return lambda: ProcessingOutcome(file.path, FrameState.KNOWN)
    reading = readers.begin(file)
    return lambda: _arrive(file, reading, project, label)


def _arrive(
    file: FileInfo, reading: Callable[[], FrameReading], project: Project, label: LabelName | None
) -> MeasuredFrame | ProcessingOutcome:
    """Wait for a file that is being read; or say why it cannot be, which is then on record."""
    try:
        read = reading()
        if _recognise_read(read, project, label):
            return ProcessingOutcome(file.path, FrameState.KNOWN)
        return with_limits(read, project)
    except FrameError as error:
        state = (
            FrameState.SKIPPED if isinstance(error, UnsupportedFrameError) else FrameState.FAILED
        )
        return record_unprocessed(file, state, str(error), project)
    except (DBAPIError, *OF_NO_FILE):
        raise
    except Exception as error:  # noqa: BLE001 - told in full, and the file is on record
        return record_fault(file, error, project)


def _judge_patiently(
    arrivals: Sequence[MeasuredFrame], project: Project, label: LabelName | None
) -> Iterator[ProcessingOutcome]:
    """Judge a batch; a bug that one frame brings to light holds up none of the others."""
    done = 0
    try:
        for outcome in _judge_batch(arrivals, project, label):
            done += 1
            yield outcome
    except (DBAPIError, *OF_NO_FILE):
        raise
    except Exception as error:  # noqa: BLE001 - told in full once it is known whose it is
        left = arrivals[done:]
        if len(left) == 1:
            yield record_fault(left[0].file, error, project)
            return
        for arrival in left:
            yield from _judge_patiently([arrival], project, label)


def _judge_batch(
    arrivals: Sequence[MeasuredFrame], project: Project, label: LabelName | None
) -> Iterator[ProcessingOutcome]:
    """Embed a batch at once; judge and record it night by night, each in one transaction.

    Frames of one night do not vouch for each other, so that nothing is lost by recording them
    together: the next night's find them as references.
    """
    if not arrivals:
        return
    embeddings = by_frame(embed(arrivals, project), [one.measured for one in arrivals])
    pairs = zip(arrivals, embeddings, strict=True)
    for _, of_night in groupby(pairs, lambda pair: pair[0].frame.night):
        night = NightContext()
        judged = [(one, judge_frame(one, own, project, night)) for one, own in of_night]
        yield from record(judged, project, label)


def by_frame(embeddings: Floats, measured: Sequence[Sequence[Measurement]]) -> list[Floats]:
    """Cut the embeddings of a batch into those of each frame."""
    return np.split(embeddings, np.cumsum([len(each) for each in measured])[:-1])


def judge_again(
    project: Project,
    first: date = date.min,
    last: date = date.max,
    in_force: ThresholdPolicy = ThresholdPolicy.DATED,
) -> Iterator[VerdictChange]:
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
    with project.reads() as session:
        nights = db.recording.nights_between(session, first, last)
    for night in nights:
        with project.reads() as session:
            rows = db.recording.extensions_of(session, night)
        for row, arrival, embeddings in _stored(rows, project, in_force):
            with project.reads() as session:
                before = db.verdicts.newest_status(session, row.id)
            if before is None:
                continue  # its first verdict is for the backfill that has measured it
            [judged] = judge_frame(arrival, embeddings, project)
            with project.adds.begin() as session:
                db.recording.record_verdict(
                    session,
                    row.id,
                    judged,
                    encoder=project.encoder,
                    thresholds_digest=project.thresholds.digest,
                )
            yield VerdictChange(arrival.frame.name, before, judged)


def judge_waiting(project: Project) -> Iterator[Judgement]:
    """Judge what has been measured and awaits its first verdict, as if it came in order of time.

    Night after night, each in one transaction, so that a run that is cut short goes on where it
    was. What no instrument file describes any more keeps waiting.
    """
    project = replace(project, expectations=ReferenceModelCache(room=_SETUPS_OF_AN_ARCHIVE))
    with project.reads() as session:
        nights = db.recording.nights_unjudged(session)
    for night in nights:
        with project.reads() as session:
            rows = sorted(db.recording.unjudged_of(session, night), key=_as_processed)
        together, judged = NightContext(), []
        _learn_ahead(rows, project, together)
        for row, arrival, embeddings in _stored(rows, project, ThresholdPolicy.DATED):
            [one] = judge_frame(arrival, embeddings, project, together)
            judged.append((row.id, one))
        with project.writes.begin() as session:
            for extension_id, one in judged:
                db.recording.record_first_verdict(
                    session,
                    extension_id,
                    one,
                    encoder=project.encoder,
                    thresholds_digest=project.thresholds.digest,
                )
        yield from (one for _, one in judged)


def _learn_ahead(rows: Sequence[ExtensionRow], project: Project, night: "NightContext") -> None:
    """Learn what is expected of the setups of a night, several at once.

    Of an archive that is most of what its verdicts take: a second for each setup of each week.
    """
    by_setup = {(row.frame.instrument, row.setup): row for row in rows}
    with ThreadPoolExecutor(min(cores(), LEARNT_AT_ONCE)) as threads:
        list(threads.map(partial(_learn_setup, project=project, night=night), by_setup.values()))


def _learn_setup(row: ExtensionRow, project: Project, night: "NightContext") -> None:
    with project.reads() as session:
        arrival = _arrival_of(session, row, project, ThresholdPolicy.DATED)
        if arrival is None:
            return
        [measured], frame = arrival.measured, arrival.frame
        encoder = project.encoder.fingerprint
        reference = night.reference(session, frame, measured.setup, encoder)
        settled = _settled(reference, frame)
        if settled:
            project.expectations.learn(session, sensor_of(measured), settled)


_SETUPS_OF_AN_ARCHIVE = 64  # 9 MB each; fewer would be learnt anew night after night, not weekly


def _as_processed(row: ExtensionRow) -> tuple[str, str, int]:
    """Order a night's extensions as `process_frames` would, by the names of their files."""
    return Path(row.frame.path).name, row.frame.path, row.number


def _stored(
    rows: Sequence[ExtensionRow], project: Project, in_force: ThresholdPolicy
) -> Iterator[tuple[ExtensionRow, MeasuredFrame, Floats]]:
    """Yield stored extensions as arrivals, each with its embedding, (1, d)."""
    for row in rows:
        with project.reads() as session:
            arrival = _arrival_of(session, row, project, in_force)
            known = db.embeddings.find_embedding(session, row.id, project.encoder.fingerprint)
        if arrival is not None:
            yield row, arrival, embed([arrival], project) if known is None else known[np.newaxis]


def _arrival_of(
    session: Session, row: ExtensionRow, project: Project, in_force: ThresholdPolicy
) -> MeasuredFrame | None:
    """Return a stored extension as if it had just been read.

    None if too little was kept of it, or no instrument file describes it any more.
    """
    frame, setup = db.frames.frame_of(row.frame), row.setup
    described = [one for one in project.instruments if one.name == frame.instrument]
    if not any(setup.image_type in one.image_types() for one in described):
        return None
    limits = described[0].limits_of(setup.image_type, setup.chip, setup.read_mode)
    measured = db.recording.measured_of(session, row, limits)
    if measured is None:
        return None
    night = frame.night if in_force is ThresholdPolicy.DATED else date.max
    threshold = project.thresholds.threshold(setup.image_type, night, project.encoder.fingerprint)
    file = FileInfo(frame.path, row.frame.file_bytes, row.frame.modified_ns)
    return MeasuredFrame(file, frame, (measured,), (threshold,))


def record_fault(file: FileInfo, error: BaseException, project: Project) -> ProcessingOutcome:
    """Keep that a file could not be processed for a bug of ours, which is told in full."""
    reason = fault_words(file, error)
    return record_unprocessed(file, FrameState.FAILED, reason, project)


def fault_words(file: FileInfo, error: BaseException) -> str:
    """Say that a bug of ours keeps a file from being processed; the log has it in full."""
    facts = {"frame": file.path.name}
    logger.error("a file cannot be processed for a fault of ours", exc_info=error, extra=facts)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{file.path}: a fault of the program: {words}"


def record_unprocessed(
    file: FileInfo, state: FrameState, reason: str, project: Project
) -> ProcessingOutcome:
    """Keep that a file failed or was skipped, and why."""
    with project.adds.begin() as session:
        patience = project.settings.watch.patience
        db.frames.record_unprocessed(session, file, state, reason, patience)
    facts = {"frame": file.path.name, "reason": reason}
    logger.log(_LEVEL[state], "file %s", state, extra=facts)
    return ProcessingOutcome(file.path, state, reason)


def recognise_unread(file: FileInfo, project: Project, label: LabelName | None) -> bool:
    """Say whether the file was processed before; its frames may be certified only now."""
    with project.reads() as session:
        known = db.frames.is_known(session, file)
    if known and label is not None:
        with project.adds.begin() as session:
            db.frames.certify(session, file, label)
    return known


def _recognise_read(reading: FrameReading, project: Project, label: LabelName | None) -> bool:
    """Say whether these FITS bytes were processed before, wherever they lay."""
    with project.reads() as session:
        if db.frames.frame_with_digest(session, reading.frame.sha256) is None:
            return False
    with project.adds.begin() as session:
        return db.frames.recognise(session, reading.file, reading.frame.sha256, label)


_LEVEL = {FrameState.SKIPPED: logging.INFO, FrameState.FAILED: logging.WARNING}


def _stat(path: Path) -> FileInfo:
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableFrameError(f"{path}: {error.strerror}") from error
    return FileInfo(path, status.st_size, status.st_mtime_ns)


def read_and_measure(path: Path, project: Project) -> MeasuredFrame:
    """Read a file and reduce each of its images to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If it cannot be read to its end, or is not a frame that can be judged.
    """
    return with_limits(read_file(_stat(printable(path)), project.instruments), project)


def measure_frame(file: FileInfo, frame: Frame, project: Project) -> MeasuredFrame:
    """Reduce each image of a frame to block statistics and detector numbers.

    Raises
    ------
    FrameError
        If it is of no type that has a threshold, or not an image that can be judged.
    """
    return with_limits(reduce_frame(file, frame), project)


def with_limits(reading: FrameReading, project: Project) -> MeasuredFrame:
    """Add the limits that hold on the frame's night.

    Raises
    ------
    FrameError
        If there are none for its type.
    """
    encoder, night = project.encoder.fingerprint, reading.frame.night
    try:
        thresholds = tuple(
            project.thresholds.threshold(measured.setup.image_type, night, encoder)
            for measured in reading.measured
        )
    except FrameError as error:
        raise type(error)(f"{reading.file.path}: {error}") from None
    return MeasuredFrame(reading.file, reading.frame, reading.measured, thresholds)


def embed(arrivals: Sequence[MeasuredFrame], project: Project) -> Floats:
    """Return the embeddings of all extensions, in order: (n, d)."""
    return embed_measured([one for each in arrivals for one in each.measured], project.encoder)


def embed_measured(measured: Sequence[Measurement], encoder: Encoder) -> Floats:
    """Return the embeddings of what was measured of n extensions: (n, d)."""
    if not measured:
        return np.empty((0, 0), np.float32)
    embeddings = encoder.embed(np.stack([network_input(one, encoder.stretch) for one in measured]))
    if not np.isfinite(embeddings).all():
        raise ConfigurationError(
            f"encoder {encoder.fingerprint}: gave an embedding that is not of numbers; "
            "its weights are damaged, or not for this network"
        )
    return embeddings


def network_input(measured: Measurement, stretch: str) -> Floats:
    """Return what the encoder sees of an extension: (h, w, 3)."""
    statistics = at_standard_light(
        measured.statistics,
        measured.metrics.get("bias_level", measured.zero_adu),
        measured.promised_light,
    )
    return STRETCHES[stretch](statistics, measured.zero_adu, measured.stretch_adu)


@dataclass(frozen=True)
class NightContext:
    """What frames of one night that are judged together share, until they are recorded.

    Attributes
    ----------
    references : dict
        Those looked up so far: equal for equal setups, as they are of earlier nights.
    judged : list of (Frame, Measured)
        So far, in order.
    """

    references: dict[tuple[str, Setup], Reference] = field(default_factory=dict)
    judged: list[tuple[Frame, Measurement]] = field(default_factory=list)

    def reference(self, session: Session, frame: Frame, setup: Setup, encoder: str) -> Reference:
        """Return what an extension is held against."""
        key = (frame.instrument, setup)
        if key not in self.references:
            self.references[key] = db.references.reference_for(session, frame, setup, encoder)
        return self.references[key]

    def twin(self, session: Session, frame: Frame, measured: Measurement) -> str:
        """Return the name of an earlier frame with the very same pixels, or an empty string."""
        known = db.references.duplicate_of(session, measured, frame)
        return known or next((one.name for one in self._alike(frame, measured)), "")

    def _alike(self, frame: Frame, measured: Measurement) -> Iterator[Frame]:
        for one, its in self.judged:
            is_other = one.sha256 != frame.sha256 and one.name != frame.name
            is_alike = its.pixels_sha256 == measured.pixels_sha256
            if is_other and is_alike and one.observed_at <= frame.observed_at:
                yield one


def judge_frame(
    arrival: MeasuredFrame, embeddings: Floats, project: Project, night: NightContext | None = None
) -> tuple[Judgement, ...]:
    """Hold each extension of a frame against its references.

    Parameters
    ----------
    embeddings : (n, d) float32 array
    night : Night, optional
        What other frames of its night leave that are judged, and not recorded yet.
    """
    night = night or NightContext()
    judged = tuple(
        _judge(arrival.frame, measured, embedding, threshold, project, night)
        for measured, embedding, threshold in zip(
            arrival.measured, embeddings, arrival.thresholds, strict=True
        )
    )
    night.judged.extend((arrival.frame, measured) for measured in arrival.measured)
    return judged


def record(
    frames: Sequence[tuple[MeasuredFrame, tuple[Judgement, ...]]],
    project: Project,
    label: LabelName | None,
) -> list[ProcessingOutcome]:
    """Keep frames and everything learnt from them, all or nothing, save those that are known."""
    with project.adds.begin() as session:
        outcomes = [_record(session, *one, project, label) for one in frames]
    for (arrival, _), outcome in zip(frames, outcomes, strict=True):
        _log_verdicts(arrival, outcome)
    return outcomes


def _record(
    session: Session,
    arrival: MeasuredFrame,
    judged: tuple[Judgement, ...],
    project: Project,
    label: LabelName | None,
) -> ProcessingOutcome:
    is_new = db.recording.record_frame(
        session,
        arrival.file,
        arrival.frame,
        judged,
        encoder=project.encoder,
        thresholds_digest=project.thresholds.digest,
        label=label,
    )
    if not is_new:
        return ProcessingOutcome(arrival.file.path, FrameState.KNOWN)
    return ProcessingOutcome(arrival.file.path, FrameState.PROCESSED, judged=judged)


def _log_verdicts(arrival: MeasuredFrame, outcome: ProcessingOutcome) -> None:
    for each in outcome.judged:
        facts = {
            "frame": arrival.frame.name,
            "extension": each.measured.number,
            "image_type": each.measured.setup.image_type,
            "status": str(each.verdict.status),
            "score": round(each.verdict.score, 2),
        }
        logger.info("extension judged", extra=facts)


def _judge(
    frame: Frame,
    measured: Measurement,
    embedding: Floats,
    threshold: Threshold,
    project: Project,
    night: NightContext,
) -> Judgement:
    """Answer the one question: does this extension belong with its kind."""
    measured = db.block_statistics.as_kept(
        measured
    )  # so that the verdict can be repeated from what is stored
    with project.reads() as session:
        reference = night.reference(session, frame, measured.setup, project.encoder.fingerprint)
        twin = night.twin(session, frame, measured)
        residual = _residual(session, frame, measured, reference, project)
    evidence = _weigh(measured, embedding, reference, residual, twin)
    prediction = _predict(frame, measured, embedding, evidence, threshold, project)
    evidence = replace(evidence, prediction=prediction)
    return Judgement(
        measured=measured,
        embedding=embedding,
        evidence=evidence,
        verdict=judge(evidence, threshold, measured.limits),
        threshold=threshold,
        nearest_id=_nearest(embedding, reference),
    )


def _residual(
    session: Session, frame: Frame, measured: Measurement, reference: Reference, project: Project
) -> Residual | None:
    """Return what nominal variation cannot explain; None with too few references to know it."""
    settled = _settled(reference, frame)
    return project.expectations.residual(session, measured, settled) if settled else None


def _settled(reference: Reference, frame: Frame) -> tuple[int, ...]:
    """Return the references that say what pictures are nominal; none where there are too few."""
    enough = len(reference.extension_ids) >= REFERENCE_NEEDED
    return reference.settled(frame.night) if enough else ()


def _weigh(
    measured: Measurement,
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
    measured: Measurement,
    embedding: Floats,
    evidence: Evidence,
    threshold: Threshold,
    project: Project,
) -> Prediction | None:
    """Return what the classifier says: what it looks like, and what is wrong with it."""
    if project.classifier is None:
        return None
    description = describe(measured, embedding, evidence, threshold)
    [instrument] = [one for one in project.instruments if one.name == frame.instrument]
    # What the clustering flags is seldom good: then the question is what is wrong, not whether.
    flagged = judge(evidence, threshold, measured.limits).status is Status.ANOMALOUS
    least = FLAGGED_BAD if flagged else 0.0
    expected = instrument.expected_faults(measured.frame_class, least or None)
    return predict(project.classifier, description, measured.setup.image_type, expected, least)


def describe(
    measured: Measurement, embedding: Floats, evidence: Evidence, threshold: Threshold
) -> ClassifierFeatures:
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
    return ClassifierFeatures(embedding, looks, differences if size >= REFERENCE_NEEDED else {})


_QUANTITIES = {"level": "level", "scatter": "noise", "peak": "brightest pixel"}
_EVERYWHERE = {
    "power": "the whole frame",
    "outliers": "many blocks",
    "dark outliers": "many dark blocks",
}


def _in_words(residual: Residual, measured: Measurement) -> str:
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
