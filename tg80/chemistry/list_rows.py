"""The rows of a molecule list as text: `.smi` lines or a table with a header.

`.smi`: one SMILES a line, then its CXSMILES block if it has one, then a name, with white space
between; a comment follows after ` #`. A table is told by its first line, which names a column of
SMILES; comma, semicolon, tab, bar or spaces stand between fields. In both, blank lines and lines
that begin with `#` are skipped.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tg80.errors import UserError

_SMILES = ("smiles", "isomericsmiles")  # these before other columns of SMILES
_NAMES = (
    "name", "compoundname", "moleculename", "iupacname", "iupac", "title", "compoundid",
    "moleculeid", "compound", "molecule", "id",
)  # fmt: skip


class Row(NamedTuple):
    """One line that is to hold a compound.

    Attributes:
        line: its number, from 1 on.
        text: the line.
        smiles: SMILES or CXSMILES.
        name: None if it has none.
        problem: why the line can't be read; then the rest does not count.
    """

    line: int
    text: str
    smiles: str = ""
    name: str | None = None
    problem: str | None = None


class _Header(NamedTuple):
    delimiter: str | None  # None: white space
    n_columns: int
    smiles: int
    name: int | None
    rest_is_name: bool  # all behind the SMILES, spaces and all


def rows_of(lines: Sequence[str], label: str, must_be_table: bool = False) -> Iterator[Row]:
    """The rows of a list.

    Args:
        lines: of the file.
        label: stands for the file in messages.
        must_be_table: whether a first line that is no header is a mistake.

    Raises:
        UserError: no column of SMILES, or several.
    """
    filled = [(number, line) for number, line in enumerate(lines, 1) if _has_content(line)]
    if not filled:
        return
    number, first = filled[0]
    header = _header(first, f"{label}:{number}")
    if header is None:
        if must_be_table:
            raise UserError(f"{label}: its first line names no `smiles` column; add a header")
        yield from (_smi_row(number, line) for number, line in filled)
        return
    for number, line in filled[1:]:
        row = _table_row(number, line, header)
        if row is not None:
            yield row


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _smi_row(number: int, line: str) -> Row:
    smiles, rest = (*line.split(maxsplit=1), "")[:2]
    if rest.startswith("|"):
        block, bar, rest = rest[1:].partition("|")
        smiles = f"{smiles} |{block}{bar}"
    # '#' is a triple bond within a SMILES: a comment behind one begins after white space.
    name = f" {rest}".replace("\t", " ").split(" #")[0].strip()
    return Row(number, line, smiles, name or None)


def _table_row(number: int, line: str, header: _Header) -> Row | None:
    """The row of a line, which is one row, so that line numbers stay true; None if it is empty."""
    if header.rest_is_name:
        return _smi_row(number, line)
    try:
        values = _fields(line, header.delimiter)
    except csv.Error:
        problem = "a quote that is not closed, or a field without end; write one row a line"
        return Row(number, line, problem=problem)
    if not any(values):
        return None
    if header.delimiter is None and len(values) != header.n_columns:
        problem = (
            f"{len(values)} fields under a header of {header.n_columns}; put commas or tabs between"
        )
        return Row(number, line, problem=problem)
    if len(values) <= header.smiles:
        problem = f"{len(values)} fields, but SMILES are field {header.smiles + 1}; complete it"
        return Row(number, line, problem=problem)
    name = None
    if header.name is not None and header.name < len(values):
        name = values[header.name]
    return Row(number, line, values[header.smiles], name or None)


def _fields(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    values = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    return [value.strip() for value in values]


def _header(line: str, where: str) -> _Header | None:
    """What the first line says of the columns; None if it is no header."""
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
