"""The levels of theory, once: functional, basis, auxiliary basis, grid, thresholds.

Energies of the isolated atoms belong to a level too (they are what a machine-learned potential
subtracts); `python -m pipelines.engines.dft.isolated_atoms` computes them into `data/levels/`.

References:
    PBE: doi:10.1103/PhysRevLett.77.3865. def2-SVP: doi:10.1039/b508541a.
    def2-universal-jkfit: doi:10.1002/jcc.20702. GFN2-xTB: doi:10.1021/acs.jctc.8b01176.
"""

import hashlib
import json
from importlib import resources
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from tg80.elements import NUMBERS, SYMBOLS
from tg80.errors import UserError
from tg80.untrusted.documents import first_fault
from tg80.untrusted.limits import BoundedModel

SUPPORTED_ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I")

# Unpaired electrons of the atomic ground states (2S, 2P, 3P, 4S terms).
UNPAIRED_ELECTRONS = {
    "H": 1, "B": 1, "C": 2, "N": 3, "O": 2, "F": 1, "Si": 2, "P": 3, "S": 2, "Cl": 1, "Br": 1,
    "I": 1,
}  # fmt: skip

EVEN_TEMPERED = "even-tempered"


class Level(BoundedModel):
    """One level of theory: everything that decides which energy a geometry gets.

    Attributes:
        name: id of the level; `custom-HASH8` once any setting was overridden.
        method: "rks" (restricted Kohn-Sham) or "xtb" (tight binding through tblite).
        functional: exchange-correlation functional, or the name of the xTB parametrisation.
        basis: orbital basis, with its effective core potentials (def2-SVP: from rubidium on, 28
            electrons of iodine); None for xTB, which has its own.
        auxiliary_basis: basis of the density fit (RI-J); "even-tempered" for one generated from
            the orbital basis; None for the exact Coulomb energy.
        even_tempered_beta: ratio of neighbouring exponents of an even-tempered auxiliary basis.
        grid_level: PySCF's grid level, 0 to 9.
        small_rho_cutoff: density below which grid points are dropped; 0 keeps all, so that the
            grid never jumps during dynamics.
        energy_threshold_hartree: change of the energy between the last two cycles, hartree.
        gradient_threshold: norm of the orbital gradient (occupied-virtual Fock block, times the
            occupations as PySCF defines it), hartree.
        max_cycles: cycles allowed to each attempt at self-consistency, 1000 at most.
        accuracy: tblite's factor on its thresholds (smaller is tighter); xTB only.
        electronic_temperature_k: Fermi smearing of xTB, K; 300 K is part of GFN2-xTB's definition.
        elements: element symbols the level has parameters for.
        isolated_atom_energies: eV by element symbol; spin-unrestricted ground-state atoms. Empty
            for a customised level, whose atoms were never computed.
    """

    name: str
    method: Literal["rks", "xtb"]
    functional: str
    basis: str | None = None
    auxiliary_basis: str | None = None
    even_tempered_beta: float | None = Field(default=None, gt=1.0)
    grid_level: int | None = Field(default=None, ge=0, le=9)
    small_rho_cutoff: float | None = Field(default=None, ge=0.0)
    energy_threshold_hartree: float | None = Field(default=None, gt=0.0)
    gradient_threshold: float | None = Field(default=None, gt=0.0)
    max_cycles: int = Field(default=100, ge=1, le=1000)
    accuracy: float | None = Field(default=None, gt=0.0)
    electronic_temperature_k: float | None = Field(default=None, ge=0.0)
    elements: tuple[str, ...] = SUPPORTED_ELEMENTS
    isolated_atom_energies: dict[str, float] = Field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The settings that define the theory: all but its name and the atomic energies."""
        return self.model_dump(mode="json", exclude={"name", "isolated_atom_energies"})

    def customised(self, **overrides: Any) -> "Level":
        """The level with some settings changed, renamed `custom-HASH8` after what it now is.

        Args:
            **overrides: settings by field name.

        Returns:
            A new level; this very level if nothing changes.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        unknown = sorted(set(overrides) - set(self.settings()))
        if unknown:
            raise UserError(
                f"level {self.name} has no setting {unknown[0]!r}; "
                f"settings: {', '.join(self.settings())}"
            )
        try:
            changed = Level.model_validate(self.settings() | {"name": "custom"} | overrides)
        except ValidationError as error:
            raise UserError(f"level {self.name}: {first_fault(error)}") from None
        if changed.settings() == self.settings():
            return self
        text = json.dumps(changed.settings(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return changed.model_copy(update={"name": f"custom-{digest}"})

    def check_elements(self, atomic_numbers) -> None:
        """Refuse elements the level has no parameters for.

        Args:
            atomic_numbers: (n_atoms,) int.

        Raises:
            UserError: naming the first such element.
        """
        for number in np.unique(np.asarray(atomic_numbers, dtype=int)):
            known = 0 < number < len(SYMBOLS)
            symbol = SYMBOLS[number] if known else f"with atomic number {number}"
            if symbol not in self.elements:
                raise UserError(
                    f"level {self.name} does not cover element {symbol}; "
                    f"it covers {', '.join(self.elements)}"
                )

    def check_molecule(self, atomic_numbers, charge: int) -> None:
        """Refuse what is no closed-shell molecule of covered elements.

        Args:
            atomic_numbers: (n_atoms,) int.
            charge: total charge, e.

        Raises:
            UserError: uncovered element; no electrons, an odd number, or far too many of them.
        """
        self.check_elements(atomic_numbers)
        n_electrons = int(np.sum(atomic_numbers)) - charge
        if n_electrons < 2 or n_electrons % 2:
            raise UserError(
                f"{n_electrons} electrons at charge {charge:+d}: closed shells need an even "
                "number of 2 or more; correct the structure or the charge"
            )
        # Far beyond, an orbital basis has no place for them: tblite ends in a segmentation fault.
        if abs(charge) > len(atomic_numbers):
            raise UserError(
                f"charge {charge:+d} is more than one for each of {len(atomic_numbers)} atoms; "
                "correct the charge"
            )


_ISOLATED_ATOMS: dict[str, dict[str, float]] = json.loads(
    (resources.files("tg80") / "data" / "levels" / "isolated_atoms.json").read_text()
)["energies_ev"]


def _level(name: str, **settings: Any) -> Level:
    return Level(name=name, isolated_atom_energies=_ISOLATED_ATOMS.get(name, {}), **settings)


def _pbe(name: str, **settings: Any) -> Level:
    common = {"functional": "PBE", "basis": "def2-SVP", "small_rho_cutoff": 0.0}
    return _level(name, method="rks", **common, **settings)


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        _pbe(
            "pbe-def2svp",
            auxiliary_basis="def2-universal-jkfit",
            grid_level=3,
            energy_threshold_hartree=1e-8,
            gradient_threshold=3e-5,
        ),
        _pbe(
            "pbe-def2svp-tight",
            auxiliary_basis=EVEN_TEMPERED,
            even_tempered_beta=1.8,
            grid_level=4,
            energy_threshold_hartree=1e-10,
            gradient_threshold=1e-6,
        ),
        _pbe(
            "pbe-def2svp-exact",
            grid_level=5,
            energy_threshold_hartree=1e-10,
            gradient_threshold=1e-6,
        ),
        # Restarted from step to step, accuracy 0.1 lets ethanol's energy drift by
        # 0.008 meV/atom/ps and 0.01 by 0.0015, for a fifth more time (verlet 0.25 fs, 300 K).
        _level(
            "gfn2-xtb",
            method="xtb",
            functional="GFN2-xTB",
            max_cycles=250,
            accuracy=0.01,
            electronic_temperature_k=300.0,
        ),
    )
}


def get_level(name: str) -> Level:
    """The level of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LEVELS:
        raise UserError(f"no level of theory {name!r}; levels: {', '.join(LEVELS)}")
    return LEVELS[name]


def symbols_of(atomic_numbers) -> list[str]:
    """Element symbols of atomic numbers (n_atoms,)."""
    return [SYMBOLS[int(number)] for number in atomic_numbers]


def atomic_number_of(symbol: str) -> int:
    """Atomic number of an element symbol."""
    return NUMBERS[symbol]
