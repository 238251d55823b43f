"""Part files hold the bits they were given, and damaged ones name themselves."""

import numpy as np
import pytest

from pipelines.dynamics.parts import PART_FIELDS, read_part, read_parts, write_part
from tests.support import factories
from tg80.errors import CorruptFile
from tg80.files import file_sha256
from tg80.shards.fields import STATIC_FIELDS
from tg80.shards.shard import Shard, to_disk, to_memory, write_shard


@pytest.fixture(scope="module")
def ethanol(tmp_path_factory):
    """Model, arrays and static fields of 300 frames, not rounded."""
    model = factories.spring_model(factories.as_molecule("ethanol"))
    velocities = factories.start_velocities(model, np.random.default_rng(3))
    settings = {"n_frames": 300, "store_every_fs": 1.0, "time_step_fs": 0.5}
    run = factories.integrate([model], [velocities], **settings)[0]
    shard = Shard(factories.make_shard(tmp_path_factory.mktemp("shard"), "ethanol", n_frames=300))
    static = {field.name: shard.static(field.name) for field in STATIC_FIELDS}
    return model, factories.frame_arrays(model, run, 1.0, 0.5), static


def write_in_parts(folder, arrays, ends):
    """The arrays cut into part files at the frames `ends`."""
    parts, start = [], 0
    for number, end in enumerate(ends):
        path = folder / f"part-{number}.npz"
        piece = {name: values[start:end] for name, values in arrays.items()}
        parts.append((path, write_part(path, piece)))
        start = end
    return parts


def test_a_trajectory_in_parts_is_bit_identical_to_one_that_never_was(ethanol, tmp_path):
    model, arrays, static = ethanol
    metadata = factories.make_metadata(model, arrays)
    whole, joined = tmp_path / "whole.h5md", tmp_path / "joined.h5md"
    write_shard(whole, arrays | static, metadata)
    frames = read_parts(write_in_parts(tmp_path, arrays, [7, 100, 101, 300]))
    write_shard(joined, frames | static, metadata)
    assert joined.read_bytes() == whole.read_bytes()


def test_part_files_hold_the_bits_they_were_given(ethanol, tmp_path):
    arrays = ethanol[1]
    path = tmp_path / "part.npz"
    digest = write_part(path, arrays)
    read = read_part(path, digest)
    assert digest == file_sha256(path)
    for field in PART_FIELDS:
        stored = to_disk(field, np.asarray(arrays[field.name]))
        np.testing.assert_array_equal(read[field.name], to_memory(field, stored))


def test_parts_of_frames_without_energies_are_the_same_bits_after_a_shard(ethanol, tmp_path):
    """A finished trajectory goes on from its shard; parts of an older version lack `evaluated`."""
    model, arrays, static = ethanol
    learned = factories.between_evaluations(arrays, 4)
    parts = write_in_parts(tmp_path, learned, [300])
    metadata = factories.make_metadata(model, learned, integrator="learned")
    write_shard(tmp_path / "a.h5md", read_parts(parts) | static, metadata)
    with Shard(tmp_path / "a.h5md") as shard:
        frames = {name: shard.read(name) for name in shard.frame_fields}
        assert np.array_equal(shard.evaluated, np.arange(300) % 4 == 0)
    assert write_part(tmp_path / "again.npz", frames) == parts[0][1]
    older = {name: values[:101] for name, values in arrays.items()}
    older |= {name: learned[name][:101] for name in ("residual_force", "outer_step")}
    newer = {name: values[101:] for name, values in learned.items()}
    ends = [
        (tmp_path / name, write_part(tmp_path / name, frames))
        for name, frames in (("older.npz", older), ("newer.npz", newer))
    ]
    evaluated = read_parts(ends)["evaluated"]
    assert evaluated[:101].all() and evaluated.sum() == 101 + learned["evaluated"][101:].sum()


def test_parts_that_do_not_fit_are_refused(ethanol, tmp_path):
    arrays = ethanol[1]
    parts = write_in_parts(tmp_path, arrays, [100, 300])
    with pytest.raises(CorruptFile, match="out of order"):
        read_parts(parts[::-1])
    with pytest.raises(ValueError, match="forces"):
        write_part(tmp_path / "x.npz", {k: v for k, v in arrays.items() if k != "forces"})
    with pytest.raises(ValueError, match="dipole has shape"):
        write_part(tmp_path / "x.npz", arrays | {"dipole": np.zeros((300, 2))})
    assert not (tmp_path / "x.npz").exists()


def test_damaged_parts_name_themselves(ethanol, tmp_path):
    arrays = ethanol[1]
    path = tmp_path / "part.npz"
    digest = write_part(path, arrays)
    whole = path.read_bytes()
    for length in (0, 3, 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match=r"part\.npz"):
            read_part(path)
    flipped = bytearray(whole)
    flipped[20_000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CorruptFile, match=r"part\.npz.*checksum"):
        read_part(path, digest)
    with pytest.raises(CorruptFile, match=r"part\.npz"):
        read_part(path)
    with pytest.raises(CorruptFile, match=r"gone\.npz"):
        read_part(tmp_path / "gone.npz")
