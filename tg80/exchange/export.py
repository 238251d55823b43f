"""Exports trajectories for other programs; a JSON file beside each file describes it.

`plan_export` decides and refuses, `write_export` writes. Trajectories are never joined: those of
several replicas go into files of their own, or, in extended XYZ, into frames that name theirs.

A part of a fold is exported as the benchmark uses it: the train part is the first 60 % of the
training compounds' trajectories and nothing else, so that what is trained on an export never saw
what the benchmark scores.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tg80.errors import UserError
from tg80.exchange.formats import (
    UNITS,
    Piece,
    write_extxyz,
    write_isolated_atoms,
    write_sgdml,
    write_upstream,
)
from tg80.files import (
    check_folder,
    file_sha256,
    make_folder,
    verify,
    write_atomically,
    writing_atomically,
)
from tg80.shards.metadata import ShardMetadata
from tg80.shards.shard import Shard, find_shards
from tg80.splits.split import (
    ALL_PARTS,
    TG80_VERSION,
    TIME_BLOCK_FRACTIONS,
    Split,
    load_split,
    time_blocks,
)
from tg80.theory import LEVELS, symbols_of
from tg80.windows.trajectories import block_frames

FORMATS = tuple(UNITS)


@dataclass(frozen=True)
class Selection:
    """What to export.

    Attributes:
        molecules: Names; None for all.
        level: Level of theory; None if the data has only one.
        split: Version or file of the split that `fold` is of.
        fold: Fold of the split, together with `part`; None for whole trajectories of everything.
        part: One of `ALL_PARTS`.
        every: Every how many stored frames one is taken.
        frames: At most so many frames of each trajectory, evenly spaced; excludes `every`.

    Raises:
        UserError: The options contradict each other, or there is no such part.
    """

    molecules: tuple[str, ...] | None = None
    level: str | None = None
    split: str | Path = TG80_VERSION
    fold: int | None = None
    part: str | None = None
    every: int = 1
    frames: int | None = None

    def __post_init__(self) -> None:
        if (self.fold is None) != (self.part is None):
            raise UserError("--fold and --part go together: a part is a part of a fold")
        if self.part is not None and self.part not in ALL_PARTS:
            raise UserError(f"no part {self.part!r}; parts are {', '.join(ALL_PARTS)}")
        if self.frames is not None and self.every != 1:
            raise UserError("--every and --frames exclude each other; give one")
        if self.every < 1 or (self.frames is not None and self.frames < 1):
            raise UserError("--every and --frames must be 1 or more")

    @property
    def label(self) -> str:
        """`fold-2-train`, or `all` without a fold."""
        return "all" if self.fold is None else f"fold-{self.fold}-{self.part}"


@dataclass(frozen=True)
class Target:
    """One file to write.

    Attributes:
        path: The file.
        to: One of `FORMATS`.
        pieces: What goes in, in this order; one, except in a joint extended XYZ file.
        isolated_atoms: Put one frame for each element in front, for MACE.
        selection: What was asked for.
    """

    path: Path
    to: str
    pieces: tuple[Piece, ...]
    isolated_atoms: bool
    selection: Selection

    @property
    def beside(self) -> Path:
        """The file that describes it."""
        return self.path.with_suffix(".json")

    @property
    def n_frames(self) -> int:
        return sum(piece.n_frames for piece in self.pieces)


def plan_export(
    sources: Sequence[Path | str],
    to: str,
    out: Path | str,
    selection: Selection = Selection(),
    *,
    separate: bool = False,
    force: bool = False,
) -> list[Target]:
    """The files an export will write; nothing is written yet.

    Args:
        sources: Shards, or folders with shards in them.
        to: One of `FORMATS`.
        out: The folder to write to; it need not exist.
        selection: Which trajectories and frames.
        separate: Extended XYZ: one file a trajectory, without isolated atoms, for programs that
            want the same atoms in all frames; not one file for all.
        force: Write over files of an earlier export.

    Raises:
        UserError: As for `select`; no such format; `out` is not a folder; or a file exists.
        CorruptFile: A shard is not what its checksum says.
    """
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
        targets = [Target(out / f"{selection.label}.xyz", to, tuple(pieces), trained, selection)]
    else:
        targets = [Target(out / _file_name(to, p), to, (p,), False, selection) for p in pieces]
    for path in (path for target in targets for path in (target.path, target.beside)):
        if path.exists() and not force:
            raise UserError(f"{path} exists already; choose another --out or give --force")
    return targets


def _file_name(to: str, piece: Piece) -> str:
    if to == "extxyz":
        return f"{piece.trajectory}.xyz"
    name = piece.metadata.name if piece.metadata.replica == 0 else piece.trajectory
    return f"{name}.npz" if to == "npz" else f"tg80_{name}.npz"


class _Found(NamedTuple):
    path: Path
    metadata: ShardMetadata
    n_frames: int


def select(sources: Sequence[Path | str], selection: Selection) -> list[Piece]:
    """The pieces an export is made of, sorted by molecule and replica.

    Args:
        sources: Shards, or folders with shards in them.
        selection: Which of them, and which frames.

    Raises:
        UserError: There is no such file, molecule, level or fold; there are two levels of theory
            or one trajectory twice; a name means another compound in the split; nothing is left.
        CorruptFile: A shard is not what the checksum beside it says, or no shard.
    """
    split = None if selection.fold is None else load_split(selection.split)
    shards = _wanted(_read(sources), selection)
    if split is not None:
        shards = _of_part(shards, split, selection)
    if not shards:
        raise UserError(f"no trajectory of {selection.label} in {_listed(map(str, sources))}")
    return [_piece(shard, selection) for shard in shards]


def _read(sources: Sequence[Path | str]) -> list[_Found]:
    found: dict[tuple[str, str, int], _Found] = {}
    for path in dict.fromkeys(path for source in sources for path in find_shards(source)):
        with Shard(path) as shard:
            metadata = shard.metadata
            key = (metadata.level, metadata.name, metadata.replica)
            if key in found:
                raise UserError(f"{path} and {found[key].path} hold the same trajectory; give one")
            found[key] = _Found(path, metadata, shard.n_frames)
    return [found[key] for key in sorted(found)]


def _wanted(shards: list[_Found], selection: Selection) -> list[_Found]:
    levels = sorted({shard.metadata.level for shard in shards})
    if selection.level is not None:
        if selection.level not in levels:
            raise UserError(f"no data at level {selection.level}; there is {_listed(levels)}")
        shards = [shard for shard in shards if shard.metadata.level == selection.level]
    elif len(levels) > 1:
        raise UserError(f"levels of theory are not mixed: choose --level, one of {_listed(levels)}")
    if selection.molecules is None:
        return shards
    missing = set(selection.molecules) - {shard.metadata.name for shard in shards}
    if missing:
        raise UserError(f"no trajectory of {_listed(sorted(missing))} in the data")
    return [shard for shard in shards if shard.metadata.name in selection.molecules]


def _of_part(shards: list[_Found], split: Split, selection: Selection) -> list[_Found]:
    assert selection.fold is not None and selection.part is not None
    part = "train" if selection.part in TIME_BLOCK_FRACTIONS else selection.part
    compounds = split.fold(selection.fold).part(part)
    for path, metadata, _ in shards:
        compound = split.molecules.get(metadata.name)
        if compound is None:
            raise UserError(f"{path}: split {split.version} has no compound {metadata.name}")
        if compound.inchikey != metadata.inchikey:
            raise UserError(
                f"{path}: {metadata.name} is {metadata.inchikey} here, {compound.inchikey} in "
                f"split {split.version}; rename one"
            )
    if elsewhere := set(selection.molecules or ()) - set(compounds):
        names = _listed(sorted(elsewhere))
        raise UserError(f"{names}: not in part {selection.part} of fold {selection.fold}")
    return [shard for shard in shards if shard.metadata.name in compounds]


def _piece(shard: _Found, selection: Selection) -> Piece:
    start, stop, spacing_fs = 0, shard.n_frames, shard.metadata.store_every_fs
    if selection.part in TIME_BLOCK_FRACTIONS:
        block = time_blocks((stop - 1) * spacing_fs)[selection.part]
        start, stop = block_frames(*block, spacing_fs)
    stride = selection.every
    if selection.frames is not None:
        stride = max(1, (stop - start) // selection.frames)
        stop = min(stop, start + selection.frames * stride)
    if stop <= start:
        raise UserError(f"{shard.path}: its {selection.part} block holds no frame; it is too short")
    return Piece(shard.path, verify(shard.path), shard.metadata, start, stop, stride)


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def write_export(
    targets: Sequence[Target], on_frames: Callable[[int], None] = lambda n_frames: None
) -> list[dict[str, Any]]:
    """Write the planned files, each whole or not at all, and describe them.

    Args:
        targets: From `plan_export`.
        on_frames: Called now and then with the number of frames written since.

    Returns:
        The content of the JSON file beside each file, in order, with the file's path as `path`.

    Raises:
        Tg80Error: The disk is full, or the folder cannot be written.
        CorruptFile: A shard cannot be read.
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
    """Energies of the elements present, eV; none if the level is a custom one."""
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
    rows = [_describe_piece(piece, target.to) for piece in target.pieces]
    split = None
    if selection.fold is not None:
        frozen = load_split(selection.split)
        split = {
            "version": frozen.version,
            "sha256": frozen.sha256,
            "fold": selection.fold,
            "part": selection.part,
        }
    notes = []
    if target.isolated_atoms and not energies:
        notes.append("no isolated-atom energies at this level: train MACE with --E0s average")
    if n_flagged := sum(row["n_flagged"] for row in rows):
        notes.append(f"{n_flagged} frames carry quality flags; none was left out for that")
    n_frames = target.n_frames
    if n_between := n_frames - sum(row["n_evaluated"] for row in rows):
        note = f"{n_between} frames lie between evaluations of the level: no energy, no forces"
        notes.append(f"{note}; left out" if target.to == "npz" else note)
        n_frames -= n_between if target.to == "npz" else 0
        if any(row["frame_fs"] is None for row in rows):
            notes.append("what is left is not evenly spaced: frame_fs is null")
    return {
        "format": "tg80-export/1",
        "to": target.to,
        "sha256": file_sha256(target.path),
        "n_frames": n_frames,
        "level": target.pieces[0].metadata.level,
        "units": UNITS[target.to],
        "isolated_atom_energies_ev": energies,
        "split": split,
        "notes": notes,
        "trajectories": rows,
        "tg80_version": version("tg80"),
    }


def _describe_piece(piece: Piece, to: str) -> dict[str, Any]:
    with Shard(piece.path) as shard:
        flags = shard.read("quality_flags", piece.start, piece.stop, piece.stride)
        evaluated = shard.evaluated[piece.start : piece.stop : piece.stride]
        first_time_fs = float(shard.read("time", piece.start, piece.start + 1)[0])
    kept = np.flatnonzero(evaluated) if to == "npz" else np.arange(piece.n_frames)
    gaps = np.unique(np.diff(kept)) if len(kept) > 1 else np.ones(1)
    metadata = piece.metadata
    return {
        "molecule": metadata.name,
        **{key: getattr(metadata, key) for key in ("replica", "smiles", "inchikey", "ensemble")},
        "n_frames": piece.n_frames,
        "n_evaluated": int(evaluated.sum()),
        "frame_fs": float(gaps[0]) * piece.frame_fs if len(gaps) == 1 else None,
        "first_time_fs": first_time_fs + float(kept[0]) * piece.frame_fs,
        "n_flagged": int(np.count_nonzero(flags)),
        "source": piece.path.name,
        "source_sha256": piece.sha256,
        "licence": metadata.licence,
    }
