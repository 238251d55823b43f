"""One file from a source, however often the source breaks off, errs or sends something else.

Two counts end it: attempts in a row that brought nothing new, and copies that came whole and wrong.
"""

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

from tg80.errors import CorruptFile, Tg80Error
from tg80.release.manifest import PublishedFile
from tg80.release.part_file import PartFile
from tg80.release.sources import Interrupted, Patience, Refused, Source, WrongContent

# A server that always breaks off after a few bytes is not to keep us for ever.
PROGRESS_BYTES = 1 << 20


class Stopped(Exception):
    """Another thread asked to stop; what has arrived stays."""


class SourceFails(Tg80Error):
    """The source went on failing for longer than our patience."""


class Watcher:
    """What is told of a transfer while it goes on, by several threads; shows nothing itself."""

    def begin(self, stage: str, n_bytes: int) -> None:
        """A stage that handles `n_bytes` begins."""

    def advance(self, n_bytes: int) -> None:
        """So many bytes more; fewer than 0 if some had to be thrown away."""

    def say(self, line: str) -> None:
        """Something the user may want to know."""


class _Attempts:
    """Decides after each failure whether and when to try again."""

    def __init__(
        self, label: str, patience: Patience, stop: threading.Event, say: Callable[[str], None]
    ) -> None:
        self._label, self._patience, self._stop, self._say = label, patience, stop, say
        self._n_failed = self._n_wrong = self._farthest = 0

    def wait_after(self, error: Interrupted | WrongContent, n_bytes: int = 0) -> None:
        """Wait until the next attempt is due.

        Args:
            error: how the last one ended.
            n_bytes: how far it got.

        Raises:
            CorruptFile, SourceFails: there should be no next one.
            Stopped: another thread asked for it.
        """
        retry_after_s = None
        if isinstance(error, WrongContent):
            self._n_wrong += 1
            n_tries, limit, failure = self._n_wrong, self._patience.copies, CorruptFile
        else:
            if n_bytes >= self._farthest + PROGRESS_BYTES:
                self._n_failed = 0
                self._farthest = n_bytes
            self._n_failed += 1
            n_tries, limit, failure = self._n_failed, self._patience.attempts, SourceFails
            retry_after_s = error.retry_after_s
        tried = f"tried {n_tries} times" if n_tries > 1 else "not tried again"
        if n_tries >= limit:
            raise failure(f"{self._label}: {error} ({tried})")
        if (retry_after_s or 0) > self._patience.longest_wait_s:
            raise failure(
                f"{self._label}: {error}, to be asked again after {retry_after_s:.0f} s; run the "
                "command again then"
            )
        self._pause(error, n_tries, limit, retry_after_s or 0.0)

    def _pause(self, error: Exception, n_tries: int, limit: int, at_least_s: float) -> None:
        delay_s = self._patience.backoff_s * 2 ** (n_tries - 1)
        # Jitter: many clients of one server that fell over shall not come back all at once.
        delay_s *= random.uniform(0.5, 1.5)
        delay_s = max(min(delay_s, self._patience.longest_wait_s), at_least_s)
        self._say(f"{self._label}: {error}; attempt {n_tries + 1} of {limit} in {delay_s:.1f} s")
        if self._stop.wait(delay_s):
            raise Stopped


def fetch_file(
    source: Source,
    entry: PublishedFile,
    address: str,
    target: Path,
    *,
    stop: threading.Event,
    watcher: Watcher,
) -> int:
    """Brings one file of the manifest to `target`, going on from what is there of it.

    Args:
        source: where from.
        entry: size and checksum that the file must have.
        address: path of the file within the source.
        target: final name; nothing is there before the content is right.
        stop: ends it early.
        watcher: told of all bytes, those already here included.

    Returns:
        How many bytes the source sent.

    Raises:
        Refused: the source does not give it.
        CorruptFile: the source's copy is not what the manifest says, time and again.
        SourceFails: the source kept failing.
        Stopped: by `stop`.
        OSError: the file cannot be written.
    """
    attempts = _Attempts(source.label(address), source.patience, stop, watcher.say)
    with PartFile(target, entry, watcher.advance) as part:
        while True:
            try:
                _fetch_rest(source, entry, address, part, stop)
            except (Interrupted, WrongContent) as error:
                n_bytes = part.n_bytes
                if isinstance(error, WrongContent) and error.spoilt:
                    part.reset()
                attempts.wait_after(error, n_bytes)
            else:
                part.finish()
                return part.n_received


def _fetch_rest(
    source: Source, entry: PublishedFile, address: str, part: PartFile, stop: threading.Event
) -> None:
    """One attempt: asks for what is missing, stores it, and compares the whole."""
    if part.n_bytes < entry.n_bytes:
        with source.open(address, part.n_bytes, part.tag(source.name)) as body:
            if body.n_total not in (None, entry.n_bytes):
                # What is here need not be at fault: this may be some page in place of the file.
                raise WrongContent(
                    f"has {body.n_total} bytes there, {entry.n_bytes} in the manifest",
                    spoilt=False,
                )
            if body.offset == 0 and part.n_bytes:
                part.reset()
            part.note(source.name, body.tag)
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


def fetch_bytes(
    source: Source,
    address: str,
    *,
    sha256: str | None = None,
    limit: int,
    stop: threading.Event,
    watcher: Watcher,
) -> bytes:
    """A small file as bytes, of at most `limit` of them, with this checksum if one is known.

    Raises:
        Refused, CorruptFile, SourceFails, Stopped: as `fetch_file`.
    """
    label = source.label(address)
    attempts = _Attempts(label, source.patience, stop, watcher.say)
    while True:
        try:
            content = bytearray()
            with source.open(address) as body:
                for chunk in body.chunks:
                    content += chunk
                    if len(content) > limit:
                        raise Refused(f"{label}: has more than {limit} bytes; that can't be right")
            if sha256 and hashlib.sha256(content).hexdigest() != sha256:
                raise WrongContent("its SHA-256 is not the one stated for it")
            return bytes(content)
        except (Interrupted, WrongContent) as error:
            attempts.wait_after(error)
