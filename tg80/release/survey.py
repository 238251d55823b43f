"""What a publication is made of: the facts of every shard, the split, and where each file goes.

Every figure is computed from the frames, and every shard is read and judged once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from tg80.elements import SYMBOLS
from tg80.errors import UserError
from tg80.release.manifest import PublishedShard, flat_path
from tg80.shards.checks.evidence import Evidence
from tg80.shards.metadata import ShardMetadata
from tg80.shards.problems import Problem
from tg80.shards.quality import Check, count_flags
from tg80.shards.shard import SUFFIX, find_shards
from tg80.shards.validate import examine
from tg80.shards.vibrations import DensityOfStates, density_of_states
from tg80.splits.split import PARTS, Split

BOND_EDGES = np.linspace(0.6, 2.8, 441)
"""Edges of the bins of bond lengths, A."""
_BOND_SIGNS = {1.0: "-", 1.5: ":", 2.0: "=", 3.0: "#"}


@dataclass(frozen=True)
class ShardFacts:
    """One shard, without its frames.

    Attributes:
        path: The file.
        n_bytes: Its size.
        sha256: Its checksum when it was read.
        metadata: What it says of itself.
        n_atoms: Number of atoms.
        n_evaluated: Frames with energies and forces.
        checks: Figures with error, threshold and verdict, by name.
        n_flagged: Frames with each quality flag.
        scf_cycles: Mean over the frames evaluated; None where the method reports none.
        warnings: "check: message" of every warning of `tg80 validate`.
        bond_lengths: Kind of bond ("C-H", "C=O", ":" for aromatic) -> counts in `BOND_EDGES`.
        vibrations: Vibrational density of states.
    """

    path: Path
    n_bytes: int
    sha256: str
    metadata: ShardMetadata
    n_atoms: int
    n_evaluated: int
    checks: dict[str, Check]
    n_flagged: dict[str, int]
    scf_cycles: float | None
    warnings: tuple[str, ...]
    bond_lengths: dict[str, np.ndarray]
    vibrations: DensityOfStates

    @property
    def id(self) -> str:
        """NAME-rK."""
        return f"{self.metadata.name}-r{self.metadata.replica}"


@dataclass(frozen=True)
class Publication:
    """One version of a data set as it is to be published.

    Paths are those of the manifest: below the version's folder, with `/`. Hosts without folders
    (Zenodo) get flat names, `--` in place of each `/`; names of compounds have no double hyphens.

    Attributes:
        name: Of the data set.
        version: Of the data.
        created: ISO date.
        licence: SPDX id of all shards.
        authors: Who made the data.
        facts: The shards, sorted.
        split: The split whose folds are listed; None without one.
        outside: Compounds in no fold -> the compound of the split with the same connectivity, "" if
            there is none.
        about: Markdown for the top of the card.
        url: Where the version's folder will be served, without a slash at the end; "" if unknown.
        flat: Whether all files lie in one folder.
        here: Folder in which the shards are published where they are; None if they are copied.
    """

    name: str
    version: str
    created: str
    licence: str
    authors: tuple[str, ...]
    facts: tuple[ShardFacts, ...]
    split: Split | None = None
    outside: dict[str, str] = field(default_factory=dict)
    about: str = ""
    url: str = ""
    flat: bool = False
    here: Path | None = None

    def place(self, path: str) -> str:
        """Path of a file below the version's folder."""
        return flat_path(path) if self.flat else path

    def address(self, path: str) -> str:
        """URL of a file; relative to the version's folder while that has no address."""
        return f"{self.url}/{path}" if self.url else path

    @cached_property
    def shards(self) -> tuple[PublishedShard, ...]:
        """The trajectories as the manifest lists them, in the order of `facts`.

        Raises:
            UserError: A name or level cannot be part of a path.
        """
        return tuple(map(self._published, self.facts))

    def _published(self, fact: ShardFacts) -> PublishedShard:
        known = fact.metadata
        if self.here is None:
            path = self.place(f"{known.level}/{fact.id}{SUFFIX}")
        else:
            path = fact.path.relative_to(self.here).as_posix()
        try:
            return PublishedShard(
                path=path,
                n_bytes=fact.n_bytes,
                sha256=fact.sha256,
                molecule=known.name,
                replica=known.replica,
                smiles=known.smiles,
                inchikey=known.inchikey,
                level=known.level,
                n_frames=known.n_frames,
                frame_fs=known.store_every_fs,
                length_fs=known.length_fs,
                ensemble=known.ensemble,
                licence=known.licence,
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"{fact.path}: {reason}; rename the compound") from None

    @cached_property
    def folds(self) -> dict[int, dict[str, list[str]]]:
        """Paths of the shards in each part of each fold."""
        return {
            fold.index: {
                part: sorted(s.path for s in self.shards if s.molecule in fold.part(part))
                for part in PARTS
            }
            for fold in (self.split.folds if self.split else ())
        }


def survey(folder: Path | str, tell: Callable[[str], None] = lambda _: None) -> list[ShardFacts]:
    """Validate and describe every shard of a folder or tree.

    Args:
        folder: As for `find_shards`.
        tell: Called with the name of each shard before it is read.

    Returns:
        Facts sorted by level, name and replica.

    Raises:
        UserError: There is no shard, one has errors, two are of one trajectory at one level, or
            two compounds have one name.
    """
    facts: list[ShardFacts] = []
    errors: list[Problem] = []
    for path in find_shards(folder):
        tell(path.name)
        found = examine(path)
        if problem := next((p for p in found.problems if p.level == "error"), None):
            errors.append(problem)
        elif found.evidence is not None:
            warnings = tuple(f"{p.check}: {p.message}" for p in found.problems)
            facts.append(_describe(path, found.sha256, warnings, found.evidence))
    if errors:
        named = "; ".join(f"{e.file}: {e.check}: {e.message}" for e in errors)
        raise UserError(f"{len(errors)} shards have errors, remove or repair them: {named}")
    facts.sort(key=lambda f: (f.metadata.level, f.metadata.name, f.metadata.replica))
    _check_unique(facts)
    return facts


def by_level(facts: Iterable[ShardFacts]) -> dict[str, list[ShardFacts]]:
    """The facts of each level of theory, in order."""
    levels: dict[str, list[ShardFacts]] = {}
    for fact in facts:
        levels.setdefault(fact.metadata.level, []).append(fact)
    return levels


def _check_unique(facts: Sequence[ShardFacts]) -> None:
    seen: dict[tuple[str, str], ShardFacts] = {}
    compounds: dict[str, ShardFacts] = {}
    for fact in facts:
        first = seen.setdefault((fact.metadata.level, fact.id), fact)
        if first is not fact:
            raise UserError(f"{fact.path} and {first.path} are both {fact.id}; keep one of them")
        other = compounds.setdefault(fact.metadata.name, fact)
        if other.metadata.inchikey != fact.metadata.inchikey:
            raise UserError(
                f"{fact.path} and {other.path}: two compounds are called {fact.metadata.name}; "
                "rename one"
            )


def _describe(path: Path, sha256: str, warnings: tuple[str, ...], evidence: Evidence) -> ShardFacts:
    cycles = evidence.at_level.frames["scf_cycles"]
    return ShardFacts(
        path=path,
        n_bytes=path.stat().st_size,
        sha256=sha256,
        metadata=evidence.metadata,
        n_atoms=evidence.n_atoms,
        n_evaluated=evidence.at_level.n_frames,
        checks=evidence.quality.checks,
        n_flagged=count_flags(evidence.frames["quality_flags"]),
        scf_cycles=float(cycles.mean()) if np.all(cycles >= 0) else None,
        warnings=warnings,
        bond_lengths=bond_lengths(evidence.frames["positions"], evidence.numbers, evidence.bonds),
        vibrations=density_of_states(
            evidence.frames["velocities"], evidence.masses, evidence.metadata.store_every_fs
        ),
    )


def bond_kind(first: int, second: int, order: float) -> str:
    """How a bond between two atomic numbers is written, hydrogen last: C-H, C=O, C:N."""
    symbols = (SYMBOLS[number] for number in (first, second))
    ends = sorted(symbols, key=lambda symbol: (symbol == "H", symbol))
    return _BOND_SIGNS.get(order, "~").join(ends)


def bond_lengths(
    positions: np.ndarray, numbers: np.ndarray, bonds: Iterable[tuple[int, int, float]]
) -> dict[str, np.ndarray]:
    """Kind of bond -> counts in `BOND_EDGES`, of positions (n_frames, n_atoms, 3) in A."""
    counts: dict[str, np.ndarray] = {}
    for i, j, order in bonds:
        kind = bond_kind(numbers[i], numbers[j], order)
        lengths = np.linalg.norm(positions[:, i] - positions[:, j], axis=1)
        inside = np.clip(lengths, BOND_EDGES[0], BOND_EDGES[-1])
        counts[kind] = counts.get(kind, 0) + np.histogram(inside, BOND_EDGES)[0]
    return dict(sorted(counts.items()))
