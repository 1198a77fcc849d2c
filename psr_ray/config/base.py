"""The base of all settings: frozen pydantic models; unknown keys are errors."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def own_or(*names: str) -> AfterValidator:
    """For settings that take one of some names, or ``module:name`` of the user's own code."""
    return AfterValidator(partial(_check_name, names=names))


def _check_name(value: str, *, names: tuple[str, ...]) -> str:
    if value not in names and not re.fullmatch(r"[\w.]+:\w+", value):
        raise ValueError(f"must be {', '.join(names)} or your own module:name; found {value!r}")
    return value


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
