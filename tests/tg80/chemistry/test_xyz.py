"""XYZ and extended XYZ as they come: read as they are meant, or refused in one line."""

import os
import re

import numpy as np
import pytest

from tests.support.factories import make_shard
from tg80.chemistry.xyz import read_xyz
from tg80.errors import UserError
from tg80.exchange.export import Selection, plan_export, write_export
from tg80.shards.shard import Shard

ROWS = "O 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
POSITIONS = [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]


def with_comment(comment):
    return f"3\n{comment}\n{ROWS}"


def in_columns(properties, *columns):
    """Water with these columns, each one text for an atom; "pos" stands for its coordinates."""
    xyz = [row.split()[1:] for row in ROWS.splitlines()]
    rows = [
        " ".join(word for c in columns for word in (xyz[atom] if c == "pos" else [c[atom]]))
        for atom in range(3)
    ]
    return f"3\nProperties={properties}\n" + "\n".join(rows) + "\n"


SYMBOLS, Z = ("O", "H", "H"), ("8", "1", "1")
FORCES = ("0.1 0.2 0.3",) * 3
WATER = {
    "plain": with_comment("water"),
    "no comment": with_comment(""),
    "lower case": with_comment("").replace("O", "o").replace("H", "h"),
    "atomic numbers": with_comment("").replace("O", "8").replace("H", "1"),
    "no end of line": with_comment("").rstrip(),
    "blank lines around": "\n  \n" + with_comment("") + "\n \t\n",
    "CRLF": with_comment("water").replace("\n", "\r\n"),
    "CR": with_comment("water").replace("\n", "\r"),
    "tabs": with_comment("a\tcomment").replace(" ", "\t"),
    "spaces": "  3  \n\n" + ROWS.replace(" ", "   "),
    "byte order mark": "\ufeff" + with_comment("water"),
    "more columns": "3\n\n" + ROWS.replace("\n", " -0.4 0.1 0.2 0.3\n"),
    "QM9": with_comment("gdb 3\t799.58812\t437.90386\t0.\t-76.404702\t")
    + "1671.4222\t3803.6305\t3907.698\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n",
    "QM9 exponents": with_comment("").replace("0.1173", "1.173*^-1").replace("0.4692", "4692*^-4"),
    "Fortran": with_comment("").replace("0.1173", "0.1173D0").replace("0.4692", "4.692d-01"),
    "exponents": with_comment("").replace("0.1173", "+1.173E-1").replace("0.4692", ".4692e+00"),
    "a comment of words": with_comment("energy: -76.4 a.u., it's 5' off; converted from Bohr to A"
                                       "ngstrom, hartree/bohr, no charge; Mulliken charges behind"),
    "a comment of entries": with_comment('energy=-76.4 name="a b" tags={1 2} stress="1 2 3" uid=7'),
    "hint of angstrom": with_comment("units=angstrom"),
    "not periodic": with_comment('pbc="F F F"'),
    "lattice that does not count": with_comment(
        'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="F F F"'),
    "pbc in other words": with_comment("pbc=[False, false, 0] cell = '9 9 9'"),
    "columns as usual": in_columns("species:S:1:pos:R:3", SYMBOLS, "pos"),
    "quoted columns": in_columns('"species:S:1:pos:R:3"', SYMBOLS, "pos"),
    "positions first": in_columns("pos:R:3:species:S:1", "pos", SYMBOLS),
    "forces first": in_columns("species:S:1:forces:R:3:pos:R:3", SYMBOLS, FORCES, "pos"),
    "forces before all": in_columns("forces:R:3:species:S:1:pos:R:3", FORCES, SYMBOLS, "pos"),
    "mass first": in_columns(
        "species:S:1:mass:R:1:pos:R:3", SYMBOLS, ("15.999", "1.008", "1.008"), "pos"),
    "Z": in_columns("Z:I:1:pos:R:3", Z, "pos"),
    "numbers at the end": in_columns("pos:R:3:numbers:I:1", "pos", Z),
    "species and Z": in_columns("species:S:1:Z:I:1:pos:R:3", SYMBOLS, Z, "pos"),
    "Z in front": in_columns("Z:I:1:species:S:1:pos:R:3:tag:L:1", Z, SYMBOLS, "pos", "TFT"),
    "columns with a charge each": in_columns(
        "species:S:1:charge:R:1:pos:R:3", SYMBOLS, ("-0.8", "0.4", "0.4"), "pos"),
    "energy in front": with_comment("").replace("\n\n", "\nenergy=-1.0\n"),
}  # fmt: skip
ENCODED = {
    "UTF-16": with_comment("water").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + with_comment("water").encode("utf-16-be"),
    # \x85 and \xa0 are white space, and \x85 a new line, where text is taken for Unicode.
    "Latin-1": with_comment("W\xe4rme\x85\xa0 3 \xb1 1 \xc5").encode("latin-1"),
    "UTF-8": with_comment("水 \u2028 −1").encode(),
}


@pytest.mark.parametrize("name", [*WATER, *ENCODED])
def test_water_is_read_as_it_is_meant(name, tmp_path):
    path = tmp_path / "water.xyz"
    path.write_bytes(ENCODED[name] if name in ENCODED else WATER[name].encode())
    structure = read_xyz(path)
    assert structure.atomic_numbers.tolist() == [8, 1, 1] and structure.charge == 0
    np.testing.assert_allclose(structure.positions, POSITIONS, rtol=1e-15)


CHARGED = {
    "charge=-2 multiplicity=1": -2,
    "Charge = +1": 1,
    'charge="-2"': -2,
    "charge: -2, spin: 0": -2,
    "total charge -1": -1,
    "total_charge=1.0 spin=1": 1,
    "net charge of (-1)": -1,
    "molecule with charge (-1)": -1,
    "chrg=2 uhf=0": 2,
    "CSD_code = ABC | q = -1 | S = 0 | Stoichiometry = H2O": -1,
    "charge=1 Properties=species:S:1:pos:R:3": 1,
    "energy=1 charge=0": 0,
    "0 1": 0,
    "0 1 H2O": 0,
    "reference_value=1.2 charge=-1 charge_a=0 total_spin=1": -1,
}


@pytest.mark.parametrize("comment", CHARGED)
def test_the_charge_of_the_comment_line_is_used_and_must_agree(comment, tmp_path):
    path = tmp_path / "ion.xyz"
    path.write_text(with_comment(comment))
    charge = CHARGED[comment]
    assert read_xyz(path).charge == read_xyz(path, charge).charge == charge
    if "charge" in comment.lower() or "q =" in comment:
        with pytest.raises(
            UserError, match=rf"line 2 says charge .*, but --charge is {charge + 1}"
        ):
            read_xyz(path, charge + 1)


def test_charges_of_atoms_agree_with_the_total_or_with_the_user(tmp_path):
    path = tmp_path / "ion.xyz"
    text = in_columns("species:S:1:charges:R:1:pos:R:3", SYMBOLS, ("-1.8", "-.1", "-.1"), "pos")
    path.write_text(text.replace("pos:R:3\n", "pos:R:3 charge=-2\n"))
    assert read_xyz(path).charge == -2
    path.write_text(text)
    assert read_xyz(path, 0).charge == 0 and read_xyz(path, -2).charge == -2


def test_what_may_be_a_charge_wants_to_be_told(tmp_path):
    path = tmp_path / "ion.xyz"
    path.write_text(with_comment("-2 1"))
    with pytest.raises(UserError, match="'-2 1' may be charge and multiplicity; write charge=-2"):
        read_xyz(path)
    assert read_xyz(path, 0).charge == 0 and read_xyz(path, -2).charge == -2
    path.write_text(with_comment("no word of it"))
    assert read_xyz(path, -2).charge == -2


REFUSED = {
    "empty": ("", "empty"),
    "blank": (" \n\n\t\n", "empty"),
    "SMILES": ("CCO\n", "line 1 must be the number of atoms"),
    "negative count": ("-3\n\n" + ROWS, "line 1 must be the number"),
    "count with a fraction": ("3.0\n\n" + ROWS, "line 1 must be the number"),
    "count with a digit separator": ("1_0\n\n" + ROWS, "line 1 must be the number"),
    "count in full-width digits": ("３\n\n" + ROWS, "line 1 must be the number"),
    "one atom": ("1\n\nO 0 0 0\n", "2 to 10000"),
    "none": ("0\n\n", "2 to 10000"),
    "10^9 atoms": ("1000000000\n\n" + ROWS, "2 to 10000"),
    "10^5000 atoms": ("1" + "0" * 5000 + "\n\n" + ROWS, "2 to 10000"),
    "too few": ("4\n\n" + ROWS, "states 4 atoms, 3 atom lines follow"),
    "no comment line": ("3\n" + ROWS, "must be a comment"),
    "no comment line, ions": ("2\nO 0 0 0\nH 0 0 1 3\n", "must be a comment"),
    "only a count": ("3\n", "states 3 atoms, 0 atom lines"),
    "blank line between": (with_comment("").replace("\nH", "\n\nH", 1), "3 atoms, 2 atom lines"),
    "too many": ("2\n\n" + ROWS, "line 5 goes on with 'H 0 -0.7572 -0.4692'; give one structure"),
    "frames": (with_comment("a") * 2, "line 6 goes on with '3'; give one structure a file"),
    "frames with text": (with_comment("a").replace("3\n", "3 x\n") * 2, "one structure a file"),
    "frames in other columns": (
        in_columns("pos:R:3:species:S:1", "pos", SYMBOLS) * 2, "one structure a file"),
    "lattice vectors": (with_comment("") + "VEC1 9 0 0\n", "line 6 goes on with 'VEC1 9 0 0'"),
    "translation vector": (with_comment("") + "Tv 9 0 0\n", "line 6 goes on with 'Tv 9 0 0'"),
    "an atom with a slip": (with_comment("") + "H 9 0 O\n", "line 6 goes on with 'H 9 0 O'"),
    "lattice": (with_comment('Lattice="9 0 0 0 9 0 0 0 9"'), "tells of a periodic system"),
    "lattice in other words": (with_comment("cell=[9,9,9]"), "tells of a periodic system"),
    "pbc": (with_comment('pbc="F F T"'), r"periodic system \(pbc="),
    "pbc alone": (with_comment("pbc=True"), "periodic system"),
    "pbc unknown": (with_comment("pbc=maybe"), "periodic system"),
    "pbc with a line separator": (with_comment('pbc="F F\u2028T"'), r"pbc='F F.u2028T'"),
    "endless comment": (with_comment("charge" * 50_000), "300000 characters; no comment"),
    "open quotes": (with_comment('Lattice="9 0 0 0 9 0 0 0 9 energy=1'), "quotes do not end"),
    "columns twice": (
        with_comment("Properties=species:S:1:pos:R:3 Properties=pos:R:3:species:S:1"), "twice"),
    "two charges": (with_comment("charge=1 total charge: 2"), "says charge 1, 2, but they differ"),
    "half a charge": (with_comment("charge=0.5"), "charge '0.5' is not a whole number"),
    "charge in words": (with_comment("charge=two"), "charge 'two' is not a whole number"),
    "charge that is none": (with_comment("charge="), "charge '' is not a whole number"),
    "charge with a digit separator": (with_comment("charge=1_0"), "'1_0' is not a whole number"),
    "charge with a dash": (with_comment("charge=−2"), "'−2' is not a whole number"),
    "triplet": (with_comment("charge=0 multiplicity=3"), "'multiplicity=3'; only closed-shell"),
    "triplet in other words": (with_comment("spin: 2"), "only closed-shell"),
    "unpaired": (with_comment("uhf=2"), "only closed-shell"),
    "charge and multiplicity of Psi4": (with_comment("-2 1 H2O"), "'-2 1 H2O' may be charge and"),
    "total_spin": (with_comment("charge=0 total_spin=3"), "'total_spin=3'; only closed-shell"),
    "0 3": (with_comment("0 3"), "'0 3' may be charge and multiplicity"),
    "bohr": (with_comment("coordinates in bohr"), "another unit of length"),
    "bohr behind the count": ("3 au\n\n" + ROWS, "line 1 names another unit of length"),
    "units=bohr": (with_comment("units=bohr"), "another unit of length"),
    "units=au": (with_comment('pos_unit: "au"'), "another unit of length"),
    "nm": (with_comment("length_unit=nm"), "another unit of length"),
    "atomic units": (with_comment("geometry in atomic units"), "another unit of length"),
    "dummy": (with_comment("").replace("O", "Xx"), "'Xx' is not an element"),
    "X": (with_comment("").replace("O", "X"), "'X' is not an element"),
    "ghost": (with_comment("").replace("O", "Gh(O)"), r"'Gh\(O\)' is not an element"),
    "deuterium": (with_comment("").replace("H", "D"), "'D' is not an element; isotopes"),
    "isotope": (with_comment("").replace("H", "2H"), "'2H' is not an element; isotopes"),
    "label": (with_comment("").replace("O", "O1"), "'O1' is not an element; isotopes, labels"),
    "atomic number 0": (with_comment("").replace("O", "0"), "'0' is not an element"),
    "atomic number 119": (with_comment("").replace("O", "119"), "'119' is not an element"),
    "full-width letter": (with_comment("").replace("O", "Ｏ"), "is not an element"),
    "two columns": ("2\n\nO 0 0\nH 0 0 1\n", "three coordinates"),
    "words": ("2\n\nO a b c\nH 0 0 1\n", "three numbers in angstrom .*, not 'a b c'"),
    "number in front": ("2\n\n1 O 0 0 0\n2 H 0 0 1\n", "three numbers .*, not 'O 0 0'"),
    "nan": ("2\n\nO nan 0 0\nH 0 0 1\n", "three numbers .*, not 'nan 0 0'"),
    "inf": ("2\n\nO 0 -inf 0\nH 0 0 1\n", "three numbers .*, not '0 -inf 0'"),
    "digit separator": ("2\n\nO 1_0 0 0\nH 0 0 1\n", "three numbers"),
    "hexadecimal": ("2\n\nO 0x1p3 0 0\nH 0 0 1\n", "three numbers"),
    "full-width digits": ("2\n\nO 0 0 １.0\nH 0 0 0\n", "three numbers"),
    "comma": ("2\n\nO 0,5 0 0\nH 0 0 1\n", "three numbers"),
    "stars": ("2\n\nO ****** 0 0\nH 0 0 1\n", "three numbers"),
    "far": ("2\n\nH 0 0 0\nH 0 0 1e300\n", "at most 1000"),
    "farther": ("2\n\nH 0 0 0\nH 0 0 1e99999999999\n", "at most 1000"),
    "coincident": ("3\n\nO 0 0 0\nH 0 0 1\nH 0 0 1\n", "atoms 2 and 3"),
    "three in one place": ("3\n\nO 0 0 0\nO 0 0 0\nO 0 0 0\n", "are 0.00 A apart"),
    "columns without positions": (
        in_columns("species:S:1:forces:R:3", SYMBOLS, "pos"), "species:S:1 .* and pos:R:3 once"),
    "columns without an element": (
        in_columns("mass:R:1:pos:R:3", Z, "pos"), "species:S:1 .* and pos:R:3 once"),
    "two coordinates": (in_columns("species:S:1:pos:R:2", SYMBOLS, "pos"), "pos:R:3 once"),
    "positions twice": (
        in_columns("species:S:1:pos:R:3:positions:R:3", SYMBOLS, "pos", "pos"), "pos:R:3 once"),
    "columns cut short": (in_columns("species:S:1:pos:R", SYMBOLS, "pos"), "not a list of NAME"),
    "unknown type": (in_columns("species:S:1:pos:F:3", SYMBOLS, "pos"), "not a list of NAME"),
    "no type": (in_columns("species::1:pos:R:3", SYMBOLS, "pos"), "not a list of NAME"),
    "10^12 columns": (
        in_columns("species:S:1:pos:R:3:x:R:1000000000000", SYMBOLS, "pos"), "not a list of NAME"),
    "fewer columns": (
        in_columns("species:S:1:pos:R:3:x:R:3", SYMBOLS, "pos"), "4 columns, expected 7"),
    "more columns": (
        in_columns("species:S:1:pos:R:3", SYMBOLS, "pos", Z), "5 columns, expected 4"),
    "charges of an ion": (
        in_columns("initial_charges:R:1:Z:I:1:pos:R:3", ("-1.8", "-.1", "-.1"), Z, "pos"),
        "charges of its atoms add up to -2, its comment line makes it 0; give --charge"),
    "charges that are none": (
        in_columns("species:S:1:charge:R:1:pos:R:3", SYMBOLS, ("-0.8", "x", "x"), "pos"),
        "add up to nan"),
    "species against Z": (
        in_columns("species:S:1:Z:I:1:pos:R:3", SYMBOLS, "861", "pos"),
        "'H and 6' is not an element"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_in_one_line(name, tmp_path):
    text, words = REFUSED[name]
    path = tmp_path / "molecule.xyz"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as raised:
        read_xyz(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
    assert len(message) < 300 + len(str(path))


def test_what_is_no_text_file_is_refused(tmp_path):
    binary = tmp_path / "binary.xyz"
    for content in (b"3\n\x00\n", b"\x1f\x8b\x08\x00rest", b"\xff\xfe\x00\x01", b"3\n\x1b[31m\n"):
        binary.write_bytes(content)
        with pytest.raises(UserError, match=r"not a text file|number of atoms"):
            read_xyz(binary)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    large = tmp_path / "large.xyz"
    with large.open("wb") as stream:
        stream.truncate(2**34)
    for path, words in (
        (tmp_path / "nowhere.xyz", "no such file"),
        (tmp_path / "link", "is a link to what is not there"),
        (tmp_path, "is a folder; give one XYZ file"),
        (tmp_path / "pipe", "is a pipe; give one XYZ file"),
        ("/dev/zero", "is a device"),
        (large, "more than 4 MiB"),
    ):
        with pytest.raises(UserError, match=re.escape(f"{path}: ") + words):
            read_xyz(type(tmp_path)(path))


def test_our_own_export_reads_back(tmp_path):
    shard = make_shard(tmp_path, "ethylene", n_frames=3)
    (file,) = write_export(
        plan_export([shard], "extxyz", tmp_path, Selection(frames=1), separate=True)
    )
    structure = read_xyz(tmp_path / file["path"])
    with Shard(shard) as source:
        assert structure.charge == source.metadata.charge
        np.testing.assert_array_equal(structure.atomic_numbers, source.atomic_numbers)
        np.testing.assert_array_equal(structure.positions.astype("f4"), source.read("positions")[0])
