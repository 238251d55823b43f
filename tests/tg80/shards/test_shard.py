"""Shards: what goes in comes out, in the units stated, for any reader, and never half a file."""

import json
import pickle
import shutil
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from tests.support import factories
from tg80.errors import CorruptFile, Tg80Error, UserError
from tg80.files import checksum_path
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS, STATIC_FIELDS
from tg80.shards.metadata import ShardMetadata
from tg80.shards.shard import (
    Shard,
    chunk_shape,
    find_shards,
    write_shard,
)

KJ_PER_MOL_IN_EV = 96.48533  # kJ/mol; CODATA 2018: e N_A / 1000, not taken from the code

FLOAT32 = {"rtol": 2e-7, "atol": 0}


@pytest.fixture(scope="module")
def ethanol():
    """Model, true arrays and static arrays of a short run of ethanol."""
    model = factories.spring_model(factories.as_molecule("ethanol"))
    velocities = factories.start_velocities(model, np.random.default_rng(3))
    run = factories.integrate(
        [model], [velocities], n_frames=300, store_every_fs=1.0, time_step_fs=0.5
    )[0]
    arrays = factories.frame_arrays(model, run, 1.0, 0.5)
    static = {
        "atomic_numbers": np.asarray(model.molecule.atomic_numbers),
        "masses": model.masses,
        "relaxed_positions": model.rest,
        "hessian": model.hessian(),
    }
    return model, arrays, static


def assert_rounded(read, given, field):
    """As near as the field's rounding lets it be, and no nearer than its type does."""
    bits = field.mantissa_bits or {"f4": 22, "f8": 46}.get(field.dtype, 60)
    step = field.scale * (field.step or 0.0)
    np.testing.assert_allclose(
        read, given, rtol=1.01 * 2.0 ** -(bits + 1), atol=0.51 * step + 1e-12
    )


def test_every_field_comes_back_in_the_units_of_the_code(ethanol, tmp_path):
    model, arrays, static = ethanol
    path = tmp_path / "ethanol-r0.h5md"
    write_shard(path, arrays | static, factories.make_metadata(model, arrays))
    with Shard(path) as shard:
        assert (shard.n_frames, shard.n_atoms, shard.frame_fs) == (300, 9, 1.0)
        np.testing.assert_array_equal(shard.times_fs, np.arange(300.0))
        np.testing.assert_array_equal(shard.atomic_numbers, [6, 6, 8, 1, 1, 1, 1, 1, 1])
        for field in (*FRAME_FIELDS, *AXIS_FIELDS):
            read = shard.read(field.name)
            assert read.dtype == np.dtype(field.dtype)
            assert_rounded(read, arrays[field.name], field)
            np.testing.assert_array_equal(shard.read(field.name, 10, 20, 3), read[10:20:3])
        for field in STATIC_FIELDS:
            assert_rounded(shard.static(field.name), static[field.name], field)


def test_metadata_comes_back_equal(ethanol, tmp_path):
    model, arrays, static = ethanol
    statistics = {"drift": {"value": 0.1 + 0.2, "error": None, "verdict": "ok"}}
    metadata = factories.make_metadata(
        model, arrays, statistics=statistics, recipe={"quality": {"gap_ev": 0.5}, "seed": 7},
        target_energy_ev=None, author="Ada Lovelace",
    )  # fmt: skip
    path = tmp_path / "ethanol-r0.h5md"
    write_shard(path, arrays | static, metadata)
    assert Shard(path).metadata == metadata
    with h5py.File(path) as file:
        assert file["h5md/author"].attrs["name"] == "Ada Lovelace"
        assert file["parameters/tg80"].attrs["smiles"] == "CCO"
        assert json.loads(file["parameters/tg80"].attrs["statistics"]) == statistics


def test_writing_refuses_what_does_not_fit(ethanol, tmp_path):
    model, arrays, static = ethanol
    metadata = factories.make_metadata(model, arrays)
    path = tmp_path / "ethanol-r0.h5md"
    with pytest.raises(ValueError, match="100 frames, but the metadata says 300"):
        write_shard(path, {k: v[:100] for k, v in arrays.items()} | static, metadata)
    with pytest.raises(ValueError, match="masses has shape"):
        write_shard(path, arrays | static | {"masses": np.ones(3)}, metadata)
    assert not path.exists()


# --- other readers -------------------------------------------------------------------------------


def test_plain_h5py_reads_the_numbers_in_the_stated_units(ethanol_shard):
    shard = Shard(ethanol_shard)
    with h5py.File(ethanol_shard) as file:
        group = file["particles/trajectory"]
        np.testing.assert_array_equal(group["position/value"][:], shard.read("positions"))
        energy = file["observables/trajectory/conserved_quantity/value"]
        assert energy.attrs["unit"] == "kJ mol-1"
        read = shard.read("conserved_quantity") * KJ_PER_MOL_IN_EV
        np.testing.assert_allclose(energy[:], read, rtol=1e-6)
        assert group["force/value"].attrs["unit"] == "kJ mol-1 Angstrom-1"
        np.testing.assert_allclose(
            group["force/value"][:], shard.read("forces") * KJ_PER_MOL_IN_EV, rtol=1e-6, atol=1e-4
        )
        assert group["velocity/value"].attrs["unit"] == "Angstrom fs-1"
        assert group["mass"].attrs["unit"] == "u"


def test_the_file_is_h5md_with_one_time_axis(ethanol_shard):
    with h5py.File(ethanol_shard) as file:
        assert list(file["h5md"].attrs["version"]) == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "tg80"
        assert list(file["particles"]) == ["trajectory"]
        box = file["particles/trajectory/box"]
        assert (box.attrs["dimension"], list(box.attrs["boundary"])) == (3, ["none"] * 3)
        assert "edges" not in box
        time = file["particles/trajectory/position/time"]
        assert time.attrs["unit"] == "fs"
        for field in FRAME_FIELDS:
            assert file[field.path]["time"] == time  # the same object: a hard link
            assert file[field.path]["step"] == file["particles/trajectory/position/step"]
            value = file[field.path]["value"]
            assert value.compression == "gzip"
            assert value.shuffle
            assert value.fletcher32
            assert value.chunks == chunk_shape(field, value.shape)
        assert "thermodynamics" not in file["h5md/modules"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mdanalysis_opens_a_shard_without_topology(ethanol_shard):
    import MDAnalysis

    universe = MDAnalysis.Universe(str(ethanol_shard))
    shard = Shard(ethanol_shard)
    assert universe.trajectory.n_frames == shard.n_frames == 400
    assert len(universe.atoms) == 9
    positions, velocities, forces = (
        shard.read(name) for name in ("positions", "velocities", "forces")
    )
    n_seen = 0
    for frame, step in enumerate(universe.trajectory):
        # MDAnalysis converts to ps, A, A/ps and kJ/(mol A)
        assert step.time == pytest.approx(frame * 1e-3)
        np.testing.assert_array_equal(step.positions, positions[frame])
        np.testing.assert_allclose(step.velocities, velocities[frame] * 1000, **FLOAT32)
        expected = forces[frame] * KJ_PER_MOL_IN_EV
        np.testing.assert_allclose(step.forces, expected, rtol=1e-6, atol=1e-4)
        assert step.dimensions is None
        n_seen += 1
    assert n_seen == 400
    assert universe.trajectory[399].frame == 399


def test_a_reader_can_be_pickled_and_reopens(ethanol_shard):
    shard = Shard(ethanol_shard)
    first = shard.read("positions", 0, 2)
    again = pickle.loads(pickle.dumps(shard))
    np.testing.assert_array_equal(again.read("positions", 0, 2), first)


def test_find_shards(ethanol_shard, tmp_path):
    assert find_shards(ethanol_shard) == find_shards(ethanol_shard.parent) == [ethanol_shard]
    with pytest.raises(UserError, match="no such file"):
        find_shards(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.h5md file"):
        find_shards(tmp_path)


def test_a_folder_without_shards_is_a_tree(ethanol_shard, tmp_path):
    """As a published version: a folder a level. What is unfinished or hidden is none of it."""
    below = [tmp_path / "site" / level / "ethanol-r0.h5md" for level in ("gfn2-xtb", "pbe/def2")]
    left_out = [tmp_path / "site" / name / "ethanol-r0.h5md" for name in ("work", ".new", "b/work")]
    for path in (*below, *left_out):
        path.parent.mkdir(parents=True)
        shutil.copy(ethanol_shard, path)
    assert find_shards(tmp_path) == find_shards(tmp_path / "site") == below
    own = tmp_path / "site" / "ethanol-r1.h5md"
    shutil.copy(ethanol_shard, own)
    assert find_shards(tmp_path / "site") == [own]
    assert find_shards(tmp_path / "site" / "work") == [left_out[0]]


# --- damage --------------------------------------------------------------------------------------


def test_cut_short_files_name_themselves(ethanol_shard, tmp_path):
    whole = ethanol_shard.read_bytes()
    for length in (0, 7, 100, 5000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"cut{length}.h5md"
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match=path.name), Shard(path) as shard:
            assert shard.metadata
            shard.read("positions")


def test_files_of_another_kind_name_themselves(tmp_path):
    other = tmp_path / "other.h5md"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(CorruptFile, match=r"other\.h5md.*no TG80 shard"):
        _ = Shard(other).metadata
    with pytest.raises(UserError, match=r"(?i)no such file"):
        _ = Shard(tmp_path / "none.h5md").metadata


def test_a_flipped_byte_in_the_frames_is_no_silent_number(ethanol_shard, tmp_path):
    with h5py.File(ethanol_shard) as file:
        offset = file["particles/trajectory/position/value"].id.get_chunk_info(0).byte_offset
    data = bytearray(ethanol_shard.read_bytes())
    data[offset + 1000] ^= 4
    path = tmp_path / "flipped.h5md"
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=r"flipped\.h5md"):
        Shard(path).read("positions")


def test_newer_formats_are_refused_by_their_number(ethanol, tmp_path):
    model, arrays, static = ethanol
    path = tmp_path / "ethanol-r0.h5md"
    metadata = factories.make_metadata(model, arrays, format_version=99)
    write_shard(path, arrays | static, metadata)
    with pytest.raises(CorruptFile, match=r"version 99 is newer.*update tg80"):
        _ = Shard(path).metadata


FILL_THE_DISK = """
    import resource, sys
    from pathlib import Path
    from tests.support import factories
    from tg80.errors import Tg80Error

    folder = Path(sys.argv[1])
    small = factories.make_shard(folder, "ethanol", n_frames=20)
    before = small.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 2000,) * 2)
    try:
        factories.make_shard(folder, "ethanol", n_frames=2000)
    except Tg80Error as error:
        print(error)
    assert small.read_bytes() == before
    print(sorted(entry.name for entry in folder.iterdir()))
"""


def test_a_write_the_system_cuts_off_leaves_the_old_file(tmp_path):
    """The kernel really stops the write: a file-size limit below what is needed."""
    script = textwrap.dedent(FILL_THE_DISK)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, names = done.stdout.strip().split("\n")
    assert "ethanol-r0.h5md: cannot be written: File too large" in message
    assert names == "['ethanol-r0.h5md', 'ethanol-r0.h5md.sha256']"


def test_a_write_that_fails_leaves_nothing_under_the_name(ethanol, tmp_path):
    model, arrays, static = ethanol
    path = tmp_path / "not-a-folder" / "ethanol-r0.h5md"
    with pytest.raises(Tg80Error, match=r"ethanol-r0\.h5md: cannot be written: No such file"):
        write_shard(path, arrays | static, factories.make_metadata(model, arrays))
    assert not path.parent.exists()


def test_the_checksum_beside_is_what_sha256sum_reads(ethanol_shard):
    done = subprocess.run(
        ["sha256sum", "--check", checksum_path(ethanol_shard).name],
        cwd=ethanol_shard.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_metadata_refuses_numbers_that_json_cannot_hold(ethanol):
    model, arrays, _ = ethanol
    for value in (float("inf"), float("nan"), np.float32(1.0)):
        with pytest.raises(ValueError, match="JSON"):
            factories.make_metadata(model, arrays, statistics={"x": value})
    content = factories.make_metadata(model, arrays).model_dump()
    with pytest.raises(ValueError, match="surprise"):
        ShardMetadata(**content, surprise=1)


def test_a_shard_that_is_a_link_to_nothing_is_not_passed_over(ethanol_shard, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "gone-r0.h5md").symlink_to(tmp_path / "unmounted" / "gone-r0.h5md")
    with pytest.raises(UserError, match=r"gone-r0\.h5md: is a link to what is not there"):
        find_shards(folder)


def test_the_content_is_told_from_what_it_cost(tmp_path):
    settings = {"molecule_or_name": "methanol", "n_frames": 20}
    made = {
        name: Shard(factories.make_shard(tmp_path / name, **(settings | changes)))
        for name, changes in {
            "here": {"statistics": {"cpu_seconds": 1.0}},
            "there": {"statistics": {"cpu_seconds": 2.0}},
            "another": {"seed": 7, "statistics": {"cpu_seconds": 1.0}},
        }.items()
    }
    assert made["here"].path.read_bytes() != made["there"].path.read_bytes()
    here, there, another = (shard.content_sha256() for shard in made.values())
    assert here == there != another
