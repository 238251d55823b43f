"""Fill in a template of `atom-bench template`: python examples/join.py template.h5

Needs h5py and numpy alone; put your model in place of `predict`.
"""

import sys
import time

import h5py
import numpy as np


def predict(positions, velocities, atomic_numbers, lags_fs):
    """Positions (P, N, 3) A at lags_fs (P,) of one molecule: here, a flight that is slowed down.

    positions (N, 3) A, velocities (N, 3) A/fs and atomic_numbers (N,) are its start state.
    """
    flight_fs = 5.0 * (1.0 - np.exp(-lags_fs / 5.0))
    return positions + flight_fs[:, None, None] * velocities


with h5py.File(sys.argv[1], "r+") as file:
    lags_fs = file["lags_fs"][:]
    begin = time.process_time()
    for row, numbers in enumerate(file["atomic_numbers"][:]):
        atoms = numbers > 0  # The rest is padding.
        x, v = file["positions"][row][atoms], file["velocities"][row][atoms]
        predicted = predict(x, v, numbers[atoms], lags_fs)
        file["predictions"][row, :, : atoms.sum()] = predicted
        file["failed"][row] = not np.isfinite(predicted).all()
    file["submission"].attrs["prediction_seconds"] = time.process_time() - begin
    file["submission"].attrs["model"] = "slowed-flight"
    file["submission"].attrs["licence"] = "MIT"
    file["submission"].attrs["labels"] = "none"  # Or positions, energies, forces.
