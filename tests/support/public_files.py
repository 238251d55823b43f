"""Files of the form of MD17, rMD17 and MD22, made here: the originals were not at hand."""

import numpy as np

ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])


def vibrating(n_frames, numbers=ETHANOL, seed=0):
    """(n_frames, n_atoms, 3) A: every atom swings about its place at about 0.01 A/fs."""
    rng = np.random.default_rng(seed)
    shape = (len(numbers), 3)
    rest = rng.normal(size=shape) * 1.5
    rate, phase = rng.uniform(0.05, 0.2, shape), rng.uniform(0, 2 * np.pi, shape)
    steps = np.arange(n_frames)[:, None, None]
    return rest + 0.1 * np.sin(rate * steps + phase)


def sgdml_arrays(positions, numbers=ETHANOL, name="ethanol", seed=0):
    """The keys of an MD17 or MD22 file."""
    rng = np.random.default_rng(seed)
    return {
        "R": positions,
        "z": numbers.astype("u1"),
        "E": rng.normal(-97_000, 5, size=(len(positions), 1)),
        "F": rng.normal(size=positions.shape) * 20,
        "name": np.array(name),
        "theory": np.array("DFT"),
    }


def rmd17_arrays(positions, chosen, numbers=ETHANOL, seed=0):
    """The keys of an rMD17 file with frames `chosen` of a simulation, in that order."""
    rng = np.random.default_rng(seed)
    return {
        "coords": positions[chosen],
        "nuclear_charges": numbers.astype("u1"),
        "energies": -97_000 + 0.001 * chosen,
        "forces": rng.normal(size=positions[chosen].shape) * 20,
        "old_indices": chosen,
        "old_energies": -97_000 + 0.001 * chosen,
        "old_forces": positions[chosen],
    }


def write(path, arrays):
    np.savez(path, **arrays)
    return path
