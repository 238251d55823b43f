"""Sizes of numbers that can be meant: what is beyond is a slip, and overflows somewhere later.

Options and settings take their limits from here.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

LEAST_SIZE, MOST_SIZE = 1e-20, 1e12
"""Of any number but zero. Whole ones that count something have `MOST_COUNT`."""
MOST_COUNT = 10**9
MOST_SEED = 2**63 - 1
MOST_THREADS = 256
MOST_PROCESSES = 4096
"""Workers of a run, or jobs of a queue."""
LEAST_TIME_FS, MOST_TIME_FS = 1e-3, 1e9

TimeFs = Annotated[float, Field(ge=LEAST_TIME_FS, le=MOST_TIME_FS)]
"""A time step, a distance of frames or a length, fs."""
SpanFs = Annotated[float, Field(ge=0, le=MOST_TIME_FS)]
"""A length that may be zero, fs."""
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]


def is_meant(value: Any, most: float = MOST_SIZE) -> bool:
    """Whether a number is finite and of a size that can be meant; all else is."""
    if isinstance(value, list | tuple):
        return all(is_meant(each, most) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        return True
    # NaN is in no range.
    return LEAST_SIZE <= abs(value) <= most and (isinstance(value, int) or math.isfinite(value))


def meant_range(most: float) -> str:
    """What to do about a number that cannot be meant, for messages."""
    return f"out of range; give 0 or a size from {LEAST_SIZE:g} to {most:g}"


class BoundedModel(BaseModel):
    """Frozen settings without unknown names, whose numbers are of a size that can be meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _numbers_are_meant(cls, value: Any) -> Any:
        if not is_meant(value, MOST_SEED):
            raise ValueError(f"{str(value)[:40]}: {meant_range(MOST_SEED)}")
        return value
