"""Figures of an extension: pictures, residual map, dendrogram, metrics and history."""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from embeddings.clustering import average_linkage
from embeddings.preprocess import scale_to_standard_light
from qc import core, db, detection
from qc.db.schema import models
from qc.figures import dendrogram
from qc.figures import images as figure_images
from qc.reports import pictures, trend_figures
from qc.reports.pictures import EmbeddedPicture, Floats
from qc.summaries.night import HISTORY_NIGHTS

SCATTER_REFERENCES = 24  # references whose block statistics are read for the difference map
FEWEST_FOR_SCATTER = 5
SIGMA_OF_MAD = 1.4826  # of a normal distribution
LEAST_SCATTER_ADU = 0.01  # keeps the division finite where references are equal
WARN_SIGMA = 5.0  # limit of the listed metrics without a thresholds entry; not for verdicts
DEVIATING_LISTED = 12
DAYS_AFTER = dt.timedelta(days=30)  # of a frame's history: does the deviation persist?
MEAN, MAXIMUM = 0, 2  # planes of the block statistics
PLANES = {MEAN: "mean", MAXIMUM: "maximum"}


@dataclass(frozen=True)
class MetricRow:
    """Metric of an extension, with the median of its references.

    Attributes
    ----------
    z : float or None
        In robust standard deviations of the references; None without enough of them.
    """

    name: str
    metric: detection.Metric
    value: float
    median: float | None
    z: float | None


@dataclass(frozen=True)
class ResidualLocation:
    """Place in which an extension differs from its references.

    Attributes
    ----------
    picture : EmbeddedPicture
        Mean of the extension under the residual map.
    description : str
        Place in pixels as read, from 0, and size of the residual.
    """

    picture: EmbeddedPicture
    description: str


@dataclass(frozen=True)
class ExtensionFigures:
    """Pictures and metrics of one extension.

    Attributes
    ----------
    references : int
        Present size of the reference set; it may differ from the size at the time of the verdict.
    nearest : ExtensionRow or None
        Nearest reference.
    deviating : tuple of MetricRow
        Metrics beyond their warning limits, largest deviation first.
    metrics : tuple of MetricRow
        All metrics.
    tree : EmbeddedPicture or None
        Dendrogram; None with fewer than two references.
    residual_location : ResidualLocation or None
        None with too few references for a reference model.
    """

    finding: db.findings.Finding
    pictures: tuple[EmbeddedPicture, ...]
    references: int
    nearest: models.ExtensionRow | None
    deviating: tuple[MetricRow, ...]
    metrics: tuple[MetricRow, ...]
    tree: EmbeddedPicture | None
    residual_location: ResidualLocation | None


@dataclass(frozen=True)
class Thumbnail:
    """Small picture of an extension; None where block statistics are not stored."""

    finding: db.findings.Finding
    picture: EmbeddedPicture | None


@dataclass(frozen=True)
class _SetupAppearance:
    """Median and robust scatter of a setup's references at standard light, ADU: (h, w, 3)."""

    centre: Floats
    scatter: Floats


class FigureRenderer:
    """Draws extensions of one night, with a cache of the references of each setup.

    Parameters
    ----------
    session : Session
        Open session.
    thresholds : Thresholds or None
        Warning limits of the metrics.
    reference_models : ReferenceModelCache, optional
        Cache of reference models.
    """

    def __init__(
        self,
        session: Session,
        thresholds: detection.Thresholds | None,
        reference_models: db.reference_models.ReferenceModelCache | None = None,
    ) -> None:
        self.session = session
        self.thresholds = thresholds
        self._references: dict[tuple[core.Setup, str], core.Reference] = {}
        self._appearances: dict[tuple[core.Setup, str], _SetupAppearance | None] = {}
        self._models = reference_models or db.reference_models.ReferenceModelCache()

    def render(self, finding: db.findings.Finding) -> ExtensionFigures:
        """Return all figures of an extension."""
        key = finding.extension.setup, finding.fingerprint
        if key not in self._references:
            self._references[key] = db.findings.reference_of(self.session, finding)
            self._appearances[key] = self._read_appearance(self._references[key])
        reference, appearance = self._references[key], self._appearances[key]
        nearest = self.session.get(models.ExtensionRow, finding.verdict.nearest_id or 0)
        metrics = list_metrics(finding, reference)
        return ExtensionFigures(
            finding=finding,
            pictures=self._draw_pictures(finding.extension, nearest, appearance),
            references=len(reference.extension_ids),
            nearest=nearest,
            deviating=select_deviating(metrics, warning_limits(finding, self.thresholds)),
            metrics=metrics,
            tree=self._draw_tree(finding, reference),
            residual_location=self._locate_residual(finding, reference),
        )

    def draw_pair(self, finding: db.findings.Finding) -> tuple[EmbeddedPicture, ...]:
        """Draw the means of an extension and its nearest reference on the same scale."""
        nearest = self.session.get(models.ExtensionRow, finding.verdict.nearest_id or 0)
        return self._draw_pictures(finding.extension, nearest, appearance=None)

    def draw_thumbnail(self, finding: db.findings.Finding) -> EmbeddedPicture | None:
        """Draw a small mean on the scale of the nearest reference, to show a change of level."""
        image = self._read_image(finding.extension)
        if image is None:
            return None
        nearest = self.session.get(models.ExtensionRow, finding.verdict.nearest_id or 0)
        reference = self._read_image(nearest) if nearest else None
        scale = image if reference is None else reference
        limits = figure_images.display_limits(pictures.rebin(scale[..., MEAN]))
        mean = pictures.rebin(image[..., MEAN])
        return pictures.draw_intensity("mean", mean, finding.extension, limits)

    def draw_thumbnails(self, findings: abc.Sequence[db.findings.Finding]) -> tuple[Thumbnail, ...]:
        """Draw small means, grouped by setup; those of one setup share a scale."""
        by_setup: dict[core.Setup, list[db.findings.Finding]] = defaultdict(list)
        for finding in findings:
            by_setup[finding.extension.setup].append(finding)
        thumbnails = []
        for group in by_setup.values():
            images = [self._read_image(finding.extension) for finding in group]
            means = [
                None if image is None else pictures.rebin(image[..., MEAN]) for image in images
            ]
            stored = [mean for mean in means if mean is not None]
            limits = figure_images.display_limits(*stored) if stored else (0.0, 1.0)
            for finding, mean in zip(group, means, strict=True):
                picture = None
                if mean is not None:
                    picture = pictures.draw_intensity("mean", mean, finding.extension, limits)
                thumbnails.append(Thumbnail(finding, picture))
        return tuple(thumbnails)

    def locate_residual(self, finding: db.findings.Finding) -> ResidualLocation | None:
        """Draw the residual map; None with too few references."""
        return self._locate_residual(finding, db.findings.reference_of(self.session, finding))

    def draw_history(self, figures: ExtensionFigures) -> tuple[EmbeddedPicture, ...]:
        """Draw the main metric and the most deviating one over the nights before and after."""
        finding = figures.finding
        main = trend_figures.main_metric(finding)
        names = [main] if main else []
        names += [row.name for row in figures.deviating[:1]]
        return self.draw_metrics(finding, list(dict.fromkeys(names)))

    def draw_metrics(
        self, finding: db.findings.Finding, names: abc.Sequence[str]
    ) -> tuple[EmbeddedPicture, ...]:
        """Draw metrics of an extension's setup over the nights before and after.

        Parameters
        ----------
        finding : Finding
            Extension; it is marked.
        names : sequence of str
            Names of the metrics.

        Returns
        -------
        tuple of EmbeddedPicture
        """
        night = finding.frame.night or dt.date.max
        first, last = night - dt.timedelta(days=HISTORY_NIGHTS - 1), night + DAYS_AFTER
        epochs = db.labels.epochs_between(self.session, first, last)
        scopes = {finding.extension.image_type, finding.frame.instrument or ""}
        events = trend_figures.intervention_marks(epochs, scopes)
        return tuple(
            trend_figures.draw_setup_metric(
                name,
                db.findings.setup_metric_values(self.session, finding, name, first, last),
                events,
                finding.extension.id,
            )
            for name in names
        )

    def draw_tree(self, finding: db.findings.Finding) -> EmbeddedPicture | None:
        """Draw the dendrogram of an extension and its references; None with too few of them."""
        return self._draw_tree(finding, db.findings.reference_of(self.session, finding))

    def residual_map(
        self,
        finding: db.findings.Finding,
        reference_models: db.reference_models.ReferenceModelCache,
    ) -> Floats | None:
        """Return the residual map in units of the largest residual of nominal frames.

        Parameters
        ----------
        finding : Finding
            Extension.
        reference_models : ReferenceModelCache
            Cache of reference models.

        Returns
        -------
        (h, w) float32 array or None
            None with too few references, or without stored block statistics.
        """
        reference = db.findings.reference_of(self.session, finding)
        return self._residual_map(finding, reference, reference_models)

    def _read_image(self, extension: models.ExtensionRow) -> Floats | None:
        """Return block statistics above zero at standard light, (h, w, 3), if stored."""
        statistics = db.block_statistics.find_block_statistics(self.session, extension.id)
        if statistics is None:
            return None
        level = extension.metrics.get("bias_level", extension.zero_adu) - extension.zero_adu
        return scale_to_standard_light(statistics, level, extension.promised_light)

    def _read_appearance(self, reference: core.Reference) -> _SetupAppearance | None:
        ids = reference.extension_ids[:SCATTER_REFERENCES]
        rows = [self.session.get(models.ExtensionRow, extension_id) for extension_id in ids]
        stored = [self._read_image(row) for row in rows if row]
        images = [image for image in stored if image is not None]
        if len(images) < FEWEST_FOR_SCATTER:
            return None
        stack = np.stack(images)  # (m, h, w, 3)
        centre = np.median(stack, axis=0)
        scatter = SIGMA_OF_MAD * np.median(np.abs(stack - centre), axis=0)  # robust to cosmic rays
        floor = np.percentile(scatter, 10, axis=(0, 1)).clip(LEAST_SCATTER_ADU)
        return _SetupAppearance(centre, np.maximum(scatter, floor))

    def _draw_pictures(
        self,
        extension: models.ExtensionRow,
        nearest: models.ExtensionRow | None,
        appearance: _SetupAppearance | None,
    ) -> tuple[EmbeddedPicture, ...]:
        """Draw an extension, its nearest reference and the difference from the references.

        Maxima are drawn as well if they differ much more than the means.
        """
        image = self._read_image(extension)
        reference = self._read_image(nearest) if nearest else None
        if image is None:
            return ()
        planes, difference = [MEAN], None
        if appearance:
            difference = (image - appearance.centre) / appearance.scatter  # (h, w, 3), sigma
            largest = np.abs(difference).max(axis=(0, 1))
            planes += [MAXIMUM] if largest[MAXIMUM] > 2 * largest[MEAN] else []
        drawn = []
        for plane in planes:
            name, values = PLANES[plane], image[..., plane]
            near = reference[..., plane] if reference is not None else None
            limits = (
                figure_images.display_limits(values)
                if near is None
                else figure_images.display_limits(values, near)
            )
            drawn.append(pictures.draw_intensity(name, values, extension, limits))
            if near is not None:
                drawn.append(pictures.draw_intensity(f"nearest {name}", near, extension, limits))
            if difference is not None:
                kind = f"difference of {name}"
                drawn.append(pictures.draw_difference(kind, difference[..., plane], extension))
        return tuple(drawn)

    def _locate_residual(
        self, finding: db.findings.Finding, reference: core.Reference
    ) -> ResidualLocation | None:
        """Draw the residual map of the present reference set."""
        residuals = self._residual_map(finding, reference, self._models)
        extension = finding.extension
        image = self._read_image(extension)
        if residuals is None or image is None:
            return None
        return ResidualLocation(
            pictures.draw_residual_map(image[..., MEAN], residuals, extension),
            pictures.describe_location(residuals, extension),
        )

    def _residual_map(
        self,
        finding: db.findings.Finding,
        reference: core.Reference,
        reference_models: db.reference_models.ReferenceModelCache,
    ) -> Floats | None:
        if len(reference.extension_ids) < core.REFERENCE_NEEDED:
            return None
        of_model = reference.select_for_model(finding.frame.night or dt.date.max)
        return reference_models.residual_map(self.session, finding.extension, of_model)

    def _draw_tree(
        self, finding: db.findings.Finding, reference: core.Reference
    ) -> EmbeddedPicture | None:
        m = len(reference.extension_ids)
        if m < 2:
            return None
        embedding = db.embeddings.embedding_of(
            self.session, finding.extension.id, finding.verdict.encoder_id
        )
        merges = average_linkage(np.vstack([reference.embeddings, embedding]))
        threshold = finding.verdict.threshold
        svg = dendrogram.draw_dendrogram(merges, threshold=threshold, marked=m)
        return pictures.embed_plot("tree", svg)


# --- metrics --------------------------------------------------------------------------------------


def list_metrics(finding: db.findings.Finding, reference: core.Reference) -> tuple[MetricRow, ...]:
    """Return the metrics of an extension in the order of `METRICS`.

    Parameters
    ----------
    finding : Finding
        Extension.
    reference : Reference
        Reference set.

    Returns
    -------
    tuple of MetricRow
    """
    z, values = finding.verdict.z, finding.extension.metrics
    rows = []
    for name, metric in detection.METRICS.items():
        if name in values:
            usual = [metrics[name] for metrics in reference.metrics if name in metrics]
            median = float(np.median(usual)) if usual else None
            rows.append(MetricRow(name, metric, values[name], median, z.get(name)))
    return tuple(rows)


def select_deviating(
    metrics: abc.Sequence[MetricRow], limits: abc.Mapping[str, float]
) -> tuple[MetricRow, ...]:
    """Return the metrics beyond their warning limits, largest deviation first.

    Parameters
    ----------
    metrics : sequence of MetricRow
        Metrics.
    limits : mapping of str to float
        Limits, sigma; a metric without a limit is left out.

    Returns
    -------
    tuple of MetricRow
    """
    deviations = [
        (abs(row.z), row)
        for row in metrics
        if row.z is not None and abs(row.z) > limits.get(row.name, np.inf)
    ]
    deviations.sort(key=lambda deviation: -deviation[0])
    return tuple(row for _, row in deviations[:DEVIATING_LISTED])


def warning_limits(
    finding: db.findings.Finding, thresholds: detection.Thresholds | None
) -> abc.Mapping[str, float]:
    """Return the warning limits in force; `WARN_SIGMA` for all metrics without an entry.

    Parameters
    ----------
    finding : Finding
        Extension.
    thresholds : Thresholds or None
        Thresholds file.

    Returns
    -------
    mapping of str to float
        Sigma, by name of the metric.
    """
    night = finding.frame.night or dt.date.max
    entries = thresholds.entries.get(finding.extension.image_type, ()) if thresholds else ()
    valid = [
        entry for entry in entries if entry.encoder == finding.fingerprint and entry.since <= night
    ]
    if not valid:
        return dict.fromkeys(detection.METRICS, WARN_SIGMA)
    limits = detection.widen_limits(valid[-1], finding.verdict.reference_size)
    return {name: limit.warn for name, limit in limits.metrics.items()}
