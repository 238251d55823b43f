"""Whether the files of a published version are still those of its manifest."""

from pathlib import Path

from tg80.errors import CorruptFile, Tg80Error
from tg80.files import data_folders, file_sha256, read_bytes
from tg80.release.manifest import MANIFEST_NAME, Manifest
from tg80.shards.problems import Problem
from tg80.shards.shard import SUFFIX


def check_versions(path: Path) -> list[Problem]:
    """Problems of all published versions in a folder or tree; files of none may be missing."""
    folders = data_folders(path) if path.is_dir() else ()
    return [problem for folder in folders for problem in _check_version(folder)]


def _check_version(folder: Path) -> list[Problem]:
    path = folder / MANIFEST_NAME
    if not path.exists():
        return []
    try:
        manifest = read_manifest(folder)
    except Tg80Error as error:
        return [Problem("error", str(path), "release", str(error).removeprefix(f"{path}: "))]
    return [
        Problem("error", str(each), "release", f"is not the file that {MANIFEST_NAME} lists")
        for each in altered(folder, manifest)
        if each.exists()  # a download may hold a part of a version
    ]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a version's folder.

    Raises:
        UserError: There is none that can be read.
        CorruptFile: It is not valid.
    """
    path = folder / MANIFEST_NAME
    return Manifest.parse(read_bytes(path, "a manifest"), str(path))


def altered(folder: Path, manifest: Manifest) -> list[Path]:
    """Files that are missing, differ from the manifest, or are shards that it does not list."""
    listed = {folder / entry.path: entry.sha256 for entry in manifest.entries}
    wrong = [p for p, sha256 in listed.items() if not p.is_file() or file_sha256(p) != sha256]
    shards = (p for each in data_folders(folder) for p in sorted(each.glob(f"*{SUFFIX}")))
    return [*wrong, *(path for path in shards if path not in listed)]


def check_unaltered(folder: Path, manifest: Manifest, advice: str) -> None:
    """Refuse a version of which a file is missing, altered or additional.

    Raises:
        CorruptFile: One is.
    """
    if wrong := altered(folder, manifest):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CorruptFile(f"{wrong[0]}: missing or altered{more}; {advice}")
