"""Checkpoints are whole or named, and the last good one is used."""

import numpy as np
import pytest

from pipelines.dynamics.checkpoint import (
    latest_checkpoint,
    read_arrays,
    write_arrays,
    write_checkpoint,
)
from tg80.errors import CorruptFile

ARRAYS = {"positions": np.arange(12.0).reshape(4, 3), "engine:orbitals": np.eye(3)}


def fill(folder, n):
    for segment in range(n):
        write_checkpoint(folder, segment, {"x": np.full(3, segment)}, {"segment": segment})


def test_round_trip_keeps_every_bit(tmp_path):
    header = {"rng": np.random.default_rng(1).bit_generator.state, "step": 7}
    write_arrays(tmp_path / "a.npz", ARRAYS, header)
    arrays, back = read_arrays(tmp_path / "a.npz")
    assert back == header
    assert all(arrays[name].tobytes() == ARRAYS[name].tobytes() for name in ARRAYS)


def test_only_the_last_two_are_kept(tmp_path):
    fill(tmp_path, 5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000003.npz", "checkpoint-000004.npz"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS, {"step": 7})
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(CorruptFile, match=r"a\.npz"):
            read_arrays(path)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(tmp_path):
    fill(tmp_path, 3)
    newest = tmp_path / "checkpoint-000002.npz"
    newest.write_bytes(newest.read_bytes()[:-20])
    found = latest_checkpoint(tmp_path)
    assert found is not None
    arrays, header, warnings = found
    assert header["segment"] == 1 and arrays["x"].tolist() == [1, 1, 1]
    assert len(warnings) == 1 and "checkpoint-000002.npz" in warnings[0]
    assert (tmp_path / "checkpoint-000002.npz.corrupt").exists()


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path):
    fill(tmp_path, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(b"rubbish")
    for _ in range(2):
        with pytest.raises(CorruptFile, match="no whole checkpoint"):
            latest_checkpoint(tmp_path)
