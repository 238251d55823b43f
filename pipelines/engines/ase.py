"""An engine as an ASE calculator."""

from typing import ClassVar

from ase.calculators.calculator import Calculator, all_changes

from pipelines.engines.engine import Engine


class EngineCalculator(Calculator):
    """An engine as an ASE calculator, for ASE's optimisers and analyses."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "dipole", "charges"]

    def __init__(self, engine: Engine):
        super().__init__()
        self.engine = engine

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Fill `results` for the atoms; units are ASE's own (eV, A, e)."""
        super().calculate(atoms, list(properties), system_changes)
        assert self.atoms is not None  # the base class has just set it
        evaluation = self.engine.evaluate(self.atoms.get_positions())
        self.results = {
            "energy": evaluation.energy,
            "forces": evaluation.forces,
            "dipole": evaluation.dipole,
            "charges": evaluation.charges,
        }
