"""Tables of speed figures, for a terminal or as Markdown."""

from typing import Any

from benchmarks.leaderboard.sheets import Sheet


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['vector_units']}), {machine['cores']} cores, "
        f"load {machine['load_before']:.1f} at the start; {versions}"
    )


def aimd_sheets(document: dict[str, Any]) -> list[Sheet]:
    """The tables of `atom-bench speed aimd`."""
    settings, molecules = document["settings"], list(document["results"].values())
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    sheets = [
        Sheet(
            f"Seconds per energy + forces, {settings['level']}, {threads}, "
            f"{settings['step_fs']:g} fs steps (medians; stock's integrals: "
            f"{settings['stock_integrals']})",
            ("molecule", "stock s (cycles)", "ours s (builds)", "stock / ours", "quartiles",
             "by repeat", "by CPU time"),
            [_speed_row(one) for one in molecules],
        ),
        Sheet(
            f"Seconds per simulated fs, {threads}: stock, Verlet {settings['step_fs']:g} fs, over "
            "ours with multiple time steps",
            ("molecule", "outer / inner fs", "stock s/fs", "ours s/fs", "builds per call",
             "stock / ours", "by CPU time"),
            [_per_fs_row(one["molecule"], row) for one in molecules for row in one["per_fs"]],
        ),
        Sheet(
            "Differences, hartree and hartree/bohr (largest; RMS)",
            ("molecule", "of", "from", "energy", "force max", "force RMS", "geometries"),
            [row for one in molecules for row in _accuracy_rows(one)],
        ),
    ]  # fmt: skip
    if any(one["ours_parts_s"] for one in molecules):
        sheets.append(_parts_sheet(molecules))
    return [sheet for sheet in sheets if sheet.rows]


def _speed_row(one: dict[str, Any]) -> list[str]:
    spread = one["ratio_spread"]
    return [
        one["molecule"],
        f"{one['stock_s_per_step']['median']:.3f} ({one['stock_cycles']:.1f})",
        f"{one['ours_s_per_step']['median']:.3f} ({one['fock_builds']:.1f})",
        f"{one['ratio']:.1f}",
        f"{spread['quartile_1']:.1f}-{spread['quartile_3']:.1f}",
        " ".join(f"{ratio:.1f}" for ratio in one["ratio_of_repeats"]),
        f"{one['ratio_cpu']:.1f}",
    ]


def _per_fs_row(name: str, row: dict[str, float]) -> list[str]:
    return [
        name, f"{row['outer_fs']:g} / {row['inner_fs']:g}", f"{row['stock_s_per_fs']:.3f}",
        f"{row['ours_s_per_fs']:.3f}", f"{row['fock_builds']:.1f}", f"{row['ratio']:.1f}",
        f"{row['ratio_cpu']:.1f}",
    ]  # fmt: skip


def _accuracy_rows(one: dict[str, Any]) -> list[list[str]]:
    name, accuracy = one["molecule"], one["accuracy"]
    rows = [_difference_row(name, "ours", "stock", one["against_stock"], len(one["steps"]))]
    for key, better in (("scf_noise", "same level, tight"), ("against_exact", "exact J, grid 5")):
        for side in ("ours", "stock"):
            if side in accuracy[key]:
                n = accuracy[key]["n"]
                rows.append(_difference_row(name, side, better, accuracy[key][side], n))
    return rows


def _difference_row(name: str, of: str, better: str, figures: dict, n: int) -> list[str]:
    names = ("energy_max", "force_max", "force_rms")
    return [name, of, better, *(f"{figures[key]:.1e}" for key in names), str(n)]


def _parts_sheet(molecules: list[dict[str, Any]]) -> Sheet:
    names = list(dict.fromkeys(name for one in molecules for name in one["ours_parts_s"]))
    rows = []
    for one in molecules:
        parts = one["ours_parts_s"]
        rest = one["ours_s_per_step"]["mean"] - sum(parts.values())
        figures = [f"{parts.get(name, 0.0):.3f}" for name in names]
        rows.append([one["molecule"], *figures, f"{rest:.3f}"])
    return Sheet("Where ours goes, seconds per step (means)", ("molecule", *names, "rest"), rows)


def memory_sheets(document: dict[str, Any]) -> list[Sheet]:
    """The table of `atom-bench speed memory`."""
    rows = []
    for one in document["results"].values():
        for row in one["budgets"]:
            rows.append(
                [
                    one["molecule"], f"{row['memory_gb']:g}", f"{row['peak_bytes'] / 1e9:.2f}",
                    f"{row['imported_bytes'] / 1e9:.2f}", f"{row['s_per_step']:.2f}",
                    f"{row['energy_difference']:.1e}", f"{row['force_difference']:.1e}",
                ]
            )  # fmt: skip
    heading = (
        "molecule", "budget, GB", "peak, GB", "of it imports", "s per outer step",
        "energy apart", "force apart",
    )  # fmt: skip
    title = "Peak resident memory of a worker, 1e9 bytes; differences in hartree (per bohr)"
    return [Sheet(title, heading, rows)]


def throughput_sheets(document: dict[str, Any]) -> list[Sheet]:
    """The table of `atom-bench speed throughput`."""
    rows = []
    for one in document["results"].values():
        for kind in ("plain", "dask"):
            figures = one[kind]
            spread = figures["ratio"]
            rows.append(
                [
                    one["molecule"], kind, f"{figures['steps_per_s_one']:.2f}",
                    f"{figures['steps_per_s_two']:.2f}", f"{spread['median']:.2f}",
                    f"{spread['lowest']:.2f}-{spread['highest']:.2f}",
                ]
            )  # fmt: skip
    heading = ("molecule", "workers", "one, steps/s", "two, steps/s", "two / one", "range")
    return [Sheet("Throughput of two single-thread workers over that of one", heading, rows)]


def mts_sheets(document: dict[str, Any]) -> list[Sheet]:
    """The table of `atom-bench speed mts`."""
    marks = sorted({d["mark_fs"] for row in document["rows"] for d in row["distances"]})
    times = " / ".join(f"{mark:g}" for mark in marks)
    heading = (
        "molecule", "integrator, fs", "calls/fs", "builds/fs", "s/fs", f"RMSD at {times} fs, A",
        "Verlet 0.5's RMSD over it", "energy std, meV/atom", "drift, meV/atom/ps", "stock / ours",
    )  # fmt: skip
    title = (
        f"Integrators against velocity Verlet {document['settings']['inner_fs']:g} fs, "
        f"{document['settings']['level']}, NVE; stock / ours: per simulated fs, stock with Verlet "
        "0.5 fs"
    )
    return [Sheet(title, heading, [_mts_row(row) for row in document["rows"]])]


def _mts_row(row: dict[str, Any]) -> list[str]:
    error = row["drift_error"]
    drift = "" if error is None else f"{row['drift']:+.3f} ± {error:.3f}"
    return [
        row["molecule"], row["integrator"], f"{row['calls_per_fs']:.2f}",
        f"{row['builds_per_fs']:.2f}", f"{row['s_per_fs']:.3f}",
        " / ".join(f"{one['rmsd']:.1e}" for one in row["distances"]),
        _ratio(row["rmsd_ratio"]), f"{row['energy_std']:.2f}", drift, _ratio(row["stock_ratio"]),
    ]  # fmt: skip


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
