"""Reading a list of molecules, every bad row reported at once, or left out on request.

See `tg80.chemistry.list_rows` for the two formats (`.smi` and tables), and `tg80.files.lines_of`
for the encodings.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tg80.chemistry.list_rows import Row, rows_of
from tg80.chemistry.molecule import (
    Molecule,
    molecule_from_smiles,
    stereoisomers_of_smiles,
    tg80_table_text,
)
from tg80.errors import UserError
from tg80.files import MOST_TEXT_BYTES, lines_of, read_lines, unreadable

_LONGEST_TEXT = 200

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
        label: the file, `<stdin>` or `tg80`.
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


def read_molecule_list(source: str | Path) -> list[Molecule]:
    """Molecules of a list whose rows must all be good.

    Args:
        source: path, `-` for standard input, or `tg80`.

    Raises:
        UserError: one line for each bad row of the list: `FILE:LINE: reason; what to do`.
    """
    return read_list(source).molecules


def read_list(
    source: str | Path,
    *,
    stereo: Stereo = "given",
    skip_bad: bool = False,
    check: Callable[[Molecule], None] = lambda molecule: None,
) -> MoleculeList:
    """The molecules of a list, in its order.

    Args:
        source: path, `-` for standard input, or `tg80`.
        stereo: what a row with unspecified stereo stands for.
        skip_bad: leave bad rows out, instead of refusing the list.
        check: raises UserError for what else can't be used, such as elements of no level.

    Raises:
        UserError: one line for each bad row of the list, `FILE:LINE: reason; what to do`; with
            `skip_bad` if none is good.
    """
    if str(source) == "tg80":
        lines = tg80_table_text().splitlines()
        return parse_list(lines, "tg80", stereo=stereo, skip_bad=skip_bad, check=check)
    label = "<stdin>" if str(source) == "-" else str(source)
    is_csv = Path(label).suffix.lower() == ".csv"
    return parse_list(_lines(source), label, is_csv, stereo=stereo, skip_bad=skip_bad, check=check)


def parse_list(
    lines: Sequence[str],
    label: str,
    must_be_table: bool = False,
    *,
    stereo: Stereo = "given",
    skip_bad: bool = False,
    check: Callable[[Molecule], None] = lambda molecule: None,
) -> MoleculeList:
    """The molecules of the lines of a list; `label` stands for the file in messages.

    Raises:
        UserError: as in `read_list`.
    """
    reading = _Reading(stereo, check)
    for row in rows_of(lines, label, must_be_table):
        reading.take(row)
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

    def take(self, row: Row) -> None:
        """Add the molecules of a row, or the row to those left out."""
        try:
            if row.problem:
                raise UserError(row.problem)
            molecules = self._molecules(row)
        except UserError as error:
            self._leave_out(row, error)
            return
        for molecule in molecules:
            try:
                self.check(molecule)
                self._add(molecule, row)
            except UserError as error:
                self._leave_out(row, error)

    def _leave_out(self, row: Row, error: UserError) -> None:
        text = row.text if len(row.text) <= _LONGEST_TEXT else row.text[:_LONGEST_TEXT] + "..."
        self.left_out.append(LeftOut(row.line, text, str(error)))

    def _molecules(self, row: Row) -> list[Molecule]:
        if self.stereo == "given":
            return [molecule_from_smiles(row.smiles, row.name)]
        return stereoisomers_of_smiles(row.smiles, row.name, only_first=self.stereo == "first")

    def _add(self, molecule: Molecule, row: Row) -> None:
        for other, line in self.compounds.get(molecule.inchikey, []):
            if molecule.is_same_compound(other):
                shown = row.smiles if self.stereo == "given" else molecule.smiles
                raise UserError(
                    f"{shown} is the compound of line {line} again "
                    f"(InChIKey {molecule.inchikey}); remove one of the two lines"
                )
        first = self.line_of_name.setdefault(molecule.name, row.line)
        if first != row.line:
            raise UserError(
                f"the name {molecule.name} is taken by line {first}; rename one of the two"
            )
        self.compounds.setdefault(molecule.inchikey, []).append((molecule, row.line))
        self.molecules.append(molecule)


def _lines(source: str | Path) -> list[str]:
    wanted = "a .smi or CSV file of SMILES"
    if str(source) != "-":
        return read_lines(Path(source), wanted)
    try:
        content = sys.stdin.buffer.read(MOST_TEXT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise unreadable("<stdin>", error) from None
    return lines_of(content, "<stdin>", wanted)
