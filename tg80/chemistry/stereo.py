"""Stereoisomers: whether a graph stands for one compound, and which ones it stands for if not.

A stereo element is a double bond or a stereocentre with two settings. Most of those left open are
told apart by their InChIKeys, setting by setting. Bridgeheads and the like (atoms of two rings or
more) are another matter: graphs alone let each point in or out, most cages can't be built but in
one way, and the InChIKeys of equal settings may differ; `tg80.chemistry.cages` builds them to see.

Axial chirality (allenes, hindered biaryls), which SMILES can't express in RDKit, is not looked at.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcNumSpiroAtoms

from tg80.chemistry.cages import cage_isomers
from tg80.errors import UserError

MAX_OPEN = 6
"""Open stereo elements whose settings are tried one by one: 2^6 of them."""
MAX_OPEN_CAGE = 4
"""Those of them in fused or bridged rings, where each setting is built."""
_SETTINGS = {
    Chem.StereoType.Atom_Tetrahedral: (
        Chem.ChiralType.CHI_TETRAHEDRAL_CCW,
        Chem.ChiralType.CHI_TETRAHEDRAL_CW,
    ),
    Chem.StereoType.Bond_Double: (Chem.BondStereo.STEREOTRANS, Chem.BondStereo.STEREOCIS),
}


_KINDS = {
    Chem.StereoType.Atom_Tetrahedral: "stereocentre",
    Chem.StereoType.Bond_Double: "double bond",
}


def refuse_open_stereo(graphs: Sequence[Chem.Mol]) -> None:
    """Refuses what stands for more than one stereoisomer.

    Args:
        graphs: of one SMILES (see `tg80.chemistry.smiles.graphs_of`).

    Raises:
        UserError: it does.
    """
    if len({Chem.MolToInchiKey(graph) for graph in graphs[:2]}) > 1:
        raise UserError(
            "unspecified stereo: the CXSMILES block gives it as relative or racemic; write @/@@ "
            "without the block, or give --stereo first or enumerate"
        )
    plain, cage = _open_elements(Chem.AddHs(graphs[0]))
    n_open = len(plain) + len(cage)
    if not n_open or not _is_open(graphs[0], plain, cage):
        return
    kinds = {_KINDS[element.type] for element in (*plain, *cage)}
    raise UserError(
        f"{n_open} unspecified stereo element{'s' * (n_open > 1)} ({' and '.join(sorted(kinds))}); "
        "write them with @/@@ or with / and \\, or give --stereo first or enumerate"
    )


def stereoisomers(graphs: Sequence[Chem.Mol], only_first: bool = False) -> Iterator[Chem.Mol]:
    """The stereoisomers that graphs of one SMILES stand for, without mirror images of each other.

    Mirror images have the same dynamics, mirrored, so of each pair comes one. Double bonds come in
    trans before cis, bridged and fused rings by their force field energy, the lowest first.

    Args:
        graphs: of one SMILES (see `tg80.chemistry.smiles.graphs_of`).
        only_first: whether one is enough, so that their number does not matter.

    Raises:
        UserError: too many of them.
    """
    seen: set[str] = set()
    for graph in graphs:
        plain, cage = _open_elements(Chem.AddHs(graph))
        if not only_first:
            _refuse_too_many(graph, plain, cage)
        for variant in _settings(graph, plain):
            stop_at = 2 if only_first else None
            for isomer in cage_isomers(variant, _centres(cage), stop_at) if cage else [variant]:
                key = Chem.MolToInchiKey(isomer)
                if key not in seen:
                    seen |= {key, Chem.MolToInchiKey(_mirrored(isomer))}
                    yield isomer


def _refuse_too_many(graph: Chem.Mol, plain: list, cage: list) -> None:
    n_cage = len(cage)
    if n_cage > MAX_OPEN_CAGE and len(cage_isomers(graph, _centres(cage), stop_at=2)) == 1:
        n_cage = 0
    n_open = len(plain) + n_cage
    if n_open > MAX_OPEN or n_cage > MAX_OPEN_CAGE:
        raise UserError(
            f"{n_open} unspecified stereo elements, {n_cage} of fused or bridged rings; at most "
            f"{MAX_OPEN} and {MAX_OPEN_CAGE} are enumerated: write some, or give --stereo first"
        )


def _open_elements(full: Chem.Mol) -> tuple[list, list]:
    """Stereo elements left open: those outside cages, and those of cages.

    With hydrogens: an imine's C=N-H is a double bond with two settings like any other.
    """
    rings = full.GetRingInfo()
    spiro: Any = []  # RDKit's stubs take this list for something else
    CalcNumSpiroAtoms(full, atoms=spiro)
    plain, cage = [], []
    for element in Chem.FindPotentialStereo(full):
        if element.specified != Chem.StereoSpecified.Unspecified or element.type not in _SETTINGS:
            continue
        centre, atom = element.type == Chem.StereoType.Atom_Tetrahedral, element.centeredOn
        in_cage = centre and rings.NumAtomRings(atom) > 1 and atom not in spiro
        (cage if in_cage else plain).append(element)
    return plain, cage


def _is_open(graph: Chem.Mol, plain: list, cage: list) -> bool:
    first = None
    for isomer in _settings(graph, plain[:MAX_OPEN]):
        key = Chem.MolToInchiKey(isomer)
        if first not in (None, key):
            return True
        first = key
    return bool(cage) and len(cage_isomers(graph, _centres(cage), stop_at=2)) > 1


def _centres(elements: list) -> list[int]:
    return [element.centeredOn for element in elements]


def _settings(graph: Chem.Mol, elements: list) -> Iterator[Chem.Mol]:
    """The graph with every choice of the settings of some elements."""
    if not elements:
        yield graph
        return
    full = Chem.AddHs(graph)
    for choice in product((0, 1), repeat=len(elements)):
        isomer = Chem.Mol(full)
        for element, index in zip(elements, choice, strict=True):
            setting = _SETTINGS[element.type][index]
            if element.type == Chem.StereoType.Atom_Tetrahedral:
                isomer.GetAtomWithIdx(element.centeredOn).SetChiralTag(setting)
            else:
                # Hydrogens come last and where there is no atom there is a large number.
                ends = list(element.controllingAtoms)
                begin, end = min(ends[:2]), min(ends[2:])
                bond = isomer.GetBondWithIdx(element.centeredOn)
                bond.SetStereoAtoms(begin, end)
                bond.SetStereo(setting)
        Chem.SetDoubleBondNeighborDirections(isomer)
        Chem.AssignStereochemistry(isomer, cleanIt=True, force=True)
        yield Chem.RemoveHs(isomer)


def _mirrored(graph: Chem.Mol) -> Chem.Mol:
    mirror = Chem.Mol(graph)
    for atom in mirror.GetAtoms():
        atom.InvertChirality()
    return mirror
