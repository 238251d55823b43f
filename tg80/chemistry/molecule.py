"""Molecules: what a SMILES must be to enter a run, and the order of its atoms.

A compound is accepted if it is one closed-shell singlet fragment of 2 to `MAX_ATOMS` atoms with
all of its stereo given. Its atoms are ordered once and for all: heavy atoms in the order of RDKit's
canonical SMILES, then hydrogens. The atom-mapped SMILES carries that order to other programs.

Names become file and folder names, so they are lower-case slugs (`slug`).
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from tg80.chemistry.smiles import graphs_of, same_compound
from tg80.chemistry.stereo import refuse_open_stereo, stereoisomers
from tg80.constants import masses_of
from tg80.errors import UserError

MAX_NAME_LENGTH = 64
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

    def is_same_compound(self, other: "Molecule") -> bool:
        """Whether only the way of drawing differs; tautomers, which share an InChIKey, do not."""
        return self.inchikey == other.inchikey and same_compound(self.smiles, other.smiles)

    def to_rdkit(self) -> Chem.Mol:
        """RDKit molecule with explicit hydrogens, atoms in the order of `atomic_numbers`."""
        graph = graph_of_mapped_smiles(self.mapped_smiles)
        assert graph is not None  # it was written by RDKit
        return graph


def graph_of_mapped_smiles(mapped_smiles: str) -> Chem.Mol | None:
    """RDKit molecule with explicit hydrogens, atoms in the order of their map numbers.

    Returns:
        None if the SMILES is invalid.
    """
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    full = Chem.MolFromSmiles(mapped_smiles, parameters)
    if full is None:
        return None
    numbers = [atom.GetAtomMapNum() for atom in full.GetAtoms()]
    full = Chem.RenumberAtoms(full, np.argsort(numbers, kind="stable").tolist())
    for atom in full.GetAtoms():
        atom.SetAtomMapNum(0)
    return full


def molecule_from_smiles(smiles: str, name: str | None = None) -> Molecule:
    """The molecule of a SMILES or CXSMILES, checked.

    Args:
        smiles: any valid SMILES; atom map numbers in it are ignored.
        name: made a slug by `slug`. None: formula and InChIKey letters in lower case, such as
            `c3h7no-zmxddkwl`, with letters of the stereo block after it if the compound has stereo.

    Raises:
        UserError: the SMILES or the name can't be used; the message says why and what to do.
    """
    graphs = graphs_of(smiles)
    with rdBase.BlockLogs():
        refuse_open_stereo(graphs)
        molecule = _with_hydrogens(graphs[0])
    given = slug(name) if name is not None and name.strip() else _formula_name(molecule)
    return replace(molecule, name=given)


def stereoisomers_of_smiles(
    smiles: str, name: str | None = None, only_first: bool = False
) -> list[Molecule]:
    """The molecules that a SMILES stands for whose stereo is not all given.

    Args:
        smiles: as in `molecule_from_smiles`.
        name: of the compound. If there are several isomers, they are called NAME-s1, NAME-s2, ...;
            without a name each has its own by default.
        only_first: only one, called NAME.

    Returns:
        One of each pair of mirror images, in an order that only depends on the compound.

    Raises:
        UserError: the SMILES or the name can't be used, or the isomers are too many.
    """
    found = stereoisomers(graphs_of(smiles), only_first)
    with rdBase.BlockLogs():
        isomers = [Chem.MolToSmiles(graph) for graph in (islice(found, 1) if only_first else found)]
    if len(isomers) == 1 or name is None or not name.strip():
        return [molecule_from_smiles(isomer, name) for isomer in isomers]
    return [molecule_from_smiles(isomer, f"{name}-s{k}") for k, isomer in enumerate(isomers, 1)]


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
    if len(name) > 16 * MAX_NAME_LENGTH:
        raise UserError(f"name {shown} is longer than {MAX_NAME_LENGTH} letters; shorten it")
    if any(mark in name for mark in "/\\") or name.lstrip().startswith("."):
        raise UserError(f"name {shown} looks like a path; use letters, digits and hyphens")
    text = "".join(_spelled(letter) for letter in unicodedata.normalize("NFKD", name))
    hidden = any(unicodedata.category(letter) in ("Cc", "Cf") and letter != "\t" for letter in name)
    foreign = any(not letter.isascii() and letter.isalnum() for letter in text)
    result = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    if hidden or foreign or not result or result in _RESERVED:
        raise UserError(
            f"name {shown} is empty, is reserved by Windows, or has letters that have no ASCII "
            "form; use letters a-z, digits and hyphens"
        )
    if len(result) > MAX_NAME_LENGTH:
        raise UserError(f"name {shown} is longer than {MAX_NAME_LENGTH} letters; shorten it")
    return result


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


def _with_hydrogens(graph: Chem.Mol) -> Molecule:
    full = Chem.AddHs(graph)
    # An explicit hydrogen that carries stereo (an imine's) may stand among the heavy atoms.
    hydrogen = [atom.GetAtomicNum() == 1 for atom in full.GetAtoms()]
    full = Chem.RenumberAtoms(full, np.argsort(hydrogen, kind="stable").tolist())
    mapped = Chem.Mol(full)
    for atom in mapped.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    inchikey = Chem.MolToInchiKey(graph)
    if not inchikey:
        raise UserError("no InChIKey can be made of this SMILES; write it in another way")
    bonds = []
    for bond in full.GetBonds():
        i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        bonds.append((i, j, bond.GetBondTypeAsDouble()))
    return Molecule(
        name="",
        smiles=Chem.MolToSmiles(graph),
        mapped_smiles=Chem.MolToSmiles(mapped),
        inchikey=inchikey,
        formula=CalcMolFormula(full),
        charge=Chem.GetFormalCharge(full),
        atomic_numbers=tuple(atom.GetAtomicNum() for atom in full.GetAtoms()),
        bonds=tuple(sorted(bonds)),
    )
