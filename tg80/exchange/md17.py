"""Reads files of MD17, revised MD17 and MD22.

None of these files states its frame spacing; it comes from `tg80.exchange.md17_sets` with its
source. Frames are put in the order of time, and where one does not follow the frame before it, a
new stretch begins: no velocity is ever taken across.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tg80.chemistry import mechanics
from tg80.constants import masses_of
from tg80.errors import UserError
from tg80.exchange.md17_npz import Contents, read_public_npz
from tg80.exchange.md17_sets import (
    PublicMolecule,
    PublicSet,
    contradiction,
    get_public_set,
    recognise,
)

# Twenty times the thermal speed of hydrogen at 500 K (0.02 A/fs a coordinate): nothing moves so
# fast, frames that seem to do so are no neighbours in time.
FASTEST_A_PER_FS = 0.5
_BLOCK_FRAMES = 1 << 14


@dataclass(frozen=True)
class PublicData:
    """One file of a public set, in the order of time.

    Attributes:
        set_id: of `tg80.exchange.md17_sets`; "other" if the user stated the spacing.
        molecule: name as a slug.
        positions: (n_frames, n_atoms, 3) float64 A; forces: likewise, float32 eV/A.
        energies: (n_frames,) eV; None, as forces are, if the file has none.
        atomic_numbers: (n_atoms,). r_unit, e_unit: units of the file.
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
    energies: np.ndarray | None
    forces: np.ndarray | None
    frame_numbers: np.ndarray
    frame_fs: float
    frame_source: str
    r_unit: str
    e_unit: str
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
        set_id: the set it belongs to; None to tell by its name.
        molecule: the molecule it holds; None to tell by its name.
        frame_fs: time between frames, for a file of this layout from elsewhere.

    Raises:
        UserError: it cannot be read (`read_public_npz`); it can't be told what it is, or its name
            or theory says that it is something else.
    """
    path = Path(path)
    if frame_fs is not None and not 0 < frame_fs < 1e6:
        raise UserError(f"--frame-fs must be more than 0 and less than 1e6, not {frame_fs:g}")
    contents = read_public_npz(path)
    if frame_fs is not None:
        text = (molecule or contents.name or path.stem).lower()
        found_set, name = "other", re.sub(r"[^a-z0-9]+", "-", text).strip("-") or "molecule"
        source = "stated by the user"
    else:
        public, known = _identify(path, contents, set_id, molecule)
        found_set, name = public.id, known.name
        frame_fs, source = public.frame_fs, public.frame_source
    arrays: dict[str, Any] = {
        name: getattr(contents, name)
        for name in ("positions", "energies", "forces", "frame_numbers")
    }
    order = np.argsort(contents.frame_numbers, kind="stable")
    if np.any(np.diff(order) < 0):
        arrays = {key: None if v is None else v[order] for key, v in arrays.items()}
    return PublicData(
        path=path, set_id=found_set, molecule=name, frame_fs=frame_fs, frame_source=source,
        r_unit=contents.r_unit, e_unit=contents.e_unit, atomic_numbers=contents.atomic_numbers,
        stretches=_stretches(arrays["positions"], arrays["frame_numbers"], frame_fs), **arrays,
    )  # fmt: skip


def _identify(
    path: Path, contents: Contents, set_id: str | None, molecule: str | None
) -> tuple[PublicSet, PublicMolecule]:
    """The set and the molecule, by what the user says, the file's name, or the name inside."""
    layout, known = contents.layout, None
    if layout == "upstream":
        raise UserError(
            f"{path}: holds positions and elements only, as `tg80 export --to upstream` writes; "
            "give --frame-fs"
        )
    if set_id is not None:
        public = get_public_set(set_id)
        if public.layout != layout:
            raise UserError(f"{path}: has the keys of {layout}, which is not how {set_id} is kept")
        if molecule is not None:
            known = public, public.molecule(molecule)
    for text in (path.stem, contents.name) if molecule is None else (molecule,):
        found = recognise(text, layout) if text and known is None else None
        if found and (set_id is None or found[0].id == set_id):
            known = found
    if known is None and molecule is not None:
        raise UserError(f"--molecule {molecule}: is in no public set; give --set as well")
    if known is None:
        raise UserError(
            f"{path}: its name tells no molecule of a public set; give --set and --molecule, or "
            "--frame-fs if it is from elsewhere"
        )
    _refuse_others(path, contents, *known)
    return known


def _refuse_others(
    path: Path, contents: Contents, public: PublicSet, molecule: PublicMolecule
) -> None:
    """Refuses a file that says itself that it is another run, or at another level of theory."""
    texts = {"file name": path.stem, "name inside": contents.name, "theory": contents.theory}
    for what, text in texts.items():
        found = recognise(text, contents.layout) if text else None
        other = contradiction(text, public) if text else None
        if found and found[1] != molecule:
            other = found[1].name
        if other is not None:
            raise UserError(
                f"{path}: its {what} says {other}, which {molecule.name} of {public.title} is not; "
                f"give {molecule.file}, or --frame-fs to read it as a file from elsewhere"
            )
    if len(contents.atomic_numbers) != molecule.n_atoms:
        raise UserError(
            f"{path}: {len(contents.atomic_numbers)} atoms; this molecule has {molecule.n_atoms}"
        )


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
