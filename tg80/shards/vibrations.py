"""Vibrations of a trajectory (density of states) and of a Hessian (harmonic wavenumbers)."""

from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len
from scipy.signal import welch

from tg80.constants import ACCELERATION, WAVENUMBER_FS

LONGEST_SEGMENT_FS = 4000.0
# Width at half height of the Hann window's power, in units of one over its length.
_HANN_WIDTH = 1.44
_PADDING = 4


@dataclass(frozen=True)
class DensityOfStates:
    """Vibrational density of states; its integral over the wavenumbers is 1.

    Attributes:
        wavenumbers: (n,) cm-1, from 0 to the highest that the spacing of the frames shows.
        density: (n,) cm.
        resolution: Width of a sharp line at half height, cm-1.
    """

    wavenumbers: np.ndarray
    density: np.ndarray
    resolution: float


def density_of_states(
    velocities: np.ndarray, masses: np.ndarray, frame_fs: float
) -> DensityOfStates:
    """The Fourier transform of the mass-weighted velocity autocorrelation.

    It is computed as the mean power spectrum of the mass-weighted velocities (Wiener-Khinchin) in
    half-overlapping segments of at most 4 ps. In equilibrium every mode has the same area. Modes
    above the highest wavenumber, 16678 cm-1 over the spacing of the frames in fs, are folded back.

    Args:
        velocities: (n_frames, n_atoms, 3) A/fs.
        masses: (n_atoms,) u.
        frame_fs: Spacing of the frames.
    """
    weighted = np.sqrt(masses)[:, None] * np.asarray(velocities, dtype=float)
    n_frames = min(len(weighted), max(round(LONGEST_SEGMENT_FS / frame_fs), 2))
    rates, power = welch(
        weighted.reshape(len(weighted), -1), 1 / frame_fs, "hann", n_frames,
        nfft=next_fast_len(_PADDING * n_frames, real=True), axis=0,
        detrend=False,  # pyright: ignore[reportArgumentType] (SciPy's stubs know texts only)
    )  # fmt: skip
    wavenumbers, density = WAVENUMBER_FS * rates, power.sum(axis=1)
    area = density.sum() * wavenumbers[1]
    resolution = _HANN_WIDTH * WAVENUMBER_FS / (n_frames * frame_fs)
    return DensityOfStates(wavenumbers, density / (area or 1.0), resolution)


def harmonic_wavenumbers(hessian: np.ndarray, masses: np.ndarray, n_modes: int) -> np.ndarray:
    """The highest `n_modes` harmonic wavenumbers, cm-1, ascending; negative stands for imaginary.

    Args:
        hessian: (3 n_atoms, 3 n_atoms) eV/A^2.
        masses: (n_atoms,) u.
        n_modes: 3N-6, or 3N-5 for linear molecules.
    """
    root = np.sqrt(np.repeat(masses, 3))
    squares = ACCELERATION * np.linalg.eigvalsh(hessian / np.outer(root, root))[-n_modes:]
    return np.sign(squares) * np.sqrt(np.abs(squares)) * WAVENUMBER_FS / (2 * np.pi)
