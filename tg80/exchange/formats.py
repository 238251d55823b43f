"""The files of other programs: extended XYZ, sGDML's data sets, and the layout of public ATOM.

Arrays come in the units of the code (A, A/fs, eV, eV/A).

References:
    Extended XYZ: https://github.com/libAtoms/extxyz. MACE's keys: ACEsuit/mace,
    mace/tools/default_keys.py. sGDML: doi:10.1016/j.cpc.2019.02.007; its data sets are files of
    np.savez with the keys below.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tg80.constants import EV_PER_KCAL_PER_MOL
from tg80.errors import UserError
from tg80.shards.metadata import ShardMetadata
from tg80.shards.shard import Shard
from tg80.theory import symbols_of

ENERGY, FORCES, VELOCITIES = "REF_energy", "REF_forces", "velocities"
CHUNK_FRAMES = 512

UNITS = {
    "extxyz": {"positions": "A", VELOCITIES: "A/fs", ENERGY: "eV", FORCES: "eV/A", "time_fs": "fs"},
    "npz": {"R": "A", "E": "kcal/mol", "F": "kcal/mol/A"},
    "upstream": {"coords": "A"},
}
"""Unit of each quantity by format."""


@dataclass(frozen=True)
class Piece:
    """Evenly spaced frames of one trajectory: start, start + stride, ... below stop."""

    path: Path
    sha256: str
    metadata: ShardMetadata
    start: int
    stop: int
    stride: int

    @property
    def n_frames(self) -> int:
        return len(range(self.start, self.stop, self.stride))

    @property
    def frame_fs(self) -> float:
        """Time between the frames taken."""
        return self.stride * self.metadata.store_every_fs

    @property
    def trajectory(self) -> str:
        """`NAME-rK`."""
        return f"{self.metadata.name}-r{self.metadata.replica}"


_MOTION = f"Properties=species:S:1:pos:R:3:{VELOCITIES}:R:3"
_NOT_PERIODIC = 'pbc="F F F"'


def _comment(facts: Mapping[str, str | float]) -> str:
    """The `key=value` of a comment line; a text that may be misread stands in quotes."""
    pairs = []
    for key, value in facts.items():
        text = str(value)
        if not text or re.search(r"[\s\"'=,{}\[\]]", text):
            text = '"' + text.replace('"', '\\"') + '"'
        pairs.append(f"{key}={text}")
    return " ".join(pairs)


def write_isolated_atoms(stream: BinaryIO, energies_ev: Mapping[str, float]) -> None:
    """One frame an element, as MACE takes its atomic energies E0 from."""
    for symbol, energy in energies_ev.items():
        info = _comment({ENERGY: float(energy), "config_type": "IsolatedAtom"})
        frame = f"1\nProperties=species:S:1:pos:R:3 {info} {_NOT_PERIODIC}\n{symbol} 0 0 0\n"
        stream.write(frame.encode())


def write_extxyz(stream: BinaryIO, piece: Piece, on_frames: Callable[[int], None]) -> None:
    """The frames of one trajectory in extended XYZ.

    Frames between evaluations of the level go without energy and forces, so that MACE gives them no
    weight. Numbers are written with the nine digits that give a float32 back exactly;
    `ase.io.write` keeps eight decimals, of which a velocity in A/fs has too few that count.
    """
    with Shard(piece.path) as shard:
        symbols = symbols_of(shard.atomic_numbers)
        layouts = [
            (columns, "".join(f"{symbol:<2}{' %.9g' * n}\n" for symbol in symbols), n)
            for columns, n in ((_MOTION, 6), (f"{_MOTION}:{FORCES}:R:3", 9))
        ]
        header = {
            "molecule": piece.metadata.name,
            "replica": piece.metadata.replica,
            "level": piece.metadata.level,
            "charge": piece.metadata.charge,
        }
        evaluated = shard.evaluated
        step = piece.stride * CHUNK_FRAMES
        for start in range(piece.start, piece.stop, step):
            window = (start, min(piece.stop, start + step), piece.stride)
            fields = ("positions", "velocities", "forces")
            columns = np.concatenate([shard.read(name, *window) for name in fields], axis=2)
            energies = shard.read("potential_energy", *window).tolist()
            times = shard.read("time", *window).tolist()
            flags = shard.read("quality_flags", *window).tolist()
            known = evaluated[slice(*window)].tolist()
            frames = zip(columns, energies, times, flags, known, strict=True)
            for values, energy, time, flag, has_forces in frames:
                properties, rows, n = layouts[has_forces]
                facts = {ENERGY: energy} if has_forces else {}
                info = _comment(header | facts | {"time_fs": time, "quality_flags": flag})
                head = f"{len(symbols)}\n{properties} {info} {_NOT_PERIODIC}\n"
                stream.write((head + rows % tuple(values[:, :n].ravel().tolist())).encode())
            on_frames(len(columns))


def write_sgdml(stream: BinaryIO, piece: Piece) -> None:
    """The frames of one trajectory as a data set of sGDML, the layout of MD17 and MD22.

    Frames between evaluations of the level are left out.

    Raises:
        UserError: no frame is left.
    """
    with Shard(piece.path) as shard:
        window = (piece.start, piece.stop, piece.stride)
        known = shard.evaluated[slice(*window)]
        if not known.any():
            raise UserError(f"{piece.path}: no frame chosen has energies; choose another --every")
        arrays = {
            "z": shard.atomic_numbers.astype("u1"),
            "R": shard.read("positions", *window)[known].astype("f8"),
            "E": shard.read("potential_energy", *window)[known] / EV_PER_KCAL_PER_MOL,
            "F": shard.read("forces", *window)[known].astype("f8") / EV_PER_KCAL_PER_MOL,
        }
    texts = {
        "type": "d",
        "name": piece.metadata.name,
        "theory": piece.metadata.level,
        "r_unit": "Ang",
        "e_unit": "kcal/mol",
    }
    contents: dict[str, Any] = {**arrays, **texts}
    for key in ("E", "F"):
        for name in ("min", "max", "mean", "var"):
            contents[f"{key}_{name}"] = getattr(np, name)(arrays[key])
    contents["md5"] = np.bytes_(sgdml_md5(arrays).encode())
    np.savez_compressed(stream, **contents)


def sgdml_md5(arrays: Mapping[str, np.ndarray]) -> str:
    """The fingerprint by which sGDML knows a data set: of z, R, E and F."""
    whole = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        content = np.ascontiguousarray(arrays[key])
        whole.update(hashlib.md5(content.data, usedforsecurity=False).digest())
    return whole.hexdigest()


def write_upstream(stream: BinaryIO, piece: Piece) -> None:
    """The frames of one trajectory as the public ATOM code reads them, and rMD17 has them."""
    with Shard(piece.path) as shard:
        coords = shard.read("positions", piece.start, piece.stop, piece.stride).astype("f8")
        charges = shard.atomic_numbers.astype("u1")
    np.savez_compressed(stream, coords=coords, nuclear_charges=charges)
