"""What there is to see of an extension: pictures, tree, detector numbers, history."""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.clustering import average_linkage
from embeddings.preprocess import at_standard_light
from embeddings.residual_maps import brightest_place
from qc import db
from qc.core.enums import LabelName
from qc.core.frame import Setup
from qc.core.reference import REFERENCE_NEEDED, Reference
from qc.db.findings import Finding, SetupMetricValue
from qc.db.models import EpochRow, ExtensionRow
from qc.db.reference_models import ReferenceModelCache
from qc.detection.decision import limits_for
from qc.detection.metrics import METRICS, Metric
from qc.detection.thresholds import Thresholds
from qc.figures import plots
from qc.io.instruments import Instrument
from qc.monitoring.recall import (
    KindRecall,
    RecallCount,
    RecallDrop,
    recall_by_kind,
    recall_by_night,
    standing_falls,
)
from qc.summaries.night import HISTORY_NIGHTS, CalibrationKind, ExtensionStanding, standing

Floats = NDArray[np.float32]

SCATTER_FROM = 24  # references whose block statistics are read for the difference map
FEWEST_FOR_SCATTER = 5
SIGMA_OF_MAD = 1.4826  # of a normal distribution
LEAST_SCATTER_ADU = 0.01  # keeps the division finite where references are equal
WARN_SIGMA = 5.0  # without a thresholds entry: what is printed hangs on it, no verdict does
MOVED_LISTED = 12  # the furthest
TALLEST_SCORE = 10.0  # higher ones are drawn here, so that the limit at 1 stays visible
SHOWN_AFTER = timedelta(days=30)  # of a frame's history: did it stay so?
MEAN, MAXIMUM = 0, 2  # planes of the block statistics
PLANES = {MEAN: "mean", MAXIMUM: "maximum"}
TELLING_METRICS = {  # the first that is measured tells most about a class of frame
    "bias": ("bias_level", "light_level"),
    "dark": ("bias_level", "light_level"),
    "flat": ("light_ratio", "light_level"),
    "arc": ("light_ratio", "light_level"),
}


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture inside the page.

    Attributes
    ----------
    kind : str
        What it shows: ``mean``, ``nearest mean``, ``difference of mean``, ``tree`` ...
    address : str
        A ``data:`` URL that holds the picture itself.
    low, high : str
        What its two ends stand for, with the unit; empty for a drawing.
    """

    kind: str
    address: str
    low: str = ""
    high: str = ""

    @property
    def content(self) -> bytes:
        """Return the picture itself."""
        return base64.b64decode(self.address.partition(",")[2])


@dataclass(frozen=True)
class MetricRow:
    """A detector number beside those of its references.

    Attributes
    ----------
    z : float or None
        In robust standard deviations of the references; None without enough of them.
    """

    name: str
    metric: Metric
    value: float
    median: float | None
    z: float | None


@dataclass(frozen=True)
class ExtensionFigures:
    """What there is to see of one extension.

    Attributes
    ----------
    references : int
        How many there are now; not always as many as at the time of the verdict.
    moved : tuple of Number
        Those beyond their warning limits, the furthest first.
    numbers : tuple of Number
        All of them.
    tree : Picture or None
        None where there are too few references for one.
    where : Where or None
        None with too few references to know what is nominal.
    """

    finding: Finding
    pictures: tuple[EmbeddedPicture, ...]
    references: int
    nearest: ExtensionRow | None
    moved: tuple[MetricRow, ...]
    numbers: tuple[MetricRow, ...]
    tree: EmbeddedPicture | None
    where: "ResidualLocation | None"


@dataclass(frozen=True)
class ResidualLocation:
    """Where an extension differs from its references: drawn, and in words.

    Attributes
    ----------
    picture : Picture
        The extension's mean under a map of one scale for all frames.
    words : str
        Place in pixels as read, from 0, and how odd it is.
    """

    picture: EmbeddedPicture
    words: str


@dataclass(frozen=True)
class Thumbnail:
    """One extension on a wall of many; without a picture where none was kept."""

    finding: Finding
    picture: EmbeddedPicture | None


@dataclass(frozen=True)
class NightTrend:
    """One image type over the last nights; drawn is the worst extension of each night."""

    kind: CalibrationKind
    setup: Setup
    pictures: tuple[EmbeddedPicture, ...]


@dataclass(frozen=True)
class _SetupAppearance:
    """How the references of a setup look at standard light: what a difference is measured in.

    Attributes
    ----------
    centre, scatter : (h, w, 3) float32 arrays
        Median and robust standard deviation of their block statistics, ADU.
    """

    centre: Floats
    scatter: Floats


class FigureRenderer:
    """Draws extensions of one night; what a setup's references look like is asked once."""

    def __init__(
        self,
        session: Session,
        thresholds: Thresholds | None,
        expectations: ReferenceModelCache | None = None,
    ) -> None:
        self.session = session
        self.thresholds = thresholds
        self._references: dict[tuple[Setup, str], Reference] = {}
        self._looks: dict[tuple[Setup, str], _SetupAppearance | None] = {}
        self._expectations = expectations or ReferenceModelCache()

    def pair(self, finding: Finding) -> tuple[EmbeddedPicture, ...]:
        """Draw the mean of an extension, and that of the nearest reference in the same greys."""
        nearest = self.session.get(ExtensionRow, finding.verdict.nearest_id or 0)
        return self._pictures(finding.extension, nearest, looks=None)

    def small(self, finding: Finding) -> EmbeddedPicture | None:
        """Draw a small mean between the black and white of the nearest reference.

        Between its own, a level that has moved would not be seen.
        """
        seen = self._seen(finding.extension)
        if seen is None:
            return None
        nearest = self.session.get(ExtensionRow, finding.verdict.nearest_id or 0)
        beside = self._seen(nearest) if nearest else None
        ends = plots.limits(_halved((seen if beside is None else beside)[..., MEAN]))
        return _grey("mean", _halved(seen[..., MEAN]), finding.extension, ends)

    def where(self, finding: Finding) -> ResidualLocation | None:
        """Draw where an extension differs from its references; None with too few of them."""
        return self._where(finding, db.findings.reference_of(self.session, finding))

    def portrait(self, finding: Finding) -> ExtensionFigures:
        """Show one extension beside what it should be like."""
        key = finding.extension.setup, finding.fingerprint
        if key not in self._references:
            self._references[key] = db.findings.reference_of(self.session, finding)
            self._looks[key] = self._look_at(self._references[key])
        reference, looks = self._references[key], self._looks[key]
        nearest = self.session.get(ExtensionRow, finding.verdict.nearest_id or 0)
        numbers = _numbers(finding, reference)
        return ExtensionFigures(
            finding=finding,
            pictures=self._pictures(finding.extension, nearest, looks),
            references=len(reference.extension_ids),
            nearest=nearest,
            moved=_moved(numbers, _warning_limits(finding, self.thresholds)),
            numbers=numbers,
            tree=self._tree(finding, reference),
            where=self._where(finding, reference),
        )

    def wall(self, findings: Sequence[Finding]) -> tuple[Thumbnail, ...]:
        """Draw small means; those of one setup, which share black and white, stand together."""
        by_setup: dict[Setup, list[Finding]] = defaultdict(list)
        for one in findings:
            by_setup[one.extension.setup].append(one)
        return tuple(thumb for alike in by_setup.values() for thumb in self._thumbs(alike))

    def history(self, portrait: ExtensionFigures) -> tuple[EmbeddedPicture, ...]:
        """Draw the numbers that tell most of an extension, over the nights around its own."""
        finding = portrait.finding
        names = [*_telling_metric(finding), *(number.name for number in portrait.moved[:1])]
        return self.draw_metrics(finding, list(dict.fromkeys(names)))

    def draw_metrics(self, finding: Finding, names: Sequence[str]) -> tuple[EmbeddedPicture, ...]:
        """Draw some of an extension's detector numbers over the nights around its own."""
        night = finding.frame.night or date.max
        first, last = night - timedelta(days=HISTORY_NIGHTS - 1), night + SHOWN_AFTER
        epochs = db.epochs.epochs_between(self.session, first, last)
        scopes = {finding.extension.image_type, finding.frame.instrument or ""}
        events = _interventions(epochs, scopes)
        return tuple(
            _draw_numbers(
                name,
                db.findings.number_alike(self.session, finding, name, first, last),
                events,
                finding.extension.id,
            )
            for name in names
        )

    def draw_tree(self, finding: Finding) -> EmbeddedPicture | None:
        """Draw the tree of an extension and its references; None where those are too few."""
        return self._tree(finding, db.findings.reference_of(self.session, finding))

    def explain(self, finding: Finding, expectations: ReferenceModelCache) -> Floats | None:
        """Return where an extension differs from its references, (h, w): 1 is as odd as good ones.

        None with too few references to know what is nominal, or where too little was kept.
        """
        return self._times(finding, db.findings.reference_of(self.session, finding), expectations)

    def _thumbs(self, findings: Sequence[Finding]) -> list[Thumbnail]:
        """Draw small means of one setup between the same black and white."""
        seen = [self._seen(one.extension) for one in findings]
        means = [None if one is None else _halved(one[..., MEAN]) for one in seen]
        kept = [mean for mean in means if mean is not None]
        ends = plots.limits(*kept) if kept else (0.0, 1.0)
        return [
            Thumbnail(one, None if mean is None else _grey("mean", mean, one.extension, ends))
            for one, mean in zip(findings, means, strict=True)
        ]

    def _seen(self, extension: ExtensionRow) -> Floats | None:
        """Return block statistics above zero at standard light, (h, w, 3), if still kept."""
        statistics = db.block_statistics.block_statistics_of(self.session, extension.id)
        if statistics is None:
            return None
        level = extension.metrics.get("bias_level", extension.zero_adu) - extension.zero_adu
        return at_standard_light(statistics, level, extension.promised_light)

    def _look_at(self, reference: Reference) -> _SetupAppearance | None:
        newest = (
            self.session.get(ExtensionRow, one) for one in reference.extension_ids[:SCATTER_FROM]
        )
        seen = [kept for one in newest if one and (kept := self._seen(one)) is not None]
        if len(seen) < FEWEST_FOR_SCATTER:
            return None
        stack = np.stack(seen)  # (m, h, w, 3)
        centre = np.median(stack, axis=0)
        scatter = SIGMA_OF_MAD * np.median(np.abs(stack - centre), axis=0)  # deaf to cosmic rays
        floor = np.percentile(scatter, 10, axis=(0, 1)).clip(LEAST_SCATTER_ADU)
        return _SetupAppearance(centre, np.maximum(scatter, floor))

    def _pictures(
        self, extension: ExtensionRow, nearest: ExtensionRow | None, looks: _SetupAppearance | None
    ) -> tuple[EmbeddedPicture, ...]:
        seen = self._seen(extension)
        beside = self._seen(nearest) if nearest else None
        if seen is None:
            return ()
        planes = [MEAN]
        away = (seen - looks.centre) / looks.scatter if looks else None  # (h, w, 3), in sigma
        if away is not None and _furthest(away, MAXIMUM) > 2 * _furthest(away, MEAN):
            planes.append(MAXIMUM)
        return tuple(
            picture
            for plane in planes
            for picture in _row_of_pictures(plane, seen, beside, away, extension)
        )

    def _where(self, finding: Finding, reference: Reference) -> ResidualLocation | None:
        """Draw what the verdict's residual found, by the references of today."""
        times = self._times(finding, reference, self._expectations)
        extension = finding.extension
        seen = self._seen(extension)
        if times is None or seen is None:
            return None
        mean = seen[..., MEAN]
        return ResidualLocation(
            _under_heat(mean, times, extension), place_in_words(times, extension)
        )

    def _times(
        self, finding: Finding, reference: Reference, expectations: ReferenceModelCache
    ) -> Floats | None:
        """Return how many times as odd as good frames get each part of an extension is."""
        if len(reference.extension_ids) < REFERENCE_NEEDED:
            return None
        settled = reference.settled(finding.frame.night or date.max)
        return expectations.explanation(self.session, finding.extension, settled)

    def _tree(self, finding: Finding, reference: Reference) -> EmbeddedPicture | None:
        m = len(reference.extension_ids)
        if m < 2:
            return None
        own = db.embeddings.embedding_of(
            self.session, finding.extension.id, finding.verdict.encoder_id
        )
        merges = average_linkage(np.vstack([reference.embeddings, own]))
        threshold = finding.verdict.threshold
        return drawing("tree", plots.dendrogram(merges, threshold=threshold, marked=m))


# --- pictures -------------------------------------------------------------------------------------


def _row_of_pictures(
    plane: int, seen: Floats, beside: Floats | None, away: Floats | None, extension: ExtensionRow
) -> Iterator[EmbeddedPicture]:
    """Draw one plane of an extension, its nearest reference in the same greys, the difference."""
    own = seen[..., plane]
    near = beside[..., plane] if beside is not None else None
    ends = plots.limits(own) if near is None else plots.limits(own, near)
    yield _grey(PLANES[plane], own, extension, ends)
    if near is not None:
        yield _grey(f"nearest {PLANES[plane]}", near, extension, ends)
    if away is not None:
        yield _difference(f"difference of {PLANES[plane]}", away[..., plane], extension)


def _furthest(away: Floats, plane: int) -> float:
    return float(np.abs(away[..., plane]).max())


def _grey(
    kind: str, image: Floats, extension: ExtensionRow, ends: tuple[float, float]
) -> EmbeddedPicture:
    black, white = ends
    png = plots.thumbnail(
        image,
        zero_adu=0,
        scale_adu=extension.stretch_adu,
        aspect=aspect_of(extension),
        vmin=black,
        vmax=white,
    )
    return EmbeddedPicture(
        kind, _address("image/png", png), f"{round(black)}", f"{round(white)} ADU"
    )


def _difference(kind: str, away: Floats, extension: ExtensionRow) -> EmbeddedPicture:
    reach = plots.reach(away)
    png = plots.difference(away, aspect=aspect_of(extension), reach_sigma=reach)
    return EmbeddedPicture(kind, _address("image/png", png), f"-{reach:.0f}", f"+{reach:.0f} sigma")


def _under_heat(mean: Floats, times: Floats, extension: ExtensionRow) -> EmbeddedPicture:
    png = plots.thumbnail(
        mean,
        zero_adu=0,
        scale_adu=extension.stretch_adu,
        aspect=aspect_of(extension),
        overlay=plots.heat(times),
    )
    ends = f"{plots.HEAT_STARTS:g}", f"{plots.HEAT_ENDS:g} times"
    return EmbeddedPicture("where", _address("image/png", png), *ends)


def place_in_words(times: Floats, extension: ExtensionRow) -> str:
    """Say where a map is brightest and how far its bright part reaches: pixels from 0, as read."""
    place = brightest_place(times)
    y, x = _middle(place.brightest, extension, times.shape)
    if place.height <= 1:
        return (
            f"Nowhere odder than good frames get. The most is {place.height:.2f} times that, "
            f"around x {x}, y {y}."
        )
    (bottom, left), (top, right) = (
        _middle((place.rows[end], place.columns[end]), extension, times.shape) for end in (0, 1)
    )
    return (
        f"Strongest around x {x}, y {y}: {_times(place.height)} as odd as good frames get. "
        f"That part reaches from x {left} to {right} and from y {bottom} to {top}; "
        f"in all, {_percent(place.share)} of the image is odder than good frames."
    )


def _middle(
    block: tuple[int, int], extension: ExtensionRow, grid: tuple[int, ...]
) -> tuple[int, int]:
    """Return the pixel, row and column, in the middle of a block."""
    y, x = (
        round((index + 0.5) * pixels / blocks)
        for index, pixels, blocks in zip(block, (extension.ny, extension.nx), grid, strict=True)
    )
    return y, x


def _times(height: float) -> str:
    return f"{height:.1f} times" if height < 10 else f"{height:.0f} times"


def _percent(share: float) -> str:
    if share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def aspect_of(extension: ExtensionRow) -> float:
    """Return height over width on the detector, whatever the binning."""
    bin_x, bin_y = map(int, extension.binning.split("x"))
    return (extension.ny * bin_y) / (extension.nx * bin_x)


def _halved(image: Floats) -> Floats:
    """Average groups of 2 x 2; a last odd row or column is left out."""
    h, w = (length // 2 * 2 for length in image.shape)
    halved: Floats = image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
    return halved


def drawing(kind: str, svg: str) -> EmbeddedPicture:
    """Return a drawing as a picture that holds itself."""
    # As an image rather than in the page's own text: two drawings' names cannot clash.
    return EmbeddedPicture(kind, _address("image/svg+xml", svg.encode()))


def _address(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


# --- detector numbers -----------------------------------------------------------------------------


def _numbers(finding: Finding, reference: Reference) -> tuple[MetricRow, ...]:
    """List all that was measured, in the order in which people speak of it."""
    z, values = finding.verdict.z, finding.extension.metrics
    return tuple(
        MetricRow(name, metric, values[name], _median(name, reference), z.get(name))
        for name, metric in METRICS.items()
        if name in values
    )


def _moved(numbers: Sequence[MetricRow], warn: Mapping[str, float]) -> tuple[MetricRow, ...]:
    """List the numbers beyond their warning limits, the furthest first."""
    far = [
        (abs(one.z), one)
        for one in numbers
        if one.z is not None and abs(one.z) > warn.get(one.name, np.inf)
    ]
    far.sort(key=lambda each: -each[0])
    return tuple(one for _, one in far[:MOVED_LISTED])


def _warning_limits(finding: Finding, thresholds: Thresholds | None) -> Mapping[str, float]:
    """Return the warning limits in force; the page must be had even where there are none."""
    night = finding.frame.night or date.max
    known = thresholds.entries.get(finding.extension.image_type, ()) if thresholds else ()
    valid = [e for e in known if e.encoder == finding.fingerprint and e.since <= night]
    if not valid:
        return dict.fromkeys(METRICS, WARN_SIGMA)
    limits = limits_for(valid[-1], finding.verdict.reference_size)
    return {name: each.warn for name, each in limits.metrics.items()}


def _median(name: str, reference: Reference) -> float | None:
    values = [metrics[name] for metrics in reference.metrics if name in metrics]
    return float(np.median(values)) if values else None


# --- history --------------------------------------------------------------------------------------


def draw_trend(
    kind: CalibrationKind, findings: Sequence[Finding], epochs: Sequence[EpochRow]
) -> NightTrend:
    """Draw the worst score of each night; and a telling number of the setup used most."""
    [(setup, _)] = Counter(one.extension.setup for one in findings).most_common(1)
    alike = _worst_of_each_night(one for one in findings if one.extension.setup == setup)
    events = _interventions(epochs, {kind.image_type, kind.instrument})
    scores = _worst_of_each_night(findings)
    heights = [min(one.verdict.score, TALLEST_SCORE) for one in scores]
    drawings = [_draw("score", scores, heights, "1 = at the limit", events, limit=1.0)]
    drawings += [_draw_metric(name, alike, events) for name in _telling_metric(alike[-1])]
    return NightTrend(kind, setup, tuple(drawings))


@dataclass(frozen=True)
class RecallFigure:
    """How an instrument's self-tests went lately.

    Attributes
    ----------
    tonight : Count
        Of the night itself; nothing tried if there was no self-test.
    pooled : Count
        Of all nights shown.
    """

    instrument: str
    tonight: RecallCount
    pooled: RecallCount
    kinds: tuple[KindRecall, ...]
    falls: tuple[RecallDrop, ...]
    picture: EmbeddedPicture


def draw_recall(session: Session, evening: date, instrument: Instrument) -> RecallFigure | None:
    """Show how many injected faults were found in the last 30 nights; None if none was tried."""
    nights = recall_by_night(session, evening, instrument=instrument.name)
    if not nights:
        return None
    spread = np.array([(one.count.recall, *one.count.interval) for one in nights])
    times = [datetime.combine(one.night, time(), UTC) for one in nights]
    svg = plots.recall_trend(times, spread, limit=instrument.self_test.least_recall)
    return RecallFigure(
        instrument=instrument.name,
        tonight=nights[-1].count if nights[-1].night == evening else RecallCount(),
        pooled=sum((one.count for one in nights), RecallCount()),
        kinds=recall_by_kind(session, evening, instrument=instrument.name),
        falls=standing_falls(session, [instrument], evening),
        picture=drawing("recall", svg),
    )


def _interventions(epochs: Sequence[EpochRow], scopes: set[str]) -> list[tuple[datetime, str]]:
    return [
        (datetime.combine(epoch.since, time(), UTC), epoch.why)
        for epoch in epochs
        if epoch.scope in scopes
    ]


def _worst_of_each_night(findings: Iterable[Finding]) -> list[Finding]:
    worst: dict[date | None, Finding] = {}
    for one in findings:
        night = one.frame.night
        if night not in worst or one.verdict.score > worst[night].verdict.score:
            worst[night] = one
    return list(worst.values())


def telling_metric(finding: Finding) -> str:
    """Return the number that tells most about an extension's class of frame; empty for none."""
    return next(iter(_telling_metric(finding)), "")


def _telling_metric(finding: Finding) -> Sequence[str]:
    extension = finding.extension
    known = TELLING_METRICS.get(extension.frame_class, ("bias_level", "light_level"))
    return [name for name in known if name in extension.metrics][:1]


def _draw_metric(
    name: str,
    findings: Sequence[Finding],
    events: Sequence[tuple[datetime, str]],
) -> EmbeddedPicture:
    measured = [one for one in findings if name in one.extension.metrics]
    values = [one.extension.metrics[name] for one in measured]
    return _draw(name, measured, values, METRICS[name].unit, events)


def _draw_numbers(
    name: str,
    alike: Sequence[SetupMetricValue],
    events: Sequence[tuple[datetime, str]],
    marked: int,
) -> EmbeddedPicture:
    ids = [one.extension_id for one in alike]
    svg = plots.trend(
        [one.at for one in alike],
        np.array([one.value for one in alike]),
        [_status_of(one) for one in alike],
        title=name.replace("_", " "),
        unit=METRICS[name].unit,
        events=events,
        marked=ids.index(marked) if marked in ids else None,
    )
    return drawing(name, svg)


def _status_of(one: SetupMetricValue) -> str:
    """Say how one stands as it is drawn: a person's word outranks the verdict."""
    if one.label is not None:
        return "anomalous" if one.label == LabelName.BAD else "nominal"
    return one.status.lower()


def _draw(
    name: str,
    findings: Sequence[Finding],
    values: Sequence[float],
    unit: str,
    events: Sequence[tuple[datetime, str]],
    *,
    limit: float | None = None,
) -> EmbeddedPicture:
    svg = plots.trend(
        [one.frame.observed_at for one in findings if one.frame.observed_at],
        np.array(values),
        [_STATUSES.get(standing(one), "nominal") for one in findings],
        limit=limit,
        title=name.replace("_", " "),
        unit=unit,
        events=events,
    )
    return drawing(name, svg)


_STATUSES = {ExtensionStanding.ANOMALOUS: "anomalous", ExtensionStanding.UNDECIDED: "undecided"}
