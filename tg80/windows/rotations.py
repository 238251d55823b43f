"""Uniform random rotations.

The matrices are computed here and not by scipy, which rounds some entries differently: published
windows stay what they are to the last bit.
"""

from __future__ import annotations

import numpy as np


def uniform_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw proper rotations uniform over SO(3) (Haar measure), shape (count, 3, 3).

    References:
        A normalised 4-dimensional Gaussian is a uniform unit quaternion: Muller (1959),
        doi:10.1145/377939.377946.
    """
    return rotations_of(rng.standard_normal((count, 4)))


def rotations_of(quaternions: np.ndarray) -> np.ndarray:
    """Convert quaternions (count, 4), scalar first and of any norm but zero, to matrices."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
