"""A short form of `python -m tests.stress.flip_shard`: no flipped byte goes unnoticed."""

import pytest

from pipelines.cli import run
from tests.stress import flip_shard
from tg80.files import checksum_path

SHARDS = [path for path in flip_shard.real_shards() if path.name.startswith(("methanol", "urea"))]


def test_every_flipped_byte_is_caught(capsys):
    assert len(SHARDS) >= 4
    flips = flip_shard.flip_bytes(SHARDS, 40, seed=1)
    assert len(flips) == 40 and all(flip.is_caught for flip in flips)
    # HDF5 checks the frames by itself; the rest is what the checksum file is for.
    in_shards = [flip for flip in flips if flip.shard.endswith(".h5md")]
    assert sum(bool(flip.by_checks) for flip in in_shards) > 0.8 * len(in_shards)
    assert not any(flip.by_checks.startswith(("unnamed", "reader")) for flip in flips)
    assert "missed: 0" in flip_shard.report(flips)


def test_no_block_of_zeros_brings_the_reader_down():
    zeros = flip_shard.zero_blocks(SHARDS[:2], 12, seed=3)
    assert flip_shard.fallen(zeros) == []
    assert sum(bool(zero.by_checks) for zero in zeros) > 6
    assert "without a name: 0" in flip_shard.zero_report(zeros)


def test_what_is_missed_is_counted():
    flips = [flip_shard.Flip("a-r0.h5md", 5, "", ""), flip_shard.Flip("a-r0.h5md", 6, "x: y", "z")]
    text = flip_shard.report(flips)
    assert "caught without the checksum file: 1 (x 1)" in text
    assert "missed: 1\n    a-r0.h5md byte 5" in text


def test_a_shard_with_errors_of_its_own_is_refused(tmp_path):
    source = SHARDS[0]
    broken = tmp_path / source.name
    broken.write_bytes(source.read_bytes()[:1000])
    checksum_path(broken).write_bytes(checksum_path(source).read_bytes())
    with pytest.raises(ValueError, match=source.name):
        flip_shard.flip_bytes([broken], 1, seed=0)


@pytest.mark.parametrize(
    ("word", "message"),
    [(b"gfn2-xtb", "readable: "), (b"CC-BY-4.0", "readable: "), (b"kJ mol-1", "units: ")],
)
def test_text_that_is_none_is_an_error_that_can_be_printed(word, message, tmp_path, capsys):
    """A flipped byte in an attribute can leave what is not UTF-8."""
    source = next(path for path in SHARDS if path.suffix == ".h5md")
    broken = tmp_path / source.name
    broken.write_bytes(source.read_bytes().replace(word, b"\xc5" + word[1:], 1))
    assert run(["validate", str(broken)]) == 1
    out = capsys.readouterr().out
    assert f"error: {broken}: {message}" in out
