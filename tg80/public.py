"""Reads files of MD17, revised MD17 and MD22.

None of these files states its frame spacing; it comes from `tg80.public_sets` with its source.
Nothing is unpickled. Frames are put in the order of time, and where one does not follow the frame
before it, a new stretch begins: no velocity is ever taken across.
"""

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tg80 import mechanics
from tg80.constants import EV_PER_KCAL_PER_MOL, masses_of
from tg80.errors import CorruptFile, UserError
from tg80.public_sets import Layout, get_public_set, recognise

# Key of each quantity by layout.
KEYS: dict[Layout, dict[str, str]] = {
    "sgdml": {"positions": "R", "atomic_numbers": "z", "energies": "E", "forces": "F"},
    "rmd17": {
        "positions": "coords",
        "atomic_numbers": "nuclear_charges",
        "energies": "energies",
        "forces": "forces",
        "frame_numbers": "old_indices",
    },
}
# Twenty times the thermal speed of hydrogen at 500 K (0.02 A/fs a coordinate): nothing moves so
# fast, frames that seem to do so are no neighbours in time.
FASTEST_A_PER_FS = 0.5
_BLOCK_FRAMES = 1 << 14


@dataclass(frozen=True)
class PublicData:
    """One file of a public set, in the order of time.

    Attributes:
        set_id: of `tg80.public_sets`; "other" if the user stated the spacing.
        molecule: name as a slug.
        positions: (n_frames, n_atoms, 3) float64 A; forces: likewise, float32 eV/A.
        energies: (n_frames,) eV. atomic_numbers: (n_atoms,).
        frame_numbers: (n_frames,) number of each frame in the simulation, increasing.
        frame_fs: time between frames of the simulation. frame_source: who says so.
        stretches: (first, stop) frames of each stretch of two or more frames in which every frame
            follows the one before it.
    """

    path: Path
    set_id: str
    molecule: str
    positions: np.ndarray
    atomic_numbers: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    frame_numbers: np.ndarray
    frame_fs: float
    frame_source: str
    stretches: tuple[tuple[int, int], ...]

    @property
    def n_frames(self) -> int:
        return len(self.positions)

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def longest_stretch(self) -> tuple[int, int]:
        """The longest stretch of consecutive frames; (0, 0) if there is none."""
        return max(self.stretches, key=lambda pair: pair[1] - pair[0], default=(0, 0))

    def finite_difference_temperature_k(self, most: int = 2000) -> float | None:
        """Temperature of (x_t - x_{t-1}) / dt over at most `most` pairs; None without any pair.

        A check of the spacing and the order of the frames, which the file itself does not state:
        MD17 was run at 500 K.
        """
        if not self.stretches:
            return None
        seconds = np.concatenate([np.arange(first + 1, stop) for first, stop in self.stretches])
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
        path: the file.
        set_id, molecule: what it is, None to tell by its name.
        frame_fs: for a file of this layout from elsewhere: time between its frames.

    Raises:
        UserError: no such file, or no right to read it; it can't be told what it is.
        CorruptFile: it is cut short, or not what such a file holds.
    """
    path = Path(path)
    layout, arrays, inner_name = _load(path)
    if frame_fs is not None:
        if not 0 < frame_fs < 1e6:
            raise UserError(f"--frame-fs must be more than 0 and less than 1e6, not {frame_fs:g}")
        name = re.sub(r"[^a-z0-9]+", "-", (molecule or inner_name or path.stem).lower()).strip("-")
        found_set, n_atoms = "other", None
        source = "stated by the user"
    else:
        public, known = _identify(path, layout, inner_name, set_id, molecule)
        found_set, name, n_atoms = public.id, known.name, known.n_atoms
        frame_fs, source = public.frame_fs, public.frame_source
    checked = _checked(path, layout, arrays, n_atoms)
    order = np.argsort(checked["frame_numbers"], kind="stable")
    if np.any(np.diff(order) < 0):
        checked = {k: v if k == "atomic_numbers" else v[order] for k, v in checked.items()}
    stretches = _stretches(checked["positions"], checked["frame_numbers"], frame_fs)
    return PublicData(
        path=path, set_id=found_set, molecule=name, frame_fs=frame_fs, frame_source=source,
        stretches=stretches, **checked,
    )  # fmt: skip


def _load(path: Path) -> tuple[Layout, dict[str, np.ndarray], str | None]:
    """Layout, arrays under their own keys, and the molecule's name as the file gives it."""
    if not path.is_file():
        reason = "is a folder; give one npz file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {reason}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CorruptFile(f"{path}: a single array, not an npz file with several")
        with archive:
            layout = _layout(path, archive.files)
            return layout, _arrays(path, archive, layout), _inner_name(archive)
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (
        OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, OverflowError,
        TypeError, SyntaxError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error).strip("'\"").split("\n")[0]
        raise CorruptFile(f"{path}: cut short, altered or no npz file: {reason}") from None


def _layout(path: Path, names: list[str]) -> Layout:
    for layout, keys in KEYS.items():
        if keys["positions"] in names:
            missing = [key for key in keys.values() if key not in names]
            if missing:
                raise CorruptFile(f"{path}: lacks {', '.join(missing)}; it has {_some(names)}")
            return layout
    raise CorruptFile(
        f"{path}: neither R (MD17, MD22) nor coords (rMD17) in it; it has {_some(names)}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) or "nothing"


def _arrays(path: Path, archive: np.lib.npyio.NpzFile, layout: Layout) -> dict[str, np.ndarray]:
    arrays = {}
    for name, key in KEYS[layout].items():
        try:
            arrays[name] = archive[key]
        except ValueError as error:
            if "allow_pickle" in str(error):
                message = f"{path}: {key} is pickled Python objects, which are never unpacked"
                raise CorruptFile(message) from None
            raise
        if arrays[name].dtype.kind not in "fiu":
            raise CorruptFile(f"{path}: {key} holds no numbers")
    return arrays


def _inner_name(archive: np.lib.npyio.NpzFile) -> str | None:
    """The entry `name`, if it is plain text."""
    try:
        entry = archive["name"]
    except (KeyError, ValueError):
        return None
    if entry.size != 1 or entry.dtype.kind not in "SU":
        return None
    text = entry.reshape(())[()]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _identify(
    path: Path, layout: Layout, inner_name: str | None, set_id: str | None, molecule: str | None
):
    """The set and the molecule, by what the user says, the file's name, or the name inside."""
    if set_id is not None:
        public = get_public_set(set_id)
        if public.layout != layout:
            raise UserError(f"{path}: has the keys of {layout}, which is not how {set_id} is kept")
        if molecule is not None:
            return public, public.molecule(molecule)
    for text in (path.stem, inner_name) if molecule is None else (molecule,):
        found = recognise(text, layout) if text else None
        if found and (set_id is None or found[0].id == set_id):
            return found
    if molecule is not None:
        raise UserError(f"--molecule {molecule}: is in no public set; give --set as well")
    raise UserError(
        f"{path}: its name tells no molecule of a public set; give --set and --molecule, or "
        "--frame-fs if it is from elsewhere"
    )


def _checked(
    path: Path, layout: Layout, arrays: dict[str, np.ndarray], n_atoms: int | None
) -> dict[str, np.ndarray]:
    """The arrays in the units of the code, after every shape and value was looked at."""
    keys = KEYS[layout]
    positions, numbers = arrays["positions"], arrays["atomic_numbers"]
    if (
        numbers.ndim != 1
        or numbers.size == 0
        or not np.all((numbers >= 1) & (numbers <= 118) & (numbers % 1 == 0))
    ):
        raise CorruptFile(f"{path}: {keys['atomic_numbers']} is no list of atomic numbers")
    shape = (len(positions) if positions.ndim else 0, len(numbers), 3)
    if positions.shape != shape or shape[0] == 0:
        wanted = f"(frames, {len(numbers)}, 3) for its {len(numbers)} atoms"
        raise CorruptFile(f"{path}: {keys['positions']} has shape {positions.shape}, not {wanted}")
    if n_atoms is not None and len(numbers) != n_atoms:
        raise CorruptFile(f"{path}: {len(numbers)} atoms; this molecule has {n_atoms}")
    energies, forces = arrays["energies"], arrays["forces"]
    if energies.shape not in ((shape[0],), (shape[0], 1)):
        raise CorruptFile(f"{path}: {keys['energies']} has shape {energies.shape}, not one a frame")
    if forces.shape != shape:
        raise CorruptFile(f"{path}: {keys['forces']} has shape {forces.shape}, not {shape}")
    for name in ("positions", "energies", "forces"):
        if not np.all(np.isfinite(arrays[name])):
            raise CorruptFile(f"{path}: {keys[name]} holds values that are no numbers")
    return {
        "positions": positions.astype("f8", copy=False),
        "atomic_numbers": numbers.astype("i8"),
        "energies": energies.reshape(-1).astype("f8") * EV_PER_KCAL_PER_MOL,
        "forces": (forces * EV_PER_KCAL_PER_MOL).astype("f4"),
        "frame_numbers": _frame_numbers(path, arrays.get("frame_numbers"), shape[0]),
    }


def _frame_numbers(path: Path, numbers: np.ndarray | None, n_frames: int) -> np.ndarray:
    if numbers is None:
        return np.arange(n_frames)
    if numbers.shape != (n_frames,) or not np.all(np.isfinite(numbers) & (numbers % 1 == 0)):
        raise CorruptFile(f"{path}: old_indices is no list of {n_frames} frame numbers")
    return numbers.astype("i8")


def _stretches(
    positions: np.ndarray, frame_numbers: np.ndarray, frame_fs: float
) -> tuple[tuple[int, int], ...]:
    follows = np.diff(frame_numbers) == 1
    farthest = FASTEST_A_PER_FS * frame_fs
    for start in range(0, len(follows), _BLOCK_FRAMES):
        block = positions[start : start + _BLOCK_FRAMES + 1]
        moved = np.abs(np.diff(block, axis=0)).max(axis=(1, 2))
        follows[start : start + _BLOCK_FRAMES] &= moved <= farthest
    edges = np.flatnonzero(np.diff(np.concatenate([[False], follows, [False]]).astype("i1")))
    return tuple((int(first), int(last) + 1) for first, last in edges.reshape(-1, 2))
