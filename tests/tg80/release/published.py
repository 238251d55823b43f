"""Published trees for tests of the download: files of any content, and a true catalogue of them."""

import hashlib
import json
import random
from pathlib import Path

from tg80.release.manifest import (
    MANIFEST_NAME,
    VERSIONS_NAME,
    Manifest,
    PublishedFile,
    PublishedShard,
    VersionEntry,
    Versions,
)

NAMES = ("ethanol", "benzene", "aniline", "phenol", "acetone")
PARTS = {
    "train": ("ethanol", "benzene"),
    "val": ("aniline",),
    "test_id": ("phenol",),
    "test_ood": ("acetone",),
}
LEVELS = ("pbe-def2svp", "gfn2-xtb")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def shard_path(name: str, level: str = LEVELS[0]) -> str:
    return f"{level}/{name}-r0.h5md"


def publish_tree(
    site: Path, version: str = "1.0", *, n_bytes: int = 100_000, seed: int = 0
) -> Path:
    """SITE with one more version: five molecules at two levels, random bytes for shards.

    Returns:
        The version's folder.
    """
    rng, folder = random.Random(f"{version} {seed}"), site / version
    contents = {}
    for level in LEVELS:
        for i, name in enumerate(NAMES):
            content = rng.randbytes(n_bytes + 1000 * i)
            path = shard_path(name, level)
            contents[path] = content
            line = f"{sha256(content)}  {name}-r0.h5md\n"
            contents[f"{path}.sha256"] = line.encode()
    shards = [path for path in contents if path.endswith(".h5md")]
    lists = {
        part: [path for path in shards if Path(path).name.removesuffix("-r0.h5md") in names]
        for part, names in PARTS.items()
    }
    contents["folds/fold-1.json"] = json.dumps(lists).encode()
    contents["splits/tg80-v1.json"] = b'{"format": "tg80-split/1"}\n'
    contents["README.md"] = b"# Card\n"
    contents["plots/drift.png"] = rng.randbytes(5000)
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    files = [_file(path, contents[path]) for path in contents if path not in shards]
    write_manifest(site, version, [_shard(path, contents[path]) for path in shards], files)
    return folder


def _file(path: str, content: bytes) -> dict:
    return {"path": path, "n_bytes": len(content), "sha256": sha256(content)}


def _shard(path: str, content: bytes) -> dict:
    level, name = path.split("/")
    molecule = name.removesuffix("-r0.h5md")
    return _file(path, content) | {
        "molecule": molecule, "replica": 0, "smiles": "CCO", "inchikey": "X", "level": level,
        "n_frames": 10, "frame_fs": 1.0, "length_fs": 9.0, "ensemble": "nve",
        "licence": "CC-BY-4.0",
    }  # fmt: skip


def write_manifest(site: Path, version: str, shards: list[dict], files: list[dict]) -> None:
    """The manifest of a version, and `versions.json` with this version last."""
    manifest = Manifest(
        name="tg80", version=version, created="2026-01-01", licence="CC-BY-4.0", split="tg80-v1",
        shards=tuple(PublishedShard(**shard) for shard in shards),
        files=tuple(PublishedFile(**file) for file in files),
    )  # fmt: skip
    put_manifest(site, version, manifest.to_json().encode())


def put_manifest(site: Path, version: str, text: bytes) -> None:
    """Any bytes as a version's manifest, with the right checksum in `versions.json`."""
    (site / version).mkdir(parents=True, exist_ok=True)
    (site / version / MANIFEST_NAME).write_bytes(text)
    entry = VersionEntry(version=version, manifest_sha256=sha256(text), created="2026-01-01")
    path, earlier = site / VERSIONS_NAME, ()
    if path.exists():
        listed = Versions.model_validate_json(path.read_bytes()).versions
        earlier = tuple(each for each in listed if each.version != version)
    path.write_text(Versions(name="tg80", versions=(*earlier, entry)).to_json())


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file that is not hidden, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
