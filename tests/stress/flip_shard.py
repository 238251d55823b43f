"""Damages copies of real shards and counts what tells: validation, checksums.

    python -m tests.stress.flip_shard --flips 1000 --seed 1 [SHARD...]
    python -m tests.stress.flip_shard --zeros 300 --seed 1 [SHARD...]

The first flips single random bytes. Every copy is validated twice, without the checksum file, so
that HDF5's and our own checks have to tell, and with it. It is done in a process of its own, so
that a crash counts, too.

The second sets whole blocks of 512 bytes to zero, as a bad disk does, mostly where the tables of
HDF5 are, which can make libhdf5 loop or crash. There is no checksum file, and nothing may hang or
crash; a block of zeros may change nothing that is ours.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tg80.files import checksum_path
from tg80.shards.validate import validate

DATA = Path(__file__).parents[2] / "tg80" / "data"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Flip:
    """One byte that was changed, and what told it.

    Attributes:
        by_checks: what validation without the checksum file said; "" if it said nothing, or if
            this kind of file is never read without.
        by_checksum: what it said with the checksum file.
    """

    shard: str
    offset: int
    by_checks: str
    by_checksum: str

    @property
    def is_caught(self) -> bool:
        return bool(self.by_checks or self.by_checksum)


def real_shards() -> list[Path]:
    """Shards and twins that ship with the package."""
    return sorted((*DATA.glob("*/*.h5md"), *DATA.glob("twins/*/*.h5")))


def flip_bytes(shards: Sequence[Path], n_flips: int, seed: int) -> list[Flip]:
    """Flip one byte of a copy at a time, shards in turn, places and values at random.

    Raises:
        ValueError: a shard has errors before anything is flipped.
    """
    rng = np.random.default_rng(seed)
    flips = []
    with tempfile.TemporaryDirectory(prefix="flip-") as folder, _Checker() as checker:
        alone = {}  # can it be validated without its checksum file? Twins can't.
        for source in shards[:n_flips]:
            without, with_checksum = _errors(checker, folder, source, source.read_bytes())
            alone[source] = not without
            if with_checksum or (without and "checksum file" not in without):
                raise ValueError(f"{source}: {with_checksum or without}")
        for number in range(n_flips):
            source = shards[number % len(shards)]
            content = bytearray(source.read_bytes())
            offset = int(rng.integers(len(content)))
            content[offset] ^= int(rng.integers(1, 256))
            without, with_checksum = _errors(checker, folder, source, content)
            by_checks = without if alone[source] else ""
            flips.append(Flip(source.name, offset, by_checks, with_checksum))
    return flips


BLOCK_BYTES = 512


def zero_blocks(shards: Sequence[Path], n_zeros: int, seed: int) -> list[Flip]:
    """Set a block of a copy to zero, shards in turn; three in four in the first 32 KiB."""
    rng = np.random.default_rng(seed)
    flips = []
    with tempfile.TemporaryDirectory(prefix="zero-") as folder, _Checker() as checker:
        for number in range(n_zeros):
            source = shards[number % len(shards)]
            content = bytearray(source.read_bytes())
            end = len(content) if number % 4 == 3 else min(len(content), 32_768)
            offset = int(rng.integers(end)) // BLOCK_BYTES * BLOCK_BYTES
            block = content[offset : offset + BLOCK_BYTES]
            content[offset : offset + BLOCK_BYTES] = bytes(len(block))
            copy = Path(folder) / source.name
            copy.write_bytes(content)
            flips.append(Flip(source.name, offset, checker.first_error(copy), ""))
    return flips


def zero_report(flips: Sequence[Flip]) -> str:
    """The counts as text; what brought the reader down by name."""
    kinds = Counter(flip.by_checks.partition(":")[0] or "nothing said" for flip in flips)
    stopped = [flip for flip in flips if "does not end" in flip.by_checks]
    crashed = [flip for flip in flips if "in a crash" in flip.by_checks]
    lines = [
        f"{len(flips)} blocks of {BLOCK_BYTES} zeros, without a checksum file",
        f"  {', '.join(f'{name} {count}' for name, count in kinds.most_common())}",
        f"  of these libhdf5 looped in {len(stopped)} and crashed in {len(crashed)}, apart",
        f"  reader of the program down, or error without a name: {len(fallen(flips))}",
        *(f"    {flip.shard} byte {flip.offset}: {flip.by_checks}" for flip in fallen(flips)),
    ]
    return "\n".join(lines)


def fallen(flips: Sequence[Flip]) -> list[Flip]:
    """Those that hung or crashed validation itself, or that it has no name for."""
    return [flip for flip in flips if flip.by_checks.startswith(("reader", "unnamed"))]


def _errors(checker: "_Checker", folder: str, source: Path, content: bytes) -> tuple[str, str]:
    """First error of a copy with this content without and with its checksum file."""
    copy = Path(folder) / source.name
    copy.write_bytes(content)
    without = checker.first_error(copy)
    shutil.copyfile(checksum_path(source), checksum_path(copy))
    with_checksum = checker.first_error(copy)
    checksum_path(copy).unlink()
    copy.unlink()
    return without, with_checksum


class _Checker:
    """Validates in another process, and starts a new one if it dies or hangs."""

    def __enter__(self) -> "_Checker":
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end,), daemon=True)
        self._process.start()
        far_end.close()
        return self

    def __exit__(self, *_error: object) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def first_error(self, path: Path) -> str:
        """The first error of validation; "" if there is none."""
        self._pipe.send(str(path))
        try:
            if self._pipe.poll(PATIENCE_S):
                return self._pipe.recv()
            reason = "reader hung"
        except EOFError:
            reason = "reader died"
        self.__exit__()
        self.__enter__()
        return reason


def _serve(pipe) -> None:
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        try:
            errors = [p for p in validate(path) if p.level == "error"]
            pipe.send(f"{errors[0].check}: {errors[0].message}" if errors else "")
        except Exception as error:
            pipe.send(f"unnamed {type(error).__name__}: {error!r}")


def report(flips: Sequence[Flip]) -> str:
    """The counts as text, shards and twins apart, what is missed by name."""
    twins = [flip for flip in flips if not flip.shard.endswith(".h5md")]
    shards = [flip for flip in flips if flip.shard.endswith(".h5md")]
    return "\n".join(
        _counts(kind, found) for kind, found in (("shards", shards), ("twins", twins)) if found
    )


def _counts(kind: str, flips: Sequence[Flip]) -> str:
    by_checks = Counter(flip.by_checks.split(":")[0] for flip in flips if flip.by_checks)
    missed = [flip for flip in flips if not flip.is_caught]
    kinds = ", ".join(f"{name} {count}" for name, count in by_checks.most_common())
    lines = [
        f"{len(flips)} single-byte flips in copies of {len({f.shard for f in flips})} {kind}",
        f"  caught without the checksum file: {by_checks.total()}"
        + (f" ({kinds})" if kinds else ""),
        f"  caught by the checksum file alone: {len(flips) - by_checks.total() - len(missed)}",
        f"  missed: {len(missed)}",
        *(f"    {flip.shard} byte {flip.offset}" for flip in missed),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", nargs="*", type=Path, help="default: all that ship along")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--zeros", type=int, help="set blocks to zero instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shards = arguments.shards or real_shards()
    if arguments.zeros:
        alone = [path for path in shards if path.suffix == ".h5md"]  # twins have checksums, always
        zeros = zero_blocks(alone, arguments.zeros, arguments.seed)
        print(zero_report(zeros))
        return 1 if fallen(zeros) else 0
    flips = flip_bytes(shards, arguments.flips, arguments.seed)
    print(report(flips))
    return 0 if all(flip.is_caught for flip in flips) else 1


if __name__ == "__main__":
    sys.exit(main())
