"""What a molecule list may hold, and the order of a molecule's atoms."""

import csv
import io
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from tg80.chemistry.lists import (
    default_name,
    parse_list,
    read_list,
    tg80_molecules,
    tg80_table_text,
)
from tg80.chemistry.molecule import (
    Molecule,
    molecule_from_smiles,
    slug,
)
from tg80.chemistry.smiles import MAX_ATOMS
from tg80.errors import UserError

names_of_tg80 = st.sampled_from([molecule.name for molecule in tg80_molecules()])


def write(tmp_path, content, name="list.smi"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(source) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_list(source)
    return str(caught.value).split("\n")


# The 80 compounds


def test_the_80_compounds_are_those_of_the_table():
    rows = list(csv.DictReader(tg80_table_text().splitlines()))
    assert len(rows) == 80
    for molecule, row in zip(tg80_molecules(), rows, strict=True):
        assert (molecule.name, molecule.smiles, molecule.inchikey, molecule.formula) == (
            row["name"],
            row["smiles"],
            row["inchikey"],
            row["formula"],
        )
        assert (molecule.n_atoms, molecule.n_heavy) == (int(row["n_atoms"]), int(row["n_heavy"]))


def test_tg80_source_is_the_80_compounds():
    assert read_list("tg80").molecules == tg80_molecules()


# Atom order


@pytest.mark.parametrize("molecule", tg80_molecules(), ids=lambda m: m.name)
def test_atoms_are_heavy_first_in_canonical_order(molecule):
    numbers = list(molecule.atomic_numbers)
    assert numbers == sorted(numbers, key=lambda number: number == 1)
    graph = molecule.to_rdkit()
    assert [atom.GetAtomicNum() for atom in graph.GetAtoms()] == numbers
    canonical = Chem.MolFromSmiles(molecule.smiles)
    assert numbers[: molecule.n_heavy] == [atom.GetAtomicNum() for atom in canonical.GetAtoms()]
    bonds = {
        (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), b.GetBondTypeAsDouble())
        for b in graph.GetBonds()
    }
    assert bonds == set(molecule.bonds)


@given(names_of_tg80, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_every_spelling_gives_the_same_molecule(name, seed):
    molecule = next(m for m in tg80_molecules() if m.name == name)
    graph = Chem.MolFromSmiles(molecule.smiles)
    order = list(range(graph.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    spelling = Chem.MolToSmiles(Chem.RenumberAtoms(graph, order), canonical=False)
    assert molecule_from_smiles(spelling, name) == molecule


@pytest.mark.parametrize(
    "smiles",
    ["[H][H]", "[H]/N=C/C", "C[N+](C)(C)C", "C[C@H](N)C(=O)O", "C/C=C\\Cl", "CC(=O)[O-]", "BrC"],
)
def test_mapped_smiles_round_trips(smiles):
    molecule = molecule_from_smiles(smiles)
    again = molecule_from_smiles(molecule.mapped_smiles)
    assert again == molecule
    bare = Chem.RemoveHs(molecule.to_rdkit())
    assert Chem.MolToInchiKey(bare) == molecule.inchikey


def test_a_molecule_survives_pickling_and_knows_its_masses():
    ethanol = molecule_from_smiles("OCC", "ethanol")
    assert pickle.loads(pickle.dumps(ethanol)) == ethanol
    assert ethanol.name == "ethanol"
    assert ethanol.masses.shape == (9,)
    assert ethanol.masses.sum() == pytest.approx(46.07, abs=0.01)
    assert ethanol.inchikey_block == "LFQSCWFLJHTTHZ"
    assert ethanol.elements == {"C", "H", "O"}


def test_charge_comes_from_the_smiles():
    assert molecule_from_smiles("C[NH3+]").charge == 1
    assert molecule_from_smiles("CC(=O)[O-]").charge == -1


# What is refused


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "invalid SMILES"),
        ("C(C)(C)(C)(C)C", "invalid SMILES"),
        ("c1cccc1", "invalid SMILES"),
        ("ÇC", "non-ASCII"),
        ("[CH3]", "radical"),
        ("[CH2]", "radical"),
        ("C[O]", "radical"),
        ("[N]=O", "radical"),
        ("[He]", "unsupported element He"),
        ("[H+]", "single atom"),
        ("[F-]", "single atom"),
        ("CC(N)C(=O)O", "unspecified stereo"),
        ("CC(O)C(O)C", "unspecified stereo"),
        ("CC=CC", "unspecified stereo element (double bond)"),
        ("CC=N", "double bond"),
        ("c1ccccc1N=Nc1ccccc1", "double bond"),
        ("CC1(C)C2CCC1(C)C(=O)C2", "stereocentre"),
        ("CC(=O)[O-].C[NH3+]", "2 fragments"),
        ("[Na+].[Cl-]", "unsupported element Na"),
        ("C[Se]C", "unsupported element Se"),
        ("*C", "unsupported element *"),
        ("[2H]C", "isotope"),
        ("O=O", "triplet"),
        ("S=S", "triplet"),
        ("O=S", "triplet"),
        ("[N-]=O", "triplet"),
        ("", "no SMILES"),
        ("C" * 10_000, "up to 200 atoms"),
        ("C" * 80, "up to 200 atoms"),
    ],
)
def test_what_is_no_closed_shell_compound_is_refused(smiles, reason, capfd):
    with pytest.raises(UserError) as caught:
        molecule_from_smiles(smiles)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # RDKit's own chatter is silenced


def test_a_huge_molecule_is_refused_before_any_costly_step(monkeypatch):
    def not_to_be_reached(*args, **kwargs):
        raise AssertionError("canonicalised")

    monkeypatch.setattr(Chem, "MolToSmiles", not_to_be_reached)
    monkeypatch.setattr(Chem, "SanitizeMol", not_to_be_reached)
    monkeypatch.setattr(Chem, "MolToInchiKey", not_to_be_reached)
    for smiles in ("C" * 10_000, "C" * 600, "[SiH2]" * 300):
        with pytest.raises(UserError, match=f"up to {MAX_ATOMS} atoms"):
            molecule_from_smiles(smiles)


@pytest.mark.parametrize(
    "smiles", ["C1CC2CCC1C2", "CN1C2CCC1CC2", "C1C2CC3CC1CC(C2)C3", "C1CN2CCC1CC2"]
)
def test_bridgeheads_with_one_possible_setting_need_no_stereo(smiles):
    assert molecule_from_smiles(smiles).smiles


# Names


def test_default_names_are_table_slugs_or_formula_and_inchikey():
    assert default_name(molecule_from_smiles("C(C)O")) == "ethanol"
    assert molecule_from_smiles("O=CN(C)C").name == "c3h7no-zmxddkwl"
    left, right = molecule_from_smiles("C[C@H](N)C(=O)O"), molecule_from_smiles("C[C@@H](N)C(=O)O")
    assert left.name != right.name
    # A tautomer has uracil's InChIKey and is not called uracil.
    tautomer = molecule_from_smiles("Oc1ccnc(O)n1")
    assert tautomer.inchikey == molecule_from_smiles("O=c1cc[nH]c(=O)[nH]1").inchikey
    assert default_name(tautomer) != "uracil"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ethanol", "ethanol"),
        ("1,4-Dioxane", "1-4-dioxane"),
        ("  acetic  acid ", "acetic-acid"),
        ("(E)-2_butene", "e-2-butene"),
        ("Éther diéthylique", "ether-diethylique"),
        ("β-lactam", "beta-lactam"),
        ("Straße", "strasse"),
        ("a\tb", "a-b"),
        ("2.2-x", "2-2-x"),
    ],
)
def test_names_become_slugs(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("../x", " ../x", "a/b", "a\\b", "/etc", "..", ".hidden", "C:\\x"),
        *("a\0b", "a\x1bb", "a\u202eb", "水", "---", "con", "x" * 65),
    ],
)
def test_names_that_would_not_be_safe_files_are_refused(name):
    with pytest.raises(UserError, match="name"):
        slug(name)
    with pytest.raises(UserError, match="name"):
        molecule_from_smiles("CCO", name)


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_a_slug_is_a_safe_file_name_or_refused(name):
    try:
        result = slug(name)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert result.isascii() and set(result) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert result[0] != "-" and len(result) <= 64
    assert slug(result) == result


# Lists


def test_smi_lines_with_comments_names_tabs_crlf_and_bom(tmp_path):
    content = (
        b"\xef\xbb\xbf# a comment\r\n\r\nCCO\tEthyl alcohol\r\n   \r\nCC#N # no name here\r\n"
        b"  O=CN(C)C   dmf # solvent\r\nC=O\r\n#CC\r\n"
    )
    molecules = read_list(write(tmp_path, content)).molecules
    assert [m.name for m in molecules] == ["ethyl-alcohol", "acetonitrile", "dmf", "formaldehyde"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_with_any_delimiter_and_other_columns(tmp_path, mark):
    rows = [["id", "SMILES", "Name"], ["1", "CCO", '"my, ethanol"'], ["2", "C=O", ""]]
    text = "# made by hand\n" + "\n".join(mark.join(row) for row in rows) + "\n\n"
    for name in ("list.csv", "list.txt"):
        molecules = read_list(write(tmp_path, text, name)).molecules
        assert [m.name for m in molecules] == ["my-ethanol", "formaldehyde"]


def test_the_tables_own_csv_can_be_read(tmp_path):
    assert read_list(write(tmp_path, tg80_table_text(), "m.csv")).molecules == tg80_molecules()


def test_standard_input(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"CCO\nC=O\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    assert [m.name for m in read_list("-").molecules] == ["ethanol", "formaldehyde"]


def test_all_bad_lines_are_reported_at_once_with_their_numbers(tmp_path):
    path = write(
        tmp_path,
        "CCO\n# fine\nXYZ bad\n[CH3]\n\nOCC again\nC=O ethanol\nCC=CC\nCCN ../up\n[Na+].[Cl-]\n",
    )
    lines = refusal(path)
    assert [line.split(":")[1] for line in lines] == ["3", "4", "6", "7", "8", "9", "10"]
    assert all(line.startswith(f"{path}:") for line in lines)
    assert "CCO is the compound of line 1" in lines[2]
    assert "taken by line 1" in lines[3]
    assert "looks like a path" in lines[5]


def test_csv_problems_have_the_lines_of_the_file(tmp_path):
    path = write(tmp_path, "name,smiles\n\n# note\na,CCO\nb\nc,QQ\n", "list.csv")
    assert [line.split(":")[1] for line in refusal(path)] == ["5", "6"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no molecules"),
        (b"# nothing\n\n", "no molecules"),
        (b"smiles,name\n", "no molecules"),
        (b"CCO\0\n", "not a text file"),
        (bytes(range(256)) * 10, "not a text file"),
    ],
)
def test_files_that_are_no_lists_are_refused(tmp_path, content, reason):
    (line,) = refusal(write(tmp_path, content))
    assert reason in line and "list.smi" in line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_names_and_comments_may_have_accents(tmp_path, encoding):
    path = write(tmp_path, "# André\nCCOCC Éther\n".encode(encoding))
    assert [m.name for m in read_list(path).molecules] == ["ether"]


def test_csv_without_smiles_column_missing_file_and_folder(tmp_path):
    (line,) = refusal(write(tmp_path, "name,formula\na,b\n", "list.csv"))
    assert "smiles" in line
    (line,) = refusal(tmp_path / "missing.smi")
    assert "missing.smi" in line
    (line,) = refusal(tmp_path)
    assert str(tmp_path) in line


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_list_or_refused_by_line(text):
    try:
        molecules = parse_list(text.split("\n"), "list").molecules
    except UserError as error:
        assert all(line.startswith("list") for line in str(error).split("\n"))
        return
    assert all(isinstance(m, Molecule) and m.n_atoms >= 2 for m in molecules)


def test_default_name_is_documented_for_ions():
    assert molecule_from_smiles("C[NH3+]").name.startswith("ch6n-")
