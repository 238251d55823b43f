"""GFN2-xTB itself, integrated from every start: what a cheap level says of a dearer one."""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

from benchmarks.interface import CannotPredict, FitReport
from benchmarks.models.force_fields.rollout import AseForceField, ForceField, ForceFieldModel
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from tg80.errors import UserError

LEVEL = "gfn2-xtb"


class Gfn2(ForceFieldModel):
    """GFN2-xTB by tblite; an oracle on data of that level, legal physics on others."""

    id: ClassVar[str] = "gfn2-xtb"
    memory: ClassVar[tuple[str, ...]] = ("oracle",)

    def __init__(self) -> None:
        """Make the model.

        Raises:
            UserError: tblite is not installed.
        """
        if importlib.util.find_spec("tblite") is None:
            raise UserError(f"model {self.id} needs tblite: pip install 'tg80[generate]'")

    def fit(self, data: TrainingData, **_: Any) -> FitReport:
        """Learn nothing but whether the data are of this level.

        Raises:
            CannotPredict: the track leaves atoms out.
        """
        if data.task.inputs != "all":
            raise CannotPredict(f"{self.id} needs all atoms, which track {data.task.track} lacks")
        self.oracle = data.task.level == LEVEL
        return FitReport()

    def force_field(self, states: StartStates) -> ForceField:
        """Energies and forces, molecule by molecule."""
        from tblite.ase import TBLite

        return AseForceField(lambda: TBLite(method="GFN2-xTB", verbosity=0))
