"""Further training compounds: which of them a fold may learn from, its tests being no easier.

A compound is left out of a fold if it is nearer to one of the fold's held-out compounds than the
training compounds of the split are, by the Tanimoto similarity of the split's fingerprints. So the
similarity of `test_ood` to train, compound by compound, is what it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tg80.chemistry.molecule import Molecule
from tg80.splits.clusters import fingerprints, tanimoto
from tg80.splits.split import Split, compound_of

ROUND_OFF = 1e-9


@dataclass(frozen=True)
class TooNear:
    """A compound that a fold must not learn from, and the held-out compound that says so.

    Attributes:
        similarity: of the two.
        of_train: of the held-out compound and its nearest training compound.
    """

    name: str
    held: str
    similarity: float
    of_train: float


@dataclass(frozen=True)
class ExtraFold:
    """What one fold may learn from, and what not."""

    fold: int
    allowed: tuple[str, ...]
    too_near: tuple[TooNear, ...]


@dataclass(frozen=True)
class ExtraCheck:
    """What `check_extra` found; `problems` is empty if the list can be used."""

    problems: tuple[str, ...]
    folds: tuple[ExtraFold, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return asdict(self)


def check_extra(split: Split, molecules: Sequence[Molecule]) -> ExtraCheck:
    """Check further compounds against a split, fold by fold.

    Args:
        split: whose folds they are added to.
        molecules: the further compounds.
    """
    bits = fingerprints([c.smiles for c in split.molecules.values()], split.fingerprint)
    row = {name: i for i, name in enumerate(split.molecules)}
    near = tanimoto(fingerprints([m.smiles for m in molecules], split.fingerprint), bits)
    among = tanimoto(bits, bits)
    folds = []
    for fold in split.folds:
        train = [row[name] for name in fold.train]
        too_near = []
        for molecule, similarity in zip(molecules, near, strict=True):
            for held in fold.test_ood:
                own, of_train = similarity[row[held]], among[row[held], train].max(initial=0.0)
                if own > of_train + ROUND_OFF:
                    too_near.append(TooNear(molecule.name, held, float(own), float(of_train)))
                    break
        left_out = {one.name for one in too_near}
        allowed = tuple(m.name for m in molecules if m.name not in left_out)
        folds.append(ExtraFold(fold.index, allowed, tuple(too_near)))
    return ExtraCheck(tuple(_problems(split, molecules, folds)), tuple(folds))


def _problems(
    split: Split, molecules: Sequence[Molecule], folds: Sequence[ExtraFold]
) -> Iterator[str]:
    """What is wrong with the list itself."""
    blocks = {compound.block: name for name, compound in split.molecules.items()}
    used = {name for fold in folds for name in fold.allowed}
    for molecule in molecules:
        same = blocks.get(compound_of(molecule).block)
        if same is not None:
            yield f"{molecule.name} has the connectivity of {same}"
        elif molecule.name in split.molecules:
            yield f"{molecule.name} is the name of a compound of {split.version}"
        elif molecule.name not in used:
            yield f"{molecule.name} is too near to held-out compounds in every fold"
