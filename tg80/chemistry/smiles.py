"""From the text of a SMILES or CXSMILES to a checked graph in canonical order.

A graph here is an RDKit molecule whose hydrogens are implicit, but those that carry the stereo of a
double bond, with its heavy atoms in the order of its canonical SMILES.

Of CXSMILES (`SMILES |features|`) those features are understood that change no atom or bond
(coordinates, atom values and properties, lone pairs) and those of stereo; whatever else the block
says could change the molecule, and is refused.
"""

import re

from rdkit import Chem, rdBase

from tg80.errors import UserError
from tg80.theory import SUPPORTED_ELEMENTS

MAX_ATOMS = 200
"""Largest molecule taken, hydrogens counted; a larger one is refused before any costly step."""
MAX_SMILES_LENGTH = 2000
MAX_BLOCK_LENGTH = 100 * MAX_ATOMS  # coordinates take some 30 characters an atom
_MAX_GROUPS = 6  # groups of relative stereo
_UNDERSTOOD = re.compile(r"a|c|t|ctu|w|wU|wD|r|lp|f|atomProp|[o&]\d+")
_BONDS = tuple(
    getattr(Chem.BondType, name) for name in ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "DATIVE")
)
_ATROPISOMERS = (Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW)


def graphs_of(text: str) -> list[Chem.Mol]:
    """The graphs that a SMILES or CXSMILES stands for.

    Returns:
        One graph; several if a CXSMILES gives stereo as relative or racemic (`o1:`, `&1:`, `r`):
        what is written first, then with groups of centres inverted. Centres of which nothing is
        said are not looked at here (see `tg80.chemistry.stereo`).

    Raises:
        UserError: no compound that can be computed; the message says why and what to do.
    """
    with rdBase.BlockLogs():
        smiles, block = (*text.split(maxsplit=1), "", "")[:2]
        block = block.strip()
        if block and not re.fullmatch(r"\|[^|]*\|", block):
            shown = _shortened(text)
            raise UserError(f"invalid SMILES {shown}: no CXSMILES block follows it; correct it")
        features = _features(block[: MAX_BLOCK_LENGTH + 1])
        graph = _parse(smiles, block, _shortened(text))
        graphs: dict[str, Chem.Mol] = {}
        for alternative in _alternatives(graph, features):
            found = canonical_graph(Chem.RemoveHs(alternative))
            graphs.setdefault(Chem.MolToSmiles(found), found)
        _refuse_open_shells(next(iter(graphs.values())))
    return list(graphs.values())


def canonical_graph(graph: Chem.Mol) -> Chem.Mol:
    """The graph with its atoms in the order of its canonical SMILES, a fixed point of writing."""
    smiles = Chem.MolToSmiles(graph)
    for _ in range(5):
        graph = Chem.MolFromSmiles(smiles)
        again = Chem.MolToSmiles(graph)
        if again == smiles:
            break
        smiles = again
    return graph


def same_compound(one: str, other: str) -> bool:
    """Whether two SMILES are ways of drawing one compound; two tautomers are not."""
    if one == other:
        return True
    with rdBase.BlockLogs():
        # With every hydrogen at its place, where the standard InChI lets it move.
        inchis = {
            Chem.MolToInchi(Chem.MolFromSmiles(smiles), options="/FixedH")
            for smiles in (one, other)
        }
    return len(inchis) == 1


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _parse(smiles: str, block: str, shown: str) -> Chem.Mol:
    """Sanitized graph with the hydrogens as written, without map numbers; refuses what is none."""
    if not smiles:
        raise UserError("no SMILES; write one, or remove the line")
    if len(smiles) > MAX_SMILES_LENGTH or len(block) > MAX_BLOCK_LENGTH:
        raise UserError(
            f"SMILES of {len(smiles) + len(block)} characters; molecules up to {MAX_ATOMS} atoms "
            "are supported"
        )
    if not (smiles + block).isascii():  # RDKit would skip such letters
        raise UserError(f"invalid SMILES {shown}: it has non-ASCII letters; type it again")
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    parameters.sanitize = False
    parameters.allowCXSMILES = bool(block)
    parameters.strictCXSMILES = True
    parameters.parseName = False
    try:
        graph = Chem.MolFromSmiles(f"{smiles} {block}" if block else smiles, parameters)
    except (RuntimeError, ValueError):
        graph = None
    if graph is None:
        raise UserError(f"invalid SMILES {shown}: it can't be parsed; correct it")
    problems = Chem.DetectChemistryProblems(graph)
    if problems:
        reason = problems[0].Message().strip().split("\n")[0].rstrip(".")
        raise UserError(f"invalid SMILES {shown}: {reason}; correct it")
    _refuse_by_composition(graph)
    for atom in graph.GetAtoms():
        atom.SetAtomMapNum(0)
    Chem.SanitizeMol(graph)
    if any(bond.GetStereo() in _ATROPISOMERS for bond in graph.GetBonds()):
        raise UserError("axial chirality (a wedged biaryl) can't be kept; give another compound")
    Chem.AssignStereochemistry(graph, cleanIt=True, force=True)
    return graph


def _features(block: str) -> set[str]:
    """Names of the features of a CXSMILES block.

    Raises:
        UserError: one of them is not understood, or changes the molecule.
    """
    labels = [label for text in re.findall(r"\$[^$]*\$", block) for label in text[1:-1].split(";")]
    if any(label and not label.startswith("_AV:") for label in labels):
        raise UserError("CXSMILES with labels of atoms, which may stand for groups; remove them")
    rest = re.sub(r"\$[^$]*\$|\([^()]*\)", "", block.strip().strip("|"))
    names = set()
    for piece in rest.split(","):
        name, colon, _ = piece.partition(":")
        if re.fullmatch(r"[\d.]*", name) and not colon:
            continue  # the list of the feature before goes on
        if not _UNDERSTOOD.fullmatch(name):
            raise UserError(
                f"CXSMILES feature {_shortened(name)} is not understood; write the compound without"
            )
        names.add(name)
    return names


def _alternatives(graph: Chem.Mol, features: set[str]) -> list[Chem.Mol]:
    """The graph, and with each group of relative or racemic centres inverted."""
    absolute = Chem.StereoGroupType.STEREO_ABSOLUTE
    groups = [
        [atom.GetIdx() for atom in group.GetAtoms()]
        for group in graph.GetStereoGroups()
        if group.GetGroupType() != absolute
    ]
    if "r" in features:
        groups = [[atom.GetIdx() for atom in graph.GetAtoms()]]
    if len(groups) > _MAX_GROUPS:
        raise UserError(f"{len(groups)} groups of relative stereo; at most {_MAX_GROUPS} are taken")
    alternatives = [Chem.RWMol(graph)]
    alternatives[0].SetStereoGroups([])
    for group in groups[::-1]:  # the first group changes last
        inverted = [Chem.RWMol(other) for other in alternatives]
        for other in inverted:
            for index in group:
                other.GetAtomWithIdx(index).InvertChirality()
        alternatives += inverted
    return [other.GetMol() for other in alternatives]


def _refuse_by_composition(graph: Chem.Mol) -> None:
    """Counts only: nothing here costs more than the number of atoms."""
    if graph.GetNumAtoms() == 0:
        raise UserError("no atoms in the SMILES; write one, or remove the line")
    unsupported = sorted({a.GetSymbol() for a in graph.GetAtoms()} - set(SUPPORTED_ELEMENTS))
    if unsupported:
        raise UserError(
            f"unsupported element {', '.join(unsupported)}; supported are "
            + " ".join(SUPPORTED_ELEMENTS)
        )
    if any(bond.GetBondType() not in _BONDS for bond in graph.GetBonds()):
        raise UserError("a bond of no definite order ('~'); write single, double or triple bonds")
    if any(atom.GetIsotope() for atom in graph.GetAtoms()):
        raise UserError("isotope labels are not supported; write the element without its mass")
    graph.UpdatePropertyCache(strict=False)
    n_atoms = sum(1 + atom.GetTotalNumHs() for atom in graph.GetAtoms())
    if n_atoms > MAX_ATOMS:
        raise UserError(f"{n_atoms} atoms; molecules up to {MAX_ATOMS} atoms are supported")
    n_fragments = len(Chem.GetMolFrags(graph))
    if n_fragments > 1:
        raise UserError(
            f"{n_fragments} fragments (a salt or a mixture); give one compound, without '.'"
        )
    if n_atoms < 2:
        raise UserError("a single atom has no dynamics; give a molecule of 2 atoms or more")


def _refuse_open_shells(graph: Chem.Mol) -> None:
    if any(atom.GetNumRadicalElectrons() for atom in graph.GetAtoms()):
        raise UserError("a radical or carbene; only closed-shell singlets are supported")
    everything = Chem.AddHs(graph)
    numbers = [atom.GetAtomicNum() for atom in everything.GetAtoms()]
    if (sum(numbers) - Chem.GetFormalCharge(graph)) % 2:
        raise UserError("an odd number of electrons; only closed-shell singlets are supported")
    table = Chem.GetPeriodicTable()
    valence = sum(table.GetNOuterElecs(n) for n in numbers) - Chem.GetFormalCharge(graph)
    if len(numbers) == 2 and 1 not in numbers and valence == 12:
        # Two electrons in two degenerate pi* orbitals: O2, S2, SO, NO-.
        raise UserError(
            "a triplet ground state like O2's; only closed-shell singlets are supported"
        )
