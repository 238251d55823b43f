"""Lists as they come: headers, tables, blocks, bad rows; left out, or refused all at once."""

import time
from pathlib import Path

import pytest
from rdkit import Chem

from tg80.chemistry.lists import read_list
from tg80.errors import UserError

REAL = Path(__file__).parents[2] / "data" / "solubility.csv"


def write(tmp_path, content, name="list.smi"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def names(source, **options):
    return [molecule.name for molecule in read_list(source, **options).molecules]


# Headers


@pytest.mark.parametrize("delimiter", [" ", "\t", ",", ";", "|"])
@pytest.mark.parametrize("title", ["Name", "ID", "Some title"])
def test_lists_that_rdkit_writes_are_read(tmp_path, delimiter, title):
    path = tmp_path / "list.smi"
    writer = Chem.SmilesWriter(str(path), delimiter=delimiter, nameHeader=title)
    for smiles, name in (("CCO", "ethyl alcohol"), ("CC=O", "acetaldehyde"), ("C", "")):
        graph = Chem.MolFromSmiles(smiles)
        graph.SetProp("_Name", name)
        writer.write(graph)
    writer.close()
    assert path.read_text().startswith(f"SMILES{delimiter}{title}{delimiter}")
    assert names(path)[:2] == ["ethyl-alcohol", "acetaldehyde"]


def test_a_list_that_rdkit_writes_with_properties_and_without_header(tmp_path):
    path = tmp_path / "list.smi"
    writer = Chem.SmilesWriter(str(path), delimiter="\t")
    writer.SetProps(["logP"])
    graph = Chem.MolFromSmiles("CCO")
    graph.SetProp("_Name", "ethyl alcohol")
    graph.SetProp("logP", "-0.3")
    writer.write(graph)
    writer.close()
    assert names(path) == ["ethyl-alcohol"]
    path.write_text("CCO ethyl alcohol\n")
    assert names(path) == ["ethyl-alcohol"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SMILES Name \nCCO ethanol\n", ["ethanol"]),
        ("smiles\nCCO\n", ["ethanol"]),
        ("SMILES\nC=O my name\n", ["my-name"]),
        ("canonical_smiles name\nCCO x\n", ["x"]),
        ("name smiles\nx CCO\n", ["x"]),
        ("SMILES name logP\nCCO x -0.3\n", ["x"]),
        ("name,canonical_smiles\nx,CCO\n", ["x"]),
        ('"Canonical SMILES";"Title"\n"CCO";"x"\n', ["x"]),
        ("Compound ID,\"log(S), mol/L\",SMILES\n\"1,1-X\",-2,CCO\n", ["1-1-x"]),
        ("canonical_smiles,isomeric_smiles,name\nCC(F)Cl,C[C@H](F)Cl,x\n", ["x"]),
        ("\ufeffid,smiles,n\r\n7,CCO,1\r\n", ["7"]),
        ("smiles,logP\nCCO,-0.3\n", ["ethanol"]),
        ("smiles,name\n\"C[C@H](F)Cl |&1:1,r|\",x\n", None),
        ("CCO smiles\nC=O x\n", ["smiles", "x"]),
        ("CCO |(0,0,;1,0,;2,0,)| x y # z\nC=O |$;$| z\n", ["x-y", "z"]),
    ],
)  # fmt: skip
def test_headers_and_columns(tmp_path, text, expected):
    path = write(tmp_path, text)
    if expected is None:
        with pytest.raises(UserError, match="racemic"):
            read_list(path)
    else:
        assert names(path) == expected


def test_columns_that_could_be_meant_alike_are_refused(tmp_path):
    path = write(tmp_path, "my_smiles,canonical_smiles\nCCO,CCO\n")
    with pytest.raises(UserError, match=r"list.smi:1: 2 columns of SMILES; call one"):
        read_list(path)


# Bad rows

BAD_TABLE = """SMILES,name
CCO,fine
CCC,"open quote
"unclosed,CCC
,no smiles
C C,two words
C1CC,ring
c1cccc1,aromatic
[Na+].[Cl-],salt
[CH3],radical
[2H]C,isotope
*C,dummy
C[Se]C,element
O,../path
OCC,again
C=O,fine
CC(F)Cl,stereo
CCO>>CC=O,reaction
InChI=1S/CH4/h1H4,inchi
[He],atom
CC |Z:1|,block
C~C,bond
"""


def test_every_bad_row_has_its_line_and_reason(tmp_path):
    path = write(tmp_path, BAD_TABLE, "list.csv")
    with pytest.raises(UserError) as caught:
        read_list(path)
    strict = [str(line) for line in str(caught.value).split("\n")]
    lines = BAD_TABLE.splitlines()
    bad = [n for n in range(3, len(lines) + 1)]
    assert [line.removeprefix(f"{path}:").split(":")[0] for line in strict] == [str(n) for n in bad]
    found = read_list(path, skip_bad=True)
    assert [molecule.name for molecule in found.molecules] == ["fine"]
    assert [f"{path}:{row.line}: {row.reason}" for row in found.left_out] == strict
    assert [row.text for row in found.left_out] == [lines[n - 1] for n in bad]
    with pytest.raises(UserError, match=r":1: .*C1CC"):
        read_list(write(tmp_path, "C1CC ring\n"), skip_bad=True)


def test_a_level_can_refuse_rows(tmp_path):
    def check(molecule):
        if "S" in molecule.elements:
            raise UserError("no S")

    path = write(tmp_path, "CCO a\nCS b\n")
    with pytest.raises(UserError, match=r":2: no S"):
        read_list(path, check=check)
    assert names(path, check=check, skip_bad=True) == ["a"]


def test_one_compound_under_two_names_is_bad_and_tautomers_are_two(tmp_path):
    path = write(tmp_path, "CS(C)=O a\nC[S+](C)[O-] b\nOc1ccnc(O)n1 c\nO=c1cc[nH]c(=O)[nH]1 d\n")
    found = read_list(path, skip_bad=True)
    assert [molecule.name for molecule in found.molecules] == ["a", "c", "d"]
    assert found.left_out[0].line == 2 and "compound of line 1 again" in found.left_out[0].reason


def test_open_stereo_can_be_enumerated_or_settled(tmp_path):
    path = write(tmp_path, "OC(=O)C(O)C(O)C(=O)O tartaric acid\nCC(N)C(=O)O alanine\nCCO\nCC=CC\n")
    assert names(path, stereo="first")[:2] == ["tartaric-acid", "alanine"]
    found = names(path, stereo="enumerate")
    assert found[:4] == ["tartaric-acid-s1", "tartaric-acid-s2", "alanine", "ethanol"]
    assert len(found) == 6 and len(set(found)) == 6
    with pytest.raises(UserError) as caught:
        read_list(path)
    assert [line.split(":")[1] for line in str(caught.value).split("\n")] == ["1", "2", "4"]
    # One of the isomers is in the list already: that one is left out, the other taken.
    path = write(tmp_path, "C/C=C/C trans\nCC=CC both\n")
    assert names(path, stereo="enumerate", skip_bad=True) == ["trans", "both-s2"]


def test_a_list_as_it_comes():
    """Rows as tables of measured properties have them, with what is expected of each."""
    lines = REAL.read_text(encoding="utf-8-sig").splitlines()
    expected = {n: line.rsplit(",", 1)[-1] for n, line in enumerate(lines, 1) if "," in line}
    del expected[1]
    assert len(expected) > 60
    with pytest.raises(UserError) as caught:
        read_list(REAL)
    named = [line.removeprefix(f"{REAL}:").split(":")[0] for line in str(caught.value).split("\n")]
    assert [int(number) for number in named] == [n for n, what in expected.items() if what != "ok"]
    good = {n for n, what in expected.items() if what == "ok"}
    settled = {n for n, what in expected.items() if what == "stereo"}
    for stereo in ("given", "first", "enumerate"):
        found = read_list(REAL, skip_bad=True, stereo=stereo)
        left_out = {row.line: row.reason for row in found.left_out}
        assert not good & set(left_out)
        if stereo == "given":
            assert set(left_out) == set(expected) - good
            assert len(found.molecules) == len(good)
        else:
            assert all("at most" in left_out[n] for n in settled & set(left_out)), left_out
            assert len(found.molecules) >= len(good | settled) - 3


# Hostile files


def test_long_lines_and_long_lists_take_no_time(tmp_path):
    begin = time.process_time()
    for text in ("C" * 10**7, "CCO " + "x" * 10**7, "CCO |" + "0," * 10**6 + "|"):
        with pytest.raises(UserError) as caught:
            read_list(write(tmp_path, text))
        assert len(str(caught.value)) < 500
    for cell in ("x" * 10**7, '"' + "x" * 10**6, ",".join("x" * 10**6)):
        with pytest.raises(UserError) as caught:
            read_list(write(tmp_path, f"name,smiles\n{cell}\n", "list.csv"))
        assert len(str(caught.value)) < 500
    with pytest.raises(UserError) as caught:
        read_list(write(tmp_path, "QQ bad\n" * 2_000))
    assert len(str(caught.value).split("\n")) == 2_000
    assert time.process_time() - begin < 60
