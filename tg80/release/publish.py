"""Publishes a folder of shards as a static tree that any web server, bucket or archive can serve.

A version is built in a hidden folder and renamed when it is complete; then it is listed in
`versions.json`, the only file that ever changes. Killed at any instant, a publication leaves either
nothing that looks like a version, or a complete one that the same command then announces.
`publish_here` makes a folder of this repository's releases a version without copying its shards.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import check_folder, data_folders, file_sha256, sync_folder, write_atomically
from tg80.release.card import CARD_NAME, plot_path, site_card
from tg80.release.croissant import CROISSANT_NAME, croissant
from tg80.release.intact import check_unaltered, read_manifest
from tg80.release.manifest import (
    MANIFEST_NAME,
    VERSIONS_NAME,
    Manifest,
    PublishedFile,
    VersionEntry,
    Versions,
    check_version,
)
from tg80.release.plots import plots
from tg80.release.sources import web_address
from tg80.release.survey import Publication, ShardFacts, by_level, survey
from tg80.splits.split import Split, load_split

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_AND_VERSION = re.compile(r"(.+)-(v?[0-9]+(?:\.[0-9]+)*)")
_UNFINISHED = ".publishing-"
_LOCK = ".lock"
_CHUNK_BYTES = 1 << 20
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Attributes:
        folder: The version's folder.
        manifest: What it holds.
        warnings: Number of warnings listed in the card.
        outside: Compounds that are in no fold.
        finished: Whether an earlier, killed publication of the very same shards was only announced.
    """

    folder: Path
    manifest: Manifest
    warnings: int
    outside: tuple[str, ...]
    finished: bool


def publish(
    folder: Path | str,
    site: Path | str,
    *,
    version: str,
    name: str | None = None,
    split: str | None = "tg80-v1",
    authors: Sequence[str] = (),
    about: str = "",
    url: str = "",
    flat: bool = False,
    created: str | None = None,
    tell: Tell = lambda _: None,
) -> Published:
    """Publish the shards of a folder or tree as a new version.

    Args:
        folder: The shards; they are copied, so that a publication never changes with its source.
        site: Where the tree is or is to be.
        version: Of the data; a published one is never changed.
        name: Of the data set; None for that of the site, else that of the folder.
        split: Version or file of the split whose folds are listed; None for none.
        authors: Who made the data; empty for those that the shards name.
        about: Markdown for the top of the card.
        url: Address at which the version's folder will be served.
        flat: Put all files in one folder.
        created: ISO date; None for today.
        tell: Called with what is being done.

    Raises:
        UserError: The version is published already, or the data, the folder or an option cannot be
            published; nothing was written.
        Tg80Error: The site cannot be written, or a shard changed meanwhile.
    """
    folder, site = Path(folder), Path(site)
    _check_options(folder, site, version, name, url)
    with _locked(site):
        versions = _read_versions(site)
        chosen = name or (versions.name if versions else _slug(folder))
        _check_new(site, versions, chosen, version)
        publication = _survey(folder, chosen, version, split, authors, about, url, created, tell)
        publication = replace(publication, flat=flat)
        target = site / version
        finished = target.exists()
        manifest = _finish(target, publication) if finished else _build(site, publication, tell)
        _announce(site, versions, manifest, target)
    return _done(target, manifest, publication, finished=finished)


def publish_here(
    folder: Path | str,
    *,
    split: str | None = "tg80-v1",
    authors: Sequence[str] = (),
    about: str = "",
    url: str = "",
    created: str | None = None,
    tell: Tell = lambda _: None,
) -> Published:
    """Make a folder `NAME-VERSION` of shards a published version itself; nothing is copied.

    The manifest is written last: killed before, the folder is unpublished, and the same call
    begins anew. The other arguments are those of `publish`.

    Raises:
        UserError: The folder is published already, is not called so, lacks compounds of the split,
            or the data or an option cannot be published.
        CorruptFile: It is published, and a file in it is not what it was.
        Tg80Error: The folder cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one of shards, or --out")
    match = _NAME_AND_VERSION.fullmatch(folder.resolve().name)
    if match is None or not _NAME.fullmatch(match[1]):
        raise UserError(
            f"{folder}: only a folder called NAME-VERSION, such as tg80-xtb-v1, is published where "
            "it is; rename it, or give --out"
        )
    _check_url(url)
    check_folder(folder, "folder")
    with _locked(folder):
        if (folder / MANIFEST_NAME).exists():
            check_unaltered(folder, read_manifest(folder), "a published version never changes")
            raise UserError(
                f"{folder}: is published and never changes; publish other data in another folder"
            )
        publication = _survey(folder, match[1], match[2], split, authors, about, url, created, tell)
        present = {fact.metadata.name for fact in publication.facts}
        wanted = publication.split.molecules if publication.split else ()
        if missing := [name for name in wanted if name not in present]:
            raise UserError(
                f"{folder}: has {len(wanted) - len(missing)} of the {len(wanted)} compounds of "
                f"split {split}; add {missing[0]} and the others, or give a --split of those here "
                "(`tg80 split --restrict`)"
            )
        manifest = _write(folder, replace(publication, here=folder), tell)
    return _done(folder, manifest, publication, finished=False)


def _survey(
    folder: Path,
    name: str,
    version: str,
    split: str | None,
    authors: Sequence[str],
    about: str,
    url: str,
    created: str | None,
    tell: Tell,
) -> Publication:
    facts = survey(folder, lambda each: tell(f"checking {each}"))
    dealt = None if split is None else load_split(split)
    return Publication(
        name=name,
        version=version,
        created=created or date.today().isoformat(),
        licence=_one_licence(facts),
        authors=tuple(authors) or tuple(sorted({fact.metadata.author for fact in facts})),
        facts=tuple(facts),
        split=dealt,
        outside=_compounds_outside(dealt, facts) if dealt else {},
        about=about,
        url=url.rstrip("/"),
    )


def _done(
    folder: Path, manifest: Manifest, publication: Publication, *, finished: bool
) -> Published:
    return Published(
        folder=folder,
        manifest=manifest,
        warnings=sum(len(fact.warnings) for fact in publication.facts),
        outside=tuple(publication.outside),
        finished=finished,
    )


def _check_options(folder: Path, site: Path, version: str, name: str | None, url: str) -> None:
    if not folder.exists():
        raise UserError(f"{folder}: no such file or folder; give the shards to publish")
    try:
        check_version(version)
    except ValueError as error:
        raise UserError(str(error)) from None
    if name is not None and not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: use letters, digits, '.', '-' and '_'")
    _check_url(url)
    check_folder(site, "--out")
    if folder.is_dir() and site.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{site}: is inside {folder}, whose shards are published; choose another --out"
        )


def _check_url(url: str) -> None:
    if url and web_address(url) is None:
        raise UserError(f"--url {url!r}: not an address; give one such as https://HOST/FOLDER")


def _slug(folder: Path) -> str:
    name = folder.resolve().stem if folder.is_file() else folder.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64] or "data"


@contextmanager
def _locked(site: Path) -> Iterator[None]:
    """Hold the site for this process and clear what a killed one left."""
    made = not site.exists()
    try:
        site.mkdir(parents=True, exist_ok=True)
        with FileLock(site / _LOCK, timeout=0.5):
            for left in site.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
            yield
    except Timeout:
        raise UserError(
            f"{site}: another publication is being written there; wait for it"
        ) from None
    except OSError as error:
        raise Tg80Error(
            f"{error.filename or site}: cannot be written: {error.strerror or error}; "
            "free space or check rights"
        ) from None
    finally:
        if made and site.is_dir() and {entry.name for entry in site.iterdir()} <= {_LOCK}:
            shutil.rmtree(site)


def _read_versions(site: Path) -> Versions | None:
    path = site / VERSIONS_NAME
    return Versions.parse(path.read_bytes(), str(path)) if path.exists() else None


def _check_new(site: Path, versions: Versions | None, name: str, version: str) -> None:
    if versions is None:
        return
    if versions.name != name:
        raise UserError(f"{site} publishes {versions.name}, not {name}; choose another --out")
    if any(entry.version == version for entry in versions.versions):
        raise UserError(
            f"{site}: version {version} is published and never changes; give another --version"
        )


def _one_licence(facts: Sequence[ShardFacts]) -> str:
    licences = sorted({fact.metadata.licence for fact in facts})
    if len(licences) > 1:
        raise UserError(
            f"the shards are under different licences ({', '.join(licences)}); publish them apart"
        )
    return licences[0]


def _compounds_outside(split: Split, facts: Sequence[ShardFacts]) -> dict[str, str]:
    """Compounds in no fold -> the compound of the split with the same connectivity, or "".

    Raises:
        UserError: A name means another compound in the split, or a compound has another name
            there: readers would put it in the wrong part.
    """
    name_of = {compound.inchikey: name for name, compound in split.molecules.items()}
    same_connectivity = {key[:14]: name for key, name in name_of.items()}
    outside: dict[str, str] = {}
    for fact in facts:
        name, key = fact.metadata.name, fact.metadata.inchikey
        if name in split.molecules:
            if split.molecules[name].inchikey != key:
                raise UserError(
                    f"{fact.path}: {name} is another compound in split {split.version}; rename it "
                    "or publish with another --split"
                )
        elif key in name_of:
            raise UserError(
                f"{fact.path}: this compound is called {name_of[key]} in split {split.version}, "
                "by which readers know it; make it under that name"
            )
        else:
            outside[name] = same_connectivity.get(key[:14], "")
    if len(outside) == len({fact.metadata.name for fact in facts}):
        raise UserError(
            f"none of the compounds is in split {split.version}; make a split of them with "
            "`tg80 split --data DIR --out FILE`, or publish with --split none"
        )
    return outside


def _build(site: Path, publication: Publication, tell: Tell) -> Manifest:
    temporary = site / f"{_UNFINISHED}{publication.version}"
    temporary.mkdir()
    try:
        manifest = _write(temporary, publication, tell)
        for folder in data_folders(temporary):
            sync_folder(folder)
        os.rename(temporary, site / publication.version)
        sync_folder(site)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _write(folder: Path, publication: Publication, tell: Tell) -> Manifest:
    files = []
    for fact, shard in zip(publication.facts, publication.shards, strict=True):
        target = folder / shard.path
        if publication.here is None:
            tell(f"copying {shard.path}")
            _copy(fact, target)
        line = f"{shard.sha256}  {target.name}\n"
        files.append(_put(folder, f"{shard.path}.sha256", line.encode()))
    tell("writing card and plots")
    if publication.split is not None:
        split = publication.place(f"splits/{publication.split.version}.json")
        files.append(_put(folder, split, publication.split.to_json().encode()))
    for fold, parts in publication.folds.items():
        path = publication.place(f"folds/fold-{fold}.json")
        files.append(_put(folder, path, (json.dumps(parts, indent=1) + "\n").encode()))
    for level, facts in by_level(publication.facts).items():
        for plot, content in plots(facts).items():
            files.append(_put(folder, plot_path(publication, level, plot), content))
    files.append(_put(folder, CARD_NAME, site_card(publication).encode()))
    files.append(_put(folder, CROISSANT_NAME, croissant(publication, files).encode()))
    manifest = Manifest(
        name=publication.name,
        version=publication.version,
        created=publication.created,
        licence=publication.licence,
        split=publication.split.version if publication.split else None,
        split_sha256=publication.split.sha256 if publication.split else None,
        shards=publication.shards,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
    )
    write_atomically(folder / MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _copy(fact: ShardFacts, target: Path) -> None:
    """Copy a shard, which must still be as it was checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(fact.path, "rb") as source, open(target, "xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    if digest.hexdigest() != fact.sha256:
        raise Tg80Error(f"{fact.path}: changed while it was being published; publish again")


def _put(folder: Path, path: str, content: bytes) -> PublishedFile:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    digest = hashlib.sha256(content).hexdigest()
    return PublishedFile(path=path, n_bytes=len(content), sha256=digest)


def _finish(target: Path, publication: Publication) -> Manifest:
    """The manifest of a version that was killed before it was announced, if it is this one."""
    taken = f"{target}: exists, but {VERSIONS_NAME} does not list it"
    try:
        manifest = Manifest.parse((target / MANIFEST_NAME).read_bytes(), str(target))
    except (OSError, CorruptFile):
        raise UserError(f"{taken}; move it away or give another --version") from None
    if (manifest.name, manifest.shards) != (publication.name, publication.shards):
        raise UserError(f"{taken}; it holds other shards: give another --version")
    check_unaltered(target, manifest, f"remove {target} and publish again")
    return manifest


def _announce(site: Path, versions: Versions | None, manifest: Manifest, target: Path) -> None:
    entry = VersionEntry(
        version=manifest.version,
        manifest_sha256=file_sha256(target / MANIFEST_NAME),
        created=manifest.created,
    )
    known = versions.versions if versions else ()
    listed = Versions(name=manifest.name, versions=(*known, entry))
    write_atomically(site / VERSIONS_NAME, listed.to_json().encode())
