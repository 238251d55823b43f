"""Which files of a published version somebody asked for."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tg80.errors import CorruptFile, UserError
from tg80.release.manifest import Manifest, PublishedFile, PublishedShard
from tg80.splits.split import ALL_PARTS, PARTS, TIME_BLOCK_FRACTIONS
from tg80.untrusted.documents import parse_json

# With `--` in the publications for hosts without folders.
_FOLD_LIST = re.compile(r"folds(?:/|--)fold-([0-9]{1,4})\.json")
_ONLY_WITH_EVERYTHING = ("plots/", "plots--")


@dataclass(frozen=True)
class Selection:
    """What to download; what is None or empty restricts nothing.

    Attributes:
        fold: Of the published split, from 1 on.
        parts: Of that fold: train, val, test_id, test_ood, val_time, test_time.
        molecules: Names of compounds.
        level: Level of theory.
    """

    fold: int | None = None
    parts: tuple[str, ...] = ()
    molecules: tuple[str, ...] = ()
    level: str | None = None

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in ALL_PARTS]:
            raise UserError(f"--part {unknown[0]}: parts are {', '.join(ALL_PARTS)}")
        if self.parts and self.fold is None:
            raise UserError("--part goes with --fold K: parts differ from fold to fold")


def choose_files(
    manifest: Manifest, selection: Selection, read: Callable[[PublishedFile], bytes]
) -> list[PublishedFile]:
    """The shards asked for, their checksum files, and the small files that belong to any choice.

    Args:
        manifest: Of the version.
        selection: What is asked for.
        read: Gives the content of a file of the manifest; called for the list of a fold only.

    Returns:
        The files, largest first.

    Raises:
        UserError: A fold, molecule or level is not published, or nothing is left.
        CorruptFile: The list of the fold is not valid.
    """
    if selection == Selection():
        return _largest_first(manifest.entries)
    shards = _by_fold(manifest, selection, read)
    if selection.molecules:
        _check_known("molecule", selection.molecules, (s.molecule for s in manifest.shards))
        shards = [shard for shard in shards if shard.molecule in selection.molecules]
    if selection.level is not None:
        _check_known("level", [selection.level], (s.level for s in manifest.shards))
        shards = [shard for shard in shards if shard.level == selection.level]
    if not shards:
        raise UserError("no file fits all of --fold, --part, --molecules and --level together")
    return _largest_first([*shards, *_belonging(manifest, shards)])


def _by_fold(
    manifest: Manifest, selection: Selection, read: Callable[[PublishedFile], bytes]
) -> list[PublishedShard]:
    if selection.fold is None:
        return list(manifest.shards)
    matches = ((_FOLD_LIST.fullmatch(entry.path), entry) for entry in manifest.files)
    entries = {int(match[1]): entry for match, entry in matches if match}
    if selection.fold not in entries:
        numbers = ", ".join(map(str, sorted(entries)))
        known = f"folds are {numbers}" if entries else "it has no folds"
        raise UserError(f"--fold {selection.fold}: no such fold in {manifest.version}; {known}")
    entry = entries[selection.fold]
    lists = _read_fold_list(read(entry), entry.path)
    # Time blocks are of the train compounds: their files are those of `train`.
    parts = {"train" if p in TIME_BLOCK_FRACTIONS else p for p in selection.parts} or set(PARTS)
    paths = {path for part in parts for path in lists.get(part, ())}
    shards = [shard for shard in manifest.shards if shard.path in paths]
    if len(shards) != len(paths):
        missing = min(paths - {shard.path for shard in shards})
        raise CorruptFile(f"{entry.path}: lists {missing!r}, which the manifest does not")
    return shards


def _read_fold_list(text: bytes, path: str) -> dict[str, list[str]]:
    try:
        content = parse_json(text, path)
        lists = {part: content[part] for part in PARTS if part in content}
        if not lists or not all(isinstance(p, str) for paths in lists.values() for p in paths):
            raise ValueError("no lists of paths by part")
    except (ValueError, TypeError, UserError) as error:
        raise CorruptFile(f"{path}: not a valid list of a fold: {error}") from None
    return lists


def _belonging(manifest: Manifest, shards: Sequence[PublishedShard]) -> list[PublishedFile]:
    """Card, splits and fold lists, and the checksum files of these shards alone."""
    beside = {f"{shard.path}.sha256" for shard in manifest.shards}
    wanted = {f"{shard.path}.sha256" for shard in shards}
    return [
        entry
        for entry in manifest.files
        if (entry.path in wanted or entry.path not in beside)
        and not entry.path.startswith(_ONLY_WITH_EVERYTHING)
    ]


def _check_known(what: str, asked: Sequence[str], published: Iterable[str]) -> None:
    known = sorted(set(published))
    if unknown := [name for name in asked if name not in known]:
        raise UserError(f"no {what} {unknown[0]!r} is published; there are {', '.join(known)}")


def _largest_first(entries: Iterable[PublishedFile]) -> list[PublishedFile]:
    # So that no large one is left alone at the end.
    return sorted(entries, key=lambda entry: (-entry.n_bytes, entry.path))
