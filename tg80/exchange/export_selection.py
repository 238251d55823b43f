"""Which frames of which trajectories an export takes.

A part of a fold is exported as the benchmark uses it: the train part is the first 60 % of the
training compounds' trajectories and nothing else, so that what is trained on an export never saw
what the benchmark scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tg80.errors import UserError
from tg80.files import verify
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
from tg80.windows.trajectories import block_frames


@dataclass(frozen=True)
class Selection:
    """What to export.

    Attributes:
        molecules: names, None for all. level: level of theory, None if the data has only one.
        split: version or file of the split that `fold` is of.
        fold: fold of the split, together with `part`; None for whole trajectories of everything.
        part: one of `ALL_PARTS`.
        every: every how many stored frames one is taken.
        frames: at most so many frames of each trajectory, evenly spaced; excludes `every`.
    """

    molecules: tuple[str, ...] | None = None
    level: str | None = None
    split: str | Path = TG80_VERSION
    fold: int | None = None
    part: str | None = None
    every: int = 1
    frames: int | None = None

    @property
    def label(self) -> str:
        """`fold-2-train`, or `all` without a fold."""
        return "all" if self.fold is None else f"fold-{self.fold}-{self.part}"


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


def select(sources: Sequence[Path | str], selection: Selection) -> list[Piece]:
    """The pieces an export is made of, sorted by molecule and replica.

    Args:
        sources: shards, or folders with shards in them.
        selection: which of them, and which frames.

    Raises:
        UserError: no such file, molecule, level, fold or part; two levels of theory; one
            trajectory twice; a name that means another compound in the split; nothing left.
        CorruptFile: a shard is not what the checksum beside it says, or no shard.
    """
    _check(selection)
    split = None if selection.fold is None else load_split(selection.split)
    compounds = None if split is None else _compounds(split, selection)
    shards = _wanted(_read(sources), selection)
    if compounds is not None:
        assert split is not None
        _check_compounds(shards, split)
        _check_part(selection, compounds)
        shards = [shard for shard in shards if shard[1].name in compounds]
    if not shards:
        raise UserError(f"no trajectory of {selection.label} in {_listed(map(str, sources))}")
    return [_piece(path, metadata, n_frames, selection) for path, metadata, n_frames in shards]


_Found = tuple[Path, ShardMetadata, int]


def _check(selection: Selection) -> None:
    if (selection.fold is None) != (selection.part is None):
        raise UserError("--fold and --part go together: a part is a part of a fold")
    if selection.part is not None and selection.part not in ALL_PARTS:
        raise UserError(f"no part {selection.part!r}; parts are {', '.join(ALL_PARTS)}")
    if selection.frames is not None and selection.every != 1:
        raise UserError("--every and --frames exclude each other; give one")
    if selection.every < 1 or (selection.frames is not None and selection.frames < 1):
        raise UserError("--every and --frames must be 1 or more")


def _read(sources: Sequence[Path | str]) -> list[_Found]:
    found: dict[tuple[str, str, int], _Found] = {}
    paths = dict.fromkeys(path for source in sources for path in find_shards(source))
    for path in paths:
        with Shard(path) as shard:
            metadata, n_frames = shard.metadata, shard.n_frames
        key = (metadata.level, metadata.name, metadata.replica)
        if key in found:
            raise UserError(f"{path} and {found[key][0]} hold the same trajectory; give one")
        found[key] = (path, metadata, n_frames)
    return [found[key] for key in sorted(found)]


def _wanted(shards: list[_Found], selection: Selection) -> list[_Found]:
    levels = sorted({metadata.level for _, metadata, _ in shards})
    if selection.level is not None:
        if selection.level not in levels:
            raise UserError(f"no data at level {selection.level}; there is {_listed(levels)}")
        shards = [shard for shard in shards if shard[1].level == selection.level]
    elif len(levels) > 1:
        raise UserError(f"levels of theory are not mixed: choose --level, one of {_listed(levels)}")
    if selection.molecules is None:
        return shards
    missing = set(selection.molecules) - {metadata.name for _, metadata, _ in shards}
    if missing:
        raise UserError(f"no trajectory of {_listed(sorted(missing))} in the data")
    return [shard for shard in shards if shard[1].name in selection.molecules]


def _compounds(split: Split, selection: Selection) -> tuple[str, ...]:
    assert selection.fold is not None and selection.part is not None
    fold = split.fold(selection.fold)
    return fold.part("train" if selection.part in TIME_BLOCK_FRACTIONS else selection.part)


def _check_compounds(shards: list[_Found], split: Split) -> None:
    for path, metadata, _ in shards:
        compound = split.molecules.get(metadata.name)
        if compound is None:
            raise UserError(f"{path}: split {split.version} has no compound {metadata.name}")
        if compound.inchikey != metadata.inchikey:
            raise UserError(
                f"{path}: {metadata.name} is {metadata.inchikey} here, {compound.inchikey} in "
                f"split {split.version}; rename one"
            )


def _check_part(selection: Selection, compounds: tuple[str, ...]) -> None:
    elsewhere = set(selection.molecules or ()) - set(compounds)
    if elsewhere:
        names = _listed(sorted(elsewhere))
        raise UserError(f"{names}: not in part {selection.part} of fold {selection.fold}")


def _piece(path: Path, metadata: ShardMetadata, n_frames: int, selection: Selection) -> Piece:
    start, stop = 0, n_frames
    if selection.part in TIME_BLOCK_FRACTIONS:
        block = time_blocks((n_frames - 1) * metadata.store_every_fs)[selection.part]
        start, stop = block_frames(*block, metadata.store_every_fs)
    stride = selection.every
    if selection.frames is not None:
        stride = max(1, (stop - start) // selection.frames)
        stop = min(stop, start + selection.frames * stride)
    if stop <= start:
        raise UserError(f"{path}: its {selection.part} block holds no frame; it is too short")
    return Piece(path, verify(path), metadata, start, stop, stride)


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
