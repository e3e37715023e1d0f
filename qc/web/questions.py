"""What the end of an address asks for."""

from typing import Any

from pydantic import BaseModel, model_validator


class Asked(BaseModel):
    """A question; what a form leaves empty is not asked."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in dict(given).items() if value not in ("", [""])}
