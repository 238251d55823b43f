"""A figure of records: error against lag, a panel for each test part."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from benchmarks.leaderboard.floor import PartFloor
from benchmarks.leaderboard.lines import Entry, entries, errors_by_lag, grouped, line_labels, panels
from benchmarks.models import TRIVIAL
from benchmarks.runs.records import Record
from benchmarks.scoring.metrics import PRINTED_SCALE

MARKERS = "osD^vPX*"


def error_against_lag(
    records: Sequence[Record], floors: Sequence[PartFloor], suffix: str = "svg"
) -> bytes:
    """Draw the panel of most models: MSE against lag of each learnt model, persistence and floor.

    Of the trivial predictors, persistence and the one with the least S2S are drawn.

    Args:
        records: Records to choose from.
        floors: Floors of these records, of which complete ones are drawn.
        suffix: File type, svg or png.
    """
    import matplotlib
    from matplotlib.figure import Figure

    chosen = max(panels(records, lambda r: r), key=lambda found: len({r.model for r in found}))
    lines = [line for line in entries(chosen) if line.part.startswith("test") and not line.oracle]
    members = grouped(chosen)
    parts = list(dict.fromkeys(line.part for line in lines))
    styles: dict[str, dict[str, Any]] = {
        name: {"color": f"C{i}", "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        for i, name in enumerate(sorted({line.model for line in lines} - {*TRIVIAL}))
    }
    styles |= {name: {"linestyle": "--", "color": "0.7"} for name in TRIVIAL}
    styles["persistence"] = {"linestyle": "--", "color": "0.3"}
    with matplotlib.rc_context(
        {"svg.hashsalt": "atom-bench", "svg.fonttype": "none", "font.size": 9}
    ):
        drawing = Figure(figsize=(1.4 + 2.9 * len(parts), 3.2), layout="constrained")
        axes = drawing.subplots(1, len(parts), sharey=True, squeeze=False)[0]
        for axis, part in zip(axes, parts, strict=True):
            shown = _shown([line for line in lines if line.part == part])
            for line, label in zip(shown, line_labels(shown), strict=True):
                curve = errors_by_lag(members[line.key], part)
                scaled = [PRINTED_SCALE * value for value in curve.values()]
                axis.plot(list(curve), scaled, linewidth=1.2, label=label, **styles[line.model])
            for floor in floors:
                if floor.part == part and floor.is_complete and floor.folds == shown[0].folds:
                    scaled = [PRINTED_SCALE * value for value in floor.mse.values()]
                    axis.plot(list(floor.mse), scaled, ":", color="black", label=floor.label)
            axis.set(title=part, xlabel="lag / fs", xscale="log", yscale="log")
        axes[0].set_ylabel("MSE / 1e-2 A$^2$")
        handles = {
            label: handle
            for axis in axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        handles = dict(sorted(handles.items()))
        drawing.legend(handles.values(), handles, loc="outside right center", frameon=False)
        stream = io.BytesIO()
        stamp = {"Date": None} if suffix == "svg" else None
        drawing.savefig(stream, format=suffix, dpi=130, metadata=stamp)
    return stream.getvalue()


def _shown(lines: Sequence[Entry]) -> list[Entry]:
    """Learnt models, persistence and the best trivial predictor; `lines` stand best first."""
    trivial = [line.model for line in lines if line.model in TRIVIAL]
    left_out = set(trivial) - {"persistence", *trivial[:1]}
    return [line for line in lines if line.model not in left_out]
