"""sGDML: the kernel force field of MD17's authors, one a molecule, integrated from every start."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.interface import CannotPredict, FitReport
from benchmarks.models.force_fields.frames import labelled_frames
from benchmarks.models.force_fields.rollout import ForceField, ForceFieldModel
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from tg80.errors import UserError
from tg80.windows.trajectories import Trajectory

WIDTH = 10
"""Width of the kernel (sig)."""
REGULARISATION = 1e-10
"""Added to the diagonal of the kernel (lam); the package's default."""
LARGEST_KERNEL = 6000
"""Rows of the kernel matrix, 3 x atoms x frames: 0.8 GB, and ten seconds to factorise."""


class Sgdml(ForceFieldModel):
    """The real sGDML, fitted in closed form to forces of each training molecule.

    References:
        Chmiela et al., Nat. Commun. 9, 3887 (2018), doi:10.1038/s41467-018-06169-2; package sgdml.
    """

    id: ClassVar[str] = "sgdml"
    seen_only: ClassVar[bool] = True
    memory: ClassVar[tuple[str, ...]] = ("kernels",)

    def __init__(self) -> None:
        """Make a model before fitting.

        Raises:
            UserError: sgdml is not installed.
        """
        if importlib.util.find_spec("sgdml") is None:
            raise UserError("model sgdml needs the package sgdml: pip install 'tg80[sgdml]'")
        self.kernels: dict[str, dict[str, Any]] = {}
        self._predictors: dict[str, nn.Module] = {}

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        """Solve for the kernel of each training molecule.

        Raises:
            CannotPredict: the data have no forces.
        """
        started, self._predictors = time.process_time(), {}
        blocks = groupby(sorted(data.trajectories, key=lambda t: t.name), lambda t: t.name)
        self.kernels = {name: _kernel_of(list(own)) for name, own in blocks}
        n_samples = sum(kernel["R_desc"].shape[1] for kernel in self.kernels.values())
        n_parameters = sum(kernel["n_parameters"] for kernel in self.kernels.values())
        seconds = time.process_time() - started
        return FitReport(n_parameters=n_parameters, n_samples=n_samples, cpu_seconds=seconds)

    def force_field(self, states: StartStates) -> ForceField:
        """The force fields of these molecules.

        Raises:
            CannotPredict: one is not a training molecule.
        """
        for name in set(states.molecule) - set(self._predictors):
            if name not in self.kernels:
                raise CannotPredict(f"{self.id}: {name} is not a training molecule")
            self._predictors[name] = _predictor_of(self.kernels[name])
        return _ByMolecule(self._predictors, states.molecule)


@dataclass(frozen=True)
class _ByMolecule:
    """The force field of the rows of a batch, whose molecules are known."""

    predictors: dict[str, nn.Module]
    molecule: tuple[str, ...]

    def __call__(self, positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
        energies, forces = positions.new_zeros(len(positions)), torch.zeros_like(positions)
        for name in dict.fromkeys(self.molecule):
            rows = torch.tensor([i for i, other in enumerate(self.molecule) if other == name])
            n = int((atomic_numbers[rows[0]] > 0).sum())
            energies[rows], forces[rows, :n] = self.predictors[name](positions[rows, :n])
        return energies, forces

    def select(self, kept: Tensor) -> _ByMolecule:
        rows = kept.nonzero()[:, 0].tolist()
        return _ByMolecule(self.predictors, tuple(self.molecule[i] for i in rows))


def _kernel_of(blocks: list[Trajectory]) -> dict[str, Any]:
    """What predictions of one molecule need, fitted to frames evenly spaced in its blocks."""
    x, forces = (tensor.numpy() for tensor in labelled_frames(blocks))
    numbers = blocks[0].atomic_numbers.astype(np.uint8)
    count = min(len(x), max(1, LARGEST_KERNEL // (3 * len(numbers))))
    kept = np.linspace(0, len(x) - 1, count).round().astype(int)
    with _quiet():
        # Its groups of processes fork, which threads of torch do not survive.
        symmetries = _sgdml("utils.perm").find_perms(x[kept], numbers, max_processes=1)
        task = {
            "dataset_name": blocks[0].name, "dataset_theory": "", "z": numbers,
            "R_train": x[kept], "F_train": forces[kept], "idxs_train": kept, "md5_train": "",
            "idxs_valid": kept[:0], "md5_valid": "", "sig": WIDTH, "lam": REGULARISATION,
            "use_E": False, "use_E_cstr": False, "use_sym": True, "perms": symmetries,
        }  # fmt: skip
        found = _sgdml("train").GDMLTrain(max_processes=1).train(task)
    names = ("R_desc", "R_d_desc_alpha", "perms", "tril_perms_lin", "sig", "c", "std")
    # In the layout that a file is read into, so that predictions are the same bit for bit.
    kernel = {name: np.ascontiguousarray(found[name]) for name in names[:4]}
    scalars = {name: float(found[name]) for name in names[4:]}
    return kernel | scalars | {"n_parameters": found["alphas_F"].size}


def _predictor_of(kernel: dict[str, Any]) -> nn.Module:
    """A module (B, n, 3) A -> energies (B,) eV up to a constant, forces (B, n, 3) eV/A."""
    with _quiet():
        predictor = _sgdml("torchtools").GDMLTorchPredict(kernel, max_memory=8, max_processes=1)
    return predictor.double()


def _sgdml(name: str) -> ModuleType:
    """A module of sgdml, whose import changes the class of all later loggers."""
    before = logging.getLoggerClass()
    try:
        module = importlib.import_module(f"sgdml.{name}")
    finally:
        logging.setLoggerClass(before)
    for logger in list(logging.root.manager.loggerDict):
        if logger.startswith("sgdml"):
            logging.getLogger(logger).setLevel(logging.ERROR)
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What sgdml prints of its progress is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
