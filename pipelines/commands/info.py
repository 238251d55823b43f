"""`tg80 info`: what is in these files?"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError

from tg80.chemistry import mechanics
from tg80.console import JsonOption, Table, console, print_error, print_tables
from tg80.errors import CorruptFile, UserError
from tg80.shards.quality import block_mean, count_flags, judge_drift, thresholds_of
from tg80.shards.shard import Shard, find_shards
from tg80.untrusted.documents import print_json


def info(
    path: Annotated[
        Path, typer.Argument(readable=False, help="A shard (.h5md), or a folder with shards.")
    ],
    molecule: Annotated[str | None, typer.Option(help="Only shards of this molecule.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Draw one molecule (.svg, .png or .pdf); see --molecule."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Summarise shards: molecule, level of theory, length, temperature, drift, flags.

    The drift of the conserved quantity is shown with its limit and verdict. A folder without shards
    is searched recursively.

    --plot draws a molecule's temperature, conserved energy, bond lengths, vibrational density of
    states with the harmonic wavenumbers, and frames on the relaxed structure.

    Example: tg80 info runs/

    Example: tg80 info tg80/data/mini-xtb --molecule methanol --plot methanol.svg
    """
    if plot is not None:
        from tg80.splits.plot import check_plot_path

        check_plot_path(plot)
    rows = [describe(each) for each in find_shards(path, must_be_files=False)]
    if molecule is not None:
        rows = [row for row in rows if row.get("name", molecule) == molecule]
        if not any("name" in row for row in rows):
            raise UserError(f"{path}: no molecule {molecule!r}")
    if plot is not None:
        from tg80.release.molecule_plot import plot_molecule

        plot_molecule([Shard(row["file"]) for row in rows if "unreadable" not in row], plot)
        console.print(f"wrote {plot}", highlight=False, markup=False)
    if json_output:
        print_json(rows, indent=2)
    else:
        _print_table([row for row in rows if "unreadable" not in row])
    unreadable = [row for row in rows if "unreadable" in row]
    for row in unreadable:
        print_error(f"{row['file']}: {row['unreadable']}")
    if unreadable:
        raise typer.Exit(1)


def describe(path: Path) -> dict[str, Any]:
    """Facts of one shard, from its metadata and its frames; JSON-able.

    A file that cannot be read gives `file` and `unreadable`, the reason.
    """
    try:
        with Shard(path) as shard:
            return {"file": str(path), **_facts(shard), "size_bytes": path.stat().st_size}
    except (CorruptFile, UserError) as error:
        return {"file": str(path), "unreadable": str(error).removeprefix(f"{path}: ")}
    except ValidationError:
        return {"file": str(path), "unreadable": "the quality limits of its recipe are none"}
    except Exception as error:
        # Whatever a damaged file leads to, the others are still to be shown.
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"file": str(path), "unreadable": f"holds what cannot be judged ({what})"}


def _facts(shard: Shard) -> dict[str, Any]:
    metadata = shard.metadata
    kelvin = mechanics.temperature(shard.read("kinetic_energy"), metadata.degrees_of_freedom)
    mean, mean_error = block_mean(np.asarray(kelvin))
    evaluated = shard.evaluated
    conserved = 1000 * shard.read("conserved_quantity")[evaluated] / shard.n_atoms
    drift = judge_drift(shard.times_fs[evaluated], conserved, thresholds_of(metadata.recipe))
    return {
        "name": metadata.name,
        "replica": metadata.replica,
        "smiles": metadata.smiles,
        "formula": metadata.formula,
        "level": metadata.level,
        "ensemble": metadata.ensemble,
        "start": metadata.start,
        "end": metadata.end,
        "n_atoms": shard.n_atoms,
        "n_frames": shard.n_frames,
        "n_evaluated": int(evaluated.sum()),
        "frame_fs": shard.frame_fs,
        "length_fs": metadata.length_fs,
        "temperature_k": mean,
        "temperature_error_k": mean_error if np.isfinite(mean_error) else None,
        "drift_mev_per_atom_ps": drift.value,
        "drift_error_mev_per_atom_ps": drift.error,
        "drift_limit_mev_per_atom_ps": drift.threshold,
        "drift_verdict": drift.verdict,
        "n_flagged": count_flags(shard.read("quality_flags")),
        "content_sha256": shard.content_sha256(),
        **_inner_potential(shard),
    }


def _inner_potential(shard: Shard) -> dict[str, float]:
    """How well `learned` knew the forces of the level, and how long its outer steps were."""
    if "residual_force" not in shard.frame_fields:
        return {}
    residual = shard.read("residual_force")[shard.evaluated][1:]
    outer = shard.read("outer_step")[1:]
    if not len(residual):
        return {}
    evaluations = shard.metadata.statistics.get("level_evaluations")
    mean = shard.metadata.length_fs / (evaluations - 1) if evaluations else float(outer.mean())
    return {
        "outer_step_fs": mean,
        "longest_outer_step_fs": float(outer.max()),
        "residual_force_ev_per_a": float(np.sqrt(np.mean(np.square(residual, dtype=float)))),
        "largest_residual_force_ev_per_a": float(residual.max()),
    }


_HEADING = (
    "molecule", "level", "ensemble", "frames", "fs", "T / K", "drift", "limit", "verdict", "flags",
    "MB",
)  # fmt: skip
_VERDICTS = {"ok": "ok", "warning": "unproven", "error": "too large"}


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    kept = sum(row["drift_verdict"] == "ok" for row in rows)
    notes = [
        "drift in meV/atom/ps; +- is one standard error, ? is unknown",
        f"drift under its limit: {kept} of {len(rows)}",
    ]
    for row in rows:
        if "outer_step_fs" in row:
            notes.append(_inner_potential_line(row))
        if row["end"] != "complete":
            notes.append(f"{row['name']}-r{row['replica']} ended early: {row['end']}")
    print_tables([Table("", _HEADING, [_cells(row) for row in rows])])
    for note in notes:
        print(note)


def _inner_potential_line(row: dict[str, Any]) -> str:
    name = f"{row['name']}-r{row['replica']}"
    residual = (
        f"residual force {row['residual_force_ev_per_a']:.4f} eV/A "
        f"(at most {row['largest_residual_force_ev_per_a']:.4f})"
    )
    if row["longest_outer_step_fs"] <= 1.0:
        return f"{name}: the inner potential was not learned: outer step 1 fs, {residual}"
    with_forces = f"{row['n_evaluated']} of {row['n_frames']} frames have energies and forces"
    return f"{name}: outer step {row['outer_step_fs']:.2f} fs on average, {residual}; {with_forces}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    flags = " ".join(f"{name}:{count}" for name, count in row["n_flagged"].items() if count)
    temperature_error, drift_error = row["temperature_error_k"], row["drift_error_mev_per_atom_ps"]
    return (
        f"{row['name']}-r{row['replica']}",
        row["level"],
        row["ensemble"],
        str(row["n_frames"]),
        f"{row['length_fs']:g}",
        f"{row['temperature_k']:.1f}+-{_error(temperature_error, '.1f')}",
        f"{row['drift_mev_per_atom_ps']:.3f}+-{_error(drift_error, '.3f')}",
        f"{row['drift_limit_mev_per_atom_ps']:g}",
        _VERDICTS[row["drift_verdict"]],
        flags or "none",
        f"{row['size_bytes'] / 1e6:.1f}",
    )


def _error(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)
