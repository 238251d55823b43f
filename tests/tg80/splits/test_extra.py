"""Further training compounds, checked by RDKit and JSON alone; unfit ones are named."""

import csv
import json
from pathlib import Path

import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from pipelines.cli import run

DATA = Path(__file__).parents[3] / "tg80" / "data"
SPLIT = json.loads((DATA / "splits" / "tg80-v1.json").read_text())
SMILES = {name: entry["smiles"] for name, entry in SPLIT["molecules"].items()}
with (DATA / "extra-v1.csv").open() as file:
    EXTRA = {row["name"]: row["smiles"] for row in csv.DictReader(file)}


def connectivity(smiles):
    return Chem.MolToInchiKey(Chem.MolFromSmiles(smiles)).split("-")[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the command says of the list that ships along."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["split", "--check", "--no-recompute", "--json", "--extra", "extra-v1"]) == 0
    return json.loads(out.getvalue())["extra"]


def test_the_list_is_of_small_closed_shells_and_none_of_the_80():
    assert 280 <= len(EXTRA) <= 350
    assert not set(EXTRA) & set(SMILES)
    assert not {connectivity(s) for s in EXTRA.values()} & {
        connectivity(s) for s in SMILES.values()
    }
    for smiles in EXTRA.values():
        molecule = Chem.MolFromSmiles(smiles)
        assert {atom.GetSymbol() for atom in molecule.GetAtoms()} <= set("CNOFS") | {"Cl"}
        assert molecule.GetNumAtoms() <= 16 and Chem.GetFormalCharge(molecule) == 0
        assert not any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())


@pytest.mark.parametrize("fold", SPLIT["folds"], ids=lambda fold: f"fold{fold['index']}")
def test_no_held_out_compound_gets_a_nearer_training_compound(fold, report):
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    bits = {
        name: generator.GetFingerprint(Chem.MolFromSmiles(s))
        for name, s in (SMILES | EXTRA).items()
    }

    def nearest(held, names):
        return max(DataStructs.TanimotoSimilarity(bits[held], bits[name]) for name in names)

    (mine,) = [one for one in report["folds"] if one["fold"] == fold["index"]]
    assert len(mine["allowed"]) > 200
    excluded = {one["name"]: one["held"] for one in mine["too_near"]}
    assert {*mine["allowed"], *excluded} == set(EXTRA)
    for held in fold["test_ood"]:
        assert nearest(held, mine["allowed"]) <= nearest(held, fold["train"]) + 1e-9
    for name, held in excluded.items():
        assert nearest(held, [name]) > nearest(held, fold["train"])


def test_a_compound_of_the_split_under_another_name_is_refused(tmp_path, capsys):
    path = tmp_path / "more.csv"
    path.write_text("name,smiles\nalcohol,OCC\nbenzene,Cc1ccsc1\nhexane,CCCCCC\n")
    assert run(["split", "--check", "--no-recompute", "--extra", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "BROKEN  alcohol has the connectivity of ethanol" in shown
    assert "BROKEN  benzene is the name of a compound of tg80-v1" in shown
    assert shown.count("BROKEN") == 2
    assert run(["split", "--molecule-list", str(path), "--extra", "extra-v1"]) == 2
    assert "--extra goes with --check" in capsys.readouterr().err
