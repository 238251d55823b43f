"""Chunks packed here are what HDF5's own filters read back, and damage to them is told."""

import h5py
import numpy as np
import pytest

from tg80.shards.packing import pack_chunk

RNG = np.random.default_rng(0)
WALK = np.cumsum(RNG.normal(0, 0.01, (700, 1, 3)), axis=0)
CASES = {
    "noise": RNG.integers(0, 2**63, 999),
    "zeros": np.zeros((5, 3)),
    "bytes": RNG.integers(0, 2, 1001).astype("u1"),
    "one": np.array([1.5], dtype="f4"),
    "walk": np.round(WALK * 2**15).astype("f4") / 2**15,
    "not finite": np.array([[np.nan, -np.inf, 0.0]] * 400),
}


def write(path, values):
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "x", values.shape, values.dtype, chunks=values.shape, compression="gzip", shuffle=True,
            fletcher32=True,
        )  # fmt: skip
        data.id.write_direct_chunk((0,) * values.ndim, pack_chunk(values))
        return data.id.get_chunk_info(0)


@pytest.mark.parametrize("name", CASES)
def test_hdf5_reads_what_was_packed(tmp_path, name):
    write(tmp_path / "x.h5", CASES[name])
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["x"][()].tobytes() == CASES[name].tobytes()


def test_any_changed_byte_is_told(tmp_path):
    chunk = write(tmp_path / "x.h5", CASES["walk"])
    content = bytearray((tmp_path / "x.h5").read_bytes())
    for offset in range(chunk.byte_offset, chunk.byte_offset + chunk.size, 97):
        content[offset] ^= 0x10
        (tmp_path / "x.h5").write_bytes(content)
        with h5py.File(tmp_path / "x.h5") as file, pytest.raises(OSError, match="filter"):
            file["x"][()]
        content[offset] ^= 0x10


def test_it_is_smaller_than_what_hdf5_packs(tmp_path):
    values = CASES["walk"]
    with h5py.File(tmp_path / "h5.h5", "w") as file:
        data = file.create_dataset(
            "x",
            data=values,
            chunks=values.shape,
            compression="gzip",
            compression_opts=9,
            shuffle=True,
        )
        assert write(tmp_path / "x.h5", values).size < data.id.get_storage_size()
