"""Molecules: what a SMILES must be to enter a run, and the order of its atoms.

A compound is accepted if it is one closed-shell singlet fragment of 2 to `MAX_ATOMS` atoms with
all of its stereo given. Its atoms are ordered once and for all: heavy atoms in the order of RDKit's
canonical SMILES, then hydrogens. The atom-mapped SMILES carries that order to other programs.

Names become file and folder names, so they are lower-case slugs (`slug`).
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions
from rdkit.Chem.rdDistGeom import EmbedMolecule, EmbedParameters
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from tg80.constants import masses_of
from tg80.errors import UserError
from tg80.theory import SUPPORTED_ELEMENTS

MAX_ATOMS = 200
"""Largest molecule taken, hydrogens counted; a larger one is refused before any costly step."""
MAX_SMILES_LENGTH = 2000
MAX_NAME_LENGTH = 64
_MAX_UNSPECIFIED = 8  # stereo elements tried one by one before giving up: 2^8 isomers
_EMBEDDING_TRIALS = 10  # random starts before a stereoisomer is taken to be impossible
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{a}{i}" for a in ("com", "lpt") for i in range(1, 10)}
_NO_STEREO_BLOCK = "UHFFFAOYSA"


@dataclass(frozen=True)
class Molecule:
    """One compound with its atoms in a fixed order.

    Attributes:
        name: lower-case slug, safe as a file name.
        smiles: canonical isomeric SMILES.
        mapped_smiles: SMILES with every hydrogen; map number i + 1 is atom index i.
        inchikey: standard InChIKey.
        formula: Hill formula, with the charge if there is one.
        charge: total charge in e.
        atomic_numbers: (n_atoms,), heavy atoms first.
        bonds: (i, j, order) with i < j; aromatic bonds have order 1.5.
    """

    name: str
    smiles: str
    mapped_smiles: str
    inchikey: str
    formula: str
    charge: int
    atomic_numbers: tuple[int, ...]
    bonds: tuple[tuple[int, int, float], ...]

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @property
    def n_heavy(self) -> int:
        return sum(number > 1 for number in self.atomic_numbers)

    @property
    def inchikey_block(self) -> str:
        """First block of the InChIKey (14 letters): the connectivity without stereo."""
        return self.inchikey[:14]

    @cached_property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements in the molecule."""
        table = Chem.GetPeriodicTable()
        return frozenset(table.GetElementSymbol(number) for number in set(self.atomic_numbers))

    @property
    def masses(self) -> np.ndarray:
        """Standard atomic weights, shape (n_atoms,), u."""
        return masses_of(self.atomic_numbers)

    def to_rdkit(self) -> Chem.Mol:
        """RDKit molecule with explicit hydrogens, atoms in the order of `atomic_numbers`."""
        return _from_mapped_smiles(self.mapped_smiles)


def molecule_from_smiles(smiles: str, name: str | None = None) -> Molecule:
    """The molecule of a SMILES, checked.

    Args:
        smiles: any valid SMILES; atom map numbers in it are ignored.
        name: made a slug by `slug`; None gives `default_name`.

    Raises:
        UserError: the SMILES or the name can't be used; the message says why and what to do.
    """
    with rdBase.BlockLogs():
        graph = _canonical_graph(_parse(smiles))
        _refuse_open_shells(graph)
        # With hydrogens: an imine's C=N-H is a double bond with two settings like any other.
        _refuse_unspecified_stereo(Chem.AddHs(graph))
        molecule = _with_hydrogens(graph)
    if name is not None and name.strip():
        return _renamed(molecule, slug(name))
    return _renamed(molecule, default_name(molecule))


def default_name(molecule: Molecule) -> str:
    """Name of a compound that came without one.

    The slug of `molecules.csv` for one of the 80 (same InChIKey and same canonical SMILES: another
    tautomer is not called by that name), else formula and InChIKey letters in lower case, such as
    `c3h7no-zmxddkwl`, with letters of the stereo block after it if the compound has stereo.
    """
    known = _tg80_by_inchikey().get(molecule.inchikey)
    if known is not None and known.smiles == molecule.smiles:
        return known.name
    return _formula_name(molecule)


def slug(name: str) -> str:
    """A name as a lower-case slug: letters and digits in groups joined by single hyphens.

    Accents are dropped, Greek letters spelled (alpha, beta, ...), everything between the groups
    (spaces, commas, brackets, primes, dots, underscores) becomes one hyphen: `1,4-Dioxane` is
    `1-4-dioxane`. What looks like a path or can't be written in ASCII is refused, not repaired.

    Raises:
        UserError: the name would leave the folder, has control or foreign letters, is empty, too
            long, or reserved by an operating system.
    """
    shown = repr(name if len(name) <= 40 else name[:37] + "...")
    if any(mark in name for mark in "/\\") or name.lstrip().startswith("."):
        raise UserError(f"name {shown} looks like a path; use letters, digits and hyphens")
    if any(unicodedata.category(letter) in ("Cc", "Cf") and letter != "\t" for letter in name):
        raise UserError(f"name {shown} has a control character; use letters, digits and hyphens")
    text = "".join(_spelled(letter) for letter in unicodedata.normalize("NFKD", name))
    foreign = sorted({letter for letter in text if not letter.isascii() and letter.isalnum()})
    if foreign:
        raise UserError(
            f"name {shown} has letters that have no ASCII form ({' '.join(foreign)}); "
            "use letters a-z, digits and hyphens"
        )
    result = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    if not result:
        raise UserError(f"name {shown} has no letter or digit; leave it out or give another")
    if len(result) > MAX_NAME_LENGTH:
        raise UserError(f"name {shown} is longer than {MAX_NAME_LENGTH} letters; shorten it")
    if result in _RESERVED:
        raise UserError(f"name {shown} is reserved by Windows; give another")
    return result


def read_molecule_list(source) -> list[Molecule]:
    """Molecules of a list file, of standard input (`-`) or of the data set (`tg80`).

    See `tg80.molecule_lists` for the two formats (`.smi` and CSV).

    Args:
        source: path, `-` or `tg80`.

    Raises:
        UserError: one line for each bad line of the list: `FILE:LINE: reason; what to do`.
    """
    from tg80.molecule_lists import read_list

    return tg80_molecules() if str(source) == "tg80" else read_list(source)


def tg80_molecules() -> list[Molecule]:
    """The 80 compounds of TG80, in the order of `molecules.csv`."""
    return list(_tg80_by_inchikey().values())


def tg80_table_text() -> str:
    """`molecules.csv` as text: name, smiles, inchikey, formula, n_atoms, n_heavy."""
    return (resources.files("tg80") / "data" / "molecules.csv").read_text(encoding="utf-8")


@cache
def _tg80_by_inchikey() -> dict[str, Molecule]:
    rows = [line.split(",") for line in tg80_table_text().splitlines()[1:]]
    molecules = [molecule_from_smiles(smiles, name) for name, smiles, *_ in rows]
    return {molecule.inchikey: molecule for molecule in molecules}


def _renamed(molecule: Molecule, name: str) -> Molecule:
    fields = {key: getattr(molecule, key) for key in Molecule.__dataclass_fields__}
    return Molecule(**{**fields, "name": name})


def _formula_name(molecule: Molecule) -> str:
    formula = re.sub(r"[+-]\d*$", "", molecule.formula).lower()
    connectivity, stereo = molecule.inchikey.split("-")[:2]
    parts = [formula, connectivity[:8].lower()]
    if not stereo.startswith(_NO_STEREO_BLOCK[:8]):
        parts.append(stereo[:8].lower())
    return "-".join(parts)[:MAX_NAME_LENGTH]


def _spelled(letter: str) -> str:
    if unicodedata.combining(letter):
        return ""
    if "α" <= letter.lower() <= "ω":
        return unicodedata.name(letter).split()[-1].lower()
    return {"ß": "ss", "ø": "o", "Ø": "o", "æ": "ae", "Æ": "ae", "ł": "l", "Ł": "l"}.get(
        letter, letter
    )


def _parse(smiles: str) -> Chem.Mol:
    """Sanitized graph without hydrogens, map numbers or isotopes; refuses what is not one."""
    shown = smiles if len(smiles) <= 60 else smiles[:57] + "..."
    if not smiles.strip():
        raise UserError("no SMILES; write one, or remove the line")
    if len(smiles) > MAX_SMILES_LENGTH:
        raise UserError(
            f"SMILES of {len(smiles)} characters; molecules up to {MAX_ATOMS} atoms are supported"
        )
    if not smiles.isascii():
        raise UserError(f"invalid SMILES {shown!r}: it has non-ASCII letters; type it again")
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    parameters.sanitize = False
    parameters.allowCXSMILES = False
    parameters.parseName = False
    graph = Chem.MolFromSmiles(smiles, parameters)
    if graph is None:
        raise UserError(f"invalid SMILES {shown!r}: it can't be parsed; correct it")
    problems = Chem.DetectChemistryProblems(graph)
    if problems:
        reason = problems[0].Message().strip().split("\n")[0].rstrip(".")
        raise UserError(f"invalid SMILES {shown!r}: {reason}; correct it")
    _refuse_by_composition(graph)
    for atom in graph.GetAtoms():
        atom.SetAtomMapNum(0)
    Chem.SanitizeMol(graph)
    Chem.AssignStereochemistry(graph, cleanIt=True, force=True)
    return Chem.RemoveHs(graph)


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


def _canonical_graph(graph: Chem.Mol) -> Chem.Mol:
    """The graph with its atoms in the order of its canonical SMILES, a fixed point of writing."""
    smiles = Chem.MolToSmiles(graph)
    for _ in range(5):
        graph = Chem.MolFromSmiles(smiles)
        again = Chem.MolToSmiles(graph)
        if again == smiles:
            break
        smiles = again
    return graph


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


def _refuse_unspecified_stereo(graph: Chem.Mol) -> None:
    """Refuses a SMILES that stands for more than one stereoisomer.

    Centres whose other setting can't be built (the bridgeheads of tropane) need not be given. Axial
    chirality (allenes, hindered biaryls), which SMILES can't express in RDKit, is not looked at.
    """
    unspecified = [
        element
        for element in Chem.FindPotentialStereo(graph)
        if element.specified == Chem.StereoSpecified.Unspecified
    ]
    if not unspecified or _only_one_isomer(graph, unspecified):
        return
    kinds = {str(element.type) for element in unspecified}
    where = " and ".join(
        (["double bond"] if "Bond_Double" in kinds else [])
        + (["stereocentre"] if kinds - {"Bond_Double"} else [])
    )
    raise UserError(
        f"{len(unspecified)} unspecified stereo element{'s' * (len(unspecified) > 1)} ({where}); "
        "write them with @/@@ or with / and \\"
    )


def _only_one_isomer(graph: Chem.Mol, unspecified: list) -> bool:
    if len(unspecified) > _MAX_UNSPECIFIED:
        return False
    options = StereoEnumerationOptions(unique=True, onlyUnassigned=True)
    isomers = {
        Chem.MolToInchiKey(isomer): isomer
        for isomer in EnumerateStereoisomers(graph, options=options)
    }
    if len(isomers) == 1:
        return True
    rings = graph.GetRingInfo()
    centres = [e.centeredOn for e in unspecified if str(e.type) == "Atom_Tetrahedral"]
    if len(centres) < len(unspecified) or any(rings.NumAtomRings(i) < 2 for i in centres):
        return False
    return sum(map(_can_be_built, isomers.values())) == 1


def _can_be_built(isomer: Chem.Mol) -> bool:
    parameters = EmbedParameters()
    parameters.randomSeed = 1
    parameters.maxIterations = _EMBEDDING_TRIALS
    return EmbedMolecule(Chem.AddHs(isomer), parameters) == 0


def _with_hydrogens(graph: Chem.Mol) -> Molecule:
    full = Chem.AddHs(graph)
    # An explicit hydrogen that carries stereo (an imine's) may stand among the heavy atoms.
    order = sorted(
        range(full.GetNumAtoms()), key=lambda i: full.GetAtomWithIdx(i).GetAtomicNum() == 1
    )
    full = Chem.RenumberAtoms(full, order)
    mapped = Chem.Mol(full)
    for atom in mapped.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    inchikey = Chem.MolToInchiKey(graph)
    if not inchikey:
        raise UserError("no InChIKey can be made of this SMILES; write it in another way")
    bonds = sorted(
        (
            min(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()),
            max(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()),
            bond.GetBondTypeAsDouble(),
        )
        for bond in full.GetBonds()
    )
    return Molecule(
        name="",
        smiles=Chem.MolToSmiles(graph),
        mapped_smiles=Chem.MolToSmiles(mapped),
        inchikey=inchikey,
        formula=CalcMolFormula(full),
        charge=Chem.GetFormalCharge(full),
        atomic_numbers=tuple(atom.GetAtomicNum() for atom in full.GetAtoms()),
        bonds=tuple(bonds),
    )


def _from_mapped_smiles(mapped_smiles: str) -> Chem.Mol:
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    full = Chem.MolFromSmiles(mapped_smiles, parameters)
    order = sorted(range(full.GetNumAtoms()), key=lambda i: full.GetAtomWithIdx(i).GetAtomMapNum())
    full = Chem.RenumberAtoms(full, order)
    for atom in full.GetAtoms():
        atom.SetAtomMapNum(0)
    return full
