"""A data set on disk: molecules, trajectories that are read when asked for, and their split.

import tg80
data = tg80.load("mini-xtb")
train = data.part(2, "train")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tg80.errors import UserError
from tg80.shards.metadata import ShardMetadata
from tg80.shards.shard import SUFFIX, Shard, find_shards
from tg80.splits.split import ALL_PARTS, TG80_VERSION, TIME_PARTS, Split, load_split, time_blocks
from tg80.windows.trajectories import Trajectory, read_trajectory

if TYPE_CHECKING:
    from tg80.chemistry.molecule import Molecule

Source = str | Path | Sequence[str | Path]
RELEASE_MANIFEST = "manifest.json"
"""Lies in the folder of every release, and nowhere else."""


def load(
    source: Source,
    *,
    split: str | Path | Split | None = None,
    level: str | None = None,
    cache: str | Path | None = None,
) -> Dataset:
    """Open a data set without reading any frames.

    Args:
        source: the name of a set ("mini-xtb", "tg80-xtb-v1"), which is looked up among the shipped
            sets, the releases of a checkout and those in the download folder; or a folder written
            by `tg80 generate` or `tg80 download`, or paths of shards. For a folder with the name of
            a set, write "./mini-xtb".
        split: a split, its name or its file. None: the one in the folder, else `tg80-v1` if it has
            all molecules.
        level: level of theory; needed if a folder holds several.
        cache: folder for uncompressed copies, each made when its trajectory is first read. With a
            cache, trajectories are memory-mapped: for data sets larger than memory.

    Raises:
        UserError: no such source, split or level; several levels; a trajectory or compound under
            two names; a split that lacks a molecule.
        CorruptFile: a shard cannot be read.
    """
    if isinstance(source, str):
        source = _named_set(source) or source
    shards = _of_level([Shard(path) for path in shard_paths(source)], level, source)
    return Dataset(shards, _split_of(shards, split, source), None if cache is None else Path(cache))


class Dataset:
    """A data set, as `load` opens it.

    `data["methanol"]` is the first trajectory of a molecule, `data["methanol", 1]` its replica 1,
    as a `tg80.shards.shard.Shard`: `data["methanol"].read("forces")` reads that field and nothing
    else.

    Attributes:
        trajectories (dict[tuple[str, int], Shard]): by name and replica, in order.
        split (Split | None): the split, restricted to these molecules; None if none has them all.
        level (str): level of theory.
        cache (Path | None): folder for uncompressed copies.
    """

    def __init__(
        self, shards: Sequence[Shard], split: Split | None = None, cache: Path | None = None
    ) -> None:
        """Open a data set from its shards; `load` is the usual way.

        Args:
            shards: readers of all trajectories.
            split: the split, if there is one.
            cache: folder for uncompressed copies, as for `load`.

        Raises:
            UserError: two shards are the same replica of a molecule, or of different levels.
        """
        self.trajectories: dict[tuple[str, int], Shard] = {}
        for shard in sorted(shards, key=lambda s: (s.metadata.name, s.metadata.replica)):
            key = shard.metadata.name, shard.metadata.replica
            if (other := self.trajectories.setdefault(key, shard)) is not shard:
                raise UserError(f"{other.path} and {shard.path}: both replica {key[1]} of {key[0]}")
        levels = sorted({shard.metadata.level for shard in shards})
        if len(levels) != 1:
            raise UserError(f"a data set has one level of theory, not {levels}")
        self.level, self.split, self.cache = levels[0], split, cache

    @cached_property
    def molecules(self) -> dict[str, Molecule]:
        """The molecules by name."""
        return molecules_of(self.trajectories.values())

    def __getitem__(self, key: str | tuple[str, int]) -> Shard:
        if isinstance(key, str):
            return self.replicas(key)[0]
        if key not in self.trajectories:
            name, replica = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
            known = [str(shard.metadata.replica) for shard in self.replicas(name)]
            raise KeyError(f"no replica {replica!r} of {name}; there is {', '.join(known)}")
        return self.trajectories[key]

    def __iter__(self) -> Iterator[str]:
        """Names of the molecules."""
        return iter(dict.fromkeys(name for name, _ in self.trajectories))

    def __contains__(self, name: object) -> bool:
        return any(name == known for known, _ in self.trajectories)

    def __len__(self) -> int:
        """Number of molecules."""
        return len(list(iter(self)))

    def __repr__(self) -> str:
        split = "no split" if self.split is None else f"split {self.split.version}"
        n_frames = sum(shard.metadata.n_frames for shard in self.trajectories.values())
        return (
            f"<Dataset: {len(self)} molecules, {len(self.trajectories)} trajectories, "
            f"{n_frames} frames at {self.level}, {split}>"
        )

    def replicas(self, name: str) -> list[Shard]:
        """All trajectories of a molecule, in order of their replica."""
        found = [shard for (known, _), shard in self.trajectories.items() if known == name]
        if not found:
            raise KeyError(f"no molecule {name!r}; there are {', '.join(self)}")
        return found

    def trajectory(self, name: str, replica: int | None = None) -> Trajectory:
        """Read positions and velocities of one trajectory, for windows."""
        shard = self[name] if replica is None else self[name, replica]
        return read_trajectory(shard, self.cache)

    def part(
        self,
        fold: int,
        part: str,
        *,
        atoms: Literal["all", "heavy"] = "all",
        replica: int | None = None,
    ) -> list[Trajectory]:
        """Return the trajectories of one part of one fold.

        Args:
            fold: from 1 on.
            part: `train`, `val_time` or `test_time`, which are time blocks of the training
                molecules; `val`, `test_id` or `test_ood`, which are whole trajectories of others.
            atoms: `heavy` leaves out the hydrogens.
            replica: of each molecule; None for all of them together.

        Raises:
            UserError: There is no such fold or part, or no split; a fold is not a whole number;
                `atoms` is neither.
        """
        if self.split is None:
            raise UserError(
                "no split has all these molecules; make one with `tg80 split --data DIR --out "
                'FILE` and load with split="FILE"'
            )
        if atoms not in ("all", "heavy"):
            raise UserError(f"atoms must be all or heavy, not {atoms!r}")
        chosen = self.split.fold(fold)
        if part not in ALL_PARTS:
            raise UserError(f"no part {part!r} in a fold; parts are {', '.join(ALL_PARTS)}")
        members = chosen.train if part in TIME_PARTS else chosen.part(part)
        found = [
            self.trajectory(*key)
            for key in self.trajectories
            if key[0] in members and replica in (None, key[1])
        ]
        if part in TIME_PARTS:
            blocks = self.split.time_blocks
            found = [t.block(*time_blocks(t.length_fs, blocks)[part]) for t in found]
        return [t.heavy_atoms() for t in found] if atoms == "heavy" else found


def molecules_of(shards: Iterable[Shard]) -> dict[str, Molecule]:
    """The molecules of some shards by name.

    Raises:
        UserError: one name stands for two compounds, or two names for one.
    """
    from tg80.chemistry.molecule import molecule_from_smiles  # RDKit

    found: dict[str, Molecule] = {}
    names: dict[str, set[str]] = {}
    for shard in shards:
        facts = shard.metadata
        if facts.name not in found:
            found[facts.name] = molecule_from_smiles(facts.smiles, facts.name)
        molecule = found[facts.name]
        if molecule.inchikey != facts.inchikey:
            raise UserError(f"{shard.path}: another shard calls a different compound {facts.name}")
        same_key = names.setdefault(molecule.inchikey, set())
        for name in same_key - {facts.name}:
            if molecule.is_same_compound(found[name]):
                raise UserError(f"{shard.path}: one compound under two names: {name}, {facts.name}")
        same_key.add(facts.name)
    return found


def download_folder() -> Path:
    """Where releases are downloaded to and looked for: `TG80_DATA`, else the current folder."""
    return Path(os.environ.get("TG80_DATA") or ".").expanduser()


def shipped_folder(name: str) -> Path:
    """Folder of a set that ships with the package, or of a release here or downloaded.

    Raises:
        UserError: there is none of that name.
    """
    if (folder := _named_set(name)) is None:
        raise UserError(f"no data set {name} here; there are {', '.join(_shipped())}")
    return folder


def _named_set(name: str) -> Path | None:
    if (folder := _shipped().get(name)) is not None:
        return folder
    downloaded = download_folder() / name
    is_release = Path(name).name == name and (downloaded / RELEASE_MANIFEST).is_file()
    return downloaded if is_release else None


def _shipped() -> dict[str, Path]:
    """Sets in the package by name; a checkout has releases, an installed package has none."""
    folder = Path(str(resources.files("tg80"))) / "data"
    shipped = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/*{SUFFIX}"))}
    releases = [path for path in sorted(folder.glob("releases/*")) if any(path.rglob(f"*{SUFFIX}"))]
    return shipped | {path.name: path for path in releases}


def shard_paths(source: Source) -> list[Path]:
    """The shards of a folder, or given one by one, each once.

    Raises:
        UserError: there is nothing of that name, or no shard in it.
    """
    named = [source] if isinstance(source, str | Path) else list(source)
    if not named or "" in named:
        raise UserError("no source is named; give the name of a set, a folder or shards")
    if not isinstance(source, str | Path):
        return list(dict.fromkeys(path for one in source for path in find_shards(one)))
    if not Path(source).exists():
        raise UserError(
            f"{source}: no such file or folder, nor a set ({', '.join(_shipped())}); "
            "`tg80 download` fetches releases"
        )
    return find_shards(source)


def _of_level(shards: list[Shard], level: str | None, source: Source) -> list[Shard]:
    levels: dict[str, list[Shard]] = {}
    for shard in shards:
        levels.setdefault(shard.metadata.level, []).append(shard)
        shard.close()  # hundreds of open files are more than some systems allow
    known = ", ".join(sorted(levels))
    if level is None and len(levels) > 1:
        raise UserError(f"{source}: holds levels of theory {known}; choose one by its level")
    if level is not None and level not in levels:
        raise UserError(f"{source}: no trajectory at level of theory {level}; there is {known}")
    return shards if level is None else levels[level]


def _split_of(
    shards: Sequence[Shard], asked: str | Path | Split | None, source: Source
) -> Split | None:
    facts = {shard.metadata.name: shard.metadata for shard in shards}
    if asked is not None:
        split = asked if isinstance(asked, Split) else load_split(asked)
        if strangers := _strangers(split, facts):
            raise UserError(
                f"split {split.version} has no {', '.join(strangers[:5])}; make one of these "
                "molecules with `tg80 split --data DIR --out FILE`"
            )
        return split.restrict(facts)
    for candidate in (*_split_files(source), TG80_VERSION):
        split = load_split(candidate)
        if not _strangers(split, facts):
            return split.restrict(facts)
    return None


def _split_files(source: Source) -> list[Path]:
    """Splits that came with the data: beside the folders of the levels."""
    if not isinstance(source, str | Path):
        return []
    folder = Path(source).absolute()
    return [path for top in (folder, folder.parent) for path in sorted(top.glob("splits/*.json"))]


def _strangers(split: Split, facts: Mapping[str, ShardMetadata]) -> list[str]:
    """Molecules that are not in the split, or are another compound there."""
    known = {name: compound.inchikey for name, compound in split.molecules.items()}
    return sorted(name for name, shard in facts.items() if known.get(name) != shard.inchikey)
