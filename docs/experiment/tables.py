"""The tables of `docs/pipeline/physics.md` that compare TG80's levels with experiment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from docs.experiment.published import LEVELS, Computed, bands, read_computed, read_published
from tg80.untrusted.tables import markdown_table

_ROTORS, _STRETCHES = 300.0, 2500.0  # cm-1; below are torsions, above are X-H stretches
_APART = 100.0  # cm-1; bands this far from the next have peaks of their own
_TABLE_HEAD = tuple(
    f"{name} {what}" for name in LEVELS.values() for what in ("mean %", "MAD", "worst")
)


@dataclass(frozen=True)
class Band:
    """One band of a compound that stands alone.

    Attributes:
        fundamental: cm-1.
        harmonic: level -> cm-1.
        peak: the same of the density of states, at levels that have a trajectory.
    """

    compound: str
    fundamental: float
    harmonic: dict[str, float]
    peak: dict[str, float]


@cache
def _computed() -> dict[str, dict[str, Computed]]:
    return read_computed()


def _names() -> list[str]:
    return list(read_published().molecules)


def _pairs(name: str, level: str, low: float = 0.0, high: float = np.inf) -> np.ndarray:
    """(n, 2) fundamentals between two wavenumbers and what is computed, paired by order."""
    found = np.sort(read_published().molecules[name].fundamentals)
    both = np.stack([found, _computed()[name][level].wavenumbers], axis=1)
    return both[(found >= low) & (found < high)]


def _row(label: str, names: Iterable[str], low: float, high: float) -> list[str]:
    cells, n = [], 0
    for level in LEVELS:
        both = np.concatenate([_pairs(name, level, low, high) for name in names])
        n, off = len(both), both[:, 1] - both[:, 0]
        worst = both[np.argmax(np.abs(off))]
        cells += [
            f"{100 * np.mean(off / both[:, 0]):+.1f}",
            f"{np.abs(off).mean():.0f}",
            f"{worst[0]:.0f} → {worst[1]:.0f}",
        ]
    return [label, str(n), *cells]


def wavenumbers() -> str:
    """Harmonic wavenumbers against fundamentals: each compound, then classes of modes."""
    names = _names()
    rows = [_row(name, [name], _ROTORS, np.inf) for name in names]
    rows += [
        _row("all, X-H stretches", names, _STRETCHES, np.inf),
        _row("all, 300 to 2500", names, _ROTORS, _STRETCHES),
        _row("all, below 300", [n for n in names if len(_pairs(n, "gfn2-xtb", 0, _ROTORS))], 0,
             _ROTORS),
    ]  # fmt: skip
    return markdown_table(("compound", "modes", *_TABLE_HEAD), rows)


def scaling() -> str:
    """The least-squares factors from harmonic wavenumbers to fundamentals."""
    published = read_published()
    rows = []
    for level, name in LEVELS.items():
        both = np.concatenate([_pairs(each, level) for each in published.molecules])
        factor = np.sum(both[:, 0] * both[:, 1]) / np.sum(both[:, 1] ** 2)
        rows.append([f"{name}, here" + (" (def2-SVP)" if name == "PBE" else ""), f"{factor:.3f}"])
    rows += [[f"PBE/{basis}, CCCBDB", f"{factor:.3f}"] for basis, factor in published.scale.items()]
    return markdown_table(("", "factor"), rows)


def _bands(name: str) -> list[Band]:
    fundamentals = np.sort(read_published().molecules[name].fundamentals)
    levels = _computed()[name]
    seen = {level: one.trajectory for level, one in levels.items() if one.trajectory}
    found = []
    for band in bands(fundamentals.tolist()):
        first, last = band[0], band[-1]
        alone = (first == 0 or fundamentals[first] - fundamentals[first - 1] >= _APART) and (
            last + 1 == len(fundamentals) or fundamentals[last + 1] - fundamentals[last] >= _APART
        )
        if not seen or not alone or fundamentals[first] < _ROTORS:
            continue
        peak: dict[str, float] = {}
        for level, trajectory in seen.items():
            own = bands(levels[level].wavenumbers)
            top = trajectory.peaks[own.index(band)] if band in own else None
            if top is not None:
                peak[level] = top
        harmonic = {
            k: float(np.mean(one.wavenumbers[first : last + 1])) for k, one in levels.items()
        }
        if peak:
            found.append(Band(name, float(fundamentals[first : last + 1].mean()), harmonic, peak))
    return found


def peaks() -> str:
    """Peaks of the density of states beside harmonic wavenumbers, of bands that stand alone."""
    found = [band for name in _names() for band in _bands(name)]
    heading = ["compound", "fundamental"]
    heading += [f"{name} {what}" for name in LEVELS.values() for what in ("harmonic", "peak")]
    rows = []
    for band in found:
        cells = [band.compound, f"{band.fundamental:.0f}"]
        for level in LEVELS:
            peak = band.peak.get(level)
            cells += [f"{band.harmonic[level]:.0f}", "-" if peak is None else f"{peak:.0f}"]
        rows.append(cells)
    mean = ["peak - harmonic: mean, worst", ""]
    for level in LEVELS:
        off = [band.peak[level] - band.harmonic[level] for band in found if level in band.peak]
        mean += [f"{np.mean(off):+.0f}", f"{max(off, key=abs):+.0f}"]
    return markdown_table(heading, [*rows, mean])


def structures() -> str:
    """Bond lengths and rotational constants at the minima against experiment."""
    rows, lengths, constants = [], [], []
    for name, one in read_published().molecules.items():
        levels = [_computed()[name][level] for level in LEVELS]
        for kind, length in one.bonds.items():
            found = [level.bonds[kind] for level in levels]
            lengths.append([value - length for value in found])
            rows.append(_against(name, f"{kind} / Å", length, found, 4, one.bonds_source))
        for letter, constant, *found in zip(
            "ABC", one.rotational, *(level.rotational for level in levels), strict=False
        ):
            if np.isfinite(constant):
                constants.append([value / constant - 1 for value in found])
                source = one.rotational_source
                rows.append(_against(name, f"{letter} / MHz", constant, found, 0, source))
    rows.append(["mean", "bonds / Å", *_means(lengths, "{:+.3f}", "MAD {:.3f}")])
    rows.append(["mean", "rotational constants", *_means(constants, "{:+.1%}", "MAD {:.1%}")])
    heading = ["compound", "", "experiment"]
    heading += [f"{name}{what}" for name in LEVELS.values() for what in ("", " %")]
    return markdown_table([*heading, "source"], rows)


def _against(
    name: str, what: str, value: float, found: Sequence[float], n_digits: int, source: str
) -> list[str]:
    cells = [cell for x in found for cell in (f"{x:.{n_digits}f}", f"{100 * (x / value - 1):+.1f}")]
    return [name, what, f"{value:.{n_digits}f}", *cells, source]


def _means(off: Sequence[Sequence[float]], mean: str, spread: str) -> list[str]:
    table = np.array(off)
    cells = []
    for column in table.T:
        cells += [mean.format(column.mean()), spread.format(np.abs(column).mean())]
    return ["", *cells, ""]


def bond_kinds() -> str:
    """GFN2's bonds against PBE's at the minima, and how much longer they are at 300 K."""
    kinds = sorted({k for levels in _computed().values() for k in levels["pbe-def2svp"].bonds})
    rows = []
    for kind in kinds:
        with_kind = [levels for levels in _computed().values() if kind in levels["gfn2-xtb"].bonds]
        minima = np.array([[each[level].bonds[kind] for level in LEVELS] for each in with_kind])
        cells = [kind, str(len(with_kind)), *(f"{x:.4f}" for x in minima.mean(axis=0))]
        cells.append(f"{np.mean(minima[:, 1] - minima[:, 0]):+.4f}")
        for level in LEVELS:
            longer = [
                one.trajectory.bonds[kind] - one.bonds[kind]
                for one in (each[level] for each in with_kind)
                if one.trajectory
            ]
            cells.append(f"{np.mean(longer):+.4f}" if longer else "-")
        rows.append(cells)
    names = LEVELS.values()
    heading = ("bond", "compounds", *(f"{name} / Å" for name in names), "GFN2 - PBE")
    return markdown_table((*heading, *(f"{name}, 300 K" for name in names)), rows)


def sources() -> str:
    """Where the experimental values were read."""
    used = read_published().sources
    return "\n".join(f"- `{key}`: {text}." for key, text in used.items())
