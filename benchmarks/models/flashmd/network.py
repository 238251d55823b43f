"""metatrain's FlashMD as a module of states: positions and momenta a stride later."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tg80.constants import ACCELERATION, masses_of
from tg80.untrusted.limits import BoundedModel

MOMENTUM = ACCELERATION**-0.5
"""The momentum of 1 u A/fs in the network's unit, the square root of 1 eV u."""


class FlashmdConfig(BoundedModel):
    """Settings of a FlashMD; names in brackets are those of metatrain."""

    stride_fs: float = Field(
        default=10.0, gt=0, description="of a step, fs; a whole number of stored frames is taken"
    )
    momentum_difference: bool = Field(
        default=True, description="momenta as a change (predict_momenta_as_difference)"
    )
    cutoff_angstrom: float = Field(default=4.5, gt=0, description="of neighbours, A (cutoff)")
    width: int = Field(default=32, ge=1, description="of edge features and heads (d_pet, d_head)")
    node_width: int = Field(default=64, ge=1, description="of node features (d_node)")
    feedforward_width: int = Field(default=64, ge=1, description="in a layer (d_feedforward)")
    n_heads: int = Field(default=4, ge=1, description="of attention (num_heads)")
    n_attention_layers: int = Field(default=1, ge=1, description="a block (num_attention_layers)")
    n_blocks: int = Field(default=2, ge=1, description="rounds of messages (num_gnn_layers)")


class Facts(BoundedModel):
    """What is known of the training data besides the weights.

    Attributes:
        elements: atomic numbers, rising.
        stride_fs: of a step.
        displacement: root mean square of a coordinate's change in a step, A.
        momentum: the same of what is predicted of a momentum, (eV u)^1/2.
    """

    elements: tuple[int, ...]
    stride_fs: float
    displacement: float
    momentum: float


class FlashmdModule(nn.Module):
    """metatrain's FlashMD: states in, scaled changes a stride later out."""

    def __init__(self, config: FlashmdConfig, facts: Facts) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        numbers = np.array(facts.elements)
        self.masses = dict(zip(facts.elements, masses_of(numbers).tolist(), strict=True))
        with _silence():
            self.net, self.outputs = _network(config, list(facts.elements))
        self.net.set_masses(self.masses)

    def forward(self, x: Tensor, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Changes (B, N, 3) of positions and momenta, over the scales of the facts."""
        momenta, real = self.momenta(v, z), z > 0
        # In training mode it gives what its scaler and its additive models have not touched.
        systems = [self._system(*(a[i][real[i]] for a in (x, momenta, z))) for i in range(len(x))]
        found = self.net.train()(systems, self.outputs)
        changes = []
        for name in self.outputs:
            padded = torch.zeros_like(x)
            padded[real] = found[name].block().values.squeeze(-1)
            changes.append(padded)
        return changes[0], changes[1]

    def mass_of(self, z: Tensor) -> Tensor:
        """Masses (B, N, 1) u, 1 where padded."""
        table = torch.ones(max(self.masses) + 1)
        table[list(self.masses)] = torch.tensor(list(self.masses.values()))
        return table.to(z.device)[z][..., None]

    def momenta(self, v: Tensor, z: Tensor) -> Tensor:
        """Momenta (B, N, 3) in (eV u)^1/2."""
        return MOMENTUM * self.mass_of(z) * v

    def step(self, x: Tensor, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The state a stride later; its centre of mass flies on unchanged."""
        dx, dp = (change * scale for change, scale in zip(self(x, v, z), self.scales, strict=True))
        mass = self.mass_of(z) * (z > 0)[..., None]
        later_v = dp / (MOMENTUM * self.mass_of(z)) + v * self.config.momentum_difference

        def centre(of: Tensor) -> Tensor:
            return (mass * of).sum(1, keepdim=True) / mass.sum(1, keepdim=True)

        later_x = x + dx - centre(dx) + self.facts.stride_fs * centre(v)
        return later_x, later_v - centre(later_v) + centre(v)

    @property
    def scales(self) -> tuple[float, float]:
        """What positions and momenta are divided by."""
        return self.facts.displacement, self.facts.momentum

    def _system(self, x: Tensor, momenta: Tensor, z: Tensor) -> Any:
        """One molecule as metatomic takes it, with its neighbours, momenta and masses."""
        metatensor, metatomic = _metatrain("metatensor.torch"), _metatrain("metatomic.torch")
        labels, block = metatensor.Labels, metatensor.TensorBlock
        xyz, n = labels("xyz", torch.arange(3, device=x.device)[:, None]), len(x)

        def per_atom(name: str, values: Tensor, components: list[Any]) -> Any:
            atoms = torch.arange(n, device=x.device, dtype=torch.int32)
            samples = labels(["system", "atom"], torch.stack([torch.zeros_like(atoms), atoms], 1))
            properties = labels(name, torch.zeros(1, 1, dtype=torch.int32, device=x.device))
            one = labels.single().to(x.device)
            return metatensor.TensorMap(one, [block(values, samples, components, properties)])

        system = metatomic.System(
            types=z.int(),
            positions=x,
            cell=x.new_zeros(3, 3),
            pbc=torch.zeros(3, dtype=torch.bool, device=x.device),
        )
        apart = x[None] - x[:, None]
        near = apart.norm(dim=2) < self.config.cutoff_angstrom
        i, j = near.fill_diagonal_(False).nonzero(as_tuple=True)
        none = torch.zeros_like(i)
        names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
        pairs = labels(names, torch.stack([i, j, none, none, none], dim=1).int())
        distance = labels("distance", torch.zeros(1, 1, dtype=torch.int32, device=x.device))
        system.add_neighbor_list(
            self.net.requested_nl, block(apart[i, j][..., None], pairs, [xyz], distance)
        )
        system.add_data("momentum", per_atom("momentum", momenta[..., None], [xyz]))
        mass = self.mass_of(z[None])[0]
        system.add_data("mass", per_atom("mass", mass, []))
        return system


def _network(c: FlashmdConfig, elements: list[int]) -> tuple[Any, dict[str, Any]]:
    """metatrain's module with random weights, and the outputs to ask of it."""
    data, omega = _metatrain("metatrain.utils.data"), _metatrain("omegaconf").OmegaConf
    architectures = _metatrain("metatrain.utils.architectures")
    hypers = architectures.get_default_hypers("experimental.flashmd")["model"] | {
        "predict_momenta_as_difference": c.momentum_difference,
        "cutoff": c.cutoff_angstrom,
        "d_pet": c.width,
        "d_head": c.width,
        "d_node": c.node_width,
        "d_feedforward": c.feedforward_width,
        "num_heads": c.n_heads,
        "num_attention_layers": c.n_attention_layers,
        "num_gnn_layers": c.n_blocks,
    }
    layout = {"type": {"cartesian": {"rank": 1}}, "sample_kind": "atom", "num_subtargets": 1}
    units = {"position": ("length", "A"), "momentum": ("momentum", "(eV*u)^(1/2)")}
    targets, outputs = {}, {}
    for name, (quantity, unit) in units.items():
        target = omega.create(layout | {"quantity": quantity, "unit": unit})
        targets[name] = data.target_info.get_generic_target_info(name, target)
        outputs[name] = _metatrain("metatomic.torch").ModelOutput(unit=unit, sample_kind="atom")
    info = data.DatasetInfo("angstrom", elements, targets)
    return _metatrain("metatrain.experimental.flashmd").__model__(hypers, info), outputs


def _metatrain(name: str) -> ModuleType:
    """A module of metatrain or of what it builds on."""
    return importlib.import_module(name)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Leave out warnings, also those that metatomic's C++ writes to standard error."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
