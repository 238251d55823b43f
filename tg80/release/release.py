"""One published version at a source: found, and its manifest checked, before a file is fetched."""

from dataclasses import dataclass

from tg80.errors import CorruptFile, UserError
from tg80.release.manifest import (
    MANIFEST_NAME,
    VERSIONS_NAME,
    Manifest,
    PublishedFile,
    VersionEntry,
    Versions,
    check_version,
)
from tg80.release.sources import Missing, Refused, Source, Watcher, fetch_bytes

LARGEST_MANIFEST = 1 << 26


@dataclass(frozen=True)
class Release:
    """A version at a source.

    Attributes:
        source: Where it is.
        prefix: Of its files' addresses within the source: `VERSION/`, or empty.
        manifest: What it holds.
        manifest_bytes: The manifest as it was sent.
    """

    source: Source
    prefix: str
    manifest: Manifest
    manifest_bytes: bytes

    @property
    def folder_name(self) -> str:
        """`NAME-VERSION`, the folder a version goes into if none is given.

        Raises:
            UserError: The publication's name can't be part of it.
        """
        try:
            return check_version(f"{self.manifest.name}-{self.manifest.version}")
        except ValueError:
            raise UserError("the publication's name cannot name a folder; give --to DIR") from None

    def address(self, entry: PublishedFile) -> str:
        """Path of a file within the source."""
        return self.prefix + entry.path


def find_release(source: Source, version: str | None, watcher: Watcher) -> Release:
    """The version asked for, or the newest; the source may also be the folder of one version.

    Raises:
        UserError: Nothing is published there, or not this version.
        CorruptFile: The manifest is not the one that `versions.json` names, or is not valid.
    """
    try:
        listed = fetch_bytes(source, VERSIONS_NAME, limit=LARGEST_MANIFEST, watcher=watcher)
    except Refused as error:  # not only Missing: object stores may forbid what is not there
        return _only_version(source, version, watcher, error)
    label = source.label(VERSIONS_NAME)
    versions = Versions.parse(listed, label)
    entry = _choose(versions.versions, version, label)
    path = f"{entry.version}/{MANIFEST_NAME}"
    content = fetch_bytes(
        source, path, limit=LARGEST_MANIFEST, watcher=watcher, sha256=entry.manifest_sha256
    )
    manifest = Manifest.parse(content, source.label(path))
    if (manifest.name, manifest.version) != (versions.name, entry.version):
        raise CorruptFile(
            f"{source.label(path)}: is of {manifest.name!r} {manifest.version}, not of "
            f"{versions.name!r} {entry.version}"
        )
    return Release(source, f"{entry.version}/", manifest, content)


def _only_version(source: Source, version: str | None, watcher: Watcher, first: Refused) -> Release:
    try:
        content = fetch_bytes(source, MANIFEST_NAME, limit=LARGEST_MANIFEST, watcher=watcher)
    except Missing:
        if not isinstance(first, Missing):
            raise first from None
        raise UserError(
            f"{source.name}: neither {VERSIONS_NAME} nor {MANIFEST_NAME} is there; give the "
            "address of a published data set, or of one of its versions"
        ) from None
    manifest = Manifest.parse(content, source.label(MANIFEST_NAME))
    if version not in (None, manifest.version):
        raise UserError(f"{source.name}: is version {manifest.version}, not {version}")
    return Release(source, "", manifest, content)


def _choose(entries: tuple[VersionEntry, ...], version: str | None, label: str) -> VersionEntry:
    by_name = {entry.version: entry for entry in entries}
    if len(by_name) < len(entries):
        raise CorruptFile(f"{label}: lists a version twice")
    if not entries:
        raise UserError(f"{label}: no version is published yet")
    if version is None:
        return entries[-1]
    if version not in by_name:
        raise UserError(f"no version {version} is published; there are {', '.join(by_name)}")
    return by_name[version]
