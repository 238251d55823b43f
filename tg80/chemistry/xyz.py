"""One structure from a file in XYZ or extended XYZ format, in angstrom.

In extended XYZ `Properties=` in the comment line names the columns; without it they are the element
and x, y, z, further columns are ignored, and so are lines behind the atoms (QM9). What the comment
line says of charge, spin, periodicity and unit of length is used or refused, never ignored: read by
a program that knows no comment, it is what makes an energy silently wrong.

References:
    Extended XYZ: https://github.com/libAtoms/extxyz.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from tg80.errors import UserError
from tg80.files import read_lines
from tg80.theory import atomic_number_of

# Below this distance, in A, atoms are taken for a mistake: H2 is 0.74 A long.
_COINCIDENT_A = 0.3
_FARTHEST_A = 1000.0  # no molecule that is accepted reaches so far
_MOST_ATOMS, _MOST_BYTES = 10_000, 4 << 20
_LONGEST_COMMENT = 100_000

_COLUMNS = {
    "species": "species", "symbols": "species", "symbol": "species", "element": "species",
    "z": "number", "numbers": "number", "atomic_numbers": "number", "atomic_number": "number",
    "pos": "positions", "position": "positions", "positions": "positions",
    "charge": "charges", "charges": "charges", "initial_charges": "charges",
}  # fmt: skip
_LATTICES = ("lattice", "cell", "unit_cell", "box")

_ENTRY = re.compile(
    r"""(?<![\w-])([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|\{[^{}]*\}|\[[^][]*\]|[^\s"'{}[\]]\S*)"""
)
# Fortran writes 1.0D-6, Mathematica 1.0*^-6.
_NUMBER = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:(?:[eEdD]|\*\^)([+-]?\d+))?", re.ASCII)
# `charge=1`, `charge of (-1)`, and tmQM's `q = -1`.
_CHARGE = re.compile(
    r"""(?<![\w-])(?:(?:(?:total|net|molecular|formal|system)[ _-]?)?(?:charge|chrg)
    (?:\s*[=:]\s*["'{[]?\s*([^\s,;|"'}\]]*)|\s+(?:of\s+|is\s+)?\(?([+-]?\d[^\s,;|)]*))
    |(?-i:q)\s*=\s*([+-]?\d{1,3})(?![\d.]))""",
    re.IGNORECASE | re.VERBOSE,
)
# As Gaussian has it, and Psi4, which writes the formula behind.
_CHARGE_AND_MULTIPLICITY = re.compile(
    r"\s*([+-]?[0-9]{1,3})\s+([0-9]{1,2})(?:\s+(?:[A-Z][a-z]?[0-9]*)+)?\s*"
)
_WHOLE = re.compile(r"[+-]?\d{1,3}(?:\.0*)?", re.ASCII)
_SPIN = re.compile(
    r"""(?<![\w-])(?:(?P<multiplicity>(?:spin[ _-]?)?mult(?:iplicity)?)
    |(?P<spin>(?:total[ _-]?)?spin)
    |n?_?(?:uhf|unpaired))(?:\s*[=:]\s*["'{[]?\s*|\s+(?=\d))([^\s,;|"'}\]]*)""",
    re.IGNORECASE | re.VERBOSE,
)
_OTHER_LENGTH = re.compile(
    r"""(?<![\w/*^.-])(?:bohrs?|nanomet(?:er|re)s?|picomet(?:er|re)s?)(?![\w^])
    |(?<![\w-])(?:(?:length|distance|pos(?:ition)?s?|coord(?:inate)?s?|geometry|r)[ _-]?)?
    units?\s*[=:]\s*["'{[]?\s*(?:a\.?u\b|a0\b|nm\b|pm\b|m\b|atomic)
    |(?:coordinates?|positions?|geometry|lengths?)\s+(?:are\s+)?in\s+(?:atomic|a\.?u\b|nm\b|pm\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_OTHER_LENGTH_OF_COUNT = re.compile(r"\b(?:bohrs?|a\.?u\b|atomic|a0|nm|pm)", re.IGNORECASE)


@dataclass(frozen=True)
class Structure:
    """One molecule: atomic_numbers (n_atoms,), positions (n_atoms, 3) A, total charge in e."""

    atomic_numbers: np.ndarray
    positions: np.ndarray
    charge: int


class _Layout(NamedTuple):
    first: dict[str, int]  # first column of what is read
    n_columns: int | None  # None: four or more


_PLAIN = _Layout({"species": 0, "positions": 1}, None)


def read_xyz(path: Path, charge: int | None = None) -> Structure:
    """Read the one structure of a file.

    Args:
        path: the file.
        charge: what the user says; it must agree with the comment line. None: what that says, or 0.

    Raises:
        UserError: the file is missing, no XYZ, or no molecule in vacuum (fewer than two atoms,
            atoms on top of each other, coordinates that are no finite numbers, a lattice); the
            comment line says something else than `charge`, or cannot be followed.
    """
    lines = read_lines(path, "one XYZ file", _MOST_BYTES)
    lines = lines[next((i for i, line in enumerate(lines) if line.strip()), len(lines)) :]
    if not lines:
        raise UserError(f"{path}: empty; give an XYZ file")
    n_atoms = _atom_count(path, lines[0])
    comment = lines[1] if len(lines) > 1 else ""
    layout, total = _read_comment(f"{path}: line 2", comment, charge)
    rows = [line.split() for line in lines[2:]]
    _check_count(path, n_atoms, rows, layout)
    atoms = [_atom(f"{path}: line {i + 3}", row, layout) for i, row in enumerate(rows[:n_atoms])]
    numbers = np.array([number for number, _ in atoms])
    positions = np.array([position for _, position in atoms])
    _refuse_coincident(path, positions)
    if charge is None and "charges" in layout.first:
        found = sum(_number(row[layout.first["charges"]]) for row in rows[:n_atoms])
        if not abs(found - total) < 0.5:
            raise UserError(
                f"{path}: the charges of its atoms add up to {found:.3g}, its comment line makes "
                f"it {total}; give --charge"
            )
    return Structure(numbers, positions, total)


def _atom_count(path: Path, line: str) -> int:
    word = line.split()[0]
    if not re.fullmatch(r"[0-9]+", word):
        raise UserError(
            f"{path}: line 1 must be the number of atoms, as in every XYZ file, not {line[:40]!r}"
        )
    if _OTHER_LENGTH_OF_COUNT.search(line):
        raise UserError(
            f"{path}: line 1 names another unit of length ({line[:40]!r}); give angstrom"
        )
    n_atoms = int(word[:9])
    if len(word) > 9 or not 2 <= n_atoms <= _MOST_ATOMS:
        raise UserError(
            f"{path}: line 1 states {word[:20]} atoms; give a molecule of 2 to {_MOST_ATOMS}"
        )
    return n_atoms


def _read_comment(place: str, line: str, charge: int | None) -> tuple[_Layout, int]:
    """Layout of the rows, and the charge, once everything else the line says is not an obstacle."""
    if len(line) > _LONGEST_COMMENT:
        raise UserError(f"{place} has {len(line)} characters; no comment is as long")
    words = line.split()
    if len(words) == 4 and _element(words[0]) and all(map(_NUMBER.fullmatch, words[1:])):
        raise UserError(f"{place} must be a comment, it may be empty; {line[:40]!r} is an atom")
    entries = {match[1].lower(): match[2] for match in _ENTRY.finditer(line)}
    free = line
    for key in ("properties", "pbc", *_LATTICES):
        if len(re.findall(rf"(?<![\w-]){key}\s*=", line, re.IGNORECASE)) != (key in entries):
            raise UserError(f"{place} gives {key} twice, or its quotes do not end; correct it")
        if key in entries and key != "pbc":
            free = free.replace(entries[key], " ")
    _refuse_periodic(place, entries)
    if (found := _OTHER_LENGTH.search(free)) and not re.search("angstrom|Å", free, re.IGNORECASE):
        raise UserError(f"{place} names another unit of length ({found[0][:40]!r}); give angstrom")
    for match in _SPIN.finditer(free):
        allowed = {"1"} if match["multiplicity"] else {"0", "1"} if match["spin"] else {"0"}
        if match[3] not in allowed and match[3].removesuffix(".0") not in allowed:
            raise UserError(
                f"{place} says {match[0][:40]!r}; only closed-shell singlets are computed"
            )
    properties = entries.get("properties")
    layout = _PLAIN if properties is None else _layout(place, _bare(properties))
    return layout, _charge(place, free, charge)


def _bare(value: str) -> str:
    """A value of the comment line without its quotes or brackets."""
    return value[1:-1] if value[0] in "\"'{[" else value


def _refuse_periodic(place: str, entries: dict[str, str]) -> None:
    lattice = next((key for key in _LATTICES if key in entries), None)
    # As in every reader of extended XYZ a lattice alone means a crystal.
    flags = re.split(r"[\s,]+", _bare(entries.get("pbc", "T" if lattice else "F")).strip().lower())
    if any(flag not in ("f", "false", "0") for flag in flags):
        what = "pbc" if "pbc" in entries else str(lattice)
        raise UserError(
            f"{place} tells of a periodic system ({what}={_bare(entries[what])[:60]!r}); levels of "
            'theory are for molecules in vacuum: give one, with pbc="F F F"'
        )


def _layout(place: str, properties: str) -> _Layout:
    """Where `Properties=` says that element and position stand."""
    fields = properties.split(":")
    first: dict[str, int] = {}
    n_columns = 0
    valid = len(fields) % 3 == 0
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        valid &= kind in ("R", "I", "S", "L") and bool(re.fullmatch("[1-9][0-9]{0,4}", width))
        meaning = _COLUMNS.get(name.lower())
        if valid and meaning:
            valid = meaning not in first and width == ("3" if meaning == "positions" else "1")
            first[meaning] = n_columns
        n_columns += int(width) if valid else 0
    if not valid or "positions" not in first or not {"species", "number"} & set(first):
        raise UserError(
            f"{place}: Properties={properties[:60]!r} is not a list of NAME:TYPE:COLUMNS, types "
            "R, I, S and L that has species:S:1 (or Z:I:1) and pos:R:3 once"
        )
    return _Layout(first, n_columns)


def _charge(place: str, text: str, given: int | None) -> int:
    """The charge that comment line and user agree on."""
    told = ["".join(filter(None, match.groups())) for match in _CHARGE.finditer(text)]
    for value in told:
        if not _WHOLE.fullmatch(value):
            raise UserError(f"{place}: charge {value[:20]!r} is not a whole number")
    charges = {int(float(value)) for value in told}
    pair = _CHARGE_AND_MULTIPLICITY.fullmatch(text)
    if pair and given is None and (int(pair[1]), int(pair[2])) != (0, 1):
        raise UserError(
            f"{place}: {pair[0].strip()!r} may be charge and multiplicity; write charge="
            f"{pair[1]}, or say --charge"
        )
    if given is not None:
        charges.add(given)
    if len(charges) > 1:
        says = f"--charge is {given}" if given is not None else "they differ"
        values = ", ".join(dict.fromkeys(told))
        raise UserError(f"{place} says charge {values[:60]}, but {says}; correct one of them")
    return charges.pop() if charges else 0


def _number(word: str) -> float:
    """A number in ASCII digits, with any usual exponent; NaN if it is none."""
    match = _NUMBER.fullmatch(word)
    return float(f"{match[1]}e{match[2] or 0}") if match else np.nan


def _check_count(path: Path, n_atoms: int, rows: list[list[str]], layout: _Layout) -> None:
    n_found = sum(map(bool, rows[:n_atoms]))
    if n_found < n_atoms:
        raise UserError(f"{path}: line 1 states {n_atoms} atoms, {n_found} atom lines follow")
    for i, row in enumerate(rows[n_atoms:], n_atoms + 3):
        if row and (layout.n_columns or _may_be_more(row)):
            raise UserError(
                f"{path}: line 1 states {n_atoms} atoms, line {i} goes on with "
                f"{' '.join(row)[:40]!r}; give one structure a file"
            )


def _may_be_more(row: list[str]) -> bool:
    """Whether a line behind the atoms may be one more, a lattice vector or another structure."""
    if len(row) == 1:
        return bool(re.fullmatch("[0-9]+", row[0]))
    name = re.fullmatch(r"[A-Za-z]{1,3}[0-9]{0,3}|[0-9]{1,3}", row[0])
    return bool(name and _NUMBER.fullmatch(row[1]))


def _atom(place: str, row: list[str], layout: _Layout) -> tuple[int, list[float]]:
    if len(row) != (layout.n_columns or max(len(row), 4)):
        expected = layout.n_columns or "an element and three coordinates"
        raise UserError(f"{place}: {len(row)} columns, expected {expected}")
    names = [row[layout.first[key]] for key in ("species", "number") if key in layout.first]
    numbers = {_element(name) for name in names}
    number = numbers.pop()
    if not number or numbers:
        raise UserError(
            f"{place}: {' and '.join(names)[:40]!r} is not an element; isotopes, labels, ghost and "
            "dummy atoms are not read"
        )
    start = layout.first["positions"]
    position = [_number(word) for word in row[start : start + 3]]
    if not np.abs(position).max() <= _FARTHEST_A:  # NaN is not, either
        raise UserError(
            f"{place}: coordinates must be three numbers in angstrom of at most {_FARTHEST_A:g}, "
            f"not {' '.join(row[start : start + 3])[:60]!r}"
        )
    return number, position


def _element(word: str) -> int:
    """Atomic number of a symbol in any case, or of its digits; 0 if it is none."""
    if re.fullmatch("[0-9]{1,3}", word):
        return int(word) if int(word) <= 118 else 0
    try:
        return atomic_number_of(word.capitalize()) if word.isascii() else 0
    except KeyError:
        return 0


def _refuse_coincident(path: Path, positions: np.ndarray) -> None:
    distances, neighbours = map(np.asarray, KDTree(positions).query(positions, k=2))
    first = int(distances[:, 1].argmin())
    if distances[first, 1] < _COINCIDENT_A:
        second = next(int(other) for other in neighbours[first] if other != first)
        raise UserError(
            f"{path}: atoms {first + 1} and {second + 1} are {distances[first, 1]:.2f} A apart; "
            "correct the structure (coordinates in angstrom)"
        )
