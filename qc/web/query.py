"""Query parameters that several pages and API operations share."""

from datetime import date
from math import log10
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qc.db.schema.models import BEYOND_IDS
from qc.review import queue_filters

_LONGEST = 200  # characters of a filter
_LEAST_FACTOR, _MOST_FACTOR = 0.1, 10.0
_OLD_VIEWS = {"one": "single", "wall": "grid"}  # values of links made before version 0.2
FIRST_NIGHT, LAST_NIGHT = date(1990, 1, 1), date(2100, 1, 1)  # defaults of a range of nights

Since = Annotated[date | None, Field(description="First night.")]
Until = Annotated[date | None, Field(description="Last night.")]


class QueryModel(BaseModel):
    """Query parameters; empty form fields count as absent."""

    @model_validator(mode="before")
    @classmethod
    def drop_empty(cls, values: Any) -> Any:
        """Remove empty values."""
        return {key: value for key, value in dict(values).items() if value not in ("", None, [""])}


class ReviewQuery(QueryModel):
    """Filters of the review queue, with the parameter names of the address."""

    model_config = ConfigDict(populate_by_name=True)

    first: Annotated[Since, Field(alias="from")] = None
    last: Annotated[Until, Field(alias="to")] = None
    type: Annotated[
        str, Field(max_length=_LONGEST, description="Image types, for example `UB*,URW1`.")
    ] = ""
    setup: Annotated[str, Field(max_length=_LONGEST, description="Words of the setup.")] = ""
    status: Annotated[
        str, Field(max_length=_LONGEST, description="Status of the newest verdict.")
    ] = ""
    kind: Annotated[str, Field(max_length=_LONGEST, description="Kind of fault.")] = ""
    least: Annotated[float | None, Field(allow_inf_nan=False, description="Lowest score.")] = None
    most: Annotated[float | None, Field(allow_inf_nan=False, description="Highest score.")] = None
    labelled: Annotated[
        queue_filters.LabelFilter, Field(description="Whether the extension has a label.")
    ] = queue_filters.LabelFilter.ANY
    by: Annotated[str, Field(max_length=_LONGEST, description="Author of the label.")] = ""
    sample: Annotated[bool, Field(description="Only the sample of the spot check.")] = False
    order: Annotated[queue_filters.QueueOrder, Field(description="Sort order.")] = (
        queue_filters.QueueOrder.DOUBT
    )
    after: Annotated[
        str, Field(max_length=_LONGEST, description="Cursor: `after` of the previous page.")
    ] = ""

    @property
    def filters(self) -> queue_filters.QueueFilters:
        """Return the filters of the review queue."""
        return queue_filters.QueueFilters(
            first=self.first,
            last=self.last,
            types=self.type,
            setup=self.setup,
            status=self.status,
            kind=self.kind,
            least=self.least,
            most=self.most,
            labelled=self.labelled,
            by=self.by,
            is_sample=self.sample,
            order=self.order,
        )

    def address(self, **changes: Any) -> str:
        """Return the query string with some values changed and defaults left out."""
        values = self.model_dump(by_alias=True, mode="json") | changes
        defaults = type(self)().model_dump(by_alias=True, mode="json")
        return urlencode({k: v for k, v in values.items() if v not in ("", None, defaults.get(k))})


class ReviewPageQuery(ReviewQuery):
    """Parameters of the review page: by default the extensions without a label."""

    labelled: Annotated[
        queue_filters.LabelFilter, Field(description="Whether the extension has a label.")
    ] = queue_filters.LabelFilter.NO
    view: Annotated[
        str, Field(pattern="^(single|grid)$", description="One extension, or a grid.")
    ] = "single"
    at: Annotated[int | None, Field(ge=1, lt=BEYOND_IDS, description="Extension to show.")] = None
    just: Annotated[str, Field(max_length=64, description="Key of the last label request.")] = ""

    @field_validator("view", mode="before")
    @classmethod
    def translate_view(cls, value: Any) -> Any:
        """Accept the values of older links."""
        return _OLD_VIEWS.get(value, value) if isinstance(value, str) else value


class LimitRequest(BaseModel):
    """Thresholds to try: a factor on the present ones, a false-alarm rate or a recall."""

    factor: Annotated[
        float | None,
        Field(ge=_LEAST_FACTOR, le=_MOST_FACTOR, description="Factor on all present thresholds."),
    ] = None
    false_alarms: Annotated[
        float | None, Field(ge=1e-6, le=0.5, description="Accepted rate per extension.")
    ] = None
    recall: Annotated[
        float | None, Field(ge=0, le=1, description="Share of bad frames to be flagged.")
    ] = None
    since: Annotated[
        date | None, Field(description="First night; default: the newest 20000 extensions.")
    ] = None

    @model_validator(mode="after")
    def check_single(self) -> Self:
        """Refuse more than one criterion."""
        values = (self.factor, self.false_alarms, self.recall)
        if sum(value is not None for value in values) > 1:
            raise ValueError("expected a factor, a rate of false alarms or a recall: only one")
        return self

    @property
    def is_set(self) -> bool:
        """Return True if the request contains a criterion."""
        return not (self.factor is None and self.false_alarms is None and self.recall is None)

    @property
    def log_factor(self) -> float:
        """Return the position of the slider."""
        return round(log10(self.factor), 2) if self.factor else 0.0


ReviewFilters = Annotated[ReviewQuery, Query()]
ReviewPageFilters = Annotated[ReviewPageQuery, Query()]
