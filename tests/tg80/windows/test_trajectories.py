"""Trajectories in memory and mapped from files: blocks, atoms, and what goes to other processes."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from tests.tg80.shards.frames import numbered
from tg80.errors import Tg80Error
from tg80.shards.shard import Shard
from tg80.windows.trajectories import MappedArray, read_trajectory


def test_blocks_hold_the_frames_within_their_edges():
    whole = numbered(n_frames=1201)
    assert whole.length_fs == 12000
    block = whole.block(0.79 * 12000, 12000)
    assert (block.first_frame, block.n_frames) == (948, 253)
    assert block.positions[0, 0, 0] == 948
    assert block.start_id(2) == "water-r0@950"
    assert whole.block(0.0, 7200.0).n_frames == 721
    assert whole.block(7201.0, 7299.0).n_frames == 9


def test_heavy_atoms_are_kept_wherever_they_stand():
    source = numbered(n_atoms=4)
    assert source.heavy_atoms().atomic_numbers.tolist() == [8]
    source.atomic_numbers[:] = [1, 6, 1, 8]
    source.positions[:] += np.arange(4)[None, :, None]
    heavy = source.heavy_atoms()
    assert heavy.atomic_numbers.tolist() == [6, 8]
    assert heavy.positions[5, :, 0].tolist() == [6, 8]


def test_a_shard_is_read_whole(ethanol_shard):
    found = read_trajectory(ethanol_shard)
    assert (found.name, found.n_frames, found.n_atoms, found.frame_fs) == ("ethanol", 400, 9, 1.0)
    assert found.relaxed_positions.shape == (9, 3)
    assert found.heavy_atoms().n_atoms == 3
    assert found.heavy_atoms().relaxed_positions.shape == (3, 3)


def mapped(shard, tmp_path):
    return read_trajectory(shard, cache=tmp_path / "cache")


def test_a_mapped_trajectory_is_the_one_in_memory(ethanol_shard, tmp_path):
    there, here = mapped(ethanol_shard, tmp_path), read_trajectory(ethanol_shard)
    for cut in (lambda t: t, lambda t: t.block(100, 250), lambda t: t.block(7, 90).heavy_atoms()):
        one, other = cut(there), cut(here)
        for key in ("positions", "velocities", "atomic_numbers", "relaxed_positions"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
        assert one.first_frame == other.first_frame
        assert isinstance(one.positions, MappedArray) and not one.positions.flags.writeable
    (copy,) = (tmp_path / "cache").iterdir()
    assert copy.stat().st_size == 2 * there.positions.size * 4


def test_a_mapped_copy_is_written_once_and_again_for_another_file(shard_factory, tmp_path):
    shard = shard_factory("methanol", n_frames=20)
    first = np.array(mapped(shard, tmp_path).positions)
    (copy,) = (tmp_path / "cache").iterdir()
    written = copy.stat().st_mtime_ns
    mapped(shard, tmp_path)
    assert copy.stat().st_mtime_ns == written
    copy.write_bytes(copy.read_bytes()[:-4])  # cut short: written anew
    np.testing.assert_array_equal(mapped(shard, tmp_path).positions, first)
    shard_factory("methanol", n_frames=20, seed=1)
    assert np.abs(mapped(shard, tmp_path).positions - first).max() > 0
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_named(ethanol_shard, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(Tg80Error, match="cache"):
        mapped(ethanol_shard, tmp_path)


def test_a_mapped_array_is_pickled_as_its_place(ethanol_shard, tmp_path):
    block = mapped(ethanol_shard, tmp_path).block(50, 300)
    for array in (block.positions, block.velocities[::3, 2:5], block.heavy_atoms().positions):
        content = pickle.dumps(array)
        assert len(content) < 1000
        again = pickle.loads(content)
        np.testing.assert_array_equal(again, array)
        assert len(pickle.dumps(again)) < 1000
    computed = block.positions + 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(computed)), np.array(computed))


def _sum_of(shard, pipe):
    pipe.send((float(shard.read("positions").sum()), shard._opened_by == os.getpid()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_shard_opened_here_is_read_by_other_processes(method, ethanol_shard):
    context = multiprocessing.get_context(method)
    with Shard(ethanol_shard) as shard:
        wanted = float(shard.read("positions").sum())
        pipes = []
        for _ in range(2):
            end, far_end = context.Pipe()
            process = context.Process(target=_sum_of, args=(shard, far_end))
            process.start()
            pipes.append((end, process))
        assert [end.recv() for end, _ in pipes] == [(wanted, True)] * 2
        for _, process in pipes:
            process.join()
        assert float(shard.read("positions").sum()) == wanted
