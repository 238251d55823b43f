"""Reading a list of molecules: `.smi` lines or CSV, every bad line reported at once.

`.smi`: one SMILES a line, a name after white space if wanted. CSV: a header with a `smiles` column
and, if wanted, `name`; comma, semicolon or tab between fields; other columns are ignored. In both,
lines that begin with `#` and blank lines are skipped. A list is CSV if its first line is such a
header, whatever the file is called. Text is UTF-8, with or without a byte order mark.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from tg80.errors import UserError
from tg80.files import read_bytes
from tg80.molecules import Molecule, molecule_from_smiles

MAX_LIST_BYTES = 16 * 2**20


def read_list(source: str | Path) -> list[Molecule]:
    """Molecules of a list, in its order.

    Args:
        source: path, or `-` for standard input.

    Raises:
        UserError: one line for each bad line: `FILE:LINE: reason; what to do`.
    """
    label = "<stdin>" if str(source) == "-" else str(source)
    return parse_list(_read_text(source, label), label, Path(label).suffix.lower() == ".csv")


def parse_list(text: str, label: str, must_be_csv: bool = False) -> list[Molecule]:
    """Molecules of the text of a list; `label` stands for the file in messages.

    Raises:
        UserError: as in `read_list`.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header = next((line for line in lines if _has_content(line)), None)
    if header is None:
        raise UserError(f"{label}: no molecules in it; write one SMILES a line")
    delimiter = _csv_delimiter(header)
    if delimiter is None and must_be_csv:
        raise UserError(f"{label}: its first line names no `smiles` column; add a header")
    rows = _smi_rows(lines) if delimiter is None else _csv_rows(lines, delimiter)
    return _molecules(rows, label)


def _molecules(rows: Iterator[tuple[int, str, str | None]], label: str) -> list[Molecule]:
    molecules: list[Molecule] = []
    problems: list[str] = []
    line_of_compound: dict[str, int] = {}
    line_of_name: dict[str, int] = {}
    for line_number, smiles, name in rows:
        try:
            molecule = molecule_from_smiles(smiles, name)
        except UserError as error:
            problems.append(f"{label}:{line_number}: {error}")
            continue
        first = line_of_compound.setdefault(molecule.inchikey, line_number)
        if first != line_number:
            problems.append(
                f"{label}:{line_number}: {smiles} is the compound of line {first} again "
                f"(InChIKey {molecule.inchikey}); remove one of the two lines"
            )
            continue
        first = line_of_name.setdefault(molecule.name, line_number)
        if first != line_number:
            problems.append(
                f"{label}:{line_number}: the name {molecule.name} is taken by line {first}; "
                "rename one of the two"
            )
            continue
        molecules.append(molecule)
    if problems:
        raise UserError(*problems)
    if not molecules:
        raise UserError(f"{label}: no molecules in it; write one SMILES a line")
    return molecules


def _read_text(source: str | Path, label: str) -> str:
    try:
        if str(source) == "-":
            data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        else:
            data = read_bytes(source, "a .smi or CSV file", MAX_LIST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{label!s}: can't read the molecule list: {reason}") from None
    if len(data) > MAX_LIST_BYTES:
        raise UserError(f"{label}: more than {MAX_LIST_BYTES // 2**20} MiB; is it a SMILES list?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{label}: it is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{label}: not UTF-8 text; give a .smi or CSV file in UTF-8") from None
    if "\0" in text:
        raise UserError(f"{label}: a binary file; give a .smi or CSV file of SMILES")
    return text


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _fields(header: str, delimiter: str) -> list[str]:
    return [field.strip().strip('"').strip().lower() for field in header.split(delimiter)]


def _csv_delimiter(header: str) -> str | None:
    return next((mark for mark in ",;\t" if "smiles" in _fields(header, mark)), None)


def _smi_rows(lines: list[str]) -> Iterator[tuple[int, str, str | None]]:
    for line_number, line in enumerate(lines, start=1):
        if not _has_content(line):
            continue
        smiles, *rest = line.split(maxsplit=1)
        # '#' is a triple bond within a SMILES: a comment behind one begins after white space.
        name = (" " + rest[0]).replace("\t", " ").split(" #")[0].strip() if rest else ""
        yield line_number, smiles, name or None


def _csv_rows(lines: list[str], delimiter: str) -> Iterator[tuple[int, str, str | None]]:
    """Rows under the header; each line is a row of its own, so that line numbers stay true."""
    columns: list[str] | None = None
    for line_number, line in enumerate(lines, start=1):
        if not _has_content(line):
            continue
        if columns is None:
            columns = _fields(line, delimiter)
            continue
        values = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        row = dict(zip(columns, values, strict=False))
        if any(value.strip() for value in values):
            yield line_number, row.get("smiles", "").strip(), row.get("name", "").strip() or None
