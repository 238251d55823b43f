"""GFN2-xTB by tblite."""

from typing import Any, NamedTuple

import numpy as np
from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
from tblite.interface import Calculator as TbliteCalculator
from tblite.interface import Result as TbliteResult

from pipelines.engines.engine import Evaluation, checked_positions, formula
from pipelines.engines.threads import ThreadLimit
from tg80.constants import (
    ANGSTROM_PER_BOHR,
    BOLTZMANN_EV_PER_K,
    EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    EV_PER_HARTREE,
    masses_of,
)
from tg80.errors import RunFailed
from tg80.theory import Level

# Vectors of tblite's mixer at most. Its work grows with about the fourth power of their number, and
# there is one for each cycle allowed unless it is told otherwise: 1000 cycles on three atoms take
# 40 s, in which no signal is heard.
_LONGEST_MEMORY = 250


class _Attempt(NamedTuple):
    """A way to self-consistency from a fresh guess.

    Attributes:
        name: what it is called.
        damping: fraction of the new density: smaller is more careful.
        memory: vectors that the mixer remembers; a short memory forgets what led astray.
        guess: as tblite numbers them: 0 from atoms, 1 from equilibrated electronegativities (EEQ).
    """

    name: str
    damping: float
    memory: int
    guess: int = 0


# A density that led nowhere can't be read back, so each attempt starts afresh. The electronic
# temperature is never raised: it would change the energy. Of 160 geometries with broken bonds on
# which the first attempt fails the others rescue half, each in a tenth of its time.
_ATTEMPTS = (
    _Attempt("a fresh guess", 0.4, _LONGEST_MEMORY),
    _Attempt("damping 0.1", 0.1, 12),
    _Attempt("damping 0.2 and an EEQ guess", 0.2, 10, guess=1),
    _Attempt("damping 0.05 and an EEQ guess", 0.05, 8, guess=1),
)


class XtbEngine:
    """GFN2-xTB through tblite, geometry after geometry, restarted from the last density.

    tblite's density is not part of `state`: it can't be read back bit for bit, so a caller who
    needs that resets the engine at every checkpoint.

    References:
        Bannwarth, Ehlert, Grimme, doi:10.1021/acs.jctc.8b01176.
    """

    def __init__(self, level: Level, atomic_numbers, charge: int = 0, *, threads: int = 1):
        self.level = level.name
        self._settings = level
        self._numbers = np.asarray(atomic_numbers, dtype=int)
        self._charge = charge
        self._masses = masses_of(self._numbers)
        self._threads = ThreadLimit(threads)
        self._calculator: Any = None  # tblite calculator and result; None for a fresh start
        self._result: Any = None

    def evaluate(self, positions: np.ndarray) -> Evaluation:
        """Energy and forces at positions (n_atoms, 3) A.

        Raises:
            RunFailed: positions that are not finite, or no self-consistency by any means.
        """
        positions = checked_positions(positions, len(self._numbers), self.level)
        with self._threads:
            self._move_to(positions)
            result = self._solve()
            energies = result.get("orbital-energies")
            occupations = result.get("orbital-occupations")
            charges = np.array(result.get("charges"))
            dipole = np.array(result.get("dipole")) * ANGSTROM_PER_BOHR
            gradient = np.array(result.get("gradient"))
            energy = float(result.get("energy")) * EV_PER_HARTREE
        if not all(np.isfinite(found).all() for found in (energy, gradient, charges, dipole)):
            self.reset()
            raise RunFailed(f"{self._molecule()}: tblite's energy or forces are not finite")
        if self._charge:
            dipole -= self._charge * (self._masses @ positions) / self._masses.sum()
        return Evaluation(
            energy=energy,
            forces=-gradient * EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
            dipole=dipole,
            charges=charges,
            scf_cycles=-1,
            converged=True,
            gap=_gap(energies, occupations),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Empty: tblite's density never crosses a checkpoint (call `reset` there)."""
        return {}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Start afresh, as `reset` does; there is nothing to load."""
        if state:
            raise RunFailed(f"{self.level}: a state with {sorted(state)} is not of this engine")
        self.reset()

    def reset(self) -> None:
        """Forget the density and the calculator: the next evaluation starts from a fresh guess."""
        self._calculator = None
        self._result = None

    def _move_to(self, positions: np.ndarray) -> None:
        bohr = positions / ANGSTROM_PER_BOHR
        try:
            if self._calculator is not None:
                self._calculator.update(bohr)
                return
            calculator = TbliteCalculator(
                self._settings.functional, self._numbers, bohr, charge=float(self._charge)
            )
        except (TBLiteRuntimeError, TBLiteValueError) as error:
            raise RunFailed(f"{self._molecule()}: tblite refuses the structure: {error}") from None
        assert self._settings.electronic_temperature_k is not None
        temperature = self._settings.electronic_temperature_k * BOLTZMANN_EV_PER_K
        calculator.set("verbosity", 0)
        calculator.set("accuracy", self._settings.accuracy)
        calculator.set("temperature", temperature / EV_PER_HARTREE)
        calculator.set("max-iter", self._settings.max_cycles)
        self._calculator = calculator

    def _solve(self) -> TbliteResult:
        """Self-consistency from the last density, else from one fresh guess after the other."""
        if self._result is not None:
            try:
                return self._attempt(_ATTEMPTS[0], self._result)
            except TBLiteRuntimeError:
                self._result = None  # it can't be used again: tblite would end the process
        reason = ""
        for attempt in _ATTEMPTS:
            try:
                self._result = self._attempt(attempt)
                return self._result
            except TBLiteRuntimeError as error:
                reason = " ".join(str(error).split())
        self.reset()
        tried = ", ".join(attempt.name for attempt in _ATTEMPTS)
        raise RunFailed(f"{self._molecule()}: no self-consistency with {tried}: {reason}")

    def _attempt(self, attempt: _Attempt, start: TbliteResult | None = None) -> TbliteResult:
        self._calculator.set("mixer-damping", attempt.damping)
        self._calculator.set("mixer-memory", min(attempt.memory, self._settings.max_cycles))
        self._calculator.set("guess", attempt.guess)
        return self._calculator.singlepoint(start)

    def _molecule(self) -> str:
        return f"{formula(self._numbers)} at {self.level}"


def _gap(energies: np.ndarray, occupations: np.ndarray) -> float:
    """HOMO-LUMO gap in eV from orbital energies in hartree; nan if there is no LUMO."""
    n_occupied = round(float(np.sum(occupations)) / 2)
    if n_occupied >= len(energies):
        return float("nan")
    return float(energies[n_occupied] - energies[n_occupied - 1]) * EV_PER_HARTREE
