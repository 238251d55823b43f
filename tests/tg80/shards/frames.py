"""Trajectories in which every number tells its frame."""

import numpy as np

from tg80.windows.trajectories import Trajectory


def numbered(n_frames=101, n_atoms=3, frame_fs=10.0, name="water", replica=0) -> Trajectory:
    """Positions hold the frame number, so that a window tells where it was cut."""
    positions = np.zeros((n_frames, n_atoms, 3), "f4") + np.arange(n_frames)[:, None, None]
    numbers = np.array([8] + [1] * (n_atoms - 1))
    return Trajectory(name, replica, positions, -positions, numbers, positions[0], frame_fs)
