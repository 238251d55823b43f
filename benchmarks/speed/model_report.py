"""Tables of `atom-bench speed model`."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.model import PUBLISHED, PUBLISHED_PARAMETERS, PUBLISHED_SOURCE, Reference
from benchmarks.speed.model_scaling import LETTERS, growth_exponent
from tg80.console import Table

_CLOCKS = {"wall": "wall time", "cpu": "CPU time"}


def model_sheets(document: dict[str, Any]) -> list[Table]:
    """All tables: times side by side, and growth if it was measured."""
    settings, results = document["settings"], document["results"]
    points = {key: point for key, point in results.items() if "axis" not in point}
    return [_times_sheet(settings, points), *_growth_sheets(settings, results)]


def clock_of(settings: dict[str, Any]) -> str:
    """What ratios and rates are of: processor time hardly feels what else the machine does."""
    return "wall" if settings["device"] == "cuda" else "cpu"


def _times_sheet(settings: dict[str, Any], points: dict[str, dict[str, Any]]) -> Table:
    threads = f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}"
    on = "the GPU" if settings["device"] == "cuda" else threads
    rows = [row for point in points.values() for row in _point_rows(settings, point)]
    return Table(
        f"ATOM {settings['preset']}, B = {settings['batch_size']}, P = {settings['lags']}, "
        f"float32 unless said, {on}; medians of {settings['repeats']} turns; rates by "
        f"{_CLOCKS[clock_of(settings)]}; last two columns: how many times faster the model is, "
        f"likewise. {PUBLISHED_SOURCE.capitalize()}",
        (
            "", "parameters", "forward s", "step s", "forward CPU s", "step CPU s",
            "trajectories/s", "trained/s", "step memory MB", "forward /", "step /",
        ),
        rows,
    )  # fmt: skip


def _point_rows(settings: dict[str, Any], point: dict[str, Any]) -> list[list[str]]:
    where = f"{point['mode']}, N = {point['atoms']}"
    clock, model = clock_of(settings), point["times"]["model"]
    rows = []
    for name, times in point["times"].items():
        seconds = [
            times[kind][one]["median"] for one in ("wall", "cpu") for kind in ("forward", "step")
        ]
        is_model = name == "model"
        rows.append(
            [
                f"{where}, {name}", f"{point['n_parameters']:,}", *(f"{s:.4f}" for s in seconds),
                *(f"{point['batch_size'] / times[kind][clock]['median']:.0f}"
                  for kind in ("forward", "step")),
                f"{point['step_memory_bytes'] / 1e6:.0f}" if is_model else "",
                *("" if is_model else _ratio(times[kind], model[kind], clock)
                  for kind in ("forward", "step")),
            ]
        )  # fmt: skip
    reference = published(settings, point)
    if reference is not None:
        rows.append(
            [
                f"{where}, published code", f"{PUBLISHED_PARAMETERS:,}",
                *(f"{s:.1f}" for s in reference), "", "",
                *(f"{point['batch_size'] / s:.0f}" for s in reference), "",
                *(f"{s / model[kind][clock]['median']:.1f}"
                  for s, kind in zip(reference, ("forward", "step"), strict=True)),
            ]
        )  # fmt: skip
    return rows


def _ratio(other: dict[str, Any], model: dict[str, Any], clock: str) -> str:
    return f"{other[clock]['median'] / model[clock]['median']:.1f}"


def published(settings: dict[str, Any], point: dict[str, Any]) -> Reference | None:
    """What the published code took at this size, if it was measured there.

    It attends to all steps, so that it stands beside `joint` alone, and ran with one thread.
    """
    alike = point["mode"] == "joint" and settings["device"] == "cpu" and settings["threads"] == 1
    sizes = (settings["preset"], point["batch_size"], point["lags"])
    return PUBLISHED.get(sizes, {}).get(point["atoms"]) if alike else None


def _growth_sheets(settings: dict[str, Any], results: dict[str, dict[str, Any]]) -> list[Table]:
    grown = [point for point in results.values() if "axis" in point]
    sheets = []
    for mode in settings["modes"]:
        for axis, letter in LETTERS.items():
            rows = [row for row in grown if (row["mode"], row["axis"]) == (mode, axis)]
            if not rows:
                continue
            exponent = growth_exponent(rows, axis)
            told = "" if exponent is None else f"; a step's time grows as {letter}^{exponent:.2f}"
            sheets.append(
                Table(
                    f"ATOM {settings['preset']}, {mode}: growth with {letter}{told}",
                    (
                        "B, N, P", "forward s", "step s", "step CPU s", "trajectories/s",
                        "trained/s", "step memory MB",
                    ),
                    [_growth_row(row) for row in rows],
                )
            )  # fmt: skip
    return sheets


def _growth_row(row: dict[str, Any]) -> list[str]:
    name = f"{row['batch_size']}, {row['atoms']}, {row['lags']}"
    if "times" not in row:
        return [name, "left out", "", "", "", "", f"up to {row['needs_bytes'] / 1e6:.0f}"]
    forward, step = row["times"]["forward"], row["times"]["step"]
    return [
        name, *(f"{one['wall']['median']:.4f}" for one in (forward, step)),
        f"{step['cpu']['median']:.4f}",
        *(f"{row['batch_size'] / one[row['clock']]['median']:.0f}" for one in (forward, step)),
        f"{row['step_memory_bytes'] / 1e6:.0f}",
    ]  # fmt: skip
