"""Publishing with options that can't be: one line that says which, and nothing is written."""

from typing import Any

import pytest

from pipelines.cli import run
from tests.support import factories
from tests.support.without_rights import TG80, run_without_rights
from tg80.errors import UserError
from tg80.release.publish import publish


@pytest.fixture
def one(tmp_path):
    """A folder with one shard."""
    factories.make_shard(tmp_path / "data", "methanol", n_frames=30)
    return tmp_path / "data"


REFUSALS: dict[str, tuple[dict[str, str], str]] = {
    "version": ({"version": "../1"}, "version '../1': use up to 64 letters"),
    "versions.json": (
        {"version": "versions.json"},
        "version 'versions.json': a folder's name",
    ),
    "device": ({"version": "con.1"}, "version 'con.1': no folder on Windows"),
    "name": ({"name": "a b"}, "name 'a b'"),
    "split": ({"split": "tg80-v0"}, "no split tg80-v0"),
    "no url": ({"url": "not a url"}, "--url 'not a url': not an address"),
    "no host": ({"url": "https:///data"}, "not an address"),
    "port": ({"url": "https://example.org:port/data"}, "not an address"),
    "bracket": ({"url": "https://[example.org"}, "not an address"),
    "line": ({"url": "https://example.org/a\nb"}, "not an address"),
    "scheme": ({"url": "javascript://example.org"}, "not an address"),
}


def _options(options: dict[str, str]) -> dict[str, Any]:
    return {"version": "1.0.0"} | options


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_options_are_refused(case, one, tmp_path):
    options, reason = REFUSALS[case]
    with pytest.raises(UserError, match=reason):
        publish(one, tmp_path / "site", **_options(options))
    assert not (tmp_path / "site").exists()


def test_a_site_inside_the_data_is_refused(one):
    with pytest.raises(UserError, match="is inside"):
        publish(one, one / "site", version="1.0.0")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_site_s_place_is_refused(one, tmp_path, below, capsys):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / below if below else tmp_path / "file"
    assert run(["publish", str(one), "--out", str(out)]) == 2
    message = f"error: {tmp_path / 'file'}: is not a folder; choose another --out\n"
    assert capsys.readouterr().err == message
    assert (tmp_path / "file").read_text() == "mine"


def test_data_that_are_not_there_are_named_before_all_else(one, tmp_path, capsys):
    """Not the version, which is published already, is what is wrong."""
    site = tmp_path / "site"
    assert run(["publish", str(one), "--out", str(site)]) == 0
    capsys.readouterr()
    assert run(["publish", str(tmp_path / "nope"), "--out", str(site)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nope'}: no such file or folder")


def test_a_shard_without_the_right_to_read_it_is_named(one, tmp_path):
    closed = one / "methanol-r0.h5md"
    closed.chmod(0)
    done = run_without_rights([*TG80, "publish", str(one), "--out", str(tmp_path / "site")])
    assert done.returncode == 2
    assert f"{closed}: readable: Permission denied" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "site").exists()
