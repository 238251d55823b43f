"""Downloads a published version, or a part of it, into a folder.

Correct files stay, interrupted ones are resumed, wrong ones are fetched again. A file is
`NAME.part` until it has the size and SHA-256 of the manifest, then `NAME`. A process may be killed
at any instant: the same call resumes. Published versions never change; should a server mix them up
all the same, the SHA-256 shows it, and the file is fetched whole.
"""

import errno
import hashlib
import os
import queue
import shutil
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tg80.dataset import download_folder
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import check_folder, file_sha256, write_atomically
from tg80.release.manifest import (
    MANIFEST_NAME,
    OWN_SUFFIXES,
    PART,
    WRONG,
    Manifest,
    PublishedFile,
    PublishedShard,
)
from tg80.release.release import Release, find_release
from tg80.release.selection import Selection, choose_files
from tg80.release.sources import (
    CHUNK_BYTES,
    Attempts,
    FolderSource,
    Interrupted,
    Patience,
    Source,
    SourceFails,
    Stopped,
    Watcher,
    WrongContent,
    fetch_bytes,
    open_source,
)

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
        source: Where from.
        name: Of the data set.
        version: Of the data.
        folder: Where to.
        dry_run: Whether nothing was written.
        molecules: Of the files asked for.
        levels: Of the files asked for.
        fetched: Path and size of each file fetched (to be fetched).
        kept: Path and size of each file that was there and right.
        failed: Path and reason of each file that could not be fetched.
        n_bytes_received: Sent by the source for these files.
        seconds: Wall time.
    """

    source: str
    name: str
    version: str
    folder: str
    dry_run: bool
    molecules: tuple[str, ...]
    levels: tuple[str, ...]
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
    """Download a published version, or what is selected of it, into a folder.

    Args:
        source: URL or folder of a publication or of one of its versions; None for the one that
            `TG80_SOURCE` names.
        to: Folder; None for `NAME-VERSION` in the download folder.
        version: None for the newest.
        selection: What to fetch of it.
        jobs: Files fetched at once, 1 to 32.
        patience: How long and how often to try.
        dry_run: Only report what would be fetched; nothing is written.
        watcher: Follows the transfer.

    Raises:
        UserError: A bad argument, nothing published there, or a folder with something else in it.
        Tg80Error: The manifest cannot be fetched or is not valid, the disk is full, or the source
            fails for all files. Single files that fail are in the report's `failed`.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UserError(f"--jobs {jobs}: give 1 to {MAX_JOBS}")
    began = time.monotonic()
    watcher = watcher or Watcher()
    release = find_release(open_source(source, patience), version, watcher)
    folder = Path(to) if to is not None else download_folder() / release.folder_name
    _check_folder(release, folder)
    manifest, opened = release.manifest, release.source

    def read(entry: PublishedFile) -> bytes:
        return fetch_bytes(
            opened, release.address(entry), sha256=entry.sha256, limit=entry.n_bytes,
            watcher=watcher,
        )  # fmt: skip

    entries = choose_files(manifest, selection, read)
    shards = [entry for entry in entries if isinstance(entry, PublishedShard)]
    report = Report(
        source=opened.name,
        name=manifest.name,
        version=manifest.version,
        folder=str(folder),
        dry_run=dry_run,
        molecules=tuple(sorted({shard.molecule for shard in shards})),
        levels=tuple(sorted({shard.level for shard in shards})),
    )
    this = _Download(release, folder, jobs, watcher, report)
    if dry_run:
        this.check(entries)
    else:
        with _locked(folder):
            this.fetch(this.check(entries))
    report.seconds = time.monotonic() - began
    return report


@dataclass(frozen=True)
class _Download:
    release: Release
    folder: Path
    jobs: int
    watcher: Watcher
    report: Report

    def check(self, entries: Sequence[PublishedFile]) -> list[PublishedFile]:
        """What is missing or wrong in the folder; the report gets this and what is right.

        Raises:
            UserError: The folder holds another version, or other files under these names.
        """
        resumed = _holds_this(self.folder, self.release)
        targets = {entry.path: place(self.folder, entry.path) for entry in entries}
        self.watcher.begin("checking", _total_bytes(entries))

        def check(entry: PublishedFile) -> bool:
            right = _is_right(targets[entry.path], entry)
            self.watcher.advance(entry.n_bytes)
            return right

        with closing(_side_by_side(entries, check, self.jobs, self.watcher.stop)) as checked:
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
        """Fetch these files; those that fail are in the report's `failed`."""
        with _plain_disk_errors(self.folder):
            self._check_space(entries)
            # From now on a wrong file here is one of ours to be replaced.
            write_atomically(self.folder / MANIFEST_NAME, self.release.manifest_bytes)
            for entry in entries:
                _set_aside(place(self.folder, entry.path), entry)
        self.report.fetched.clear()
        if not entries:
            return
        self.watcher.begin("downloading", _total_bytes(entries))
        stop = self.watcher.stop
        with closing(_side_by_side(entries, self._fetch_one, self.jobs, stop)) as ended:
            self._record(ended)

    def _record(self, ended: Iterable[tuple[PublishedFile, int | Exception]]) -> None:
        """Put each outcome in the report; an error that concerns all files is raised."""
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
                    "resumes from here"
                )

    def _fetch_one(self, entry: PublishedFile) -> int:
        """Fetch one file, resuming from what is already there of it.

        Returns:
            How many bytes the source sent.

        Raises:
            Refused: The source does not give it.
            CorruptFile: The source's copy is not what the manifest says, time and again.
            SourceFails: The source kept failing.
            Stopped: By the watcher.
            OSError: The file cannot be written.
        """
        source, path = self.release.source, self.release.address(entry)
        attempts = Attempts(source, path, self.watcher)
        with PartFile(place(self.folder, entry.path), entry, self.watcher.advance) as part:
            while True:
                try:
                    _fetch_rest(source, path, entry, part, self.watcher.stop)
                except (Interrupted, WrongContent) as error:
                    n_bytes = part.n_bytes
                    if isinstance(error, WrongContent) and error.spoilt:
                        part.reset()
                    attempts.wait_after(error, n_bytes)
                else:
                    part.finish()
                    return part.n_received

    def _check_space(self, entries: Sequence[PublishedFile]) -> None:
        here = [Path(f"{place(self.folder, entry.path)}{PART}") for entry in entries]
        n_bytes = _total_bytes(entries) - sum(p.stat().st_size for p in here if p.exists())
        usage = shutil.disk_usage(self.folder)
        if usage.total and n_bytes > usage.free:
            raise Tg80Error(
                f"{self.folder}: {n_bytes / 1e6:.1f} MB are to be fetched and "
                f"{usage.free / 1e6:.1f} MB are free; free space, or select less"
            )


def _fetch_rest(
    source: Source, path: str, entry: PublishedFile, part: "PartFile", stop: threading.Event
) -> None:
    """Fetch what is missing in one attempt, and compare the whole."""
    if part.n_bytes < entry.n_bytes:
        with source.open(path, part.n_bytes) as body:
            if body.n_total not in (None, entry.n_bytes):
                # What is here need not be at fault: this may be some page in place of the file.
                raise WrongContent(
                    f"has {body.n_total} bytes there, {entry.n_bytes} in the manifest",
                    spoilt=False,
                )
            if body.offset == 0 and part.n_bytes:
                part.reset()
            for chunk in body.chunks:
                if stop.is_set():
                    raise Stopped
                if part.n_bytes + len(chunk) > entry.n_bytes:
                    raise WrongContent(f"has more than the {entry.n_bytes} bytes of the manifest")
                part.append(chunk)
    if part.n_bytes < entry.n_bytes:
        raise Interrupted(f"ended after {part.n_bytes} of {entry.n_bytes} bytes")
    if part.sha256() != entry.sha256:
        raise WrongContent("its SHA-256 is not that of the manifest")


def _total_bytes(entries: Iterable[PublishedFile]) -> int:
    return sum(entry.n_bytes for entry in entries)


def _check_folder(release: Release, folder: Path) -> None:
    check_folder(folder, "--to")
    if isinstance(release.source, FolderSource):
        published = os.path.realpath(release.source.folder / release.prefix)
        if os.path.realpath(folder) == published:
            raise UserError(f"{folder}: is the source itself; choose another --to")


def _holds_this(folder: Path, release: Release) -> bool:
    """Whether an earlier download of this very version went into the folder.

    Raises:
        UserError: It is another version's.
    """
    path = place(folder, MANIFEST_NAME)
    if not path.exists():
        return False
    content, wanted = path.read_bytes(), release.manifest
    if content == release.manifest_bytes:
        return True
    try:
        there = Manifest.parse(content, str(path))
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
    """Create the folder and lock it for this process; a crash leaves no lock behind."""
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
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in _FULL:
            raise Tg80Error(
                f"{where}: the disk is full ({error.strerror}); free space and run the same "
                "command again, it resumes from here"
            ) from None
        reason = error.strerror or error
        raise Tg80Error(f"{where}: cannot be written: {reason}") from None


def _side_by_side(
    items: Sequence[PublishedFile],
    work: Callable[[PublishedFile], _T],
    n_threads: int,
    stop: threading.Event,
) -> Generator[tuple[PublishedFile, _T | Exception], None, None]:
    """Each item with what `work` returned or raised, as they end.

    If the caller leaves early, by Ctrl-C for one, `stop` is set and nothing new begins. The
    threads are daemons: one that hangs on a silent server does not keep the process alive.
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


def place(folder: Path, path: str) -> Path:
    """Where a file of the manifest goes.

    Raises:
        UserError: A link, or something that is not a file, is in the way.
    """
    target = folder.joinpath(*path.split("/"))
    root = os.path.realpath(folder)
    for each in (target, *(Path(f"{target}{suffix}") for suffix in OWN_SUFFIXES)):
        real = os.path.realpath(each)
        if os.path.commonpath([root, real]) != root:
            raise UserError(f"{each}: leads out of {folder} by a link; choose another --to")
        if each.exists() and not each.is_file():
            raise UserError(f"{each}: is not a file; move it away, or choose another --to")
    for parent in target.relative_to(folder).parents:
        if (folder / parent).exists() and not (folder / parent).is_dir():
            raise UserError(
                f"{folder / parent}: is not a folder; move it away, or choose another --to"
            )
    return target


def _is_right(path: Path, entry: PublishedFile) -> bool:
    try:
        return path.stat().st_size == entry.n_bytes and file_sha256(path) == entry.sha256
    except FileNotFoundError:
        return False


def _set_aside(target: Path, entry: PublishedFile) -> None:
    """Rename a wrong file: to NAME.part if it is short and can be resumed, else to NAME.wrong."""
    if not target.exists():
        return
    part, facts = Path(f"{target}{PART}"), target.lstat()
    # A file with another hard link is not ours to write to.
    only_here = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
    cut_short = only_here and facts.st_size < entry.n_bytes and not part.exists()
    os.replace(target, part if cut_short else f"{target}{WRONG}")


class PartFile:
    """The bytes of one file that are here so far; a context manager.

    Args:
        target: Final name.
        entry: Size and checksum of the whole.
        on_bytes: Called with every change of `n_bytes`.

    Attributes:
        n_bytes: Stored so far.
        n_received: Bytes that `append` brought, those thrown away since included.
    """

    def __init__(self, target: Path, entry: PublishedFile, on_bytes: Callable[[int], None]) -> None:
        self._target = target
        self._entry = entry
        self._on_bytes = on_bytes
        self._path = Path(f"{target}{PART}")
        self.n_bytes = self.n_received = 0

    def __enter__(self) -> "PartFile":
        self._target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NONBLOCK"):
            flags |= getattr(os, name, 0)
        with suppress(FileNotFoundError):
            if self._path.lstat().st_nlink > 1:  # another hard link: not ours to write to
                self._path.unlink()
        self._stream = os.fdopen(os.open(self._path, flags, 0o666), "r+b", buffering=0)
        if not stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
            self._stream.close()
            raise UserError(f"{self._path}: is not a file; move it away")
        self._hash = hashlib.sha256()
        while chunk := self._stream.read(CHUNK_BYTES):
            self._count(chunk)
        if self.n_bytes > self._entry.n_bytes:
            self.reset()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._stream.close()
        if self.n_bytes == 0 and isinstance(error, Tg80Error):
            self._path.unlink(missing_ok=True)

    def _count(self, chunk: bytes | memoryview) -> None:
        self._hash.update(chunk)
        self.n_bytes += len(chunk)
        self._on_bytes(len(chunk))

    def append(self, chunk: bytes) -> None:
        """Store the next bytes.

        Raises:
            OSError: The disk is full or broken.
        """
        rest = memoryview(chunk)
        while rest:
            n_written = self._stream.write(rest) or 0
            self._count(rest[:n_written])
            self.n_received += n_written
            rest = rest[n_written:]

    def reset(self) -> None:
        """Throw away what is there."""
        self._stream.seek(0)
        self._stream.truncate()
        self._hash = hashlib.sha256()
        self._on_bytes(-self.n_bytes)
        self.n_bytes = 0

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Give the file its name; its bytes are on the disk before."""
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._path, self._target)
        Path(f"{self._target}{WRONG}").unlink(missing_ok=True)
