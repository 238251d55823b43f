"""Downloading a published version, or a part of it, into a folder.

What is right on disk stays, what is broken off goes on, what is wrong is fetched again, and only
bytes with the manifest's checksum ever get a file's name. A process may be killed at any instant:
the same call goes on from there.
"""

import errno
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import check_folder, write_atomically
from tg80.release.fetching import SourceFails, Stopped, Watcher, fetch_file
from tg80.release.manifest import (
    MANIFEST_NAME,
    PublishedFile,
    PublishedShard,
    read_manifest,
    total_bytes,
)
from tg80.release.part_file import PART, is_right, place, set_aside, store
from tg80.release.release import Release, find_release
from tg80.release.selection import Selection, choose_files
from tg80.release.sources import FolderSource, Patience, chosen_source, open_source

LOCK = ".download.lock"
DEFAULT_JOBS = 4
MAX_JOBS = 32
_GIVE_UP_AFTER = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_T = TypeVar("_T")


@dataclass
class Report:
    """What a download did, or with `dry_run` would do.

    Attributes:
        source, name, version: what was downloaded.
        folder: where to.
        molecules, levels: of the files asked for.
        fetched: path and size of each file fetched (to be fetched).
        kept: path and size of each file that was there and right.
        failed: path and reason of each file that could not be had.
        n_bytes_received: sent by the source for these files.
        seconds: wall time.
        dry_run: whether nothing was written.
    """

    source: str
    name: str
    version: str
    folder: str
    dry_run: bool = False
    molecules: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    fetched: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    n_bytes_received: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        totals = {
            "n_bytes_fetched": sum(self.fetched.values()),
            "n_bytes_kept": sum(self.kept.values()),
        }
        return asdict(self) | totals


def download(
    source: str | None = None,
    to: Path | str | None = None,
    *,
    version: str | None = None,
    selection: Selection = Selection(),
    jobs: int = DEFAULT_JOBS,
    patience: Patience = Patience(),
    dry_run: bool = False,
    watcher: Watcher | None = None,
) -> Report:
    """Bring a published version, or what is selected of it, into a folder.

    Args:
        source: URL or folder of a publication or of one of its versions; None for the one that
            `TG80_SOURCE` or the settings file names.
        to: folder; None for `NAME-VERSION` here.
        version: None for the newest.
        selection: what to fetch of it.
        jobs: files fetched at once, 1 to 32.
        patience: how long and how often to try.
        dry_run: only tell what would be fetched; nothing is written.
        watcher: told how it goes on.

    Raises:
        UserError: a bad argument, nothing published there, or a folder with something else in it.
        Tg80Error: the manifest can't be had or is not valid, the disk is full, or the source fails
            for all files. Single files that can't be had are in the report's `failed`.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UserError(f"--jobs {jobs}: give 1 to {MAX_JOBS}")
    began = time.monotonic()
    watcher, stop = watcher or Watcher(), threading.Event()
    release = find_release(open_source(chosen_source(source), patience), version, stop, watcher)
    folder = Path(to) if to is not None else Path(release.folder_name)
    _check_folder(release, folder)
    entries = choose_files(
        release.manifest, selection, lambda entry: release.read(entry, stop, watcher)
    )
    report = _new_report(release, folder, entries, dry_run)
    run = _Run(release, folder, jobs, stop, watcher, report)
    if dry_run:
        run.look(entries)
    else:
        with _locked(folder):
            run.fetch(run.look(entries))
    report.seconds = time.monotonic() - began
    return report


def _new_report(
    release: Release, folder: Path, entries: Sequence[PublishedFile], dry_run: bool
) -> Report:
    shards = [entry for entry in entries if isinstance(entry, PublishedShard)]
    return Report(
        source=release.source.name,
        name=release.manifest.name,
        version=release.manifest.version,
        folder=str(folder),
        dry_run=dry_run,
        molecules=tuple(sorted({shard.molecule for shard in shards})),
        levels=tuple(sorted({shard.level for shard in shards})),
    )


class _Run:
    """One download into one folder."""

    def __init__(
        self, release: Release, folder: Path, jobs: int, stop: threading.Event,
        watcher: Watcher, report: Report,
    ) -> None:  # fmt: skip
        self.release, self.folder, self.jobs = release, folder, jobs
        self.stop, self.watcher, self.report = stop, watcher, report

    def look(self, entries: Sequence[PublishedFile]) -> list[PublishedFile]:
        """What is missing or wrong in the folder; the report tells both this and what is right.

        Raises:
            UserError: the folder holds another version, or other files under these names.
        """
        resumed = _holds_this(self.folder, self.release)
        targets = {entry.path: place(self.folder, entry.path) for entry in entries}
        self.watcher.begin("checking", total_bytes(entries))

        def check(entry: PublishedFile) -> bool:
            right = is_right(targets[entry.path], entry)
            self.watcher.advance(entry.n_bytes)
            return right

        with closing(_side_by_side(entries, check, self.jobs, self.stop)) as checked:
            states = dict(checked)
        for entry in entries:
            state = states[entry]
            if isinstance(state, BaseException):
                raise state
            if not state and not resumed and targets[entry.path].exists():
                raise UserError(
                    f"{targets[entry.path]}: is another file, and no earlier download; choose "
                    "another --to"
                )
            (self.report.kept if state else self.report.fetched)[entry.path] = entry.n_bytes
        return [entry for entry in entries if not states[entry]]

    def fetch(self, entries: Sequence[PublishedFile]) -> None:
        """Fetch these files; those that can't be had move to the report's `failed`."""
        with _plain_disk_errors(self.folder):
            self._check_space(entries)
            # From now on a wrong file here is one of ours to be mended.
            write_atomically(self.folder / MANIFEST_NAME, self.release.manifest_bytes)
            for entry in entries:
                set_aside(place(self.folder, entry.path), entry)
        self.report.fetched.clear()
        if not entries:
            return
        self.watcher.begin("downloading", total_bytes(entries))
        with closing(_side_by_side(entries, self._fetch_one, self.jobs, self.stop)) as ended:
            self._record(ended)

    def _record(self, ended: Iterable[tuple[PublishedFile, int | Exception]]) -> None:
        """Files each outcome in the report; an error that concerns all files is raised."""
        n_in_a_row = 0
        for entry, outcome in ended:
            if isinstance(outcome, int):
                self.report.fetched[entry.path] = entry.n_bytes
                self.report.n_bytes_received += outcome
                n_in_a_row = 0
                continue
            if not isinstance(outcome, Tg80Error) or isinstance(outcome, UserError):
                with _plain_disk_errors(self.folder):
                    raise outcome
            self.report.failed[entry.path] = str(outcome)
            n_in_a_row += isinstance(outcome, SourceFails)
            if n_in_a_row == _GIVE_UP_AFTER:
                raise SourceFails(
                    f"{outcome}; so did {_GIVE_UP_AFTER - 1} files before it; the same command "
                    "goes on from here"
                )

    def _fetch_one(self, entry: PublishedFile) -> int:
        target = place(self.folder, entry.path)
        content = self.release.already_read(entry)
        if content is not None:
            store(target, content)
            self.watcher.advance(len(content))
            return len(content)
        address = self.release.address(entry)
        return fetch_file(
            self.release.source, entry, address, target, stop=self.stop, watcher=self.watcher
        )

    def _check_space(self, entries: Sequence[PublishedFile]) -> None:
        here = [Path(f"{place(self.folder, entry.path)}{PART}") for entry in entries]
        n_bytes = total_bytes(entries) - sum(p.stat().st_size for p in here if p.exists())
        usage = shutil.disk_usage(self.folder)
        if usage.total and n_bytes > usage.free:
            raise Tg80Error(
                f"{self.folder}: {n_bytes / 1e6:.1f} MB are to be fetched and "
                f"{usage.free / 1e6:.1f} MB are free; free space, or select less"
            )


def _check_folder(release: Release, folder: Path) -> None:
    check_folder(folder, "--to")
    if isinstance(release.source, FolderSource):
        published = os.path.realpath(release.source.folder / release.prefix)
        if os.path.realpath(folder) == published:
            raise UserError(f"{folder}: is the source itself; choose another --to")


def _holds_this(folder: Path, release: Release) -> bool:
    """Whether an earlier download of this very version went into the folder.

    Raises:
        UserError: it is another version's.
    """
    path = place(folder, MANIFEST_NAME)
    if not path.exists():
        return False
    content, wanted = path.read_bytes(), release.manifest
    if content == release.manifest_bytes:
        return True
    try:
        there = read_manifest(content, str(path))
    except CorruptFile as error:
        raise UserError(f"{error}; remove it, or choose another --to") from None
    if (there.name, there.version) != (wanted.name, wanted.version):
        raise UserError(
            f"{folder}: holds {there.name} {there.version}, not {wanted.name} {wanted.version}; "
            "choose another --to"
        )
    raise UserError(
        f"{path}: differs from the one at {release.source.name}, though a published version never "
        "changes; ask who published it, or choose another --to"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, made if need be, for this process; a crash leaves no lock behind."""
    with _plain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place(folder, LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder}: another download is writing here; wait for it, or choose another --to"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the disk into one line that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in _FULL:
            raise Tg80Error(
                f"{where}: the disk is full ({error.strerror}); free space and run the same "
                "command again, it goes on from here"
            ) from None
        reason = error.strerror or error
        raise Tg80Error(f"{where}: cannot be written: {reason}") from None


def _side_by_side(
    items: Sequence[PublishedFile],
    work: Callable[[PublishedFile], _T],
    n_threads: int,
    stop: threading.Event,
) -> Generator[tuple[PublishedFile, _T | Exception], None, None]:
    """Each item with what `work` gave or raised, as they end.

    If the caller leaves early, by Ctrl-C for one, `stop` is set and nothing new is begun. The
    threads are daemons: one that hangs on a silent server does not keep the process.
    """
    waiting: queue.SimpleQueue[PublishedFile] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[PublishedFile, _T | Exception]] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    def serve() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((item, work(item)))
            except Stopped:
                return
            except Exception as error:
                ended.put((item, error))

    threads = [
        threading.Thread(target=serve, daemon=True) for _ in range(min(n_threads, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            yield ended.get()
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(timeout=1.0)
        raise
