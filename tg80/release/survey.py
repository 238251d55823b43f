"""What a folder of shards holds, found out once: facts for the catalogue, the data card, the plots.

Every figure is computed from the frames; every shard is validated on the way, and one with errors
stops the survey.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from tg80.errors import UserError
from tg80.files import file_sha256
from tg80.shards.checks.content import judge_shard
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS
from tg80.shards.metadata import ShardMetadata
from tg80.shards.problems import Problem
from tg80.shards.quality import Check, Frames, count_flags
from tg80.shards.shard import Shard, find_shards
from tg80.shards.validate import validate

BOND_EDGES = np.linspace(0.6, 2.8, 441)
"""Edges of the bins of bond lengths, A."""
_BOND_SIGNS = {1.0: "-", 1.5: ":", 2.0: "=", 3.0: "#"}


@dataclass(frozen=True)
class ShardFacts:
    """One shard, without its frames.

    Attributes:
        path, n_bytes, sha256: the file as it was when it was looked at.
        metadata: what it says of itself.
        n_atoms: number of atoms.
        checks: figures with error, threshold and verdict, by name.
        n_flagged: frames with each quality flag.
        scf_cycles: mean over the stored frames; None where the method does not tell.
        warnings: "check: message" of everything `tg80 validate` warns of.
        bond_lengths: kind of bond ("C-H", "C=O", ":" for aromatic) -> counts in `BOND_EDGES`.
    """

    path: Path
    n_bytes: int
    sha256: str
    metadata: ShardMetadata
    n_atoms: int
    checks: dict[str, Check]
    n_flagged: dict[str, int]
    scf_cycles: float | None
    warnings: tuple[str, ...]
    bond_lengths: dict[str, np.ndarray]

    @property
    def id(self) -> str:
        """NAME-rK."""
        return f"{self.metadata.name}-r{self.metadata.replica}"


def survey(folder: Path | str, tell: Callable[[str], None] = lambda _: None) -> list[ShardFacts]:
    """Validate and describe every shard of a folder or tree.

    Args:
        folder: as for `find_shards`.
        tell: is called with the name of each shard before it is looked at.

    Returns:
        Facts sorted by level, name and replica.

    Raises:
        UserError: nothing there; a shard with errors; two shards of one trajectory at one level;
            one name for two compounds.
    """
    facts: list[ShardFacts] = []
    errors: dict[str, Problem] = {}
    for path in find_shards(folder):
        tell(path.name)
        try:
            digest = file_sha256(path)
        except OSError as error:
            reason = error.strerror or str(error)
            errors[str(path)] = Problem("error", str(path), "readable", reason)
            continue
        problems = validate(path)
        if problem := next((p for p in problems if p.level == "error"), None):
            errors[str(path)] = problem
        else:
            facts.append(_describe(path, digest, problems))
    if errors:
        named = "; ".join(f"{path}: {e.check}: {e.message}" for path, e in errors.items())
        raise UserError(f"{len(errors)} shards have errors, remove or mend them: {named}")
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


def _describe(path: Path, digest: str, problems: Sequence[Problem]) -> ShardFacts:
    with Shard(path) as shard:
        frames = {f.name: shard.read(f.name) for f in (*FRAME_FIELDS, *AXIS_FIELDS)}
        cycles = frames["scf_cycles"]
        return ShardFacts(
            path=path,
            n_bytes=path.stat().st_size,
            sha256=digest,
            metadata=shard.metadata,
            n_atoms=shard.n_atoms,
            checks=judge_shard(shard, frames).checks,
            n_flagged=count_flags(frames["quality_flags"]),
            scf_cycles=float(cycles.mean()) if np.all(cycles >= 0) else None,
            warnings=tuple(f"{p.check}: {p.message}" for p in problems),
            bond_lengths=_bond_lengths(frames, shard.atomic_numbers, shard.metadata),
        )


def _bond_lengths(
    frames: Frames, atomic_numbers: np.ndarray, metadata: ShardMetadata
) -> dict[str, np.ndarray]:
    counts: dict[str, np.ndarray] = {}
    for i, j, order in metadata.bonds:
        # Hydrogen last, as bonds are written: C-H, O-H.
        ends = sorted((chemical_symbols[atomic_numbers[k]] for k in (i, j)), key=_hydrogen_last)
        kind = _BOND_SIGNS.get(order, "~").join(ends)
        lengths = np.linalg.norm(frames["positions"][:, i] - frames["positions"][:, j], axis=1)
        inside = np.clip(lengths, BOND_EDGES[0], BOND_EDGES[-1])
        found = np.histogram(inside, BOND_EDGES)[0]
        counts[kind] = counts.get(kind, 0) + found
    return dict(sorted(counts.items()))


def _hydrogen_last(symbol: str) -> tuple[bool, str]:
    return symbol == "H", symbol
