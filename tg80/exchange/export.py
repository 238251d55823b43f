"""Exports trajectories for other programs; a JSON file beside each file says what it is.

`plan_export` decides and refuses, `write_export` writes. Trajectories are never joined: those of
several replicas go into files of their own, or, in extended XYZ, into frames that name theirs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tg80.errors import UserError
from tg80.exchange.export_selection import Piece, Selection, select
from tg80.exchange.formats import (
    UNITS,
    write_extxyz,
    write_isolated_atoms,
    write_sgdml,
    write_upstream,
)
from tg80.files import check_folder, file_sha256, make_folder, write_atomically, writing_atomically
from tg80.shards.shard import Shard
from tg80.splits.split import load_split
from tg80.theory import LEVELS, symbols_of

FORMATS = tuple(UNITS)


@dataclass(frozen=True)
class Target:
    """One file to write.

    Attributes:
        path: the file; `beside` is its description.
        to: one of `FORMATS`.
        pieces: what goes in, in this order; one, except in a joint extended XYZ file.
        isolated_atoms: put one frame for each element in front, for MACE.
    """

    path: Path
    to: str
    pieces: tuple[Piece, ...]
    isolated_atoms: bool
    selection: Selection

    @property
    def beside(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def n_frames(self) -> int:
        return sum(piece.n_frames for piece in self.pieces)


def plan_export(
    sources: Sequence[Path | str],
    to: str,
    out: Path | str,
    selection: Selection | None = None,
    *,
    separate: bool = False,
    force: bool = False,
) -> list[Target]:
    """The files an export will write; nothing is written yet.

    Args:
        sources: shards, or folders with shards in them.
        to: one of `FORMATS`.
        out: the folder to write to; it need not exist.
        selection: which trajectories and frames, None for all.
        separate: extended XYZ: one file a trajectory, without isolated atoms, for programs that
            want the same atoms in all frames; not one file for all.
        force: write over files of an earlier export.

    Raises:
        UserError: as for `select`; no such format; `out` is no folder; a file is there already.
        CorruptFile: a shard is not what its checksum says.
    """
    selection = selection or Selection()
    if to not in FORMATS:
        raise UserError(f"no format {to!r}; formats are {', '.join(FORMATS)}")
    if separate and to != "extxyz":
        raise UserError(f"--separate is for extxyz; {to} has one file a trajectory anyway")
    out = Path(out)
    check_folder(out, "--out")
    pieces = select(sources, selection)
    if to == "extxyz" and not separate:
        # Isolated atoms are training data: MACE would take them for molecules in another file.
        trained = selection.part in (None, "train")
        name = f"{selection.label}.xyz"
        targets = [Target(out / name, to, tuple(pieces), trained, selection)]
    else:
        targets = [Target(out / _name(to, p), to, (p,), False, selection) for p in pieces]
    if not force:
        _check_absent(targets)
    return targets


def _name(to: str, piece: Piece) -> str:
    if to == "extxyz":
        return f"{piece.trajectory}.xyz"
    name = piece.metadata.name if piece.metadata.replica == 0 else piece.trajectory
    return f"{name}.npz" if to == "npz" else f"tg80_{name}.npz"


def _check_absent(targets: list[Target]) -> None:
    for target in targets:
        for path in (target.path, target.beside):
            if path.exists():
                raise UserError(f"{path} is there already; choose another --out or give --force")


def write_export(
    targets: Sequence[Target], on_frames: Callable[[int], None] = lambda n_frames: None
) -> list[dict[str, Any]]:
    """Write the planned files, each whole or not at all, and describe them.

    Args:
        targets: from `plan_export`.
        on_frames: called now and then with the number of frames written since.

    Returns:
        What stands in the JSON file beside each file, in order, with its path as `path`.

    Raises:
        Tg80Error: the disk is full, or the folder cannot be written.
        CorruptFile: a shard cannot be read.
    """
    return [_write(target, on_frames) for target in targets]


def _write(target: Target, on_frames: Callable[[int], None]) -> dict[str, Any]:
    make_folder(target.path.parent)
    energies = _isolated_energies(target) if target.isolated_atoms else {}
    with writing_atomically(target.path) as stream:
        write_isolated_atoms(stream, energies)
        for piece in target.pieces:
            if target.to == "extxyz":
                write_extxyz(stream, piece, on_frames)
            else:
                (write_sgdml if target.to == "npz" else write_upstream)(stream, piece)
                on_frames(piece.n_frames)
    description = _describe(target, energies)
    write_atomically(target.beside, (json.dumps(description, indent=1) + "\n").encode())
    return {"path": str(target.path), **description}


def _isolated_energies(target: Target) -> dict[str, float]:
    """Energies of the elements present, eV; none if the level was customised."""
    level = LEVELS.get(target.pieces[0].metadata.level)
    if level is None:
        return {}
    numbers: set[int] = set()
    for piece in target.pieces:
        with Shard(piece.path) as shard:
            numbers.update(shard.atomic_numbers.tolist())
    known = level.isolated_atom_energies
    symbols = symbols_of(sorted(numbers))
    return {symbol: known[symbol] for symbol in symbols} if set(symbols) <= set(known) else {}


def _describe(target: Target, energies: dict[str, float]) -> dict[str, Any]:
    selection = target.selection
    rows = [_describe_piece(piece) for piece in target.pieces]
    split = None
    if selection.fold is not None:
        frozen = load_split(selection.split)
        split = {"version": frozen.version, "sha256": frozen.sha256}
        split |= {"fold": selection.fold, "part": selection.part}
    notes = []
    if target.isolated_atoms and not energies:
        notes.append("no isolated-atom energies at this level: train MACE with --E0s average")
    if n_flagged := sum(row["n_flagged"] for row in rows):
        notes.append(f"{n_flagged} frames carry quality flags; nothing was left out")
    return {
        "format": "tg80-export/1",
        "to": target.to,
        "sha256": file_sha256(target.path),
        "n_frames": target.n_frames,
        "level": target.pieces[0].metadata.level,
        "units": UNITS[target.to],
        "isolated_atom_energies_ev": energies,
        "split": split,
        "notes": notes,
        "trajectories": rows,
        "tg80_version": version("tg80"),
    }


def _describe_piece(piece: Piece) -> dict[str, Any]:
    with Shard(piece.path) as shard:
        flags = shard.read("quality_flags", piece.start, piece.stop, piece.stride)
        first_time_fs = float(shard.read("time", piece.start, piece.start + 1)[0])
    metadata = piece.metadata
    return {
        "molecule": metadata.name,
        "replica": metadata.replica,
        "smiles": metadata.smiles,
        "inchikey": metadata.inchikey,
        "ensemble": metadata.ensemble,
        "n_frames": piece.n_frames,
        "frame_fs": piece.frame_fs,
        "first_time_fs": first_time_fs,
        "n_flagged": int(np.count_nonzero(flags)),
        "source": piece.path.name,
        "source_sha256": piece.sha256,
        "licence": metadata.licence,
    }
