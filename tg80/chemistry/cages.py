"""Which stereoisomers of a cage there are, told by building them.

In a graph each bridgehead of norbornane or cubane can point in or out. In space most such settings
are impossible, and those that are left may be one and the same molecule. So structures are embedded
by distance geometry: freely, as small cages break the checks of chirality in RDKit's embedding, and
with each setting asked for, as a free embedding seldom meets a strained isomer (trans-fused small
rings). A structure shows the setting of a centre by the sign of the volume that its neighbours
span. Two structures are one isomer if a renumbering that keeps all bonds turns one's settings into
the other's; an isomer far above the lowest in energy counts as impossible.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.rdDistGeom import EmbedMolecule, EmbedParameters
from rdkit.Chem.rdForceFieldHelpers import (
    MMFFGetMoleculeForceField,
    MMFFGetMoleculeProperties,
    UFFGetMoleculeForceField,
)

from tg80.errors import UserError

MAX_STRAIN = 50.0
"""kcal/mol above the lowest isomer (MMFF94, UFF). What was found lies far on either side:
trans-bicyclo[3.1.0]hexane, which can be made, at 41, prismane with one hydrogen inside at 271."""
_FREE_TRIALS = 8
_FEW = 3  # open centres whose settings are all tried though free embeddings met one isomer only
_RANDOM_SEED = 1
_TAGS = {1: Chem.ChiralType.CHI_TETRAHEDRAL_CCW, -1: Chem.ChiralType.CHI_TETRAHEDRAL_CW}


@dataclass(frozen=True)
class _Isomer:
    full: Chem.Mol  # with hydrogens and one conformer
    graph: Chem.Mol  # without, the settings as chiral tags
    signs: tuple[int, ...]  # setting of each open centre: sign of the volume of its neighbours
    energy: float = 0.0  # kcal/mol

    def is_in(self, others: Iterable["_Isomer"]) -> bool:
        return any(self.graph.HasSubstructMatch(o.graph, useChirality=True) for o in others)


def cage_isomers(
    graph: Chem.Mol, centres: Sequence[int], stop_at: int | None = None
) -> list[Chem.Mol]:
    """The stereoisomers that open centres of a cage make.

    Args:
        graph: atoms in a fixed order, hydrogens implicit.
        centres: indices of the open centres.
        stop_at: isomers that are enough; None for all.

    Returns:
        Graphs with the settings written, the lowest energy first; the graph itself if there is
        one isomer only.

    Raises:
        UserError: nothing could be built.
    """
    full = Chem.AddHs(Chem.RemoveHs(graph))
    found: list[_Isomer] = []
    for isomer in _structures(full, centres, found):
        if not isomer.is_in(found):
            found[:] = _possible(centres, [*found, isomer])
        if len(found) == stop_at:
            break
    if not found:
        raise UserError("no 3D structure of this cage could be built; give another compound")
    if len(found) == 1:
        return [graph]
    for isomer in found:
        Chem.AssignStereochemistry(isomer.graph, cleanIt=True, force=True)
    return [isomer.graph for isomer in found]


def _structures(
    full: Chem.Mol, centres: Sequence[int], found: Sequence[_Isomer]
) -> Iterator[_Isomer]:
    """Structures with any settings, then with each setting if few, or if several were found."""
    # What is achiral but for the open centres can be built in a mirror as well.
    mirrors = not any(atom.GetChiralTag() for atom in full.GetAtoms())
    for trial in range(_FREE_TRIALS):
        yield from _embedded(full, centres, _RANDOM_SEED + trial, mirrors)
    if len(found) < 2 and len(centres) > _FEW:
        return
    for signs in product((1, -1), repeat=len(centres)):
        if mirrors and signs[0] < 0:
            return
        asked = Chem.Mol(full)
        for index, sign in zip(centres, signs, strict=True):
            asked.GetAtomWithIdx(index).SetChiralTag(_TAGS[sign])
        yield from _embedded(asked, centres, _RANDOM_SEED, mirrors)


def _possible(centres: Sequence[int], isomers: list[_Isomer]) -> list[_Isomer]:
    """Those not strained beyond belief, each once, by energy; one alone is not relaxed for that."""
    if len(isomers) == 1:
        return isomers
    relaxed = [_relaxed(isomer, centres) for isomer in isomers]
    lowest = min(isomer.energy for isomer in relaxed)
    possible: list[_Isomer] = []
    # Rounded, since mirror images differ in the last digits.
    for isomer in sorted(relaxed, key=lambda each: (round(each.energy, 2), each.signs)):
        if isomer.energy < lowest + MAX_STRAIN and not isomer.is_in(possible):
            possible.append(isomer)
    return possible


def _embedded(
    full: Chem.Mol, centres: Sequence[int], seed: int, mirrors: bool
) -> Iterator[_Isomer]:
    parameters = EmbedParameters()
    parameters.randomSeed = seed
    parameters.maxIterations = 10
    parameters.useRandomCoords = True
    built = Chem.Mol(full)
    try:
        with rdBase.BlockLogs():
            if EmbedMolecule(built, parameters) < 0:
                return
    except RuntimeError:  # RDKit's minimiser gives up
        return
    yield _isomer(built, centres)
    if mirrors:
        image = Chem.Mol(built)
        image.GetConformer().SetPositions(-built.GetConformer().GetPositions())
        yield _isomer(image, centres)


def _relaxed(isomer: _Isomer, centres: Sequence[int]) -> _Isomer:
    if isomer.energy:
        return isomer
    relaxed = Chem.Mol(isomer.full)
    with rdBase.BlockLogs():
        properties = MMFFGetMoleculeProperties(relaxed)
        field = (
            MMFFGetMoleculeForceField(relaxed, properties)
            if properties
            else UFFGetMoleculeForceField(relaxed)
        )
        try:
            field.Minimize(maxIts=1000)
            energy = field.CalcEnergy()
        except RuntimeError:
            return isomer
    return _isomer(relaxed, centres, energy)


def _isomer(full: Chem.Mol, centres: Sequence[int], energy: float = 0.0) -> _Isomer:
    """The isomer of a structure, its centres seen with their neighbours in order of number.

    The volume that four neighbours span has the right sign in distorted geometries, too, unlike
    that of three seen from the centre; with three neighbours the centre is the fourth point.
    """
    positions = full.GetConformer().GetPositions()
    graph = Chem.Mol(full)
    graph.RemoveAllConformers()
    signs = []
    for index in centres:
        atom = graph.GetAtomWithIdx(index)
        neighbours = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
        around = [*sorted(neighbours), index][:4]
        volume = np.linalg.det(positions[around[:3]] - positions[around[3]])
        signs.append(1 if volume > 0 else -1)
        swaps = sum(a > b for place, b in enumerate(neighbours) for a in neighbours[:place])
        atom.SetChiralTag(_TAGS[signs[-1] * (-1) ** swaps])
    return _Isomer(full, Chem.RemoveHs(graph), tuple(signs), energy)
