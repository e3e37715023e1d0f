"""What the API answers of limits and of the past: each field with what it is, and its unit.

What is answered and not described here is a mistake of ours, and is refused.
"""

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from qc.core.verdict import Status
from qc.search.projection import ProjectionMethod

Ratio = Annotated[float, Field(description="Strongest evidence of the frame, over its limit.")]
ImageType = Annotated[str, Field(description="As the instrument file has it: `UBB0`.")]
FrameName = Annotated[str, Field(description="`FRAME[EXTENSION]`.")]
Night = Annotated[date, Field(description="The evening's date.")]
Who = Annotated[str, Field(description="Name of a person.")]


class ResponseModel(BaseModel):
    """What is answered: no more than it says."""

    model_config = ConfigDict(extra="forbid")


# --- thresholds -----------------------------------------------------------------------------------


class MetricLimitsModel(ResponseModel):
    """Limits on one metric."""

    warn: Annotated[float, Field(description="|z| beyond which it is reported, sigma.")]
    alarm: Annotated[float, Field(description="|z| beyond which it is anomalous, sigma.")]


class LimitsModel(ResponseModel):
    """The limits of an image type from a night on."""

    since: Annotated[date, Field(alias="from", description="First night on which they hold.")]
    encoder: Annotated[str, Field(description="Fingerprint of the encoder they are for.")]
    merge_height: Annotated[float, Field(description="Cosine distance, 0 to 2.")]
    residual: Annotated[float, Field(description="Sigma, robust, of what references show.")]
    false_alarms: Annotated[float, Field(description="Granted rate per extension, 0 to 1.")]
    metrics: Annotated[dict[str, MetricLimitsModel], Field(description="By the metric's name.")]
    why: Annotated[str, Field(description="Its author's reason.")]
    by: Who


class LimitsEntry(LimitsModel):
    """An entry of the file of limits."""

    number: Annotated[int, Field(description="In order of the file, from 1.")]
    is_in_force: Annotated[bool, Field(description="Whether it holds tonight.")]


class TypeLimitsInForce(ResponseModel):
    """An image type and its limits in force."""

    image_type: ImageType
    entry: LimitsEntry


class LimitsInForce(ResponseModel):
    """The limits in force of all image types that were ever seen."""

    types: list[TypeLimitsInForce]


class InterventionModel(ResponseModel):
    """Something that was done to an instrument: what came before is no reference any more."""

    number: Annotated[int, Field(description="In the log.")]
    scope: Annotated[str, Field(description="An instrument or an image type.")]
    since: Annotated[date, Field(alias="from", description="First night after it.")]
    why: Annotated[str, Field(description="What was done.")]
    who: Who
    at: Annotated[datetime, Field(description="When it was entered, UTC.")]
    undone_by: Annotated[str | None, Field(description="Who took it back; null: it counts.")]


class TypeLimits(ResponseModel):
    """All that is known of an image type's limits."""

    image_type: ImageType
    digest: Annotated[str, Field(description="SHA-256 of the file of limits.")]
    entries: Annotated[list[LimitsEntry], Field(description="In order of the file.")]
    interventions: list[InterventionModel]
    valid_outliers_since_the_last: Annotated[
        list[date], Field(description="Nights of frames labelled so since the last intervention.")
    ]


class IntervalModel(ResponseModel):
    """A number, and what it lies between with a probability of 95 %."""

    value: float
    low: float
    high: float


class FlippedFrame(ResponseModel):
    """A past frame that the limits tried would judge otherwise."""

    name: FrameName
    night: Night
    label: Annotated[str, Field(description="What people say of it; empty: nothing.")]
    kind: Annotated[str, Field(description="Of fault, where it is labelled bad.")]
    ratio: Ratio


class FrameCounts(ResponseModel):
    """On how many past frames limits were tried."""

    nominal: Annotated[int, Field(description="Labelled good, or let through without a label.")]
    bad: Annotated[int, Field(description="Labelled bad.")]
    unexplained: Annotated[int, Field(description="Flagged, and nobody said what they are.")]
    outliers: Annotated[int, Field(description="Labelled valid outliers.")]
    contradictory: Annotated[int, Field(description="Labelled good and bad under one name.")]


class ExpectedRates(ResponseModel):
    """What is to be expected of limits; shares from 0 to 1."""

    merge_height: Annotated[IntervalModel, Field(description="Cosine distance, 0 to 2.")]
    residual: Annotated[IntervalModel, Field(description="Sigma.")]
    false_alarms: Annotated[IntervalModel, Field(description="Share of nominal frames flagged.")]
    recall: Annotated[IntervalModel | None, Field(description="Share of bad frames found.")]
    precision: Annotated[
        IntervalModel | None, Field(description="Share of those flagged that are bad.")
    ]


class LimitConsequences(ResponseModel):
    """What other limits would have done to the past."""

    image_type: ImageType
    basis: Annotated[str, Field(description="What they were tuned to, in words.")]
    frames: FrameCounts
    present: LimitsModel
    proposed: LimitsModel
    expected: ExpectedRates
    newly_flagged: Annotated[list[FlippedFrame], Field(description="The first thousand.")]
    no_longer_flagged: Annotated[list[FlippedFrame], Field(description="The first thousand.")]
    notes: Annotated[list[str], Field(description="What was left out, and what would help.")]
    newly_flagged_count: Annotated[int, Field(description="All of them.")]
    no_longer_flagged_count: Annotated[int, Field(description="All of them.")]
    since: Annotated[date, Field(description="First night whose frames were looked at.")]


class EntryComparison(ResponseModel):
    """Two entries side by side."""

    one: LimitsEntry
    other: LimitsEntry
    only_one_flags: Annotated[
        list[FlippedFrame] | None,
        Field(description="The first thousand; null: one is for another encoder."),
    ]
    only_other_flags: Annotated[
        list[FlippedFrame] | None,
        Field(description="The first thousand; null: one is for another encoder."),
    ]


# --- trends ---------------------------------------------------------------------------------------


class QuantityModel(ResponseModel):
    """What a trend is of."""

    name: str
    unit: Annotated[str, Field(description="Of the values; empty: none.")]
    words: Annotated[str, Field(description="What it is.")]


class TrendPointModel(ResponseModel):
    """One extension's number."""

    at: Annotated[datetime, Field(description="When it was taken, UTC.")]
    frame: FrameName
    value: Annotated[float, Field(description="In the unit of the quantity.")]
    status: Annotated[Status, Field(description="Of its newest verdict.")]


class MonthModel(ResponseModel):
    """A month of a trend; values in the unit of the quantity."""

    month: Annotated[date, Field(description="Its first day.")]
    frames: Annotated[int, Field(description="How many extensions have the number.")]
    median: float
    least: float
    greatest: float
    anomalous: Annotated[int, Field(description="How many of them were judged anomalous.")]


class TrendEventModel(ResponseModel):
    """Something that may have changed a trend."""

    night: Night
    kind: Literal["intervention", "threshold"]
    words: str


class DatedLimit(ResponseModel):
    """A limit of the quantity from a night on."""

    since: Annotated[date, Field(alias="from", description="First night on which it holds.")]
    limit: Annotated[float, Field(description="In the unit of the quantity.")]


class TrendModel(ResponseModel):
    """One number of an image type over time."""

    image_type: ImageType
    quantity: QuantityModel
    count: Annotated[int, Field(description="How many points there are; all are in the CSV.")]
    points: Annotated[list[TrendPointModel], Field(description="Some thousand, with all extremes.")]
    months: list[MonthModel]
    events: list[TrendEventModel]
    limit: Annotated[list[DatedLimit], Field(description="Empty where the quantity has none.")]


# --- history --------------------------------------------------------------------------------------


class SimilarExtension(ResponseModel):
    """A stored extension that looks like the one asked about."""

    name: FrameName
    image_type: ImageType
    night: date | None
    distance: Annotated[float, Field(description="Cosine distance, 0 to 2.")]
    status: Annotated[str, Field(description="Of its newest verdict.")]
    label: Annotated[str, Field(description="What people say of it; empty: nothing.")]
    kind: Annotated[str, Field(description="Of fault, where it is labelled bad.")]
    note: str


class SimilarFramesModel(ResponseModel):
    """What an extension looks like."""

    name: FrameName
    image_type: ImageType
    threshold: Annotated[
        float | None,
        Field(
            description="Cosine distance at which one of its type stands apart; null: it is older "
            "than every limit."
        ),
    ]
    neighbours: Annotated[list[SimilarExtension], Field(description="Nearest first.")]


class ProjectedExtensionModel(ResponseModel):
    """An extension on a map."""

    name: FrameName
    image_type: ImageType
    night: date | None
    status: Annotated[str, Field(description="Of its newest verdict.")]
    label: Annotated[str, Field(description="What people say of it; empty: nothing.")]
    kind: Annotated[str, Field(description="Of fault, where it is labelled bad.")]
    x: Annotated[float, Field(description="Along the first axis; without unit.")]
    y: Annotated[float, Field(description="Along the second axis; without unit.")]


class ProjectionModel(ResponseModel):
    """Extensions on a plane: those that look alike lie together."""

    way: ProjectionMethod
    places: Annotated[
        list[ProjectedExtensionModel], Field(description="Some thousand, evenly over time.")
    ]
    of: Annotated[int, Field(description="How many there are.")]


class DendrogramModel(ResponseModel):
    """A dendrogram by average linkage."""

    names: Annotated[list[str], Field(description="Its n leaves, oldest first.")]
    merges: Annotated[
        list[tuple[float, float, float, float]],
        Field(
            description="n - 1 rows: the two that merge (a leaf's place, or n and the number of a "
            "merge before), cosine distance, how many leaves."
        ),
    ]
    marked: FrameName
    threshold: Annotated[float, Field(description="Cosine distance.")]
