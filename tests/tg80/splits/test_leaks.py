"""The frozen split proved leak-free with RDKit and JSON alone; planted leaks refused by name."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from pipelines.cli import run
from tests.support import factories
from tg80.splits.rules import check_rules
from tg80.splits.split import Split

ROOT = Path(__file__).parents[3]
CONTENT = json.loads((ROOT / "tg80" / "data" / "splits" / "tg80-v1.json").read_text())
SMILES = {name: entry["smiles"] for name, entry in CONTENT["molecules"].items()}
PARTS = ("train", "val", "test_id", "test_ood")
FOLDS = CONTENT["folds"]


def connectivity(smiles: str) -> str:
    """First block of the InChIKey: the compound without its stereochemistry."""
    return Chem.MolToInchiKey(Chem.MolFromSmiles(smiles)).split("-")[0]


# Nothing of ours but the file


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: f"fold{fold['index']}")
def test_parts_are_disjoint_by_the_smiles_alone(fold):
    blocks = {part: {connectivity(SMILES[name]) for name in fold[part]} for part in PARTS}
    for i, part in enumerate(PARTS):
        assert len(blocks[part]) == len(fold[part]) > 0
        for other in PARTS[i + 1 :]:
            assert not blocks[part] & blocks[other]
    assert set().union(*blocks.values()) == {connectivity(text) for text in SMILES.values()}


def test_clusters_time_blocks_and_elements_by_the_file_alone():
    held = Counter(cluster for fold in FOLDS for cluster in fold["ood_clusters"])
    assert held == Counter(set(CONTENT["clusters"].values())) and len(held) == 10
    elements = {
        name: {atom.GetSymbol() for atom in Chem.AddHs(Chem.MolFromSmiles(text)).GetAtoms()}
        for name, text in SMILES.items()
    }
    for fold in FOLDS:
        of = {part: {CONTENT["clusters"][name] for name in fold[part]} for part in PARTS}
        assert of["test_ood"] == set(fold["ood_clusters"])
        assert not of["test_ood"] & of["train"]
        assert of["val"] | of["test_id"] <= of["train"]
        known = set().union(*(elements[name] for name in fold["train"]))
        assert all(elements[name] <= known for part in PARTS for name in fold[part])
    spans = sorted(CONTENT["time_blocks"].values())
    assert all(end < begin for (_, end), (begin, _) in pairwise(spans))
    assert spans[0][0] == 0 and spans[-1][1] == 1


def nearest_similarities() -> dict[str, list[list[float]]]:
    """Tanimoto similarity of each test compound to its nearest training compound, by fold."""
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    bits = {name: generator.GetFingerprint(Chem.MolFromSmiles(t)) for name, t in SMILES.items()}
    return {
        part: [
            [
                max(DataStructs.BulkTanimotoSimilarity(bits[name], [bits[n] for n in f["train"]]))
                for name in f[part]
            ]
            for f in FOLDS
        ]
        for part in ("test_id", "test_ood")
    }


def test_similarities_of_the_certificate_are_those_found_here(capsys):
    found = nearest_similarities()
    assert run(["split", "--check", "--no-recompute", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for part, folds in found.items():
        for values, figures in zip(folds, report["folds"], strict=True):
            assert figures["nearest_train_tanimoto"][part]["mean"] == pytest.approx(np.mean(values))


def test_trajectories_that_ship_along_are_where_their_compound_is():
    """Plain h5py: the SMILES in each file decides the part, and no compound is in two."""
    blocks = {}
    for path in sorted((ROOT / "tg80" / "data" / "mini-xtb").glob("*.h5md")):
        with h5py.File(path) as file:
            attributes = file["parameters/tg80"].attrs
            assert connectivity(attributes["smiles"]) == connectivity(SMILES[attributes["name"]])
            blocks.setdefault(connectivity(attributes["smiles"]), set()).add(attributes["name"])
    assert len(blocks) == 30 and all(len(names) == 1 for names in blocks.values())


# Planted leaks, as `tg80 split --check FILE` meets them


def compound(smiles: str) -> dict:
    graph = Chem.AddHs(Chem.MolFromSmiles(smiles))
    counts = Counter(atom.GetSymbol() for atom in graph.GetAtoms())
    formula = "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(counts.items()))
    return {
        "smiles": smiles, "inchikey": Chem.MolToInchiKey(graph), "formula": formula,
        "n_atoms": graph.GetNumAtoms(),
    }  # fmt: skip


def add(content: dict, name: str, smiles: str, like: str, part: str) -> None:
    """A new compound in the cluster of another; in `part` wherever that cluster is seen."""
    content["molecules"][name] = compound(smiles)
    content["clusters"][name] = cluster = content["clusters"][like]
    for fold in content["folds"]:
        fold["test_ood" if cluster in fold["ood_clusters"] else part].append(name)


def twin_in_two_parts(content):
    add(content, "spirit", "OCC", "ethanol", "test_id")
    fold = next(f for f in content["folds"] if "ethanol" in f["train"])
    return (
        f"fold {fold['index']}: connectivity LFQSCWFLJHTTHZ is that of ethanol in train and spirit"
    )


def twin_in_the_same_part(content):
    for fold in content["folds"]:
        part = next(p for p in PARTS if "ethanol" in fold[p])
        fold[part].append("spirit")
    content["molecules"]["spirit"] = compound("OCC")
    content["clusters"]["spirit"] = content["clusters"]["ethanol"]
    return "ethanol, spirit are one compound, LFQSCWFLJHTTHZ-UHFFFAOYSA-N"


def stereoisomers_in_two_parts(content):
    add(content, "trans-2-butene", "C/C=C/C", "ethylene", "train")
    add(content, "cis-2-butene", r"C/C=C\C", "ethylene", "val")
    return "connectivity IAQRGUVFOMOMEM is that of cis-2-butene in val and trans-2-butene in train"


def moved_out_of_distribution(content):
    name = content["folds"][0]["test_ood"].pop()
    content["folds"][0]["train"].append(name)
    return f"fold 1: {name} of cluster {content['clusters'][name]} in train"


def copied_to_another_part(content):
    name = content["folds"][3]["test_id"][0]
    content["folds"][3]["val"].append(name)
    return f"fold 4: {name} stands in 2 parts"


def twice_in_one_part(content):
    name = content["folds"][3]["train"][0]
    content["folds"][3]["train"].append(name)
    return f"fold 4: {name} stands in 2 parts"


def left_out(content):
    return f"fold 5: {content['folds'][4]['train'].pop()} stands in 0 parts"


def stranger_in_a_part(content):
    content["folds"][0]["train"].append("argon")
    return "fold 1: argon stands in 1 parts"


def cluster_held_out_twice(content):
    first, second = content["folds"][:2]
    first["ood_clusters"] = second["ood_clusters"]
    return f"cluster {second['ood_clusters'][0]} is out of distribution in 2 folds"


def fold_missing(content):
    content["folds"].pop()
    return "folds [1, 2, 3, 4]; there should be 1 to 5"


def overlapping_time_blocks(content):
    content["time_blocks"]["val_time"] = [0.55, 0.755]
    return "time blocks train and val_time overlap"


def touching_time_blocks(content):
    content["time_blocks"]["test_time"] = [0.76, 1.0]
    return "only 0.5% of the trajectory between val_time and test_time"


def unlearnt_element(content):
    chlorine = {n for n, m in content["molecules"].items() if "Cl" in m["formula"]}
    fold = content["folds"][4]
    fold["test_id"] += [n for n in fold["train"] if n in chlorine]
    fold["train"] = [n for n in fold["train"] if n not in chlorine]
    name = next(n for n in fold["test_id"] if n in chlorine)
    return f"fold 5: {name} of test_id has Cl, train not"


def unlearnt_cluster(content):
    fold = content["folds"][0]
    cluster = content["clusters"][fold["val"][0]]
    fold["val"] += [n for n in fold["train"] if content["clusters"][n] == cluster]
    fold["train"] = [n for n in fold["train"] if content["clusters"][n] != cluster]
    return f"fold 1: no compound of seen cluster {cluster} in train"


def forged_smiles(content):
    content["molecules"]["ethanol"]["smiles"] = "CC#N"
    return "ethanol: InChIKey LFQSCWFLJHTTHZ-UHFFFAOYSA-N, its SMILES gives WEVYAHXRMPXWCK"


def cluster_relabelled(content):
    name = content["folds"][0]["train"][0]
    content["clusters"][name] = content["folds"][0]["ood_clusters"][0]
    return f"fold 1: {name} of cluster {content['clusters'][name]} in train"


def legal_but_another_deal(content):
    fold = content["folds"][1]
    fold["val"], fold["test_id"] = fold["test_id"], fold["val"]
    return "tg80-v1 of this package has dadb750c"


TAMPERING = (
    twin_in_two_parts, twin_in_the_same_part, stereoisomers_in_two_parts,
    moved_out_of_distribution, copied_to_another_part, twice_in_one_part, left_out,
    stranger_in_a_part, cluster_held_out_twice, fold_missing, overlapping_time_blocks,
    touching_time_blocks, unlearnt_element, unlearnt_cluster, forged_smiles, cluster_relabelled,
    legal_but_another_deal,
)  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda f: f.__name__)
def test_a_tampered_file_is_refused_by_name(tamper, tmp_path, capsys):
    content = json.loads(json.dumps(CONTENT))
    wanted = tamper(content)
    path = tmp_path / "tampered.json"
    path.write_text(json.dumps(content))
    assert run(["split", "--check", str(path), "--no-recompute"]) == 1
    out = capsys.readouterr().out
    assert wanted in out and "NOT leak-free" in out


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(range(5)), st.sampled_from(PARTS[:3]), st.booleans(), st.data())
def test_any_compound_moved_into_or_out_of_test_ood_is_refused_by_name(index, part, out, data):
    content = json.loads(json.dumps(CONTENT))
    fold = content["folds"][index]
    source, target = ("test_ood", part) if out else (part, "test_ood")
    name = data.draw(st.sampled_from(fold[source]))
    fold[source].remove(name)
    fold[target].append(name)
    rules = {rule.name: rule for rule in check_rules(Split.model_validate(content))}
    (problem,) = rules["test_ood holds the held-out clusters and nothing else"].problems
    assert problem.startswith(f"fold {index + 1}: {name} of cluster")
    assert problem.endswith(f"in {target}")


def test_a_restriction_that_is_none_is_refused(tmp_path, capsys):
    names = {"ethanol", "methanol", "benzene", "toluene", "urea", "pyridine"} & set(SMILES)
    small = json.loads(Split.model_validate(CONTENT).restrict(names).to_json())
    path = tmp_path / "small.json"
    path.write_text(json.dumps(small))
    assert run(["split", "--check", str(path), "--no-recompute"]) == 0
    fold = next(f for f in small["folds"] if len(f["train"]) > 1)
    fold["val"].append(fold["train"].pop())
    path.write_text(json.dumps(small))
    assert run(["split", "--check", str(path), "--no-recompute"]) == 1
    assert "not what restricting tg80-v1 to these compounds gives" in capsys.readouterr().out


# Trajectories


def test_trajectories_are_checked_against_the_split(tmp_path, capsys):
    factories.make_dataset(tmp_path, ["ethanol", "methanol"], n_frames=4)
    factories.make_shard(tmp_path, "ethanol", n_frames=4, replica=1)
    command = ["split", "--check", "--no-recompute", "--data", str(tmp_path)]
    assert run(command) == 0
    assert "ok      all trajectories of a compound are in one part" in capsys.readouterr().out
    apart = [f for f in FOLDS if not any({"ethanol", "methanol"} <= {*f[part]} for part in PARTS)]
    (tmp_path / "ethanol-r2").mkdir()
    made = factories.make_shard(tmp_path / "ethanol-r2", "ethanol", n_frames=4, name="methanol",
                                replica=2)  # fmt: skip
    made.rename(tmp_path / "methanol-r2.h5md")
    assert run(command) == 1
    out = capsys.readouterr().out
    assert "methanol-r2: CCO is not the methanol of the split" in out
    assert apart
    for fold in apart:
        found = rf"fold {fold['index']}: one compound, ethanol-r0 in \w+ and .*methanol-r2 in \w+"
        assert re.search(found, out)
    factories.make_shard(tmp_path, "CCCCCF", n_frames=4)
    assert run(command) == 1
    assert "no compound c5h11f" in capsys.readouterr().out
