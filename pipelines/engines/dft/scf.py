"""Kohn-Sham energies and forces for one geometry after another of a molecule.

`KohnShamEngine` joins three parts: the Hamiltonian of a geometry (hamiltonian.py, on the CPU
kohn_sham.py, on a GPU gpu.py), the loops to self-consistency (two_grids.py, self_consistency.py)
and the predictor of their start (extrapolation.py).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from pyscf import lib

from pipelines.engines.dft.extrapolation import OrbitalExtrapolation
from pipelines.engines.dft.hamiltonian import Hamiltonian
from pipelines.engines.dft.self_consistency import SecantPairs, Solution, solve
from pipelines.engines.dft.two_grids import solve_on_two_grids
from pipelines.engines.engine import Evaluation, checked_positions, formula
from pipelines.engines.threads import ThreadLimit
from tg80.constants import (
    ANGSTROM_PER_BOHR,
    EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    EV_PER_HARTREE,
    masses_of,
)
from tg80.errors import RunFailed


class KohnShamEngine:
    """Energies, forces and properties of one molecule at a Kohn-Sham level.

    With one thread the same sequence of geometries gives the same bits, in another process too
    when it goes on from `state`.

    Args:
        hamiltonian: of the molecule at the level, on the CPU or on a GPU.
        threads: CPU threads.

    Attributes:
        level: name of the level of theory.
        last_solution: where the last self-consistency ended (cycles, gradient norm).
        last_attempt: what led to it: "two grids", or a step of the failure ladder.
    """

    def __init__(self, hamiltonian: Hamiltonian, threads: int = 1):
        self.level = hamiltonian.level.name
        self.last_solution: Solution | None = None
        self.last_attempt = ""
        self._hamiltonian = hamiltonian
        self._numbers = hamiltonian.atomic_numbers
        self._charge = hamiltonian.charge
        self._masses = masses_of(self._numbers)
        self._n_threads = threads
        self._threads = ThreadLimit(1)
        self._extrapolation = OrbitalExtrapolation()
        self._pairs = SecantPairs()

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            RunFailed: positions that are not finite, no self-consistency by any means, or the
                device failed.
        """
        positions = checked_positions(positions, len(self._numbers), self.level)
        # Blocks of the grid go to threads of our own, so that BLAS inside them has one.
        threads = lib.with_omp_threads(self._n_threads)
        with self._hamiltonian.evaluation(), self._threads, threads:
            self._hamiltonian.move(positions / ANGSTROM_PER_BOHR)
            solution = self._converge()
            self.last_solution = solution
            gap = self._remember(solution)
            gradient = self._hamiltonian.gradient(solution.build, solution.occupied)
            charges = self._hamiltonian.mulliken_charges(solution.occupied)
            dipole = self._hamiltonian.dipole(solution.occupied) * ANGSTROM_PER_BOHR
        if self._charge:
            dipole = dipole - self._charge * (self._masses @ positions) / self._masses.sum()
        return Evaluation(
            energy=solution.build.energy * EV_PER_HARTREE,
            forces=-gradient * EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
            dipole=dipole,
            charges=charges,
            scf_cycles=solution.cycles,
            converged=solution.converged,
            gap=gap * EV_PER_HARTREE,
        )

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent so far, by part of the work."""
        return dict(self._hamiltonian.stopwatch.seconds)

    def state(self) -> dict[str, np.ndarray]:
        """Past orbitals and grid corrections, secant pairs, and the order of the grid."""
        grid_geometry = self._hamiltonian.grid_geometry
        if grid_geometry is None:
            grid_geometry = np.zeros((0, 3))
        return (
            self._extrapolation.state()
            | self._pairs.state()
            | {"grid_geometry": grid_geometry.copy()}
        )

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`, of this process or another.

        Raises:
            RunFailed: the state is not of such an engine or of another molecule.
        """
        shape = np.shape(state["orbitals"]) if "orbitals" in state else ()
        n_basis, n_occupied = self._hamiltonian.molecule.nao, self._hamiltonian.n_occupied
        if len(shape) == 3 and shape[0] and shape[1:] != (n_basis, n_occupied):
            raise RunFailed(
                f"{self._name()}: the checkpoint's orbitals have shape {shape}, "
                f"expected (n, {n_basis}, {n_occupied}): it belongs to another run"
            )
        # Older checkpoints lack corrections of a coarse grid, or what pairs say of each other.
        if {*state, "corrections", "pair_products", "pair_next"} != set(self.state()):
            raise RunFailed(f"{self._name()}: the checkpoint is not of a Kohn-Sham engine")
        self._extrapolation.load_state(state)
        self._pairs.load_state(state)
        geometry = np.array(state["grid_geometry"], dtype=np.float64)
        self._hamiltonian.grid_geometry = geometry if len(geometry) else None

    def reset(self) -> None:
        """Forget all geometries: the next evaluation starts from atomic densities."""
        self._extrapolation.clear()
        self._pairs.clear()
        self._hamiltonian.grid_geometry = None

    def _name(self) -> str:
        return f"{formula(self._numbers)} at {self.level}"

    def _converge(self) -> Solution:
        """Self-consistency from the prediction, else by the ladder of safer and slower ways."""
        tried = []
        cycles = 0
        for name, attempt in self._attempts():
            solution = attempt()
            cycles += solution.cycles
            if solution.converged:
                self.last_attempt = name
                return replace(solution, cycles=cycles)
            tried.append(f"{name} ({solution.cycles} cycles to {solution.gradient_norm:.1e})")
            # What failed here must not shape the next geometry's start.
            self._extrapolation.clear()
            self._pairs.clear()
        raise RunFailed(
            f"{self._name()}: no self-consistency after {', '.join(tried)}; "
            f"orbital gradient wanted {self._hamiltonian.level.gradient_threshold:.1e} hartree"
        )

    def _attempts(self) -> list[tuple[str, Callable[[], Solution]]]:
        hamiltonian = self._hamiltonian
        attempts: list[tuple[str, Callable[[], Solution]]] = [
            ("a fresh guess", lambda: solve(hamiltonian, hamiltonian.guess(), self._pairs)),
            (
                "level shift and damping",
                lambda: solve(hamiltonian, hamiltonian.guess(), level_shift=0.5, damping=0.5),
            ),
            ("second-order optimisation", self._second_order),
        ]
        start, correction = self._extrapolation.predict(hamiltonian.overlap)
        if start is not None:
            attempts.insert(
                0, ("the predicted orbitals", lambda: solve(hamiltonian, start, self._pairs))
            )
        if hamiltonian.has_coarse_grid:
            attempts.insert(0, ("two grids", lambda: self._on_two_grids(start, correction)))
        return attempts

    def _on_two_grids(self, start: np.ndarray | None, correction: np.ndarray | None) -> Solution:
        """From what is predicted; nothing is for a first geometry, and little after a jump."""
        hamiltonian = self._hamiltonian
        if start is None:
            start = hamiltonian.guess()
        if correction is None:
            correction = np.zeros_like(hamiltonian.overlap)
        return solve_on_two_grids(hamiltonian, start, correction, self._pairs)

    def _second_order(self) -> Solution:
        """PySCF's co-iterative augmented Hessian from a fresh guess, polished by a few cycles."""
        hamiltonian = self._hamiltonian
        level = hamiltonian.level
        newton: Any = hamiltonian.mean_field.newton()
        newton.verbose = 0
        newton.max_cycle = level.max_cycles
        newton.conv_tol = level.energy_threshold_hartree
        newton.conv_tol_grad = level.gradient_threshold
        orbitals = hamiltonian.guess()
        newton.kernel(dm0=hamiltonian.density(orbitals))
        occupied = newton.mo_coeff[:, newton.mo_occ > 0]
        return solve(hamiltonian, occupied)

    def _remember(self, solution: Solution) -> float:
        """Put the orbitals into the history; the HOMO-LUMO gap in hartree.

        The eigenvectors of the Fock matrix improved once more are one iteration better than the
        orbitals it was built from, at no further Fock build: they are what the predictor gets.
        """
        hamiltonian = self._hamiltonian
        inverse_root = hamiltonian.overlap_inverse_root
        improved = self._pairs.improve(solution.fock, solution.error)
        energies, orbitals = np.linalg.eigh(improved)
        n = hamiltonian.n_occupied
        correction = solution.correction
        if correction is None and hamiltonian.has_coarse_grid:
            coarse = hamiltonian.coarse_fock(solution.occupied)
            correction = inverse_root @ (solution.build.matrix - coarse.matrix) @ inverse_root
        self._extrapolation.append(inverse_root @ orbitals[:, :n], hamiltonian.overlap, correction)
        return float(energies[n] - energies[n - 1]) if n < len(energies) else float("nan")
