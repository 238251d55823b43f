"""Takes an npz file of MD17, rMD17, MD22 or of the same layout apart; nothing is unpickled.

What such a file says of its units is honoured; without a word it is in kcal/mol and A, as the
originals are. A periodic system is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tg80.constants import (
    ANGSTROM_PER_BOHR,
    EV_PER_HARTREE,
    EV_PER_KCAL_PER_MOL,
    EV_PER_KJ_PER_MOL,
)
from tg80.errors import Tg80Error, UserError
from tg80.exchange.md17_sets import Layout
from tg80.files import check_regular, unreadable

# Key of each quantity by layout. "upstream" is what the public ATOM code reads.
KEYS: dict[Layout, dict[str, str]] = {
    "sgdml": {"positions": "R", "atomic_numbers": "z", "energies": "E", "forces": "F"},
    "rmd17": {
        "positions": "coords",
        "atomic_numbers": "nuclear_charges",
        "energies": "energies",
        "forces": "forces",
        "frame_numbers": "old_indices",
    },
    "upstream": {"positions": "coords", "atomic_numbers": "nuclear_charges"},
}
# By spelling, without blanks and signs.
_ANGSTROM_PER = {
    **dict.fromkeys(("ang", "angs", "angstrom", "angstroms", "a", "å"), 1.0),
    **dict.fromkeys(("bohr", "bohrs", "au", "a0", "atomicunits"), ANGSTROM_PER_BOHR),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 10.0),
    **dict.fromkeys(("pm", "picometer", "picometers"), 0.01),
}
_EV_PER = {
    **dict.fromkeys(("kcal/mol", "kcalmol", "kcalmol-1", "kcal/mole"), EV_PER_KCAL_PER_MOL),
    **dict.fromkeys(("kj/mol", "kjmol", "kjmol-1", "kj/mole"), EV_PER_KJ_PER_MOL),
    **dict.fromkeys(("ev", "electronvolt", "electronvolts"), 1.0),
    **dict.fromkeys(("mev",), 1e-3),
    **dict.fromkeys(("hartree", "hartrees", "ha", "eh", "au", "atomicunits"), EV_PER_HARTREE),
    **dict.fromkeys(("rydberg", "ry"), EV_PER_HARTREE / 2),
}
_UNITS = {"r_unit": ("Ang", _ANGSTROM_PER), "e_unit": ("kcal/mol", _EV_PER)}
_LATTICES = ("lattice", "cell", "unit_cell", "box", "pbc")
# Ten times the largest file of these sets; more is a mistake, or a trap of a few packed bytes.
_MOST_BYTES = 4 * 2**30
# Beyond these, in A, eV and eV/A, a number is none of a molecule.
_LARGEST = {"positions": 1e5, "energies": 1e9, "forces": 1e6}


@dataclass(frozen=True)
class Contents:
    """What stands in a file, in its order.

    Attributes:
        layout: whose keys it has. name, theory: as the file gives them.
        r_unit, e_unit: units of the file, as it gives them; "assumed" where it does not.
        positions: (n_frames, n_atoms, 3) float64 A. atomic_numbers: (n_atoms,).
        energies: (n_frames,) eV. forces: like positions, float32 eV/A. None if there are none.
        frame_numbers: (n_frames,) number of each frame in the simulation.
    """

    layout: Layout
    name: str | None
    theory: str | None
    r_unit: str
    e_unit: str
    positions: np.ndarray
    atomic_numbers: np.ndarray
    energies: np.ndarray | None
    forces: np.ndarray | None
    frame_numbers: np.ndarray


def read_public_npz(path: Path) -> Contents:
    """All of a file that is used, in the units of the code.

    Raises:
        UserError: no such file, cut short, of another layout, in unknown units, periodic, or with
            values that cannot be.
    """
    check_regular(path, "one npz file")
    try:
        with path.open("rb") as stream:
            begin = stream.read(6)
        if begin == b"\x93NUMPY":
            raise UserError(f"{path}: a single array, not an npz file with several")
        if not begin.startswith(b"PK"):
            raise UserError(f"{path}: cut short, altered or no npz file")
        with np.load(path, allow_pickle=False) as archive:
            return _contents(path, archive)
    except Tg80Error:
        raise
    except PermissionError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # whatever the readers of NumPy and zipfile meet in foreign bytes
        reason = (str(error).strip("'\"") or type(error).__name__).split("\n")[0]
        raise UserError(f"{path}: cut short, altered or no npz file: {reason[:200]}") from None


def _contents(path: Path, archive: np.lib.npyio.NpzFile) -> Contents:
    assert archive.zip is not None
    size = sum(entry.file_size for entry in archive.zip.infolist())
    if size > _MOST_BYTES:
        raise UserError(
            f"{path}: unpacks to {size / 2**30:.1f} GiB; more than {_MOST_BYTES >> 30} are not read"
        )
    layout = _layout(path, archive.files)
    arrays = {name: _numbers(path, archive, key) for name, key in KEYS[layout].items()}
    _refuse_periodic(path, archive)
    units = {key: _unit(path, archive, key) for key in _UNITS}
    strange = [key for key in archive.files if "unit" in key.lower() and key not in _UNITS]
    if strange:
        raise UserError(f"{path}: states {_some(strange)}, which is not known; give r_unit, e_unit")
    checked = _checked(path, layout, arrays, units["r_unit"][1], units["e_unit"][1])
    return Contents(
        layout, _text(archive, "name"), _text(archive, "theory"),
        units["r_unit"][0], units["e_unit"][0], **checked,
    )  # fmt: skip


def _layout(path: Path, names: list[str]) -> Layout:
    if "R" in names:
        layout: Layout = "sgdml"
    elif "coords" not in names:
        raise UserError(
            f"{path}: neither R (MD17, MD22) nor coords (rMD17) in it: another layout, which is "
            f"not read; it has {_some(names)}"
        )
    else:
        rest = set(KEYS["rmd17"].values()) - set(KEYS["upstream"].values())
        layout = "rmd17" if rest & set(names) else "upstream"
    missing = [key for key in KEYS[layout].values() if key not in names]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; it has {_some(names)}")
    return layout


def _some(names: list[str]) -> str:
    shown = (name[:40] if name.isprintable() else ascii(name[:40]) for name in names[:8])
    return ", ".join(shown) or "nothing"


def _numbers(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        found = archive[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            message = f"{path}: {key} is pickled Python objects, which are never unpacked"
            raise UserError(message) from None
        raise
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise UserError(f"{path}: {key} holds no numbers")
    return found


def _text(archive: np.lib.npyio.NpzFile, key: str) -> str | None:
    """An entry, if it is there and plain text."""
    try:
        entry = archive[key]
    except (KeyError, ValueError):
        return None
    if not isinstance(entry, np.ndarray) or entry.size != 1 or entry.dtype.kind not in "SU":
        return None
    text = entry.reshape(())[()]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _unit(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> tuple[str, float]:
    """The unit that the file gives, or the usual one; and what one is in A or eV."""
    usual, known = _UNITS[key]
    text = _text(archive, key) if key in archive.files else ""
    if text is not None and not text.strip():
        return f"{usual} (assumed)", known[usual.lower()]
    factor = known.get(re.sub(r"[\s._^*(){}·]", "", text.lower())) if text is not None else None
    if text is None or factor is None:
        what = "is no text" if text is None else f"{text[:40]!a} is not known"
        raise UserError(f"{path}: {key} {what}; give {usual}, or another usual unit")
    return text.strip(), factor


def _refuse_periodic(path: Path, archive: np.lib.npyio.NpzFile) -> None:
    for key in archive.files:
        if key.lower() in _LATTICES:
            try:
                found = archive[key]
                is_none = found.dtype.kind in "fiub" and not found.any()
            except ValueError:  # pickled
                is_none = False
            if not is_none:
                raise UserError(
                    f"{path}: {key} tells of a periodic system; only molecules in vacuum are read"
                )


def _checked(
    path: Path, layout: Layout, arrays: dict[str, np.ndarray], angstrom: float, ev: float
) -> dict[str, Any]:
    """The arrays in our units, after a check of every shape and value.

    `angstrom` and `ev` are the file's units of length and energy.
    """
    keys = KEYS[layout]
    positions, numbers = arrays["positions"], arrays["atomic_numbers"]
    if (
        numbers.ndim != 1
        or numbers.size == 0
        or not np.all((numbers >= 1) & (numbers <= 118) & (numbers % 1 == 0))
    ):
        raise UserError(f"{path}: {keys['atomic_numbers']} is no list of atomic numbers")
    shape = (len(positions) if positions.ndim else 0, len(numbers), 3)
    if positions.shape != shape or shape[0] == 0:
        wanted = f"(frames, {len(numbers)}, 3) for its {len(numbers)} atoms"
        raise UserError(f"{path}: {keys['positions']} has shape {positions.shape}, not {wanted}")
    shapes = {
        "positions": (shape,), "energies": ((shape[0],), (shape[0], 1)), "forces": (shape,),
    }  # fmt: skip
    factors = {"positions": angstrom, "energies": ev, "forces": ev / angstrom}
    found: dict[str, np.ndarray | None] = {"energies": None, "forces": None}
    for name in shapes.keys() & keys.keys():
        key, values = keys[name], arrays[name]
        if values.shape not in shapes[name]:
            wanted = "one a frame" if name == "energies" else str(shape)
            raise UserError(f"{path}: {key} has shape {values.shape}, not {wanted}")
        if not np.all(np.isfinite(values)):
            raise UserError(f"{path}: {key} holds values that are no numbers")
        largest, factor = float(np.abs(values).max()), factors[name]
        if largest > _LARGEST[name] / factor:
            raise UserError(f"{path}: {key} holds {largest:.3g}; give numbers of a molecule")
        converted = values.astype("f8", copy=False)
        found[name] = converted if factor == 1 else converted * factor
    energies, forces = found["energies"], found["forces"]
    return found | {
        "energies": None if energies is None else energies.reshape(-1),
        "forces": None if forces is None else forces.astype("f4"),
        "atomic_numbers": numbers.astype("i8"),
        "frame_numbers": _frame_numbers(path, arrays.get("frame_numbers"), shape[0]),
    }


def _frame_numbers(path: Path, numbers: np.ndarray | None, n_frames: int) -> np.ndarray:
    if numbers is None:
        return np.arange(n_frames)
    if numbers.shape != (n_frames,) or not np.all((np.abs(numbers) < 2**53) & (numbers % 1 == 0)):
        raise UserError(f"{path}: old_indices is no list of {n_frames} frame numbers")
    return numbers.astype("i8")
