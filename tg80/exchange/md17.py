"""Reads files of MD17, revised MD17 and MD22, or others of the same layout; nothing is unpickled.

The units that a file states are used; without any it is in kcal/mol and A, as the originals are. No
file states its frame spacing; it comes from `tg80.exchange.md17_sets` with its source. Frames are
put in the order of time, and where one does not follow the frame before it, a new segment begins:
no velocity is ever taken across.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tg80.chemistry import mechanics
from tg80.constants import (
    ANGSTROM_PER_BOHR,
    EV_PER_HARTREE,
    EV_PER_KCAL_PER_MOL,
    EV_PER_KJ_PER_MOL,
    masses_of,
)
from tg80.errors import Tg80Error, UserError
from tg80.exchange.md17_sets import (
    Layout,
    PublicMolecule,
    PublicSet,
    contradiction,
    get_public_set,
    recognise,
)
from tg80.files import check_regular, unreadable

# Key of each quantity by layout. "upstream" is what the public ATOM code reads.
_KEYS: dict[Layout, dict[str, str]] = {
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
# No number of a molecule is beyond these, in A, eV and eV/A.
_LARGEST = {"positions": 1e5, "energies": 1e9, "forces": 1e6}
# Twenty times the thermal speed of hydrogen at 500 K (0.02 A/fs a coordinate): nothing moves so
# fast, frames that seem to do so are not neighbours in time.
_FASTEST_A_PER_FS = 0.5
_BLOCK_FRAMES = 1 << 14


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Arrays of a file in the units of the code.

    Attributes:
        positions: (n_frames, n_atoms, 3) float64 A.
        atomic_numbers: (n_atoms,).
        energies: (n_frames,) eV; None if the file has none.
        forces: (n_frames, n_atoms, 3) float32 eV/A; None if the file has none.
        frame_numbers: (n_frames,) number of each frame in the simulation.
        r_unit: Unit of length of the file; "assumed" where it states none.
        e_unit: Unit of energy of the file, likewise.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    energies: np.ndarray | None
    forces: np.ndarray | None
    frame_numbers: np.ndarray
    r_unit: str
    e_unit: str


@dataclass(frozen=True, kw_only=True)
class _Contents(_Frames):
    """A file as it is: whose keys it has, and the name and theory that it states."""

    layout: Layout
    name: str | None
    theory: str | None


@dataclass(frozen=True, kw_only=True)
class PublicData(_Frames):
    """One file of a public set, in the order of time.

    Attributes:
        path: The file.
        set_id: Of `tg80.exchange.md17_sets`; "other" if the user stated the spacing.
        molecule: Name as a slug.
        frame_fs: Time between frames of the simulation.
        frame_source: Who states it.
        segments: (first, stop) frames of each segment of two or more frames in which every frame
            follows the one before it.
    """

    path: Path
    set_id: str
    molecule: str
    frame_fs: float
    frame_source: str
    segments: tuple[tuple[int, int], ...]

    @property
    def n_frames(self) -> int:
        return len(self.positions)

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def longest_segment(self) -> tuple[int, int]:
        """The longest segment of consecutive frames; (0, 0) if there is none."""
        return max(self.segments, key=lambda pair: pair[1] - pair[0], default=(0, 0))

    def finite_difference_temperature_k(self, most: int = 2000) -> float | None:
        """Temperature of (x_t - x_{t-1}) / dt over at most `most` pairs; None without any pair.

        A check of the spacing and the order of the frames, which the file itself does not state:
        MD17 was run at 500 K.
        """
        if not self.segments:
            return None
        seconds = np.concatenate([np.arange(first + 1, stop) for first, stop in self.segments])
        chosen = seconds[:: max(1, len(seconds) // most)]
        velocities = (self.positions[chosen] - self.positions[chosen - 1]) / self.frame_fs
        masses = masses_of(self.atomic_numbers)
        n_degrees = mechanics.degrees_of_freedom(masses, self.positions[0])
        mean = sum(mechanics.kinetic_energy(masses, v) for v in velocities) / len(velocities)
        return float(mechanics.temperature(mean, n_degrees))


def read_public(
    path: Path | str,
    *,
    set_id: str | None = None,
    molecule: str | None = None,
    frame_fs: float | None = None,
) -> PublicData:
    """Read one npz file of MD17, rMD17 or MD22.

    Args:
        path: The file.
        set_id: The set it belongs to; None to tell by its name.
        molecule: The molecule it holds; None to tell by its name.
        frame_fs: Time between frames, for a file of this layout from elsewhere.

    Raises:
        UserError: There is no such file, it is cut short, has another layout, unknown units, a
            periodic cell or impossible values; or its name does not tell what it is, or its name
            or theory says that it is something else.
    """
    path = Path(path)
    if frame_fs is not None and not 0 < frame_fs < 1e6:
        raise UserError(f"--frame-fs must be more than 0 and less than 1e6, not {frame_fs:g}")
    contents = _read_npz(path)
    if frame_fs is not None:
        text = (molecule or contents.name or path.stem).lower()
        found_set, name = "other", re.sub(r"[^a-z0-9]+", "-", text).strip("-") or "molecule"
        source = "stated by the user"
    else:
        public, known = _identify(path, contents, set_id, molecule)
        found_set, name = public.id, known.name
        frame_fs, source = public.frame_fs, public.frame_source
    frames: dict[str, Any] = {
        field.name: getattr(contents, field.name) for field in fields(_Frames)
    }
    order = np.argsort(contents.frame_numbers, kind="stable")
    if np.any(np.diff(order) < 0):
        for key in ("positions", "energies", "forces", "frame_numbers"):
            values = frames[key]
            frames[key] = None if values is None else values[order]
    segments = _segments(frames["positions"], frames["frame_numbers"], frame_fs)
    return PublicData(
        path=path, set_id=found_set, molecule=name, frame_fs=frame_fs, frame_source=source,
        segments=segments, **frames,
    )  # fmt: skip


def _identify(
    path: Path, contents: _Contents, set_id: str | None, molecule: str | None
) -> tuple[PublicSet, PublicMolecule]:
    """The set and the molecule, by what the user says, the file's name, or the name inside."""
    layout = contents.layout
    if layout == "upstream":
        raise UserError(
            f"{path}: holds positions and elements only, as `tg80 export --to upstream` writes; "
            "give --frame-fs"
        )
    public = None if set_id is None else get_public_set(set_id)
    if public is not None and public.layout != layout:
        raise UserError(f"{path}: has the keys of {layout}, which {set_id} does not have")
    if public is not None and molecule is not None:
        known = public, public.molecule(molecule)
    else:
        names = [path.stem, contents.name or ""] if molecule is None else [molecule]
        found = (recognise(name, layout) for name in names)
        known = next((each for each in found if each and public in (None, each[0])), None)
    if known is None:
        raise UserError(
            f"{path}: its name is that of no molecule of a public set; give --set and --molecule, "
            "or --frame-fs if it is from elsewhere"
            if molecule is None
            else f"--molecule {molecule}: is in no public set; give --set as well"
        )
    _refuse_others(path, contents, *known)
    return known


def _refuse_others(
    path: Path, contents: _Contents, public: PublicSet, molecule: PublicMolecule
) -> None:
    """Refuse a file that says itself that it is another run, or at another level of theory."""
    texts = {"file name": path.stem, "name inside": contents.name, "theory": contents.theory}
    for what, text in texts.items():
        if not text:
            continue
        found = recognise(text, contents.layout)
        if found is not None and found[1] != molecule:
            other = found[1].name
        else:
            other = contradiction(text, public)
        if other is not None:
            raise UserError(
                f"{path}: its {what} says {other}, which {molecule.name} of {public.title} is not; "
                f"give {molecule.file}, or --frame-fs to read it as a file from elsewhere"
            )
    n_atoms = len(contents.atomic_numbers)
    if n_atoms != molecule.n_atoms:
        raise UserError(f"{path}: {n_atoms} atoms; this molecule has {molecule.n_atoms}")


def _segments(
    positions: np.ndarray, frame_numbers: np.ndarray, frame_fs: float
) -> tuple[tuple[int, int], ...]:
    follows = np.diff(frame_numbers) == 1
    farthest = _FASTEST_A_PER_FS * frame_fs
    for start in range(0, len(follows), _BLOCK_FRAMES):
        block = positions[start : start + _BLOCK_FRAMES + 1]
        moved = np.abs(np.diff(block, axis=0)).max(axis=(1, 2))
        follows[start : start + _BLOCK_FRAMES] &= moved <= farthest
    edges = np.flatnonzero(np.diff(np.concatenate([[False], follows, [False]]).astype("i1")))
    return tuple((int(first), int(last) + 1) for first, last in edges.reshape(-1, 2))


def _read_npz(path: Path) -> _Contents:
    check_regular(path, "one npz file")
    try:
        with path.open("rb") as stream:
            begin = stream.read(6)
        if begin == b"\x93NUMPY":
            raise UserError(f"{path}: a single array, not an npz file with several")
        if not begin.startswith(b"PK"):
            raise UserError(f"{path}: cut short, altered or not an npz file")
        with np.load(path, allow_pickle=False) as archive:
            return _contents(path, archive)
    except Tg80Error:
        raise
    except PermissionError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # whatever the readers of NumPy and zipfile meet in foreign bytes
        reason = (str(error).strip("'\"") or type(error).__name__).split("\n")[0]
        raise UserError(f"{path}: cut short, altered or not an npz file: {reason[:200]}") from None


def _contents(path: Path, archive: np.lib.npyio.NpzFile) -> _Contents:
    assert archive.zip is not None
    size = sum(entry.file_size for entry in archive.zip.infolist())
    if size > _MOST_BYTES:
        raise UserError(
            f"{path}: unpacks to {size / 2**30:.1f} GiB; more than {_MOST_BYTES >> 30} are not read"
        )
    layout = _layout(path, archive.files)
    keys = _KEYS[layout]
    arrays = {name: _numbers(path, archive, key) for name, key in keys.items()}
    for key in archive.files:
        if key.lower() in _LATTICES and not _is_zero(archive, key):
            raise UserError(
                f"{path}: {key} describes a periodic system; only molecules in vacuum are read"
            )
    r_unit, angstrom = _unit(path, archive, "r_unit")
    e_unit, ev = _unit(path, archive, "e_unit")
    strange = [key for key in archive.files if "unit" in key.lower() and key not in _UNITS]
    if strange:
        raise UserError(f"{path}: states {_some(strange)}, which is not known; give r_unit, e_unit")
    numbers = arrays.pop("atomic_numbers")
    if numbers.ndim != 1 or numbers.size == 0 or not _whole(numbers, 1, 118):
        raise UserError(f"{path}: {keys['atomic_numbers']} is not a list of atomic numbers")
    positions = arrays["positions"]
    shape = (len(positions) if positions.ndim else 0, len(numbers), 3)
    if positions.shape != shape or shape[0] == 0:
        wanted = f"(frames, {len(numbers)}, 3) for its {len(numbers)} atoms"
        raise UserError(f"{path}: {keys['positions']} has shape {positions.shape}, not {wanted}")
    frame_numbers = arrays.pop("frame_numbers", np.arange(shape[0]))
    shapes = {"positions": [shape], "energies": [shape[:1], (shape[0], 1)], "forces": [shape]}
    factors = {"positions": angstrom, "energies": ev, "forces": ev / angstrom}
    found = {
        name: _checked(path, keys[name], values, shapes[name], factors[name], _LARGEST[name])
        for name, values in arrays.items()
    }
    if frame_numbers.shape != shape[:1] or not _whole(frame_numbers, -(2**53), 2**53):
        raise UserError(f"{path}: old_indices is not a list of {shape[0]} frame numbers")
    energies, forces = found.get("energies"), found.get("forces")
    return _Contents(
        layout=layout,
        name=_text(archive, "name"),
        theory=_text(archive, "theory"),
        positions=found["positions"],
        atomic_numbers=numbers.astype("i8"),
        energies=None if energies is None else energies.reshape(-1),
        forces=None if forces is None else forces.astype("f4"),
        frame_numbers=frame_numbers.astype("i8"),
        r_unit=r_unit,
        e_unit=e_unit,
    )


def _checked(
    path: Path, key: str, values: np.ndarray, shapes: Sequence[tuple], factor: float, largest: float
) -> np.ndarray:
    """An array in the units of the code, its shape and every value checked."""
    if values.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise UserError(f"{path}: {key} has shape {values.shape}, not {wanted}")
    if not np.all(np.isfinite(values)):
        raise UserError(f"{path}: {key} holds values that are not finite numbers")
    most = float(np.abs(values).max())
    if most > largest / factor:
        raise UserError(f"{path}: {key} holds {most:.3g}; give numbers of a molecule")
    converted = values.astype("f8", copy=False)
    return converted if factor == 1 else converted * factor


def _whole(values: np.ndarray, lowest: int, highest: int) -> bool:
    return bool(np.all((values >= lowest) & (values <= highest) & (values % 1 == 0)))


def _layout(path: Path, names: list[str]) -> Layout:
    if "R" in names:
        layout: Layout = "sgdml"
    elif "coords" not in names:
        raise UserError(
            f"{path}: neither R (MD17, MD22) nor coords (rMD17) in it: another layout, which is "
            f"not read; it has {_some(names)}"
        )
    else:
        rest = set(_KEYS["rmd17"].values()) - set(_KEYS["upstream"].values())
        layout = "rmd17" if rest & set(names) else "upstream"
    missing = [key for key in _KEYS[layout].values() if key not in names]
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
        if "allow_pickle" not in str(error):
            raise
        message = f"{path}: {key} is pickled Python objects, which are never unpacked"
        raise UserError(message) from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise UserError(f"{path}: {key} is not numeric")
    return found


def _is_zero(archive: np.lib.npyio.NpzFile, key: str) -> bool:
    try:
        found = archive[key]
    except ValueError:  # pickled
        return False
    return found.dtype.kind in "fiub" and not found.any()


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
    """The unit that the file states, or the usual one; and its size in A or eV."""
    usual, known = _UNITS[key]
    text = _text(archive, key) if key in archive.files else ""
    if text is None:
        raise UserError(f"{path}: {key} is not a text; give {usual}, or another usual unit")
    if not text.strip():
        return f"{usual} (assumed)", known[usual.lower()]
    factor = known.get(re.sub(r"[\s._^*(){}·]", "", text.lower()))
    if factor is None:
        raise UserError(
            f"{path}: {key} {text[:40]!a} is not known; give {usual}, or another usual unit"
        )
    return text.strip(), factor
