"""Response models of thresholds, trends, similar frames and projections.

A field that is missing here raises an error instead of being returned without description.
"""

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from qc.core.verdict import Status
from qc.search.projection import ProjectionMethod

Ratio = Annotated[float, Field(description="Strongest evidence, divided by its threshold.")]
ImageType = Annotated[str, Field(description="Name in the instrument file, for example `UBB0`.")]
FrameName = Annotated[str, Field(description="`FRAME[EXTENSION]`.")]
Night = Annotated[date, Field(description="Date of the evening.")]
Author = Annotated[str, Field(description="Name of the author.")]


class ResponseModel(BaseModel):
    """Base of the responses: no fields beyond the described ones."""

    model_config = ConfigDict(extra="forbid")


# --- thresholds -----------------------------------------------------------------------------------


class MetricLimitsModel(ResponseModel):
    """Thresholds of a metric."""

    warn: Annotated[float, Field(description="|z| of a warning, sigma.")]
    alarm: Annotated[float, Field(description="|z| of an anomaly, sigma.")]


class LimitsModel(ResponseModel):
    """Thresholds of an image type from a night on."""

    since: Annotated[date, Field(alias="from", description="First night in force.")]
    encoder: Annotated[str, Field(description="Fingerprint of the encoder.")]
    merge_height: Annotated[float, Field(description="Cosine distance, 0 to 2.")]
    residual: Annotated[float, Field(description="In units of the robust scatter of references.")]
    false_alarms: Annotated[float, Field(description="Accepted rate per extension, 0 to 1.")]
    metrics: Annotated[dict[str, MetricLimitsModel], Field(description="By name of the metric.")]
    why: Annotated[str, Field(description="Reason given by the author.")]
    by: Author


class LimitsEntry(LimitsModel):
    """An entry of the thresholds file."""

    number: Annotated[int, Field(description="Position in the file, from 1.")]
    is_in_force: Annotated[bool, Field(description="Whether it is in force now.")]


class TypeLimitsInForce(ResponseModel):
    """An image type and its thresholds in force."""

    image_type: ImageType
    entry: LimitsEntry


class LimitsInForce(ResponseModel):
    """Thresholds in force of all processed image types."""

    types: list[TypeLimitsInForce]


class InterventionModel(ResponseModel):
    """An intervention; earlier frames are no references for later ones."""

    number: Annotated[int, Field(description="Number in the log.")]
    scope: Annotated[str, Field(description="An instrument or an image type.")]
    since: Annotated[date, Field(alias="from", description="First night after the intervention.")]
    why: Annotated[str, Field(description="Work that was done.")]
    who: Author
    at: Annotated[datetime, Field(description="Time of the entry, UTC.")]
    undone_by: Annotated[str | None, Field(description="Author of the withdrawal; null if valid.")]


class TypeLimits(ResponseModel):
    """Thresholds and interventions of an image type."""

    image_type: ImageType
    digest: Annotated[str, Field(description="SHA-256 of the thresholds file.")]
    entries: Annotated[list[LimitsEntry], Field(description="In the order of the file.")]
    interventions: list[InterventionModel]
    valid_outliers_since_the_last: Annotated[
        list[date], Field(description="Nights of valid outliers since the last intervention.")
    ]


class IntervalModel(ResponseModel):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


class FlippedFrame(ResponseModel):
    """A past frame with another verdict under the thresholds tried."""

    name: FrameName
    night: Night
    label: Annotated[str, Field(description="Label; empty without one.")]
    kind: Annotated[str, Field(description="Kind of fault of a bad frame.")]
    ratio: Ratio


class FrameCounts(ResponseModel):
    """Numbers of past frames on which thresholds were tried."""

    nominal: Annotated[int, Field(description="Labelled good, or nominal without a label.")]
    bad: Annotated[int, Field(description="Labelled bad.")]
    unexplained: Annotated[int, Field(description="Flagged and not labelled.")]
    outliers: Annotated[int, Field(description="Labelled valid outliers.")]
    contradictory: Annotated[int, Field(description="Labelled both good and bad.")]


class ExpectedRates(ResponseModel):
    """Expected performance of thresholds; shares from 0 to 1."""

    merge_height: Annotated[IntervalModel, Field(description="Cosine distance, 0 to 2.")]
    residual: Annotated[IntervalModel, Field(description="Sigma.")]
    false_alarms: Annotated[IntervalModel, Field(description="Share of nominal frames flagged.")]
    recall: Annotated[IntervalModel | None, Field(description="Share of bad frames found.")]
    precision: Annotated[
        IntervalModel | None, Field(description="Share of those flagged that are bad.")
    ]


class LimitConsequences(ResponseModel):
    """Effect of other thresholds on the verdicts of the past."""

    image_type: ImageType
    basis: Annotated[str, Field(description="Criterion of the tuning, in words.")]
    frames: FrameCounts
    present: LimitsModel
    proposed: LimitsModel
    expected: ExpectedRates
    newly_flagged: Annotated[list[FlippedFrame], Field(description="The first thousand.")]
    no_longer_flagged: Annotated[list[FlippedFrame], Field(description="The first thousand.")]
    notes: Annotated[list[str], Field(description="Frames left out, and advice.")]
    newly_flagged_count: Annotated[int, Field(description="Total number.")]
    no_longer_flagged_count: Annotated[int, Field(description="Total number.")]
    since: Annotated[date, Field(description="First night of the frames.")]


class EntryComparison(ResponseModel):
    """Two entries side by side."""

    one: LimitsEntry
    other: LimitsEntry
    only_one_flags: Annotated[
        list[FlippedFrame] | None,
        Field(description="The first thousand; null if an entry is for another encoder."),
    ]
    only_other_flags: Annotated[
        list[FlippedFrame] | None,
        Field(description="The first thousand; null if an entry is for another encoder."),
    ]


# --- trends ---------------------------------------------------------------------------------------


class QuantityModel(ResponseModel):
    """Quantity of a trend."""

    name: str
    unit: Annotated[str, Field(description="Unit of the values; empty without one.")]
    words: Annotated[str, Field(description="Meaning of the quantity.")]


class TrendPointModel(ResponseModel):
    """Value of an extension."""

    at: Annotated[datetime, Field(description="Time of the exposure, UTC.")]
    frame: FrameName
    value: Annotated[float, Field(description="In the unit of the quantity.")]
    status: Annotated[Status, Field(description="Status of the newest verdict.")]


class MonthModel(ResponseModel):
    """A month of a trend; values in the unit of the quantity."""

    month: Annotated[date, Field(description="Its first day.")]
    frames: Annotated[int, Field(description="Number of extensions.")]
    median: float
    least: float
    greatest: float
    anomalous: Annotated[int, Field(description="Number of anomalous extensions.")]


class TrendEventModel(ResponseModel):
    """An intervention or a change of thresholds."""

    night: Night
    kind: Literal["intervention", "threshold"]
    words: str


class DatedLimit(ResponseModel):
    """A threshold of the quantity from a night on."""

    since: Annotated[date, Field(alias="from", description="First night in force.")]
    limit: Annotated[float, Field(description="In the unit of the quantity.")]


class TrendModel(ResponseModel):
    """A quantity of an image type over time."""

    image_type: ImageType
    quantity: QuantityModel
    count: Annotated[int, Field(description="Number of points; the CSV has all.")]
    points: Annotated[
        list[TrendPointModel], Field(description="At most some thousand, with all extremes.")
    ]
    months: list[MonthModel]
    events: list[TrendEventModel]
    limit: Annotated[list[DatedLimit], Field(description="Empty for a quantity without threshold.")]


# --- similar frames and projections ---------------------------------------------------------------


class SimilarExtension(ResponseModel):
    """A stored extension, similar to the query."""

    name: FrameName
    image_type: ImageType
    night: date | None
    distance: Annotated[float, Field(description="Cosine distance, 0 to 2.")]
    status: Annotated[str, Field(description="Status of the newest verdict.")]
    label: Annotated[str, Field(description="Label; empty without one.")]
    kind: Annotated[str, Field(description="Kind of fault of a bad frame.")]
    note: str


class SimilarFramesModel(ResponseModel):
    """Nearest neighbours of an extension."""

    name: FrameName
    image_type: ImageType
    threshold: Annotated[
        float | None,
        Field(
            description="Merge height threshold of its type; null if the frame is older than every "
            "threshold."
        ),
    ]
    neighbours: Annotated[list[SimilarExtension], Field(description="Nearest first.")]


class ProjectedExtensionModel(ResponseModel):
    """An extension in a projection."""

    name: FrameName
    image_type: ImageType
    night: date | None
    status: Annotated[str, Field(description="Status of the newest verdict.")]
    label: Annotated[str, Field(description="Label; empty without one.")]
    kind: Annotated[str, Field(description="Kind of fault of a bad frame.")]
    x: Annotated[float, Field(description="Along the first axis; without unit.")]
    y: Annotated[float, Field(description="Along the second axis; without unit.")]


class ProjectionModel(ResponseModel):
    """Embeddings on a plane; similar extensions are close together."""

    way: ProjectionMethod
    places: Annotated[
        list[ProjectedExtensionModel],
        Field(description="At most some thousand, evenly sampled over time."),
    ]
    of: Annotated[int, Field(description="Number of selected extensions.")]


class DendrogramModel(ResponseModel):
    """A dendrogram of average linkage."""

    names: Annotated[list[str], Field(description="Its n leaves, oldest first.")]
    merges: Annotated[
        list[tuple[float, float, float, float]],
        Field(
            description="n - 1 rows of `scipy.cluster.hierarchy.linkage`: two clusters (index of a "
            "leaf, or n plus index of a merge), cosine distance, number of leaves."
        ),
    ]
    marked: FrameName
    threshold: Annotated[float, Field(description="Cosine distance.")]
