"""Damaged and hostile npz files are an error that has a name; none takes memory or is unpickled."""

import io
import pickle
import random
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from tg80.untrusted.npz import read_npz


def npz(compress=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **arrays)
    return stream.getvalue()


def test_what_numpy_wrote_is_read():
    arrays = {"a/b": np.arange(6.0).reshape(2, 3).T, "c": np.array(["x", "yz"]), "d": np.zeros(0)}
    for content in (npz(**arrays), npz(True, **arrays)):
        found = read_npz(content)
        assert all(np.array_equal(found[name], values) for name, values in arrays.items())


def _member(header, content=b""):
    stream = io.BytesIO()
    text = header.ljust(118 - 1) + "\n"
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
        archive.writestr("a.npy", head + content)
    return stream.getvalue()


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    "content",
    [
        npz(True, a=np.zeros(40_000_000)),
        _member("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        _member("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (), }"),
        _member("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([Trap()])),
        _member("{'descr': '|O', 'fortran_order': False, 'shape': (0,), }"),
        _member("[" * 5000),
        b"", b"PK", b"\x93NUMPY", npz(a=np.zeros(9))[:-30],
    ],
)  # fmt: skip
def test_what_is_hostile_or_cut_short_is_refused(content):
    with pytest.raises(ValueError):
        read_npz(content)


def test_altered_bytes_are_told_or_change_a_value():
    whole, rng = npz(True, a=np.arange(50.0), b=np.array(["x"])), random.Random(0)
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 4))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with suppress(ValueError):
            read_npz(bytes(content))
