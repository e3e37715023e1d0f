"""Anomaly detector for frames and embeddings, without a project or database."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from embeddings.clustering import merge_height
from embeddings.encoder import Encoder, ResNet50Encoder
from qc import core, detection, io
from qc._files import packaged_path
from qc.api.frames import packaged_instruments, read_frame
from qc.errors import InsufficientDataError, InvalidInputError
from qc.figures.verdict import verdict_figure
from qc.tuning.extreme_values import tail_quantile

Floats = NDArray[np.float32]
Source = str | Path | core.Frame
Samples = Sequence[Source] | NDArray[Any] | pd.DataFrame

FALSE_ALARMS = 0.001  # granted rate per embedding, as in the packaged thresholds


@dataclasses.dataclass(frozen=True)
class SetupReferences:
    """Measurements, embeddings and nights of the references of one setup, newest first."""

    measurements: tuple[core.Measurement, ...]
    embeddings: Floats
    nights: tuple[dt.date, ...]


NO_REFERENCES = SetupReferences((), np.empty((0, 0), np.float32), ())


class Detector:
    """Anomaly detector in the manner of scikit-learn; it needs no project.

    It judges frames exactly as a project does, with references that are kept in memory.

    Parameters
    ----------
    encoder : Encoder, optional
        Network that makes the embeddings; default: the packaged untrained ResNet-50.
    thresholds : Thresholds, optional
        Limits by image type; default: the packaged file.
    instruments : sequence of Instrument, optional
        Instruments to recognise; default: the packaged ones.

    Attributes
    ----------
    references_ : dict of Setup to SetupReferences
        Nominal extensions after `fit` with frames.
    embeddings_ : (m, d) float32 array
        Nominal embeddings after `fit` with an array.
    limit_ : float
        Largest nominal merge height (cosine distance) after `fit` with an array.

    Examples
    --------
    From files, as a project judges them:

    >>> import qc
    >>> detector = qc.Detector.from_frames(sorted(Path("archive").rglob("*.fits")))
    >>> verdict = detector.judge("bias.fits")[0]
    >>> verdict.image_type, str(verdict.status)
    ('UBB0', 'NOMINAL')

    From embeddings of any origin:

    >>> import numpy as np
    >>> normal = np.random.default_rng(1).normal(1, 0.01, (50, 64)).astype("float32")
    >>> detector = qc.Detector().fit(normal)
    >>> detector.predict(np.stack([normal[0], -normal[0]]))
    array([ 1, -1])
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        thresholds: detection.Thresholds | None = None,
        instruments: Sequence[io.Instrument] | None = None,
    ) -> None:
        self.instruments = tuple(instruments) if instruments else packaged_instruments()
        self.encoder = encoder or ResNet50Encoder()
        self.thresholds = thresholds or _packaged_thresholds(self.instruments)
        self.references_: dict[core.Setup, SetupReferences] = {}
        self._reference_sets: dict[tuple[core.Setup, dt.date], core.Reference] = {}

    @classmethod
    def from_frames(cls, references: Iterable[Source], **parameters: Any) -> Self:
        """Return a detector that is fitted to nominal frames.

        Parameters
        ----------
        references : iterable of str, Path or Frame
            Nominal frames; each setup needs 20 for a verdict other than UNDECIDED.
        **parameters
            Parameters of `Detector`.

        Returns
        -------
        Detector
        """
        return cls(**parameters).fit(list(references))

    def fit(self, references: Samples, y: object = None) -> Self:  # noqa: ARG002
        """Learn nominal frames or embeddings; earlier ones are forgotten.

        Parameters
        ----------
        references : sequence of str, Path or Frame; or (m, d) array or DataFrame
            Nominal frames, or their embeddings, m >= 3.
        y : ignored
            For compatibility with scikit-learn.

        Returns
        -------
        Detector
            The detector itself.

        Raises
        ------
        FrameError
            If a file cannot be read.
        InsufficientDataError
            If there are fewer than three embeddings.
        InvalidInputError
            If the array is not two-dimensional or not finite.
        """
        if isinstance(references, np.ndarray | pd.DataFrame):
            return self._fit_embeddings(np.asarray(references, np.float32))
        frames = [self._read(source) for source in references]
        self.references_ = self._group(frames)
        self._reference_sets.clear()
        return self

    def judge(self, frame: Source) -> list[core.Verdict]:
        """Judge each extension of a frame.

        Parameters
        ----------
        frame : str, Path or Frame

        Returns
        -------
        list of Verdict
            One for each extension, with evidence and a figure.

        Raises
        ------
        FrameError
            If the file cannot be read, or the frame cannot be measured.
        """
        frame = self._read(frame)
        measurements = detection.measure(frame)
        embeddings = detection.embed(measurements, self.encoder)
        references = [self._reference(item.setup, frame.night) for item in measurements]
        thresholds = self.thresholds.select(measurements, frame.night, self.encoder.fingerprint)
        judgements = detection.judge(measurements, embeddings, references, thresholds)
        return [
            describe_verdict(judgement, reference, self._nearest_image(judgement))
            for judgement, reference in zip(judgements, references, strict=True)
        ]

    def score_samples(self, samples: Samples) -> NDArray[Any]:
        """Return the negative score of each sample: the lower, the more anomalous; limit -1.

        Parameters
        ----------
        samples : sequence of n str, Path or Frame; or (n, d) array or DataFrame
            Of the kind that the detector was fitted to.

        Returns
        -------
        (n,) float64 array
            For a frame, the lowest value of its extensions.

        Raises
        ------
        InsufficientDataError
            If the samples are an array and the detector is not fitted to one.
        InvalidInputError
            If the array has another width.
        """
        if isinstance(samples, np.ndarray | pd.DataFrame):
            new = np.asarray(samples, np.float32)
            if not hasattr(self, "embeddings_"):
                raise InsufficientDataError("the detector is not fitted to embeddings; call fit")
            if new.ndim != 2 or new.shape[1] != self.embeddings_.shape[1]:
                width = self.embeddings_.shape[1]
                raise InvalidInputError(f"expected an (n, {width}) array, got {new.shape}")
            return np.array([-merge_height(self.embeddings_, row) / self.limit_ for row in new])
        return np.array([-max(verdict.score for verdict in self.judge(item)) for item in samples])

    def predict(self, samples: Samples) -> NDArray[np.int_]:
        """Return 1 for nominal samples and -1 for anomalous ones.

        Parameters
        ----------
        samples : sequence of n str, Path or Frame; or (n, d) array or DataFrame

        Returns
        -------
        (n,) int array
        """
        return np.where(self.score_samples(samples) < -1, -1, 1)

    def _fit_embeddings(self, embeddings: Floats) -> Self:
        """Keep embeddings; the limit is the tail quantile of leave-one-out merge heights."""
        if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
            raise InvalidInputError("expected an (m, d) array of finite numbers")
        count = len(embeddings)
        if count < 3:
            raise InsufficientDataError(f"expected at least 3 nominal embeddings, got {count}")
        others = (np.delete(embeddings, index, axis=0) for index in range(count))
        heights = [merge_height(rest, row) for rest, row in zip(others, embeddings, strict=True)]
        self.embeddings_ = embeddings
        self.limit_ = float(tail_quantile(np.array(heights), FALSE_ALARMS))
        return self

    def _read(self, source: Source) -> core.Frame:
        return source if isinstance(source, core.Frame) else read_frame(source, self.instruments)

    def _group(self, frames: Sequence[core.Frame]) -> dict[core.Setup, SetupReferences]:
        """Measure and embed nominal frames; group them by setup, newest first."""
        newest_first = sorted(frames, key=lambda frame: frame.observed_at, reverse=True)
        pairs = [(item, f.night) for f in newest_first for item in detection.measure(f)]
        embeddings = detection.embed([item for item, _ in pairs], self.encoder)
        groups: dict[core.Setup, list[int]] = {}
        for index, (item, _) in enumerate(pairs):
            groups.setdefault(item.setup, []).append(index)
        return {
            setup: SetupReferences(
                tuple(pairs[index][0] for index in rows[: core.REFERENCE_NEWEST]),
                embeddings[rows[: core.REFERENCE_NEWEST]],
                tuple(pairs[index][1] for index in rows[: core.REFERENCE_NEWEST]),
            )
            for setup, rows in groups.items()
        }

    def _reference(self, setup: core.Setup, night: dt.date) -> core.Reference:
        """Return the reference set of a setup; its residual model is the same for a week."""
        monday = night - dt.timedelta(days=night.weekday())
        if (setup, monday) not in self._reference_sets:
            group = self.references_.get(setup, NO_REFERENCES)
            self._reference_sets[setup, monday] = detection.make_reference(
                group.measurements, group.embeddings, night=night, nights=group.nights
            )
        return self._reference_sets[setup, monday]

    def _nearest_image(self, judgement: detection.Judgement) -> Floats | None:
        if judgement.nearest_id is None:
            return None
        group = self.references_[judgement.measurement.setup]
        return group.measurements[judgement.nearest_id].statistics[..., 0]


@dataclasses.dataclass(frozen=True)
class VerdictFigure:
    """Callable that draws a judgement.

    Attributes
    ----------
    judgement : Judgement
    reference : Reference
        Reference set with its residual model.
    nearest : (h, w) float array or None
        Block means of the nearest reference, ADU.
    title : str
    """

    judgement: detection.Judgement
    reference: core.Reference
    nearest: Floats | None
    title: str

    def __call__(self) -> Figure:
        """Draw the figure."""
        measurement = self.judgement.measurement
        model = self.reference.residual_model
        return verdict_figure(
            measurement.statistics[..., 0],
            title=self.title,
            residual_map=model.residual(measurement.above_bias).maps[0] if model else None,
            nearest=self.nearest,
            z=self.judgement.evidence.z,
        )


def describe_verdict(
    judgement: detection.Judgement, reference: core.Reference, nearest: Floats | None
) -> core.Verdict:
    """Return the verdict of a judgement with image type, evidence and figure.

    Parameters
    ----------
    judgement : Judgement
    reference : Reference
        Reference set that the extension was compared with.
    nearest : (h, w) float32 array or None
        Block means of the nearest reference, ADU.

    Returns
    -------
    Verdict
    """
    verdict = dataclasses.replace(
        judgement.verdict,
        image_type=judgement.measurement.setup.image_type,
        evidence=judgement.evidence,
    )
    return dataclasses.replace(
        verdict, figure=VerdictFigure(judgement, reference, nearest, str(verdict))
    )


def _packaged_thresholds(instruments: Iterable[io.Instrument]) -> detection.Thresholds:
    types = [name for instrument in instruments for name in instrument.image_types()]
    return detection.read_thresholds(packaged_path("thresholds.yaml"), types)
