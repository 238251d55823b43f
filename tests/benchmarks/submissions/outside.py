"""Templates of the toys, and files filled in for tests."""

from pathlib import Path

import h5py
import numpy as np

from benchmarks.submissions.layout import write_template
from benchmarks.submissions.parsing import read_submission
from benchmarks.submissions.template import Issued, issue
from benchmarks.tasks.data import BenchmarkData

TOLD = {
    "model": "my-net", "licence": "MIT", "labels": "positions", "samples_seen": 1000,
    "training_cpu_seconds": 60.0,
}  # fmt: skip


def filled(path: Path, predictions: np.ndarray, issued: Issued, **told) -> Path:
    """A template with these predictions (E, P, N, 3) A, in its own frames."""
    write_template(path, issued.template)
    with h5py.File(path, "r+") as file:
        file["predictions"][...] = predictions
        file["submission"].attrs.update(TOLD | told)
    return path


def still(issued: Issued) -> np.ndarray:
    """Persistence."""
    template = issued.template
    return np.repeat(template.positions[:, None], len(template.lags_fs), axis=1)


def flying(issued: Issued) -> np.ndarray:
    """Ballistic."""
    template = issued.template
    flight = template.lags_fs[:, None, None] * template.velocities[:, None]
    return template.positions[:, None] + flight


def truth(issued: Issued, data: BenchmarkData) -> np.ndarray:
    """What only the benchmark knows, in the frames of the template."""
    targets = np.zeros(issued.template.shape)
    for name in issued.template.parts:
        part = data.parts[name]
        for windows in (part.windows, *([part.curve] if part.curve else [])):
            rows = np.array([issued.row[start] for start in windows.states.start_id])
            found = issued.handed_out(rows, windows.targets.double().numpy())
            for step, lag in enumerate(windows.lags_fs[0].tolist()):
                if not np.isnan(lag):
                    column = np.abs(issued.template.lags_fs - lag).argmin()
                    targets[rows, column, : found.shape[2]] = found[:, step]
    return targets


def fill_and_read(path: Path, data: BenchmarkData, predict, **told):
    """A submission of `predict(issued)`, read back."""
    issued = issue(data)
    return read_submission(filled(path, predict(issued), issued, **told))
