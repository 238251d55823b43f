"""Public sets fetched from a real web server on this machine."""

import hashlib
import io
import json
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pipelines.cli import run
from tests.support.public_files import rmd17_arrays, sgdml_arrays, vibrating
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.exchange.md17_fetch import fetch_public
from tg80.release.sources import Patience, Watcher

IMPATIENT = Patience(attempts=3, backoff_s=0)


class _Handler(BaseHTTPRequestHandler):
    """Serves what it is given by path: a body, or (status, body); of a list one after the other.

    Status 0 stands for 200 and half of the body.
    """

    def __init__(self, files, asked, *arguments):
        self.files, self.asked = files, asked
        super().__init__(*arguments)

    def do_GET(self):
        self.asked.append(self.path)
        answer = self.files.get(self.path, (404, b"no such file"))
        if isinstance(answer, list):
            answer = answer.pop(0)
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        self.send_response(status or 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if status else body[: len(body) // 2])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def web():
    """A web server: `files` to serve by path, `asked` paths, `address`."""
    files, asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, files, asked))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield files, asked, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def packed(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ETHANOL = packed(sgdml_arrays(vibrating(30)))


def test_a_file_is_fetched_once_and_its_sha256_recorded(web, tmp_path):
    files, asked, address = web
    files["/md17_ethanol.npz"] = ETHANOL
    arrived = []

    class Counter(Watcher):
        def advance(self, n_bytes):
            arrived.append(n_bytes)

    path = fetch_public("md17", "ethanol", tmp_path / "new", address=address, watcher=Counter())
    assert path.read_bytes() == ETHANOL and sum(arrived) == len(ETHANOL)
    recorded = path.with_name("md17_ethanol.npz.sha256").read_text()
    assert recorded == f"{hashlib.sha256(ETHANOL).hexdigest()}  md17_ethanol.npz\n"
    assert fetch_public("md17", "ethanol", tmp_path / "new", address=address) == path
    assert asked == ["/md17_ethanol.npz"]


def test_a_file_that_changed_since_is_refused_and_left(web, tmp_path):
    files, _, address = web
    files["/md17_ethanol.npz"] = ETHANOL
    path = fetch_public("md17", "ethanol", tmp_path, address=address)
    path.write_bytes(ETHANOL[:-1] + b"x")
    with pytest.raises(CorruptFile, match="cut short or altered; remove both to fetch it again"):
        fetch_public("md17", "ethanol", tmp_path, address=address)
    assert path.is_file()


@pytest.mark.parametrize(
    "body",
    [b"<html>moved</html>", ETHANOL[:-200], packed(sgdml_arrays(vibrating(5)[:, :8]))],
    ids=["page", "truncated", "other molecule"],
)
def test_what_is_not_the_molecule_is_not_kept(web, tmp_path, body):
    files, _, address = web
    files["/md17_ethanol.npz"] = body
    with pytest.raises(CorruptFile, match=r"md17_ethanol\.npz: "):
        fetch_public("md17", "ethanol", tmp_path, address=address)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_of_the_user_is_refused_but_not_removed(web, tmp_path):
    mine = tmp_path / "md17_ethanol.npz"
    mine.write_bytes(b"mine")
    with pytest.raises(UserError):
        fetch_public("md17", "ethanol", tmp_path, address=web[2])
    assert mine.read_bytes() == b"mine"


def test_a_broken_connection_is_tried_again(web, tmp_path):
    files, asked, address = web
    files["/md17_ethanol.npz"] = [(0, ETHANOL), (503, b"busy"), ETHANOL]
    path = fetch_public("md17", "ethanol", tmp_path, address=address, patience=IMPATIENT)
    assert path.read_bytes() == ETHANOL and len(asked) == 3
    files["/md17_uracil.npz"] = [(503, b"busy")] * 3
    with pytest.raises(Tg80Error, match="tried 3 times"):
        fetch_public("md17", "uracil", tmp_path, address=address, patience=IMPATIENT)


def test_what_the_server_does_not_have_is_one_line(web, tmp_path):
    with pytest.raises(Tg80Error, match=r"md17_ethanol\.npz"):
        fetch_public("md17", "ethanol", tmp_path, address=web[2])
    with pytest.raises(UserError, match="no public set 'md18'; sets are md17, rmd17, md22"):
        fetch_public("md18", "ethanol", tmp_path)
    with pytest.raises(UserError, match="md22 has no molecule 'ethanol'"):
        fetch_public("md22", "ethanol", tmp_path)
    assert list(tmp_path.iterdir()) == []


def rmd17_archive(**members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"rmd17/npz_data/{name}.npz")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("../../rmd17_uracil.npz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def test_rmd17_is_taken_out_of_its_archive(web, tmp_path):
    files, asked, address = web
    content = packed(rmd17_arrays(vibrating(30), np.arange(30)))
    files["/rmd17"] = rmd17_archive(rmd17_ethanol=content, rmd17_toluene=b"no npz")
    path = fetch_public("rmd17", "ethanol", tmp_path, address=f"{address}/rmd17")
    assert path.read_bytes() == content
    with pytest.raises(CorruptFile, match=r"rmd17_toluene\.npz: "):
        fetch_public("rmd17", "toluene", tmp_path, address=f"{address}/rmd17")
    with pytest.raises(CorruptFile, match=r"has no rmd17_uracil\.npz in it"):
        fetch_public("rmd17", "uracil", tmp_path, address=f"{address}/rmd17")
    assert asked == ["/rmd17"]
    archive = tmp_path / "rmd17.tar.bz2"
    archive.write_bytes(archive.read_bytes()[:-40])
    path.unlink()
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(CorruptFile, match=r"rmd17\.tar\.bz2: cut short"):
        fetch_public("rmd17", "aspirin", tmp_path, address=f"{address}/rmd17")


def test_the_command_fetches_and_describes(web, tmp_path, capsys):
    files, _, address = web
    files["/md17_ethanol.npz"] = ETHANOL
    options = ["--fetch", str(tmp_path), "--address", address]
    assert run(["public", "md17/ethanol", *options]) == 0
    shown = capsys.readouterr().out
    assert "md17 ethanol: 30 frames, 9 atoms, 3 of them heavy" in shown
    assert "frames 0.5 fs apart: Chmiela et al. 2017, doi:10.1126/sciadv.1603015" in shown
    assert "all frames follow one another" in shown
    assert run(["public", "ethanol", *options]) == 2
    assert "--fetch needs SET/MOLECULE" in capsys.readouterr().err


def test_the_command_describes_a_file_as_json(tmp_path, capsys):
    path = tmp_path / "rmd17_ethanol.npz"
    chosen = np.delete(np.arange(40), 20)
    np.savez(path, **rmd17_arrays(vibrating(40), chosen))
    assert run(["public", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["set"], facts["molecule"], facts["n_frames"]) == ("rmd17", "ethanol", 39)
    assert (facts["n_segments"], facts["longest_segment_frames"]) == (2, 20)
    assert (facts["r_unit"], facts["e_unit"]) == ("Ang (assumed)", "kcal/mol (assumed)")
    assert facts["mean_energy_ev"] == pytest.approx(-97_000 / 23.0605478, rel=1e-6)
    path.write_bytes(b"PK\x03\x04 no zip")
    assert run(["public", str(path)]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {path}: cut short, altered or not an npz file"
    )


def test_the_command_lists_the_sets(capsys):
    assert run(["public"]) == 0
    shown = capsys.readouterr().out
    assert "md17: aspirin, benzene" in shown and "1 fs: Chmiela et al. 2023" in shown
    assert run(["public", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["set"]: row["frame_fs"] for row in rows} == {"md17": 0.5, "rmd17": 0.5, "md22": 1.0}


def test_a_file_in_the_folder_s_place_is_refused_before_anything_is_asked(web, tmp_path):
    _, asked, address = web
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not a folder; choose another --fetch"):
        fetch_public("md17", "ethanol", tmp_path / "file" / "below", address=address)
    assert asked == []
