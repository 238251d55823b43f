"""How time and memory of ATOM grow with batch, atoms and lags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from benchmarks.speed.model import ModelSettings, Shape, step_memory
from tg80.errors import UserError
from tg80.untrusted.limits import BoundedModel

# What stays while another size grows.
BASE = {"batch_size": Shape(0, 12, 8), "atoms": Shape(4, 0, 8), "lags": Shape(4, 20, 0)}
LETTERS = {"batch_size": "B", "atoms": "N", "lags": "P"}
# The exponent is fitted to the sizes from this fraction of the largest on.
LARGE = 0.25


class ScalingSettings(BoundedModel):
    """Sizes that are walked through, and the memory that a step may take, 1e9 bytes."""

    batch_sizes: tuple[PositiveInt, ...]
    atoms: tuple[PositiveInt, ...]
    lags: tuple[PositiveInt, ...]
    repeats: int = Field(default=3, ge=1)
    memory_gb: float = Field(default=2.0, gt=0)

    def axes(self) -> dict[str, list[Shape]]:
        """Shapes by the size that grows, the smallest first."""
        sizes = {"batch_size": self.batch_sizes, "atoms": self.atoms, "lags": self.lags}
        return {
            axis: [BASE[axis]._replace(**{axis: size}) for size in sorted(values)]
            for axis, values in sizes.items()
        }


def parse_sizes(text: str) -> dict[str, tuple[str, ...]]:
    """The three lists of sizes in "1,4;10,50;1,8", for `ScalingSettings`.

    Raises:
        UserError: they are not three.
    """
    lists = [tuple(part.split(",")) for part in text.replace(" ", "").split(";")]
    if len(lists) != 3:
        raise UserError(f"--scaling-sizes wants three lists such as 1,4;10,50;1,8, not {text!r}")
    return dict(zip(("batch_sizes", "atoms", "lags"), lists, strict=True))


def measure_scaling(
    settings: ModelSettings,
    scaling: ScalingSettings,
    get: Callable[[str, Callable[[], Any]], Any],
    say: Callable[[str], None],
) -> None:
    """Time and memory along each axis; every point is stored as soon as it is there.

    Args:
        settings: of the command.
        scaling: the sizes.
        get: stored result of a key, else measured; see `ResultsFile.get`.
        say: tells what is done.
    """
    for mode in settings.modes:
        for axis, shapes in scaling.axes().items():
            before: tuple[Shape, int] | None = None
            for shape in shapes:
                key = f"scaling {mode} {axis} {shape.batch_size}x{shape.atoms}x{shape.lags}"

                def point(mode=mode, axis=axis, shape=shape, before=before) -> dict[str, Any]:
                    say(f"{mode}: B = {shape.batch_size}, N = {shape.atoms}, P = {shape.lags}")
                    return _point(settings, scaling, mode, axis, shape, before)

                found = get(key, point)
                if "times" not in found:
                    break  # the larger ones need more still
                before = shape, found["step_memory_bytes"]


def _point(
    settings: ModelSettings,
    scaling: ScalingSettings,
    mode: str,
    axis: str,
    shape: Shape,
    before: tuple[Shape, int] | None,
) -> dict[str, Any]:
    clock = "wall" if settings.device == "cuda" else "cpu"
    row: dict[str, Any] = {"axis": axis, "mode": mode, "clock": clock, **shape._asdict()}
    if before is not None:
        # No worse than quadratic, so that this is an upper bound.
        growth = getattr(shape, axis) / getattr(before[0], axis)
        needed = before[1] * growth ** (1 if axis == "batch_size" else 2)
        if needed > 1e9 * scaling.memory_gb:
            return row | {"needs_bytes": needed}
    return row | step_memory(settings, mode, shape, scaling.repeats)


def growth_exponent(rows: list[dict[str, Any]], axis: str, quantity: str = "step") -> float | None:
    """Slope of log(CPU or wall time) over log(size) through the largest sizes of one axis.

    None with fewer than two of them. On the CPU the processor time is taken, which hardly feels
    what else the machine does.
    """
    found = [row for row in rows if row["axis"] == axis and "times" in row]
    if not found:
        return None
    largest = max(row[axis] for row in found)
    found = [row for row in found if row[axis] >= LARGE * largest]
    if len(found) < 2:
        return None
    seconds = [row["times"][quantity][row["clock"]]["median"] for row in found]
    return float(np.polyfit(np.log([row[axis] for row in found]), np.log(seconds), 1)[0])
