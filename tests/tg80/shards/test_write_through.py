"""Nothing is written through a link that somebody put there."""

import hashlib
import os

import pytest

from atom.checkpoint import write_checkpoint
from atom.config import ATOMConfig
from pipelines.cli import run
from tests.support import factories
from tg80.errors import UserError
from tg80.files import check_folder, make_folder, write_atomically
from tg80.release.download import PartFile
from tg80.release.manifest import PublishedFile

VICTIM = b"mine"


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(VICTIM)
    return path


def _soft(link, victim):
    link.symlink_to(victim)


def _hard(link, victim):
    os.link(victim, link)


@pytest.mark.parametrize("plant", [_soft, _hard])
def test_a_link_in_the_place_of_a_file_is_replaced(plant, victim, tmp_path):
    shard = factories.make_shard(tmp_path / "data", "ethanol", n_frames=20)
    out = tmp_path / "out"
    out.mkdir()
    names = ("x.json", "all.xyz", "all.json", "atom.safetensors")
    for name in names:
        plant(out / name, victim)
    write_atomically(out / "x.json", b"{}")
    write_checkpoint(out / "atom.safetensors", ATOMConfig(), {})
    export = ["export", str(shard), "--to", "extxyz", "--out", str(out), "--force"]
    assert run(export) == 0
    assert victim.read_bytes() == VICTIM
    for name in ("x.json", "all.xyz", "atom.safetensors"):
        assert (out / name).is_file() and not (out / name).is_symlink()
        assert (out / name).read_bytes() != VICTIM


@pytest.mark.parametrize("plant", [_soft, _hard])
def test_what_a_download_left_half_done_is_no_way_to_another_file(plant, victim, tmp_path):
    content = VICTIM + b" and more"
    entry = PublishedFile(
        path="a.bin", n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    target = tmp_path / "here" / "a.bin"
    target.parent.mkdir()
    plant(target.with_name("a.bin.part"), victim)
    try:
        with PartFile(target, entry, lambda n: None) as part:
            part.append(content)
            part.finish()
        assert target.read_bytes() == content
    except OSError:  # a symbolic link is not opened
        assert plant is _soft
    assert victim.read_bytes() == VICTIM


def test_a_folder_that_leads_out_of_the_one_named_is_refused(tmp_path, capsys):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "within").mkdir()
    (out / "leads").symlink_to(elsewhere)
    (out / "stays").symlink_to(out / "within")
    check_folder(out, "--out")
    for write in (
        lambda: write_atomically(out / "leads" / "x", b""),
        lambda: make_folder(out / "leads" / "deep"),
    ):
        with pytest.raises(UserError, match=f"leads out of {out} by a link"):
            write()
    write_atomically(out / "stays" / "x", b"")
    assert (out / "within" / "x").exists() and not list(elsewhere.iterdir())


def test_a_folder_that_is_a_link_itself_is_the_users_choice(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "named").symlink_to(tmp_path / "real")
    make_folder(tmp_path / "named" / "deep", "--out")
    write_atomically(tmp_path / "named" / "deep" / "x", b"")
    assert (tmp_path / "real" / "deep" / "x").exists()


def test_a_run_whose_work_leads_elsewhere_is_refused(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "work").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "list.smi").write_text("C methane\n")
    options = {
        "molecule-list": tmp_path / "list.smi", "out": tmp_path / "run", "level": "gfn2-xtb",
        "length-fs": 10, "workers": 1,
    }  # fmt: skip
    assert run(["generate", *(f"--{name}={value}" for name, value in options.items())]) == 2
    err = capsys.readouterr().err
    assert "leads out of" in err and err.count("\n") == 1
    assert not list((tmp_path / "elsewhere").iterdir())
