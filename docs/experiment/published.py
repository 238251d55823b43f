"""Experimental values and what was computed for the same compounds."""

import json
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

PUBLISHED = Path(__file__).with_name("published.toml")
COMPUTED = Path(__file__).with_name("computed.json")
LEVELS = {"pbe-def2svp": "PBE", "gfn2-xtb": "GFN2"}
_ONE_BAND = 30.0  # cm-1; what trajectories of 1 ps cannot tell apart


class Experiment(BaseModel):
    """One compound; the file says what the fields are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fundamentals: tuple[float, ...]
    fundamentals_source: str
    bonds: dict[str, float] = {}
    bonds_source: str = ""
    rotational: tuple[float, ...] = ()
    rotational_source: str = ""


class Published(BaseModel):
    """The file `published.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: dict[str, float]
    sources: dict[str, str]
    molecules: dict[str, Experiment]

    @model_validator(mode="after")
    def _every_value_has_a_source(self) -> Self:
        for name, one in self.molecules.items():
            for field in ("fundamentals", "bonds", "rotational"):
                source = getattr(one, f"{field}_source")
                if getattr(one, field) and source not in self.sources:
                    raise ValueError(f"{name}: {field} has no known source")
        return self


class Trajectory(BaseModel):
    """What a trajectory shows.

    Attributes:
        length_fs: of the trajectory.
        resolution: width of a sharp line, cm-1.
        peaks: highest peak of the density of states around each band, cm-1; None if there is none.
        bonds: kind -> mean length, A.
    """

    length_fs: float
    resolution: float
    peaks: list[float | None]
    bonds: dict[str, float]


class Computed(BaseModel):
    """A compound at one level: harmonic wavenumbers (cm-1, ascending), lengths (A), A B C (MHz)."""

    wavenumbers: list[float]
    bonds: dict[str, float]
    rotational: list[float]
    trajectory: Trajectory | None = None


def bands(wavenumbers: Sequence[float]) -> list[range]:
    """The numbers of those ascending wavenumbers that lie within 30 cm-1 of the next."""
    starts = [0, *(i for i, gap in enumerate(np.diff(wavenumbers), start=1) if gap > _ONE_BAND)]
    return [range(a, b) for a, b in pairwise([*starts, len(wavenumbers)])]


def read_published() -> Published:
    """The experimental values."""
    return Published.model_validate(tomllib.loads(PUBLISHED.read_text()))


def read_computed() -> dict[str, dict[str, Computed]]:
    """Compound -> level -> what was computed."""
    known = json.loads(COMPUTED.read_text())
    return {
        name: {level: Computed.model_validate(one) for level, one in levels.items()}
        for name, levels in known.items()
    }
