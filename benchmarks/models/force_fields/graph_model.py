"""What learnt force fields on graphs of near atoms share: facts of the data, losses, precision."""

from __future__ import annotations

import contextlib
import importlib.util
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmarks.models.force_fields.frames import FrameBatch
from benchmarks.models.force_fields.graph_data import Facts, Graph, facts_of, graph_of
from benchmarks.models.force_fields.learnt import LearntForceField
from benchmarks.models.force_fields.losses import Whitening, whitening_of
from benchmarks.models.force_fields.rollout import ForceField
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.untrusted.limits import BoundedModel

FACTS_FILE = "facts.json"


class GraphConfig(BoundedModel):
    """Settings that these models share."""

    cutoff_angstrom: float = Field(default=4.0, gt=0, description="of neighbours, A (r_max)")
    energy_weight: float = Field(default=1.0, ge=0, description="of energies an atom in the loss")
    forces_weight: float = Field(default=100.0, ge=0, description="of forces in the loss")
    whitened: bool = Field(
        default=False,
        description="loss of forces alone in which soft motions count as much as stiff ones; the "
        "two weights have no effect",
    )


ConfigOfGraph = TypeVar("ConfigOfGraph", bound=GraphConfig)


class GraphForceField(LearntForceField[nn.Module, ConfigOfGraph]):
    """A force field of another package, trained on frames and rolled out in float64.

    Attributes:
        package: the module that must be there, and what to do where it is not.
        facts: of the training data; None before they are known.
    """

    goes_on: ClassVar[bool] = False
    package: ClassVar[tuple[str, str]]

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `ForceFieldSettings`.

        Raises:
            UserError: the package is not installed; a setting is unknown or out of range.
        """
        module, advice = self.package
        if importlib.util.find_spec(module) is None:
            raise UserError(f"model {self.id} needs {advice}")
        super().__init__(**settings)
        self.facts: Facts | None = None
        self._precise: nn.Module | None = None
        self._whitening: Whitening | None = None

    @abstractmethod
    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A module with weights from torch's global generator."""

    @abstractmethod
    def evaluate(
        self, module: nn.Module, graph: Graph, *, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) eV less those of isolated atoms, and forces (n_atoms, 3) eV/A.

        Args:
            module: made by `build`.
            graph: of all molecules.
            training: whether forces can be differentiated.
        """

    def identity(self) -> dict[str, Any]:
        """The settings and the facts of the data."""
        return super().identity() | {"facts": self.known().model_dump(mode="json")}

    def known(self) -> Facts:
        """The facts of the training data.

        Raises:
            UserError: there are none yet.
        """
        if self.facts is None:
            raise UserError(f"model {self.id} has not been trained or loaded")
        return self.facts

    def loss(self, atoms: str) -> LossFunction:
        """Squared errors of energies an atom and of forces, or whitened forces; all atoms count."""
        c = self.config

        def loss(module: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
            frames = micro_batch.windows
            assert isinstance(frames, FrameBatch)
            real = frames.atomic_numbers > 0
            graph = self._graph(frames.positions, frames.atomic_numbers)
            energies, found = self.evaluate(module, graph, training=True)
            if self._whitening is not None:
                forces = torch.zeros_like(frames.positions)
                forces[real] = found
                losses = self._whitening(frames, forces)
            else:
                # Total energies lose their digits in float32; those without isolated atoms don't.
                off = (energies - frames.energies.to(energies)) / real.sum(1)
                error = c.energy_weight * off.square().mean()
                pulls = found - frames.forces.to(found)[real]
                losses = (error + c.forces_weight * pulls.square().mean()).expand(len(off))
            return losses.sum(), losses.new_tensor(float(len(losses)))

        return loss

    def _graph(self, positions: Tensor, atomic_numbers: Tensor) -> Graph:
        elements = torch.tensor(self.known().elements, device=positions.device)
        return graph_of(positions, atomic_numbers, elements, self.config.cutoff_angstrom)

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Take the facts of the train blocks, and draw the weights of this seed."""
        self.facts = facts_of(data, self.blocks(data), self.config.cutoff_angstrom)
        self._whitening = whitening_of(self.blocks(data)) if self.config.whitened else None
        self._precise = None
        super().initialise(data, seed=seed)

    def isolated_energies(self) -> dict[int, float]:
        """Energies of isolated atoms by atomic number, eV, of the level's record."""
        facts = self.known()
        return dict(zip(facts.elements, facts.isolated_energies, strict=True))

    def forces(self, module: nn.Module, frames: FrameBatch) -> Tensor:
        """Forces (B, N, 3) eV/A of frames, on the CPU."""
        return self._at(module, frames.positions, frames.atomic_numbers)[1]

    def force_field(self, states: StartStates | None = None) -> ForceField:
        """Energies and forces of the trained module, in float64, whatever the start states."""
        precise, bare = self._in_float64(), self.isolated_energies()

        def field(positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
            energies, forces = self._at(precise, positions, atomic_numbers)
            isolated = [sum(bare[z] for z in row if z) for row in atomic_numbers.tolist()]
            return energies + torch.tensor(isolated, dtype=torch.float64), forces

        return field

    def _at(self, module: nn.Module, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) less those of isolated atoms, and forces (B, N, 3), on the CPU."""
        x, z = x.to(self.device), z.to(self.device)
        forces = torch.zeros_like(x)
        with torch.enable_grad():
            energies, found = self.evaluate(module, self._graph(x, z))
        forces[z > 0] = found.detach()
        return energies.detach().cpu(), forces.cpu()

    def _in_float64(self) -> nn.Module:
        """The trained weights in a module whose constants are of float64 too."""
        if self._precise is None:
            with torch.random.fork_rng(devices=[]):
                precise = self.build(torch.float64).to(self.device)
            weights = dict(self.trained().named_parameters())
            with torch.no_grad():
                for name, parameter in precise.named_parameters():
                    parameter.copy_(weights[name])
            self._precise = precise.requires_grad_(False).eval()
        return self._precise

    def write_weights(self, path: Path) -> None:
        """Write the module's parameters, and the facts of the training data beside them."""
        super().write_weights(path)
        write_atomically(path.with_name(FACTS_FILE), self.known().model_dump_json().encode())

    def read_weights(self, path: Path) -> nn.Module:
        """The module that `write_weights` wrote; nothing is unpickled.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        self.facts = Facts.model_validate_json(path.with_name(FACTS_FILE).read_text())
        return super().read_weights(path)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let torch make tensors of this type inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
