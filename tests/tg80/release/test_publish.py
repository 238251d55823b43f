"""Publishing: what lies in the tree, what is refused, and what a killed publication leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from pipelines.cli import run
from tests.support import factories
from tg80.errors import Tg80Error, UserError
from tg80.files import checksum_path, file_sha256
from tg80.release.card import folder_card, main, software_bibtex
from tg80.release.manifest import Manifest, Versions, flat_path
from tg80.release.publish import publish
from tg80.release.survey import survey
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS, STATIC_FIELDS
from tg80.shards.shard import Shard, find_shards
from tg80.shards.validate import validate
from tg80.splits.split import PARTS, load_split

ROOT = Path(__file__).parents[3]
DAY = "2026-11-30"
SPLIT = load_split("tg80-v1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards at two levels in a tree: three compounds of the split, two replicas of one, water."""
    folder = tmp_path_factory.mktemp("data") / "runs"
    xtb = folder / "cheap"
    factories.make_dataset(xtb, ["methanol", "ethylene", "formic-acid"], n_frames=500)
    factories.make_shard(xtb, "methanol", n_frames=60, replica=1, statistics={"cpu_seconds": 7200})
    factories.make_shard(xtb, factories.as_molecule("O"), n_frames=60, time_step_fs=0.125)
    dft = {"level": "pbe-def2svp", "level_settings": {}, "end": "SCF failed at 60 fs"}
    factories.make_shard(folder / "good", "methanol", n_frames=60, **dft)
    return folder


@pytest.fixture(scope="module")
def site(data, tmp_path_factory):
    """The data, published as version 1.0.0; not to be changed."""
    site = tmp_path_factory.mktemp("web") / "site"
    publish(data, site, version="1.0.0", name="small", created=DAY, about="Springs, no molecules.")
    return site


@pytest.fixture
def one(tmp_path):
    """A folder with one short shard."""
    factories.make_shard(tmp_path / "one", "methanol", n_frames=30)
    return tmp_path / "one"


def manifest_of(folder: Path):
    return Manifest.parse((folder / "manifest.json").read_bytes(), "the manifest")


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {path: (folder / path).stat().st_mtime_ns for path in files_of(folder) - {".lock"}}


# --- what is there -----------------------------------------------------------------------------


def test_the_manifest_lists_every_file_with_size_and_checksum(site):
    folder = site / "1.0.0"
    manifest = manifest_of(folder)
    entries = {entry.path: entry for entry in manifest.entries}
    assert files_of(folder) == {*entries, "manifest.json"}
    for path, entry in entries.items():
        assert ((folder / path).stat().st_size, file_sha256(folder / path)) == (
            entry.n_bytes, entry.sha256,
        )  # fmt: skip
    versions = Versions.parse((site / "versions.json").read_bytes(), "versions")
    assert [entry.version for entry in versions.versions] == ["1.0.0"]
    assert versions.versions[0].manifest_sha256 == file_sha256(folder / "manifest.json")


def test_levels_are_never_mixed(site):
    manifest = manifest_of(site / "1.0.0")
    assert {shard.level for shard in manifest.shards} == {"gfn2-xtb", "pbe-def2svp"}
    for shard in manifest.shards:
        assert shard.path == f"{shard.level}/{shard.molecule}-r{shard.replica}.h5md"
        with Shard(site / "1.0.0" / shard.path) as stored:
            known = stored.metadata
            assert (known.level, known.name, known.replica) == (
                shard.level, shard.molecule, shard.replica,
            )  # fmt: skip
            assert (shard.n_frames, shard.frame_fs, shard.licence, shard.smiles) == (
                stored.n_frames, stored.frame_fs, known.licence, known.smiles,
            )  # fmt: skip


def test_shards_are_the_very_bytes_and_no_links(data, site):
    published = {path.relative_to(site / "1.0.0"): path for path in find_shards(site / "1.0.0")}
    assert len(published) == 6
    for source in find_shards(data):
        level = "gfn2-xtb" if source.parent.name == "cheap" else "pbe-def2svp"
        copy = published[Path(level) / source.name]
        assert copy.read_bytes() == source.read_bytes()
        assert checksum_path(copy).read_text() == f"{file_sha256(source)}  {copy.name}\n"
        assert copy.stat().st_nlink == 1 and not copy.is_symlink()
    assert [problem for problem in validate(site) if problem.level == "error"] == []


def test_lists_of_the_folds_are_the_parts_of_the_split(site):
    assert load_split(site / "1.0.0" / "splits" / "tg80-v1.json") == SPLIT
    manifest = manifest_of(site / "1.0.0")
    assert (manifest.split, manifest.split_sha256) == ("tg80-v1", SPLIT.sha256)
    for fold in SPLIT.folds:
        lists = json.loads((site / "1.0.0" / "folds" / f"fold-{fold.index}.json").read_text())
        assert set(lists) == set(PARTS)
        for part in PARTS:
            expected = {s.path for s in manifest.shards if s.molecule in fold.part(part)}
            assert set(lists[part]) == expected and len(lists[part]) == len(expected)
        # Both replicas and both levels of methanol are in one part; water is in none.
        assert sum(len(paths) for paths in lists.values()) == 5


def test_the_card_has_every_field_warning_and_flaw(site):
    card = (site / "1.0.0" / "README.md").read_text()
    for field in (*FRAME_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS):
        shape = ", ".join(str(size) for size in field.shape)
        assert f"| `{field.name}` | `{field.path}` | {shape} | {field.dtype}" in card
        assert f"| {field.disk_unit or ''} | {field.unit or ''} | {field.description} |" in card
    for path in find_shards(site / "1.0.0"):
        for problem in validate(path):
            assert f"- `{path.stem}` (`{path.parent.name}`): {problem.check}: " in card
            assert problem.message in card
    assert "Springs, no molecules." in card
    assert "Outside the folds, because the split does not hold them: `h2o" in card
    assert "`methanol-r0` ended early: SCF failed at 60 fs." in card
    assert "not that of DFT" in card and "no dispersion correction" in card
    cpu = "2.00 in 1 of 5 trajectories, else not recorded"
    assert f"| `gfn2-xtb` | 6701 | not told | {cpu} |" in card
    assert "The model of the processor was not recorded." in card
    for picture in ("temperature", "drift", "net-force", "bond-lengths"):
        for level in ("gfn2-xtb", "pbe-def2svp"):
            assert f"(plots/{level}/{picture}.png)" in card
            image = (site / "1.0.0" / "plots" / level / f"{picture}.png").read_bytes()
            assert image.startswith(b"\x89PNG") and b"tIME" not in image


def test_the_front_matter_is_what_the_hub_reads(site):
    card = (site / "1.0.0" / "README.md").read_text()
    _, front, _ = card.split("---\n", 2)
    known = yaml.safe_load(front)
    assert known["license"] == "cc-by-4.0"
    assert known["pretty_name"] == "small 1.0.0"
    assert known["size_categories"] == ["1K<n<10K"]
    assert {"gfn2-xtb", "pbe-def2svp"} < set(known["tags"])


def test_the_code_in_the_card_runs(site):
    card = (site / "1.0.0" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    found: dict = {}
    exec(code.replace('"DIR"', repr(str(site / "1.0.0"))), found)
    assert found["positions"].shape == (500, 6, 3)  # ethylene, the first by level and name


def test_the_citation_is_that_of_the_repository(site):
    stated = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    facts = {
        "title": f"{{{stated['title']}}}",
        "author": " and ".join(f"{{{author['name']}}}" for author in stated["authors"]),
        "year": str(stated["date-released"])[:4],
        "version": stated["version"],
    }
    entry = software_bibtex()
    assert all(f"  {name} = {{{text}}}" in entry for name, text in facts.items())
    assert entry in (site / "1.0.0" / "README.md").read_text()


def test_the_reference_implementation_reads_the_croissant(site):
    import mlcroissant

    path = site / "1.0.0" / "croissant.json"
    dataset = mlcroissant.Dataset(path)
    assert dataset.metadata.issues.report() == ""
    manifest = manifest_of(site / "1.0.0")
    described = {each["@id"]: each for each in json.loads(path.read_text())["distribution"]}
    for entry in manifest.entries:
        if entry.path != "croissant.json":
            assert described.pop(entry.path)["sha256"] == entry.sha256
    assert described == {}
    assert len(list(dataset.records("trajectories"))) == 6
    names = [record["fields/name"] for record in dataset.records("fields")]
    assert names == [field.name for field in (*FRAME_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS)]
    folds = list(dataset.records("folds"))
    assert len(folds) == 5 * len(SPLIT.folds)
    lists = json.loads((site / "1.0.0" / "folds" / "fold-2.json").read_text())
    for part in PARTS:
        stated = [r["folds/file"] for r in folds if (r["folds/fold"], r["folds/part"]) == (2, part)]
        assert stated == lists[part]


def test_frames_without_energies_are_counted_and_their_mask_is_described(tmp_path):
    words = {"level": "pbe-def2svp", "level_settings": {}, "n_frames": 60, "evaluated_every": 3}
    factories.make_shard(tmp_path / "data", "methanol", **words)
    publish(tmp_path / "data", tmp_path / "site", version="1.0.0", name="small", created=DAY)
    folder = tmp_path / "site" / "1.0.0"
    assert "60 frames (20 with energies and forces)" in (folder / "README.md").read_text()
    described = json.loads((folder / "croissant.json").read_text())
    assert "where the field `evaluated` says so" in described["description"]
    (fields,) = (each for each in described["recordSet"] if each["name"] == "fields")
    assert "evaluated" in {record["fields/name"] for record in fields["data"]}


FOLDERS = sorted({path.parent for path in find_shards(ROOT / "tg80" / "data")})
SHIPPED = [folder for folder in FOLDERS if not (folder / "manifest.json").exists()]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_shipped_cards_are_what_the_shards_say(folder):
    stated = (folder / "README.md").read_text()
    assert stated == folder_card(stated, survey(folder)), (
        f"run: python -m tg80.release.card {folder}"
    )


def test_a_card_keeps_what_a_person_wrote(one):
    facts = survey(one)
    made = folder_card("# mine\n\nBefore.\n", facts)
    again = folder_card(made.replace("1 trajectory", "9 trajectories") + "\nAfter.\n", facts)
    assert again == made + "\nAfter.\n"
    assert made.startswith("# mine\n\nBefore.\n\n<!-- facts: begin")
    main([str(one)])
    assert (one / "README.md").read_text().startswith("# one\n\n<!-- facts: begin")


# --- again, flat, elsewhere --------------------------------------------------------------------


def test_another_version_has_the_same_bytes(data, site, tmp_path):
    """And the first one stays as it was."""
    shutil.copytree(site, tmp_path / "site")
    done = publish(data, tmp_path / "site", version="1.1.0", created="2027-01-01")
    assert done.manifest.name == "small"
    first, second = (manifest_of(tmp_path / "site" / v) for v in ("1.0.0", "1.1.0"))
    assert first.shards == second.shards
    assert [e for e in first.files if "plots" in e.path] == [
        e for e in second.files if "plots" in e.path
    ]
    versions = Versions.parse((tmp_path / "site" / "versions.json").read_bytes(), "versions")
    assert [entry.version for entry in versions.versions] == ["1.0.0", "1.1.0"]
    for path in files_of(site / "1.0.0"):
        assert (tmp_path / "site/1.0.0" / path).read_bytes() == (site / "1.0.0" / path).read_bytes()


def test_the_same_version_elsewhere_is_the_same_tree(one, tmp_path):
    for place in ("here", "there"):
        publish(one, tmp_path / place, version="1.0.0", created=DAY)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")
    for path in files_of(tmp_path / "here"):
        assert (tmp_path / "here" / path).read_bytes() == (tmp_path / "there" / path).read_bytes()


def test_flat_names_for_hosts_without_folders(one, tmp_path):
    site, url = tmp_path / "site", "https://zenodo.org/records/1/files/"
    assert run(["publish", str(one), "--out", str(site), "--flat", "--url", url]) == 0
    folder = site / "1.0.0"
    assert all(path.is_file() for path in folder.iterdir())
    manifest = manifest_of(folder)
    assert [shard.path for shard in manifest.shards] == ["gfn2-xtb--methanol-r0.h5md"]
    paths = {entry.path for entry in manifest.files}
    assert {flat_path("folds/fold-1.json"), flat_path("splits/tg80-v1.json")} < paths
    assert {problem.check for problem in validate(folder)} == {"drift"}  # too short
    described = json.loads((folder / "croissant.json").read_text())["distribution"]
    assert described[0]["contentUrl"] == f"{url}gfn2-xtb--methanol-r0.h5md"
    assert "](plots--gfn2-xtb--drift.png)" in (folder / "README.md").read_text()


# --- refusals ----------------------------------------------------------------------------------


def test_a_published_version_is_never_changed(one, tmp_path, capsys):
    words = ["publish", str(one), "--out", str(tmp_path / "site"), "--split", "none", "--json"]
    assert run(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_shards"], report["n_warnings"], report["version"]) == (1, 1, "1.0.0")
    before = stamps(tmp_path / "site")
    assert run(words) == 2
    assert "version 1.0.0 is published and never changes" in capsys.readouterr().err
    assert run([*words, "--version", "2.0.0", "--name", "other"]) == 2
    assert "publishes one, not other" in capsys.readouterr().err
    after = stamps(tmp_path / "site")
    assert before == after != {}


def test_a_shard_with_errors_is_refused_by_name(one, tmp_path):
    factories.make_shard(one, "ethylene", n_frames=30, degrees_of_freedom=11)
    path = one / "methanol-r0.h5md"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"2 shards have errors.*ethylene-r0.h5md: freedom.*methan"):
        publish(one, tmp_path / "site", version="1.0.0")
    assert not (tmp_path / "site").exists()


def test_one_trajectory_twice_is_refused(one, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(one, tmp_path / "tree" / folder)
    with pytest.raises(UserError, match="are both methanol-r0"):
        publish(tmp_path / "tree", tmp_path / "site", version="1.0.0")


@pytest.mark.parametrize(
    ("name", "smiles", "reason"),
    [
        ("methanol", "CCO", "methanol is another compound in split"),
        ("wood-alcohol", "CO", "this compound is called methanol in split"),
        ("water", "O", "none of the compounds is in split"),
    ],
)
def test_compounds_that_the_split_knows_otherwise_are_refused(name, smiles, reason, tmp_path):
    from tg80.chemistry.molecule import molecule_from_smiles

    factories.make_shard(tmp_path / "data", molecule_from_smiles(smiles, name), n_frames=20)
    with pytest.raises(UserError, match=reason):
        publish(tmp_path / "data", tmp_path / "site", version="1.0.0")


def test_two_licences_are_refused(one, tmp_path):
    factories.make_shard(one, "ethylene", n_frames=30, licence="CC0-1.0")
    with pytest.raises(UserError, match="different licences"):
        publish(one, tmp_path / "site", version="1.0.0")


def test_a_second_publisher_is_refused(one, tmp_path):
    (tmp_path / "site").mkdir()
    with (
        FileLock(tmp_path / "site" / ".lock"),
        pytest.raises(UserError, match="another publication"),
    ):
        publish(one, tmp_path / "site", version="1.0.0")


def test_a_shard_that_changes_meanwhile_is_not_published(one, tmp_path):
    path = one / "methanol-r0.h5md"

    def meddle(line):
        if line.startswith("copying"):
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(Tg80Error, match="changed while it was being published"):
        publish(one, tmp_path / "site", version="1.0.0", tell=meddle)
    assert files_of(tmp_path / "site") <= {".lock"}


# --- killed ------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from tg80.release import publish
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{hook}
publish.publish(sys.argv[1], sys.argv[2], version="1.0.0", created="2026-11-30", tell=tell)
"""
AT_THE_SECOND_SHARD = "def tell(line): line.startswith('copying gfn2-xtb/methanol') and die()"
BEFORE_THE_NAME = "tell = print; os.rename = die"
BEFORE_IT_IS_ANNOUNCED = "tell = print; publish._announce = die"


def killed(folder, site, hook):
    code = textwrap.dedent(KILLED).format(hook=hook)
    done = subprocess.run([sys.executable, "-c", code, folder, site], capture_output=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("hook", [AT_THE_SECOND_SHARD, BEFORE_THE_NAME])
def test_killed_half_way_nothing_looks_like_a_version(hook, one, tmp_path):
    factories.make_shard(one, "ethylene", n_frames=30)
    site = tmp_path / "site"
    killed(one, site, hook)
    assert len(files_of(site)) > 1  # it had begun
    assert [path.name for path in site.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(UserError, match=r"no \.h5md"):
        find_shards(site)
    done = publish(one, site, version="1.0.0")
    assert not done.finished
    assert sorted(os.listdir(site)) == [".lock", "1.0.0", "versions.json"]


@pytest.fixture(scope="module")
def killed_late(tmp_path_factory):
    """Data and a site whose version was named and never announced; to be copied."""
    folder = tmp_path_factory.mktemp("late")
    factories.make_shard(folder / "one", "methanol", n_frames=30)
    killed(folder / "one", folder / "site", BEFORE_IT_IS_ANNOUNCED)
    return folder


@pytest.fixture
def unannounced(killed_late, tmp_path):
    shutil.copytree(killed_late, tmp_path, dirs_exist_ok=True)
    return tmp_path / "one", tmp_path / "site"


def test_killed_before_it_was_announced_it_is_announced_by_the_next(unannounced):
    one, site = unannounced
    assert sorted(os.listdir(site)) == [".lock", "1.0.0"]
    before = stamps(site / "1.0.0")
    done = publish(one, site, version="1.0.0")
    assert done.finished and done.manifest.created == DAY
    assert stamps(site / "1.0.0") == before
    assert (site / "versions.json").exists()


def test_an_unannounced_version_with_other_shards_is_left_alone(unannounced):
    one, site = unannounced
    factories.make_shard(one, "ethylene", n_frames=30)
    with pytest.raises(UserError, match="holds other shards"):
        publish(one, site, version="1.0.0")
    (site / "1.0.0" / "README.md").write_text("mine")
    (one / "ethylene-r0.h5md").unlink()
    with pytest.raises(Tg80Error, match="missing or altered"):
        publish(one, site, version="1.0.0")
