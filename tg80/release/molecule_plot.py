"""One molecule at a glance: temperature, conserved energy, bond lengths, vibrations, structure."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from tg80.chemistry.mechanics import centre_of_mass, temperature
from tg80.elements import SYMBOLS
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.release.survey import BOND_EDGES, bond_lengths
from tg80.shards.quality import block_mean, judge_drift, thresholds_of
from tg80.shards.shard import Shard
from tg80.shards.vibrations import density_of_states, harmonic_wavenumbers

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_COLOURS = {1: "0.75", 6: "0.2", 7: "#0072b2", 8: "#d55e00", 9: "#009e73", 16: "#e69f00",
            17: "#009e73", 35: "#8b4513", 53: "#6a3d9a"}  # fmt: skip
_N_OVERLAID = 60
_HIGHEST = 4000.0  # cm-1; no fundamental of a neutral molecule is above it


def plot_molecule(shards: Sequence[Shard], path: Path) -> None:
    """Draw the trajectories of one molecule at one level.

    Temperature, energy, bond lengths and structure are those of the longest trajectory, vibrations
    those of the one with the closest frames, which shows the fastest modes.

    Raises:
        UserError: The shards are not of one molecule at one level.
        Tg80Error: The file cannot be written.
    """
    kinds = sorted({(s.metadata.name, s.metadata.level) for s in shards})
    if len(kinds) != 1:
        some = ", ".join(f"{name} ({level})" for name, level in kinds[:4])
        raise UserError(f"a plot shows one molecule at one level, not {some}; give --molecule NAME")
    longest = max(shards, key=lambda s: s.metadata.length_fs)
    finest = min(shards, key=lambda s: s.frame_fs)
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplot_mosaic(
        [["temperature", "structure"], ["energy", "structure"], ["bonds", "bonds"],
         ["vibrations", "vibrations"]], width_ratios=[1.5, 1],
    )  # fmt: skip
    _temperature(axes["temperature"], longest)
    _energy(axes["energy"], longest)
    _bonds(axes["bonds"], longest)
    _vibrations(axes["vibrations"], finest)
    _structure(axes["structure"], longest)
    facts = longest.metadata
    for each in axes.values():
        each.title.set_fontsize(10)
    figure.suptitle(
        f"{facts.name}, {facts.formula}, {facts.level}, {facts.ensemble.upper()}: "
        f"replica {facts.replica}, {facts.length_fs / 1000:g} ps, a frame every "
        f"{longest.frame_fs:g} fs"
    )
    buffer, form = io.BytesIO(), path.suffix.lower()[1:]
    # Neither date nor random identifiers: the same shard gives the same file.
    stamp = {"svg": "Date", "pdf": "CreationDate"}.get(form)
    with rc_context({"svg.hashsalt": facts.name}):
        figure.savefig(buffer, format=form, dpi=110, metadata={stamp: None} if stamp else None)
    write_atomically(path, buffer.getvalue())


def _temperature(axes: Axes, shard: Shard) -> None:
    facts = shard.metadata
    kelvin = np.asarray(temperature(shard.read("kinetic_energy"), facts.degrees_of_freedom))
    mean, error = block_mean(kelvin)
    axes.plot(shard.times_fs / 1000, kelvin, color=_BLUE, linewidth=0.5)
    axes.axhline(facts.temperature_k, color="0.3", linestyle="--")
    bar = f" ± {error:.1f}" if np.isfinite(error) else ""
    axes.set_title(
        f"temperature: mean {mean:.1f}{bar} K, target {facts.temperature_k:g} K (dashed)"
    )
    axes.set(ylabel="T / K", xlim=(0, facts.length_fs / 1000), xticklabels=[])


def _energy(axes: Axes, shard: Shard) -> None:
    evaluated, facts = shard.evaluated, shard.metadata
    times = shard.times_fs[evaluated]
    conserved = 1000 * shard.read("conserved_quantity")[evaluated] / shard.n_atoms
    drift = judge_drift(times, conserved, thresholds_of(facts.recipe))
    axes.plot(times / 1000, conserved - conserved.mean(), color=_BLUE, linewidth=0.5)
    for sign in (-1, 1):
        slope = sign * drift.threshold * (times - times.mean()) / 1000
        axes.plot(times / 1000, slope, color="0.3", linestyle="--", linewidth=1)
    bar = f" ± {drift.error:.4f}" if drift.error is not None else ""
    axes.set_title(
        f"conserved energy: drift {drift.value:.4f}{bar}, limit {drift.threshold:g} meV/atom/ps "
        "(dashed)"
    )
    axes.set(xlabel="time / ps", ylabel="meV per atom", xlim=(0, facts.length_fs / 1000))


def _bonds(axes: Axes, shard: Shard) -> None:
    found = bond_lengths(shard.read("positions"), shard.atomic_numbers, shard.metadata.bonds)
    for i, (kind, counts) in enumerate(found.items()):
        axes.stairs(
            counts / counts.max(), BOND_EDGES, fill=True, alpha=0.6, color=f"C{i}", label=kind
        )
    seen = np.flatnonzero(sum(found.values()))
    first, last = max(seen[0] - 8, 0), min(seen[-1] + 9, len(BOND_EDGES) - 1)
    axes.set_xlim(float(BOND_EDGES[first]), float(BOND_EDGES[last]))
    axes.set(xlabel="bond length / Å", ylabel="frequency", yticks=[], ylim=(0, None))
    axes.set_title("bond lengths; -, =, #: single, double, triple; ':' aromatic or conjugated")
    axes.legend(fontsize=8, ncols=2)


def _vibrations(axes: Axes, shard: Shard) -> None:
    masses, facts = shard.masses, shard.metadata
    found = density_of_states(shard.read("velocities"), masses, shard.frame_fs)
    harmonic = harmonic_wavenumbers(shard.static("hessian"), masses, facts.degrees_of_freedom)
    highest = min(found.wavenumbers[-1], _HIGHEST)
    axes.plot(found.wavenumbers, found.density, color=_BLUE, linewidth=1)
    shown = harmonic[harmonic <= highest]
    top = found.density[found.wavenumbers <= highest].max()
    axes.vlines(shown, -0.08 * top, -0.02 * top, color=_ORANGE, label="harmonic, GFN2-xTB")
    title = (
        f"vibrational density of states, replica {facts.replica}: frames every "
        f"{shard.frame_fs:g} fs, resolution {found.resolution:.0f} cm$^{{-1}}$"
    )
    if n_folded := np.sum(harmonic > found.wavenumbers[-1]):
        title += f"; {n_folded} faster modes are folded back"
    axes.set_title(title)
    axes.set(xlabel="wavenumber / cm$^{-1}$", ylabel="density", yticks=[], xlim=(0, highest))
    axes.legend(fontsize=8)


def _structure(axes: Axes, shard: Shard) -> None:
    """Frames superimposed on the relaxed structure, seen along its thinnest axis."""
    facts, masses, numbers = shard.metadata, shard.masses, shard.atomic_numbers
    relaxed = shard.static("relaxed_positions")
    relaxed = relaxed - centre_of_mass(masses, relaxed)
    flat = np.linalg.svd(relaxed, full_matrices=True)[2][:2].T
    frames = shard.read("positions")
    frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), _N_OVERLAID)).astype(int)]
    pairs = np.array([(i, j) for i, j, _ in facts.bonds])
    for frame in (*map(np.asarray, frames), relaxed):
        last = frame is relaxed
        centred = frame - centre_of_mass(masses, frame)
        # SciPy's stubs allow no weights.
        turn = Rotation.align_vectors(relaxed, centred, weights=masses)[0]  # pyright: ignore
        seen = turn.apply(centred) @ flat
        width, alpha = (1.5, 1.0) if last else (0.6, 0.15)
        axes.add_collection(
            LineCollection(seen[pairs], colors="0.4", linewidths=width, alpha=alpha)
        )
        colours = [_COLOURS.get(number, "#cc79a7") for number in numbers]
        edges = "black" if last else "none"
        axes.scatter(
            *seen.T, s=30 if last else 6, c=colours, alpha=alpha, edgecolors=edges, zorder=2
        )
    for symbol, number in sorted({(SYMBOLS[n], int(n)) for n in numbers}):
        axes.scatter([], [], c=_COLOURS.get(number, "#cc79a7"), edgecolors="black", label=symbol)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.15), ncols=6)
    axes.set_title(f"{len(frames)} frames on the relaxed structure")
