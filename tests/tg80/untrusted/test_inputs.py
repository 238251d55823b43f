"""What is given as input: regular files only, texts that end, numbers that can be meant."""

import io
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Annotated

import pytest
import typer

from tg80.console import run_app
from tg80.errors import UserError
from tg80.files import check_regular, file_sha256, read_bytes, read_text
from tg80.untrusted.documents import parse_json, parse_toml, to_json
from tg80.untrusted.limits import BoundedModel


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Paths that are no files, by what they are called in the message."""
    monkeypatch.chdir(tmp_path)  # a socket's path has 107 bytes at most
    os.mkfifo("pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        yield {
            "pipe": "is a pipe", "dangling": "a link to what is not there", "loop": "symbolic link",
            "socket": "is a socket", ".": "is a folder", "/dev/zero": "is a device",
            "nowhere": "no such file", "pipe/x": "Not a directory", "n" * 300: "name too long",
        }  # fmt: skip


@pytest.mark.parametrize("read", [check_regular, read_bytes, read_text, file_sha256])
def test_what_is_no_file_is_refused_and_not_waited_for(read, hostile):
    for path, reason in hostile.items():
        with pytest.raises(UserError, match=f"(?i){reason}"):
            read(path)


def test_a_text_is_utf_8_and_no_larger_than_any_of_its_kind(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffm\u00e9thane".encode())
    assert read_text(path) == "m\u00e9thane"
    path.write_bytes(b"m\xe9thane")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        read_text(path)
    with pytest.raises(UserError, match="more than"):
        read_bytes(path, most=3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not a JSON file"),
        (b'{"a": NaN}', "NaN is not allowed in JSON"),
        (b"[-Infinity]", "-Infinity is not allowed in JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 10_000, "not a JSON file"),
        (b"\xff\xfe\xfd", "not a JSON file"),
    ],
)
def test_what_is_no_json_is_named(text, reason):
    with pytest.raises(UserError, match=f"^here: .*{reason}"):
        parse_json(text, "here")


@pytest.mark.parametrize(("text", "reason"), [("a =", "not a TOML"), ("a = " + "[" * 9999, "deep")])
def test_what_is_no_toml_is_named(text, reason):
    with pytest.raises(UserError, match=f"^here: .*{reason}"):
        parse_toml(text, "here")


def test_json_has_null_for_what_is_no_number():
    value = {"a": float("nan"), "b": (1.5, [float("inf")]), "c": "text", "d": True}
    assert json.loads(to_json(value)) == {"a": None, "b": [1.5, [None]], "c": "text", "d": True}


class Sizes(BoundedModel):
    size: float = 1.0
    sizes: tuple[float, ...] = ()


@pytest.mark.parametrize("value", [1e23, 1e308, 1e-320, float("nan"), float("inf"), -1e300])
def test_settings_refuse_sizes_that_nobody_means(value):
    assert Sizes(size=0.0, sizes=(1e-9,)).size == 0
    for wrong in ({"size": value}, {"sizes": (1.0, value)}):
        with pytest.raises(ValueError, match="out of range; give 0 or a size from"):
            Sizes.model_validate(wrong)


app = typer.Typer()


@app.command()
def probe(
    size: float = 1.0,
    count: int = 1,
    threads: Annotated[int, typer.Option(max=256)] = 1,
    wait: bool = False,
    print_text: str = "",
) -> None:
    if wait:
        time.sleep(60)
    print(print_text, end="")


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "nan"], ["--size", "inf"], ["--size", "1e308"], ["--size", "1e-320"],
        ["--count", "9" * 30], ["--count", "9" * 4000], ["--threads", "99999"],
    ],
)  # fmt: skip
def test_options_refuse_sizes_that_nobody_means(options, capsys):
    assert run_app(app, options, "probe") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and options[0] in line


def test_sigterm_ends_as_ctrl_c_does(capsys):
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run_app(app, ["--wait"], "probe") == 143
    assert len(capsys.readouterr().err.splitlines()) <= 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminal_without_a_letter_gets_its_escape(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert run_app(app, ["--print-text", "\u00b1 5"], "probe") == 0
    assert printed.getvalue() == b"\\xb1 5"


def test_closed_streams_are_empty(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run_app(app, ["--print-text", "x"], "probe") == 0
    assert run_app(app, ["--size", "nan"], "probe") == 2
