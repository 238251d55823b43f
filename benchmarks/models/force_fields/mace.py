"""MACE: mace-torch's model, trained on energies and forces, and integrated from every start."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from atom.layers.e3nn import o3, plain_layers
from benchmarks.models.force_fields.frames import FrameBatch
from benchmarks.models.force_fields.learnt import LearntForceField
from benchmarks.models.force_fields.mace_data import Facts, facts_of, graph_of
from benchmarks.models.force_fields.rollout import ForceField
from benchmarks.models.learnt import Preset
from benchmarks.tasks.data import TrainingData
from benchmarks.tasks.states import StartStates
from benchmarks.training.batches import MicroBatch
from benchmarks.training.trainer import LossFunction
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.untrusted.limits import BoundedModel

FACTS_FILE = "facts.json"


class MaceConfig(BoundedModel):
    """Settings of a MACE; names in brackets are those of `mace_run_train`."""

    n_channels: int = Field(default=16, ge=1, description="features of each kind (num_channels)")
    max_l: int = Field(default=0, ge=0, description="order of the messages that are kept (max_L)")
    max_ell: int = Field(default=2, ge=0, description="order of the spherical harmonics (max_ell)")
    correlation: int = Field(default=2, ge=1, description="body order less one (correlation)")
    n_layers: int = Field(default=2, ge=1, description="layers (num_interactions)")
    cutoff_angstrom: float = Field(default=4.0, gt=0, description="of neighbours, A (r_max)")
    n_radial: int = Field(default=8, ge=1, description="radial functions (num_radial_basis)")
    radial_widths: tuple[int, ...] = Field(
        default=(16, 16), description="hidden layers of the radial network (radial_MLP)"
    )
    readout_width: int = Field(default=16, ge=1, description="of the last readout (MLP_irreps)")
    energy_weight: float = Field(default=1.0, ge=0, description="of the loss (energy_weight)")
    forces_weight: float = Field(default=100.0, ge=0, description="of the loss (forces_weight)")


# What mace_run_train does unless told otherwise, but for its schedule and AMSGrad.
_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-2,
    "weight_decay": 5e-7,
    "gradient_clip": 10.0,
    "batch_size": 10,
}
_PUBLISHED: dict[str, Any] = {
    "n_channels": 128,
    "max_l": 1,
    "max_ell": 3,
    "correlation": 3,
    "cutoff_angstrom": 5.0,
    "radial_widths": (64, 64, 64),
}


class Mace(LearntForceField[nn.Module, MaceConfig]):
    """The real MACE, trained on the frames that other models start from, then rolled out.

    References:
        Batatia et al., arXiv:2206.07697; github.com/ACEsuit/mace.
    """

    id: ClassVar[str] = "mace"
    config_class: type[MaceConfig] = MaceConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training=_TRAINING | {"learning_rate": 3e-2}),
        "published": Preset(_PUBLISHED, _TRAINING),
    }

    def __init__(self, **settings: Any) -> None:
        """Make a model to be trained; settings as in `ForceFieldSettings`.

        Raises:
            UserError: mace-torch is not installed; a setting is unknown or out of range.
        """
        if importlib.util.find_spec("mace") is None:
            raise UserError("model mace needs mace-torch: pip install 'tg80[mace]'")
        super().__init__(**settings)
        self.facts: Facts | None = None
        self._precise: nn.Module | None = None

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

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A ScaleShiftMACE with random weights."""
        c, facts, modules = self.config, self.known(), _mace("mace.modules")
        hidden = "+".join(
            f"{c.n_channels}x{order}{'eo'[order % 2]}" for order in range(c.max_l + 1)
        )
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        with plain_layers(), _default_dtype(dtype):
            return modules.ScaleShiftMACE(
                atomic_inter_scale=facts.force_scale,
                atomic_inter_shift=facts.energy_shift,
                r_max=c.cutoff_angstrom,
                num_bessel=c.n_radial,
                num_polynomial_cutoff=5,
                max_ell=c.max_ell,
                interaction_cls=block,
                interaction_cls_first=block,
                num_interactions=c.n_layers,
                num_elements=len(facts.elements),
                hidden_irreps=o3.Irreps(hidden),
                MLP_irreps=o3.Irreps(f"{c.readout_width}x0e"),
                gate=torch.nn.functional.silu,
                atomic_energies=np.array(facts.isolated_energies),
                avg_num_neighbors=facts.n_neighbours,
                atomic_numbers=list(facts.elements),
                correlation=c.correlation,
                radial_MLP=list(c.radial_widths),
            )

    def loss(self, atoms: str) -> LossFunction:
        """mace-torch's loss of energies an atom and forces; all atoms count."""
        c, tools = self.config, _mace("mace.tools.torch_geometric.data")
        weighted = _mace("mace.modules.loss").WeightedEnergyForcesLoss(
            energy_weight=c.energy_weight, forces_weight=c.forces_weight
        )

        def loss(module: nn.Module, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
            frames = micro_batch.windows
            assert isinstance(frames, FrameBatch)
            graph = self._graph(frames.positions, frames.atomic_numbers)
            found = module(graph, training=True)
            x, real = frames.positions, frames.atomic_numbers > 0
            ones = x.new_ones(len(x))
            truth = tools.Data(
                energy=frames.energies.to(x), forces=frames.forces.to(x)[real], ptr=graph["ptr"],
                weight=ones, energy_weight=ones, forces_weight=ones,
            )  # fmt: skip
            # Total energies lose their digits in float32; those without isolated atoms don't.
            predicted = {"energy": found["interaction_energy"], "forces": found["forces"]}
            return weighted.to(x.device)(truth, predicted, ddp=False) * len(x), ones.sum()

        return loss

    def _graph(self, positions: Tensor, atomic_numbers: Tensor) -> dict[str, Tensor]:
        elements = torch.tensor(self.known().elements, device=positions.device)
        return graph_of(positions, atomic_numbers, elements, self.config.cutoff_angstrom)

    def initialise(self, data: TrainingData, *, seed: int) -> None:
        """Take the facts of the train blocks, and draw the weights of this seed."""
        self.facts = facts_of(data, self.blocks(data), self.config.cutoff_angstrom)
        self._precise = None
        super().initialise(data, seed=seed)

    def isolated_energies(self) -> dict[int, float]:
        """Energies of isolated atoms by atomic number, eV, of the level's record."""
        facts = self.known()
        return dict(zip(facts.elements, facts.isolated_energies, strict=True))

    def forces(self, module: nn.Module, frames: FrameBatch) -> Tensor:
        """Forces (B, N, 3) eV/A of frames, on the CPU."""
        x, z = frames.positions.to(self.device), frames.atomic_numbers.to(self.device)
        forces = torch.zeros_like(x)
        with torch.enable_grad():
            forces[z > 0] = module(self._graph(x, z), training=False)["forces"].detach()
        return forces.cpu()

    def force_field(self, states: StartStates | None = None) -> ForceField:
        """Energies and forces of the trained module, in float64, whatever the start states."""
        precise = self._in_float64()

        def field(positions: Tensor, atomic_numbers: Tensor) -> tuple[Tensor, Tensor]:
            x, z = positions.to(self.device), atomic_numbers.to(self.device)
            with torch.enable_grad():
                found = precise(self._graph(x, z), training=False)
            forces = torch.zeros_like(x)
            forces[z > 0] = found["forces"].detach()
            return found["energy"].detach().cpu(), forces.cpu()

        return field

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


def _mace(name: str) -> ModuleType:
    """A module of mace-torch, whose import is silent and changes no defaults of torch.

    It would let torch.load unpickle anything unless told otherwise, here and in child processes.
    """
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    with contextlib.redirect_stdout(io.StringIO()):
        module = importlib.import_module(name)
    if before is None:
        os.environ.pop(variable, None)
    return module


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
