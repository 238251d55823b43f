"""Plots of a data set for its card: temperature, drift, net force, bond lengths, vibrations.

One set of plots a level of theory. Verdicts differ in the shape of the marker, not in colour alone.
The same facts give the same bytes: nothing in a file tells when it was made.
"""

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from tg80.release.survey import BOND_EDGES, ShardFacts

_MARKERS = {
    "ok": ("o", "#0072b2", "within the limit"),
    "warning": ("^", "#d55e00", "not proven"),
    "error": ("X", "#000000", "beyond the limit"),
    "unjudged": ("D", "#808080", "too short to judge"),
}
_COLUMNS = 4
_HIGHEST = 4000.0  # cm-1
Facts = Sequence[ShardFacts]


def plots(facts: Facts) -> dict[str, bytes]:
    """PNG files by name of the plot, of shards at one level of theory."""
    return {
        "temperature": _png(_rows(facts, _temperature)),
        "drift": _png(_rows(facts, _drift)),
        "net-force": _png(_rows(facts, _net_force)),
        "bond-lengths": _png(_bond_lengths(facts)),
        "vibrations": _png(_vibrations(facts)),
    }


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _rows(facts: Facts, draw: Callable[[Axes, Facts], str]) -> Figure:
    """A figure with one row a shard; `draw` fills it and returns its title."""
    figure = Figure(figsize=(7.0, 1.4 + 0.19 * len(facts)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(facts)), [fact.id for fact in facts], fontsize=8)
    axes.set_ylim(len(facts) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(f"{draw(axes, facts)} ({facts[0].metadata.level})", fontsize=10)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _temperature(axes: Axes, facts: Facts) -> str:
    checks = [fact.checks["temperature"] for fact in facts]
    verdicts = [check.verdict if check.judged else "unjudged" for check in checks]
    _points(axes, verdicts, [c.value for c in checks], [c.error for c in checks])
    for target in sorted({check.target or 0.0 for check in checks}):
        axes.axvline(target, color="0.3", linestyle="--", label=f"target {target:g} K")
    axes.set_xlabel("mean temperature / K; bars: two standard errors")
    return "Temperature"


def _drift(axes: Axes, facts: Facts) -> str:
    checks = [fact.checks["drift"] for fact in facts]
    limit = max(check.threshold for check in checks)
    axes.axvspan(-limit, limit, color="0.9", label=f"limit {limit:g}")
    verdicts = [check.verdict for check in checks]
    _points(axes, verdicts, [c.value for c in checks], [c.error for c in checks])
    axes.set_xlabel("drift of the conserved quantity / meV/atom/ps; bars: two standard errors")
    return "Drift"


def _net_force(axes: Axes, facts: Facts) -> str:
    """RMS as the marker, the largest frame as the end of a line to the right."""
    checks = [fact.checks["net_force"] for fact in facts]
    # A logarithm needs something above zero: the rounding of a double is nothing.
    rms = [max(check.value, 1e-17) for check in checks]
    for row, (low, check) in enumerate(zip(rms, checks, strict=True)):
        label = "up to the largest frame" if row == 0 else None
        axes.plot([low, max(check.max or 0.0, low)], [row, row], color="0.5", label=label)
    _points(axes, [check.verdict for check in checks], rms, [None] * len(rms))
    for limit in sorted({check.threshold for check in checks}):
        axes.axvline(limit, color="0.3", linestyle="--", label=f"limit {limit:g}")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("net force before projection / eV/A; markers: root mean square")
    return "Net force"


def _points(
    axes: Axes, verdicts: Sequence[str], values: Sequence[float], errors: Sequence[float | None]
) -> None:
    """One marker a row, its shape the verdict, with a bar of two standard errors if known."""
    for verdict, (marker, colour, label) in _MARKERS.items():
        rows = [row for row, found in enumerate(verdicts) if found == verdict]
        if rows:
            axes.errorbar(
                [values[row] for row in rows], rows, xerr=[2 * (errors[r] or 0.0) for r in rows],
                marker=marker, color=colour, linestyle="none", markersize=5, label=label,
            )  # fmt: skip


def _bond_lengths(facts: Facts) -> Figure:
    """A histogram for each kind of bond, all shards together."""
    totals: dict[str, np.ndarray] = {}
    for fact in facts:
        for kind, counts in fact.bond_lengths.items():
            totals[kind] = totals.get(kind, 0) + counts
    n_rows = math.ceil(len(totals) / _COLUMNS)
    figure = Figure(figsize=(9.0, 0.8 + 1.7 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
    for axes, (kind, counts) in zip(grid.flat, sorted(totals.items()), strict=False):
        axes.stairs(counts / counts.sum(), BOND_EDGES, fill=True, color="#0072b2")
        seen = np.flatnonzero(counts)
        first, last = max(seen[0] - 4, 0), min(seen[-1] + 5, len(BOND_EDGES) - 1)
        axes.set_xlim(BOND_EDGES[first], BOND_EDGES[last])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(kind, fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(totals) :]:
        axes.set_axis_off()
    level = facts[0].metadata.level
    figure.suptitle(f"Bond lengths / A, all frames of all shards ({level})", fontsize=10)
    figure.supxlabel("-, =, #: single, double, triple; ':' aromatic or conjugated", fontsize=8)
    return figure


def _vibrations(facts: Facts) -> Figure:
    """A small panel a compound: of its shards, the one with the closest frames."""
    finest: dict[str, ShardFacts] = {}
    for fact in sorted(facts, key=lambda fact: fact.metadata.store_every_fs):
        finest.setdefault(fact.metadata.name, fact)
    n_rows = math.ceil(len(finest) / _COLUMNS)
    figure = Figure(figsize=(9.0, 0.9 + 0.8 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (name, fact) in zip(grid.flat, sorted(finest.items()), strict=False):
        found = fact.vibrations
        shown = found.wavenumbers <= _HIGHEST
        axes.set_axis_on()
        axes.plot(found.wavenumbers[shown], found.density[shown], color="#0072b2", linewidth=0.7)
        axes.set(yticks=[], xlim=(0, min(found.wavenumbers[-1], _HIGHEST)))
        axes.tick_params(labelsize=6)
        axes.set_title(f"{name} ({fact.metadata.store_every_fs:g} fs)", fontsize=7, pad=2)
    level = facts[0].metadata.level
    figure.suptitle(f"Vibrational density of states ({level}); spacing of the frames", fontsize=10)
    figure.supxlabel(
        "wavenumber / cm$^{-1}$; modes above 16678 cm$^{-1}$ fs / spacing are folded back",
        fontsize=8,
    )
    return figure
