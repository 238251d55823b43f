"""All settings of a run, frozen: what a recipe file holds and what a trajectory depends on.

Two runs with equal recipes, molecule and replica make the same trajectory. What only says how much
is done or where (molecules, replicas, workers) is not part of a recipe.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tg80.errors import UserError
from tg80.shards.quality import QualityThresholds
from tg80.theory import LEVELS, Level, get_level
from tg80.untrusted.documents import parse_toml, read_toml
from tg80.untrusted.limits import (
    LEAST_TIME_FS,
    MOST_SEED,
    MOST_TIME_FS,
    BoundedModel,
    SpanFs,
    TimeFs,
)

Thermostat = Literal["nve", "bussi", "langevin"]
Integrator = Literal["mts", "verlet", "learned"]

_MOST_FRAMES = 1_000_000  # of a segment, which is held in memory

FIRST_OUTER_STEP_FS = 1.0  # of `learned`, while GFN2-xTB alone drives the inner steps
LENGTHS = ("length_fs", "later_length_fs")
"""What may grow in a run that has begun."""
DEFAULT_SEGMENT_FS = {"rks": 50.0, "xtb": 1000.0}


class Recipe(BoundedModel):
    """Settings of the pipeline. Times in fs, temperatures in K."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    level: str = "pbe-def2svp"
    """level of theory (see the table of levels)"""
    theory: dict[str, Any] = Field(default={})
    """settings of the level that are overridden; they rename it to `custom-HASH8`"""
    temperature_k: float = Field(300.0, gt=0, le=5000)
    """target temperature"""
    length_fs: TimeFs = 32000.0
    """length of the production"""
    pre_equilibration_fs: SpanFs = 10000.0
    """NVT at GFN2-xTB before the level takes over"""
    equilibration_fs: SpanFs = 2500.0
    """NVT at the level before replica 0 starts"""
    replica_spacing_fs: float = Field(1000.0, ge=1000, le=MOST_TIME_FS)
    """distance between the NVT frames that the replicas start from"""
    later_length_fs: float | None = Field(None, gt=0)
    """length of the replicas from 1 on; `length_fs` by default"""
    later_store_every_fs: float | None = Field(None, gt=0)
    """distance of their stored frames; `store_every_fs` by default"""
    thermostat: Thermostat = "nve"
    """ensemble of the production: `nve`, `bussi` or `langevin`"""
    thermostat_time_fs: TimeFs = 1000.0
    """time constant of the production's thermostat (Langevin: inverse friction)"""
    equilibration_time_fs: TimeFs = 100.0
    """time constant of the thermostat of both equilibrations (Langevin: inverse friction)"""
    equilibration_thermostat: Literal["bussi", "langevin"] | None = None
    """`bussi` by default; `langevin` where a part of the molecule turns almost freely"""
    integrator: Integrator = "learned"
    """`learned`, `mts` or `verlet`; GFN2-xTB runs `verlet` only, which is its default"""
    outer_step_fs: float | None = Field(1.0, ge=LEAST_TIME_FS, le=5)
    """time between evaluations of the level; by default, `learned` chooses it"""
    inner_step_fs: float = Field(0.25, ge=LEAST_TIME_FS, le=2)
    """`mts`, `learned`: time step of the inner method"""
    verlet_step_fs: float = Field(0.5, ge=LEAST_TIME_FS, le=2)
    """time step of `verlet` and of every GFN2-xTB dynamics"""
    store_every_fs: TimeFs = 1.0
    """distance of stored frames"""
    segment_fs: TimeFs = 50.0
    """what is committed to disk at once; 1000 at `gfn2-xtb`"""
    n_conformers: int = Field(50, ge=1, le=1000)
    """conformers embedded"""
    n_relaxed: int = Field(10, ge=1, le=100)
    """conformers relaxed with GFN2-xTB"""
    conformers: Literal["lowest", "boltzmann"] = "lowest"
    """which relaxed conformer starts: the lowest, or one drawn by Boltzmann weights"""
    seed: int = Field(0, ge=0, le=MOST_SEED)
    """master seed"""
    quality: QualityThresholds = Field(default_factory=lambda: QualityThresholds.model_validate({}))
    """thresholds of the quality checks"""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_level(cls, data: Any) -> Any:
        """The default integrator and segment length depend on how dear the level is."""
        if not isinstance(data, dict):
            return data
        name = data.get("level", "pbe-def2svp")
        method = LEVELS[name].method if isinstance(name, str) and name in LEVELS else "rks"
        data = dict(data)
        if data.get("integrator") is None:
            data["integrator"] = "verlet" if method == "xtb" else "learned"
        if data["integrator"] == "learned":
            data.setdefault("outer_step_fs", None)
        if data.get("segment_fs") is None:
            data["segment_fs"] = DEFAULT_SEGMENT_FS[method]
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        level = self.resolved_level()
        if level.method == "xtb" and self.integrator != "verlet":
            raise ValueError("level gfn2-xtb has no cheaper inner method: use integrator verlet")
        if self.integrator == "mts" and self.outer_step_fs is None:
            raise ValueError("outer_step_fs: integrator mts needs one")
        step = self.time_step_fs
        for name in ("segment_fs", "equilibration_fs"):
            _check_multiple(name, getattr(self, name), "time step", step)
        for first, prefix in ((self, ""), (self.of_replica(1), "later_")):
            stored = f"{prefix}store_every_fs"
            _check_multiple(stored, first.store_every_fs, "time step", step)
            _check_multiple(f"{prefix}length_fs", first.length_fs, stored, first.store_every_fs)
            if self.integrator != "learned":
                _check_multiple("segment_fs", self.segment_fs, stored, first.store_every_fs)
        _check_multiple(
            "pre_equilibration_fs", self.pre_equilibration_fs, "verlet_step_fs", self.verlet_step_fs
        )
        if self.segment_fs / self.store_every_fs > _MOST_FRAMES:
            raise ValueError(f"segment_fs: a segment holds {_MOST_FRAMES} frames at most")
        if self.integrator != "verlet":
            outer = self.outer_step_fs or FIRST_OUTER_STEP_FS
            _check_multiple("outer_step_fs", outer, "inner_step_fs", self.inner_step_fs)
        return self

    def resolved_level(self) -> Level:
        """The level of theory with the recipe's overrides."""
        level = get_level(self.level)
        return level.customised(**self.theory) if self.theory else level

    def of_replica(self, replica: int) -> "Recipe":
        """The recipe with the length and frame distance that a replica's production has."""
        if replica == 0:
            return self
        return self.model_copy(
            update={
                "length_fs": self.later_length_fs or self.length_fs,
                "store_every_fs": self.later_store_every_fs or self.store_every_fs,
            }
        )

    @property
    def time_step_fs(self) -> float:
        """What times are counted in, fs: outer steps, inner ones where the outer step varies."""
        return self.inner_step_fs if self.integrator == "learned" else self.first_step_fs

    @property
    def first_step_fs(self) -> float:
        """Time between evaluations of the level, fs; `learned` goes on to longer ones."""
        if self.integrator == "verlet":
            return self.verlet_step_fs
        if self.outer_step_fs is None:
            return FIRST_OUTER_STEP_FS
        if self.integrator == "mts":
            return self.outer_step_fs
        n_inner = round(self.outer_step_fs / self.inner_step_fs)
        most = max(1, int(FIRST_OUTER_STEP_FS / self.inner_step_fs + 1e-9))
        return self.inner_step_fs * max(n for n in range(1, most + 1) if n_inner % n == 0)

    def stated(self) -> dict[str, Any]:
        """All settings but those that are not set, so that a new one changes no older recipe."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def sha256(self) -> str:
        """Hash of all settings."""
        text = json.dumps(self.stated(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def is_same_but_for_lengths(self, other: "Recipe") -> bool:
        """Whether all settings but `LENGTHS` are equal."""
        ours, theirs = (each.model_dump(exclude=set(LENGTHS)) for each in (self, other))
        return ours == theirs

    def differences(self, other: "Recipe") -> list[str]:
        """One line `name: ours, now theirs` for each setting that differs."""
        ours, theirs = (
            _flatten(self.model_dump(mode="json")),
            _flatten(other.model_dump(mode="json")),
        )
        names = sorted(ours.keys() | theirs.keys())
        return [
            f"{name}: {ours.get(name)}, now {theirs.get(name)}"
            for name in names
            if ours.get(name) != theirs.get(name)
        ]


def _check_multiple(name: str, value: float, of: str, step: float) -> None:
    ratio = value / step
    if abs(ratio - round(ratio)) > 1e-6:
        raise ValueError(f"{name} = {value:g} fs is not a multiple of {of} = {step:g} fs")


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load_recipe(
    file: Path | None = None,
    options: dict[str, Any] | None = None,
    overrides: list[str] | None = None,
) -> Recipe:
    """A recipe from defaults, a TOML file, command-line options and `--set a.b=c`, in that order.

    Args:
        file: TOML file, or None.
        options: settings by name; None values are left out.
        overrides: texts `a.b=c`; c is read as a TOML value, or as text if it is none.

    Raises:
        UserError: the file can't be read, or a setting is unknown or out of range.
    """
    data: dict[str, Any] = read_toml(file, "a recipe file") if file else {}
    data.update({k: v for k, v in (options or {}).items() if v is not None})
    for text in overrides or []:
        _apply_override(data, text)
    try:
        return Recipe(**data)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item, file) for item in error.errors())) from None


def _apply_override(data: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {text}: write it as name=value, for example --set seed=7")
    *path, last = key.strip().split(".")
    branch = data
    for part in path:
        branch = branch.setdefault(part, {})
        if not isinstance(branch, dict):
            raise UserError(f"--set {text}: `{part}` is a single value, not a group of settings")
    try:
        branch[last] = parse_toml(f"value = {value}", f"--set {key}")["value"]
    except UserError:
        branch[last] = value


def _explain(item: Any, file: Path | None) -> str:
    where = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "no such setting; `tg80 generate --help` and docs/pipeline/physics.md list them"
    source = f"{file}: " if file else ""
    return f"{source}{where}: {message}" if where else f"{source}{message}"


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as a TOML text that `load_recipe` reads back to an equal recipe."""
    plain, groups = [], []
    for key, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            if value:
                lines = [f"{k} = {json.dumps(v)}" for k, v in value.items() if v is not None]
                groups.append("\n".join([f"[{key}]", *lines]))
        elif value is not None:
            plain.append(f"{key} = {json.dumps(value)}")
    return "\n".join(plain) + "\n" + "".join(f"\n{group}\n" for group in groups)
