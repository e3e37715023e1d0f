"""What the end of an address asks for: of the review and the API, which extensions."""

from datetime import date
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from qc.db.models import BEYOND_IDS
from qc.review.queue import LabelFilter, QueueFilters, QueueOrder

_LONGEST = 200  # characters of a filter

Since = Annotated[date | None, Field(description="First night.")]
Until = Annotated[date | None, Field(description="Last night.")]


class QueryModel(BaseModel):
    """What the end of an address asks; what a form leaves empty is not asked."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_empty(cls, given: Any) -> Any:
        return {key: value for key, value in dict(given).items() if value not in ("", None, [""])}


class ReviewQuery(QueryModel):
    """The filters of the review, and of the API, as an address spells them."""

    model_config = ConfigDict(populate_by_name=True)

    first: Annotated[Since, Field(alias="from")] = None
    last: Annotated[Until, Field(alias="to")] = None
    type: Annotated[str, Field(max_length=_LONGEST, description="Image types; `UB*,URW1`.")] = ""
    setup: Annotated[str, Field(max_length=_LONGEST, description="Words of the setup.")] = ""
    status: Annotated[str, Field(max_length=_LONGEST, description="Of the newest verdict.")] = ""
    kind: Annotated[str, Field(max_length=_LONGEST, description="Of fault.")] = ""
    least: Annotated[float | None, Field(allow_inf_nan=False, description="Score.")] = None
    most: Annotated[float | None, Field(allow_inf_nan=False, description="Score.")] = None
    labelled: Annotated[LabelFilter, Field(description="Whether a label counts.")] = LabelFilter.ANY
    by: Annotated[str, Field(max_length=_LONGEST, description="Who gave it.")] = ""
    sample: Annotated[bool, Field(description="Only what the spot check drew.")] = False
    order: Annotated[QueueOrder, Field(description="What comes first.")] = QueueOrder.DOUBT
    after: Annotated[str, Field(max_length=_LONGEST, description="Of the answer before.")] = ""

    @property
    def filters(self) -> QueueFilters:
        """Return what is wanted."""
        return QueueFilters(
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

    def address(self, **other: Any) -> str:
        """Return the question part of an address that asks the same but for what is told.

        What is as it would be anyway is left out.
        """
        known = self.model_dump(by_alias=True, mode="json") | other
        usual = type(self)().model_dump(by_alias=True, mode="json")
        return urlencode({k: v for k, v in known.items() if v not in ("", None, usual.get(k))})

    def with_order(self, order: QueueOrder) -> Self:
        """Return the same question in another order."""
        return self.model_copy(update={"order": order})


class UnlabelledQuery(ReviewQuery):
    """What the review asks for: what nobody has labelled, unless told."""

    labelled: Annotated[LabelFilter, Field(description="Whether a label counts.")] = LabelFilter.NO
    view: Annotated[str, Field(pattern="^(one|wall)$", description="One, or a wall.")] = "one"
    at: Annotated[int | None, Field(ge=1, lt=BEYOND_IDS, description="Extension to show.")] = None
    just: Annotated[str, Field(max_length=64, description="The last request.")] = ""


AskedFor = Annotated[ReviewQuery, Query()]
ReviewedFor = Annotated[UnlabelledQuery, Query()]
