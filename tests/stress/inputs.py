"""The sandbox of a command: files that are in order, paths that are none, and damaged contents."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.benchmarks.submissions.outside import TOLD
from tests.support import factories, public_files
from tests.tg80.release.published import publish_tree

ROOT = Path(__file__).parents[2]

DEEP = b"[" * 200_000
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 40,
    "utf16": "smiles name\nC methane\n".encode("utf-16"),
    "latin1": "C m\xe9thane\n".encode("latin-1"),
    "deep.json": DEEP,
    "deep-object.json": b'{"a":' * 100_000,
    "deep.toml": b"a = " + DEEP,
    "deep-table.toml": b"[" + b"a." * 20_000 + b"a]\n",
    "digits.json": b"9" * 10_000,
    "nan.json": b'{"a": NaN, "b": [Infinity, -Infinity]}',
    "null.json": b"null",
    "list.json": b"[1, 2]",
    "text.json": b'"text"',
    "spaces": b" \n\t\n" * 100,
    "long-line": b"C" * 300_000,
    "nul": b"C methane\n\x00\n",
    "paths.toml": b'level = "gfn2-xtb"\nseed = 99999999999999999999999999\n',
}
ODD_NAMES = [
    "new\nline", "escape\x1b[31m", "\udcff\udcfe", "[/red]", "n" * 255, "-", "--json", "a b",
    "\u4e2d\u6587", "%s",
]  # fmt: skip


def build_world(folder: Path, *, whole: bool) -> None:
    """Everything that sandboxes are made of, once; `whole` adds what takes seconds to make."""
    data, results = ROOT / "tg80" / "data", ROOT / "benchmarks" / "results"
    (folder / "shards").mkdir(parents=True)
    for name in ("formaldehyde", "acetic-acid"):
        for end in (".h5md", ".h5md.sha256"):
            shutil.copy(data / "mini-xtb" / f"{name}-r0{end}", folder / "shards")
    (folder / "twins").mkdir()
    for path in (data / "twins" / "mini-xtb").glob("acetic-acid*"):
        shutil.copy(path, folder / "twins")
    fold = Path("mini-xtb-v1", "canonical", "fold2")
    for model in ("persistence", "relaxed-structure"):
        shutil.copytree(results / fold / model, folder / "runs" / fold / model)
    shutil.copy(data / "splits" / "tg80-v1.json", folder / "split.json")
    (folder / "list.smi").write_text("C=O formaldehyde\nCC(=O)O acetic-acid\n")
    (folder / "list.csv").write_text("name,smiles\nformaldehyde,C=O\n")
    (folder / "water.xyz").write_text("3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    (folder / "recipe.toml").write_text(
        'seed = 3\ntemperature_k = 300.0\nthermostat = "nve"\n[quality]\n'
    )
    (folder / "about.md").write_text("# About\n\nText.\n")
    (folder / "profile.toml").write_text('kind = "local"\nworkers = 1\n')
    for name in ("aimd", "loader", "model"):
        (folder / f"{name}.json").write_text('{"command": "speed", "rows": []}')
    ethanol = public_files.sgdml_arrays(public_files.vibrating(60))
    public_files.write(folder / "md17_ethanol.npz", ethanol)
    publish_tree(folder / "site", n_bytes=1000)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    factories.make_shard(folder / "toy", "CCO", n_frames=20)
    if whole:
        _build_slow(folder)
    else:
        (folder / "run").mkdir()
        (folder / "filled.h5").write_bytes(CONTENTS["binary"])


def _build_slow(folder: Path) -> None:
    """A run and a filled template, made by the commands themselves."""
    template = "template --fold 2 --part test_time --out filled.h5"
    generate = (
        "generate --molecule-list list.smi --level gfn2-xtb --length-fs 4 --equilibration-fs 1 "
        "--set pre_equilibration_fs=1 --set segment_fs=1 --set n_conformers=1 --set n_relaxed=1 "
        "--workers 1 --out run --recipe recipe.toml"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for module, words in (("benchmarks.cli", template), ("pipelines.cli", generate)):
        subprocess.run(
            [sys.executable, "-m", module, *words.split()], cwd=folder, env=environment, check=True,
            capture_output=True,
        )  # fmt: skip
    with h5py.File(folder / "filled.h5", "r+") as file:
        positions = file["positions"][()][:, None]
        file["predictions"][...] = positions + 0.01 * np.ones(file["predictions"].shape)
        file["submission"].attrs.update(TOLD)


def make_sandbox(world: Path, folder: Path) -> None:
    """`in/` with all of the world and paths that are no files, and `out/` with places to write."""
    shutil.copytree(world, folder / "in", copy_function=os.link)
    hostile = folder / "in"
    os.mkfifo(hostile / "fifo")
    with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(hostile / "socket"))
    for place in (hostile, folder / "out"):
        place.mkdir(exist_ok=True)
        (place / "dangling").symlink_to("nowhere")
        (place / "loop").symlink_to("loop")
        (place / "secret").write_text("C methane\n")
        (place / "secret").chmod(0)
        (place / "secret-folder").mkdir()
        (place / "secret-folder").chmod(0)
    for name in ODD_NAMES:
        (hostile / name).parent.mkdir(exist_ok=True)
        (hostile / name).write_text("C methane\n")
    out = folder / "out"
    os.mkfifo(out / "fifo")
    (out / "file").write_text("kept\n")
    (out / "folder").mkdir()
    (out / "folder" / "kept").write_text("kept\n")
    (folder / "kept").write_text("kept\n")
    (out / "link").symlink_to(folder / "kept")
    (out / "folder-link").symlink_to(folder)
    (out / "read-only").mkdir(mode=0o555)


def input_paths() -> list[str]:
    """Paths of a sandbox that no command should fall over."""
    special = [
        "fifo",
        "socket",
        "dangling",
        "loop",
        "secret",
        "secret-folder",
        "list.smi/x",
        "nope",
    ]
    good = ["shards", "twins", "runs", "split.json", "list.smi", "list.csv", "water.xyz", "toy"]
    good += ["recipe.toml", "profile.toml", "md17_ethanol.npz", "site", "run", "aimd.json"]
    names = [*special, *good, *CONTENTS, *ODD_NAMES, "n" * 300]
    others = [
        "nope",
        "",
        "-",
        ".",
        "..",
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        "/dev/stdin",
        "/dev/tty",
    ]
    others += ["/proc/self/mem", "/proc/self/environ", "/proc/self/fd/0", "~nobody/x", "a" * 5000]
    return [*(f"in/{name}" for name in names), *others]


def written_paths() -> list[str]:
    """Places to write to, few of which can be."""
    names = ["fifo", "dangling", "loop", "file", "folder", "link", "folder-link", "read-only"]
    names += ["read-only/x", "file/x", "new", "new/deep/er", "new.json", "new.zip", "new.png"]
    names += ["secret", "secret-folder", "secret-folder/x", "n" * 255, "n" * 240, *ODD_NAMES]
    others = ["", "-", ".", "/dev/full", "/dev/null", "/dev/full/x", "/proc/x", "/proc/self/x"]
    return [*(f"out/{name}" for name in names), *others, "a" * 5000]


def spoil(sandbox: Path, target: str, seed: int) -> None:
    """Damage an input in the sandbox: the file itself, or one file of the folder."""
    rng = random.Random(seed)
    path = sandbox / target
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        if not files:
            return
        path = rng.choice(files)
    content = path.read_bytes()
    path.unlink()  # it is a hard link to the world's
    shown = _spoilt(rng, path.suffix, content)
    if isinstance(shown, bytes):
        path.write_bytes(shown)
        if path.suffix == ".h5md" and rng.random() < 0.6:
            _correct_checksum(path)
        return
    path.write_bytes(content)
    try:
        shown(path)
    except (OSError, ValueError, zipfile.BadZipFile):  # not what its name says
        path.write_bytes(_spoil_bytes(rng, content))
    _correct_checksum(path)


def _spoilt(rng: random.Random, suffix: str, content: bytes) -> bytes | Callable[[Path], None]:
    """New content, or a function that edits the file."""
    if rng.random() < 0.3:
        return _spoil_bytes(rng, content)
    if suffix == ".json":
        return _spoil_json(rng, content)
    if suffix == ".toml":
        return _spoil_lines(rng, content)
    if suffix in (".h5md", ".h5"):
        return lambda path: _spoil_hdf5(rng, path)
    if suffix == ".npz":
        return lambda path: _spoil_npz(rng, path)
    if suffix in (".smi", ".csv", ".xyz", ".md", ".sha256"):
        return _spoil_lines(rng, content)
    return _spoil_bytes(rng, content)


def _spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return rng.choice([
        content[:place], content[:-1], content + b"\n\x00junk", b"\xff\xfe" + content,
        content[:place] + bytes(512) + content[place + 512 :], content.replace(b"\n", b"\r"),
        content.decode("latin-1").encode("utf-16"), b"\xef\xbb\xbf" + content, content * 2,
        *CONTENTS.values(),
    ])  # fmt: skip


_ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, -(10**30), 10**400, float("nan"), float("inf"), 1e308, 1e-320,
    "text", "", "nan", "a\nb", "\x1b[31m", "\ud800", "=1+1", "| x |", "[/red]", "../../x", "/etc/x",
    [], {}, [[]], [None], {"a": 1}, ["text"] * 3, [1, 2, 3],
]  # fmt: skip


def _spoil_json(rng: random.Random, content: bytes) -> bytes:
    try:
        tree = json.loads(content)
    except ValueError:
        return _spoil_bytes(rng, content)
    branch, key = {"": tree}, ""
    while True:
        value = branch[key]
        keys = list(value) if isinstance(value, dict) else list(range(len(value or ()))) if (
            isinstance(value, list)) else []  # fmt: skip
        if not keys or (branch is not tree and rng.random() < 0.25 and key != ""):
            break
        branch, key = value, rng.choice(keys)
    action = rng.choice(["odd", "odd", "odd", "remove", "extra", "deep"])
    if action == "odd":
        branch[key] = rng.choice(_ODD_VALUES)
    elif action == "remove" and key != "":
        del branch[key]
    elif action == "extra" and isinstance(branch[key], dict):
        branch[key]["nobody_knows"] = 1
    else:
        branch[key] = "DEEP"
    text = json.dumps(branch[""] if key == "" else tree)
    return text.replace('"DEEP"', "[" * 5000 + "]" * 5000).encode()


def _spoil_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.decode("latin-1").splitlines()
    if not lines:
        return b"x"
    place = rng.randrange(len(lines))
    odd = ["nan", "1e308", "1e-320", "9" * 30, "", "x", "\x00", "[" * 5000, '"a"', "{", "=1"]
    words = re.split(r"(\s+|=|,)", lines[place])
    words[rng.randrange(len(words))] = rng.choice(odd)
    lines[place] = "".join(words)
    if rng.random() < 0.2:
        del lines[place]
    if rng.random() < 0.1:
        lines *= 2
    return "\n".join(lines).encode("latin-1")


def _spoil_hdf5(rng: random.Random, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        items: list[Any] = []
        file.visititems(lambda _, item: items.append(item))
        item = rng.choice([each for each in items if rng.random() < 0.5] or items)
        attributes = list(item.attrs)
        if attributes and rng.random() < 0.5:
            name = rng.choice(attributes)
            odd = [v for v in _ODD_VALUES if isinstance(v, (str, int, float)) and v != "\ud800"]
            with suppress(OverflowError, TypeError, ValueError):
                item.attrs[name] = rng.choice(odd)
        elif isinstance(item, h5py.Dataset) and item.size and item.dtype.kind in "fiu":
            values = item[()]
            flat = np.ravel(values)
            odd = rng.choice([np.nan, np.inf, 0.0, -1.0, 1e30, 255.0])
            with np.errstate(all="ignore"):
                chosen = slice(None) if rng.random() < 0.5 else rng.randrange(flat.size)
                flat[chosen] = np.array(odd).astype(item.dtype)
            item[...] = flat.reshape(values.shape)
        else:
            del file[item.name]


def _spoil_npz(rng: random.Random, path: Path) -> None:
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    name = rng.choice(list(arrays))
    odd = rng.choice(["nan", "text", "empty", "scalar", "remove", "object", "shape", "zip"])
    value = arrays[name]
    if odd == "nan" and value.dtype.kind == "f":
        value = np.full_like(value, np.nan)
    arrays[name] = {
        "text": np.array(["text"]), "empty": value[:0] if value.ndim else np.zeros(0),
        "scalar": np.array(1.0), "shape": np.zeros((2, 1, 7)),
        "object": np.array([None, {}], dtype=object),
    }.get(odd, value)  # fmt: skip
    if odd == "remove":
        del arrays[name]
    np.savez(path, **arrays)
    if odd == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"junk")


def _correct_checksum(path: Path) -> None:
    from tg80.files import checksum_path, file_sha256

    beside = checksum_path(path)
    if beside.exists():
        beside.unlink()
        beside.write_text(f"{file_sha256(path)}  {path.name}\n")


def snapshot(folder: Path) -> dict[str, tuple]:
    """Kind, size and time of everything below a folder."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            regular = (status.st_size, status.st_mtime_ns) if name in files else ()
            found[os.path.relpath(path, folder)] = (status.st_mode, *regular)
    return found
