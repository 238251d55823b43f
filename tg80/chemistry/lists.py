"""Lists of molecules: the 80 of TG80, and those read from files, every bad row reported at once.

`.smi`: one SMILES a line, then its CXSMILES block if it has one, then a name, with white space
between; a comment follows after ` #`. A table is told by its first line, which names a column of
SMILES; comma, semicolon, tab, bar or spaces stand between fields. In both, blank lines and lines
that begin with `#` are skipped. See `tg80.files.read_lines` for the encodings.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tg80.chemistry.molecule import Molecule, molecule_from_smiles, stereoisomers_of_smiles
from tg80.errors import UserError
from tg80.files import read_lines

_LONGEST_TEXT = 200
SHIPPED = {"tg80": "molecules.csv", "extra-v1": "extra-v1.csv"}
"""Names of lists that ship along: the 80, and further compounds to learn from."""

Stereo = Literal["given", "enumerate", "first"]
"""`given`: rows with unspecified stereo are bad; `enumerate`: they stand for all stereoisomers but
mirror images; `first`: for one of them."""


class LeftOut(NamedTuple):
    """A row that is not used.

    Attributes:
        line: its number, from 1 on.
        text: the row.
        reason: why, and what to do.
    """

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class MoleculeList:
    """A list that was read.

    Attributes:
        label: the file, `<stdin>` or the name of a list that ships along.
        molecules: compounds in the order of the list.
        left_out: rows that are not used.
        stereo, skip_bad: how it was read.
    """

    label: str
    molecules: list[Molecule]
    left_out: list[LeftOut] = field(default_factory=list)
    stereo: Stereo = "given"
    skip_bad: bool = False

    def left_out_records(self) -> list[dict[str, Any]]:
        """The rows left out, for `--json`."""
        return [row._asdict() for row in self.left_out]


def tg80_molecules() -> list[Molecule]:
    """The 80 compounds of TG80, in the order of `molecules.csv`."""
    return list(_tg80_by_inchikey().values())


def tg80_table_text() -> str:
    """`molecules.csv` as text: name, smiles, inchikey, formula, n_atoms, n_heavy."""
    return shipped_text(SHIPPED["tg80"])


def shipped_text(file: str) -> str:
    """A list that ships along as text."""
    return (resources.files("tg80") / "data" / file).read_text(encoding="utf-8")


@cache
def _tg80_by_inchikey() -> dict[str, Molecule]:
    rows = [line.split(",") for line in tg80_table_text().splitlines()[1:]]
    molecules = [molecule_from_smiles(smiles, name) for name, smiles, *_ in rows]
    return {molecule.inchikey: molecule for molecule in molecules}


def default_name(molecule: Molecule) -> str:
    """Name of a compound that came without one.

    The slug of `molecules.csv` for one of the 80 (same InChIKey and same canonical SMILES: another
    tautomer is not called by that name), else the name it has.
    """
    known = _tg80_by_inchikey().get(molecule.inchikey)
    return known.name if known and known.smiles == molecule.smiles else molecule.name


def read_list(
    source: str | Path,
    *,
    stereo: Stereo = "given",
    skip_bad: bool = False,
    check: Callable[[Molecule], None] = lambda molecule: None,
) -> MoleculeList:
    """Read the molecules of a list, in its order.

    Args:
        source: path, `-` for standard input, or a name of `SHIPPED`.
        stereo: what a row with unspecified stereo stands for.
        skip_bad: leave bad rows out, instead of refusing the list.
        check: raises UserError for what else can't be used, such as elements of no level.

    Raises:
        UserError: one line for each bad row of the list, `FILE:LINE: reason; what to do`; with
            `skip_bad` if none is good.
    """
    if str(source) in SHIPPED:
        label, lines = str(source), shipped_text(SHIPPED[str(source)]).splitlines()
    else:
        label = "<stdin>" if str(source) == "-" else str(source)
        lines = read_lines(source, "a .smi or CSV file of SMILES")
    return parse_list(lines, label, stereo=stereo, skip_bad=skip_bad, check=check)


def parse_list(
    lines: Sequence[str],
    label: str,
    *,
    stereo: Stereo = "given",
    skip_bad: bool = False,
    check: Callable[[Molecule], None] = lambda molecule: None,
) -> MoleculeList:
    """Read the molecules of the lines of a list.

    Args:
        lines: of the file.
        label: stands for the file in messages; if it ends in `.csv`, a header is needed.
        stereo: as for `read_list`.
        skip_bad: as for `read_list`.
        check: as for `read_list`.

    Raises:
        UserError: as in `read_list`.
    """
    filled = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip().strip("\t ,;|") and not line.lstrip().startswith("#")
    ]
    header = _header(filled[0][1], f"{label}:{filled[0][0]}") if filled else None
    if header is None and filled and label.lower().endswith(".csv"):
        raise UserError(f"{label}: its first line names no `smiles` column; add a header")
    reading = _Reading(stereo, check)
    for number, line in filled[header is not None :]:
        reading.take(number, line, header)
    problems = reading.left_out
    if problems and not (skip_bad and reading.molecules):
        raise UserError(*(f"{label}:{row.line}: {row.reason}" for row in problems))
    if not reading.molecules:
        raise UserError(f"{label}: no molecules in it; write one SMILES a line")
    return MoleculeList(label, reading.molecules, problems, stereo, skip_bad)


@dataclass
class _Reading:
    """What was read so far."""

    stereo: Stereo
    check: Callable[[Molecule], None]
    molecules: list[Molecule] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    compounds: dict[str, list[tuple[Molecule, int]]] = field(default_factory=dict)
    line_of_name: dict[str, int] = field(default_factory=dict)

    def take(self, number: int, line: str, header: _Header | None) -> None:
        """Add the molecules of a line, or the line to those left out."""
        try:
            found = self._molecules(*_compound_of(line, header))
        except UserError as error:
            self._leave_out(number, line, error)
            return
        for molecule in found:
            try:
                self.check(molecule)
                self._add(molecule, number)
            except UserError as error:
                self._leave_out(number, line, error)

    def _leave_out(self, number: int, line: str, error: UserError) -> None:
        text = line if len(line) <= _LONGEST_TEXT else line[:_LONGEST_TEXT] + "..."
        self.left_out.append(LeftOut(number, text, str(error)))

    def _molecules(self, smiles: str, name: str | None) -> list[Molecule]:
        if self.stereo == "given":
            found = [molecule_from_smiles(smiles, name)]
        else:
            found = stereoisomers_of_smiles(smiles, name, self.stereo == "first")
        if name is None:
            found = [replace(molecule, name=default_name(molecule)) for molecule in found]
        return found

    def _add(self, molecule: Molecule, number: int) -> None:
        for other, line in self.compounds.get(molecule.inchikey, []):
            if molecule.is_same_compound(other):
                raise UserError(
                    f"{molecule.smiles} is the compound of line {line} again "
                    f"(InChIKey {molecule.inchikey}); remove one of the two lines"
                )
        first = self.line_of_name.setdefault(molecule.name, number)
        if first != number:
            raise UserError(
                f"the name {molecule.name} is taken by line {first}; rename one of the two"
            )
        self.compounds.setdefault(molecule.inchikey, []).append((molecule, number))
        self.molecules.append(molecule)


# --- lines of a list ----------------------------------------------------------------

_SMILES = ("smiles", "isomericsmiles")  # these before other columns of SMILES
_NAMES = (
    "name", "compoundname", "moleculename", "iupacname", "iupac", "title", "compoundid",
    "moleculeid", "compound", "molecule", "id",
)  # fmt: skip


class _Header(NamedTuple):
    delimiter: str | None  # None: white space
    n_columns: int
    smiles: int
    name: int | None
    rest_is_name: bool  # all behind the SMILES, spaces and all


def _compound_of(line: str, header: _Header | None) -> tuple[str, str | None]:
    """SMILES (or CXSMILES) and name of a line, which is one row, so that line numbers stay true.

    Raises:
        UserError: the line is not a row of the table.
    """
    if header is None or header.rest_is_name:
        smiles, rest = (*line.split(maxsplit=1), "")[:2]
        if rest.startswith("|"):
            block, bar, rest = rest[1:].partition("|")
            smiles = f"{smiles} |{block}{bar}"
        # '#' is a triple bond within a SMILES: a comment behind one begins after white space.
        return smiles, f" {rest}".replace("\t", " ").split(" #")[0].strip() or None
    try:
        values = _fields(line, header.delimiter)
    except csv.Error:
        raise UserError(
            "a quote that is not closed, or a field without end; write one row a line"
        ) from None
    shifted = header.delimiter is None and len(values) != header.n_columns
    if shifted or len(values) <= header.smiles:
        raise UserError(
            f"{len(values)} fields under a header of {header.n_columns}; complete the row, and put "
            "commas or tabs between fields"
        )
    name = values[header.name] if header.name is not None and header.name < len(values) else None
    return values[header.smiles], name or None


def _fields(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    values = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    return [value.strip() for value in values]


def _header(line: str, where: str) -> _Header | None:
    """What the first line says of the columns; None if it is not a header."""
    for delimiter in (",", ";", "\t", "|", None):
        try:
            keys = [re.sub(r"[\W_]", "", field.lower()) for field in _fields(line, delimiter)]
        except csv.Error:
            continue
        if delimiter is not None and len(keys) < 2:
            continue
        if delimiter is None and keys[0] not in (*_SMILES, *_NAMES) and not _is_smiles(keys[0]):
            return None  # words behind a SMILES are its name
        smiles = _smiles_column(keys, where)
        if smiles is not None:
            break
    else:
        return None
    # As RDKit's SmilesWriter ends a header of two columns, whatever it calls the second.
    two = smiles == 0 and (line.endswith(delimiter or " ") or len(keys) <= 2)
    name = next((keys.index(key) for key in _NAMES if key in keys), None)
    if name is None and two and len(keys) > 1 and line.endswith(delimiter or " "):
        name = 1
    return _Header(delimiter, len(keys), smiles, name, rest_is_name=two and delimiter is None)


def _is_smiles(key: str) -> bool:
    return key == "smi" or key.endswith("smiles") or key.startswith("smiles")


def _smiles_column(keys: list[str], where: str) -> int | None:
    for key in _SMILES:
        if keys.count(key) == 1:
            return keys.index(key)
    found = [column for column, key in enumerate(keys) if _is_smiles(key)]
    if len(found) > 1:
        raise UserError(f"{where}: {len(found)} columns of SMILES; call one of them `smiles`")
    return found[0] if found else None
