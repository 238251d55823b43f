"""NequIP: the nequip package's network, trained on energies and forces, and integrated."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from atom.layers.e3nn import plain_layers
from benchmarks.models.force_fields.graph_data import Graph
from benchmarks.models.force_fields.graph_model import GraphConfig, GraphForceField, default_dtype
from benchmarks.models.learnt import Preset
from tg80.theory import symbols_of


class NequipConfig(GraphConfig):
    """Settings of a NequIP; names in brackets are those of `NequIPGNNModel`."""

    n_features: int = Field(default=16, ge=1, description="of each kind (num_features)")
    l_max: int = Field(default=1, ge=0, description="order of features and messages (l_max)")
    parity: bool = Field(default=False, description="features of both parities (parity)")
    n_layers: int = Field(default=3, ge=1, description="interaction blocks (num_layers)")
    n_radial: int = Field(default=8, ge=1, description="radial functions (num_bessels)")
    radial_depth: int = Field(
        default=1, ge=1, description="hidden layers of the radial network (radial_mlp_depth)"
    )
    radial_width: int = Field(default=32, ge=1, description="their width (radial_mlp_width)")


# Of configs/tutorial.yaml of the package's repository, but for its schedule and Adam.
_PUBLISHED: dict[str, Any] = {
    "n_features": 32,
    "parity": True,
    "n_layers": 4,
    "cutoff_angstrom": 5.0,
    "radial_depth": 2,
    "radial_width": 64,
    "forces_weight": 1.0,
}
_TRAINING: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.0, "batch_size": 5}


class Nequip(GraphForceField[NequipConfig]):
    """The real NequIP, trained on the frames that other models start from, then rolled out.

    References:
        Batzner et al., arXiv:2101.03164; github.com/mir-group/nequip.
    """

    id: ClassVar[str] = "nequip"
    package: ClassVar[tuple[str, str]] = (
        "nequip",
        "the package nequip: pip install 'tg80[nequip]', which excludes tg80[mace] by its e3nn",
    )
    config_class: type[NequipConfig] = NequipConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training=_TRAINING | {"batch_size": 10}),
        "published": Preset(_PUBLISHED, _TRAINING | {"ema_decay": 0.999}),
    }

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A NequIPGNNModel with random weights."""
        c, facts = self.config, self.known()
        building = _nequip("nequip.model.utils")._IS_BUILDING_MODEL
        # As a part of a model in the making: the outermost one would have to set torch's default
        # dtype and seeds for the whole process.
        token = building.set(True)
        try:
            with plain_layers(), default_dtype(dtype):
                return _nequip("nequip.model.nequip_models").NequIPGNNModel(
                    r_max=c.cutoff_angstrom,
                    type_names=list(symbols_of(facts.elements)),
                    num_layers=c.n_layers,
                    l_max=c.l_max,
                    parity=c.parity,
                    num_features=c.n_features,
                    radial_mlp_depth=c.radial_depth,
                    radial_mlp_width=c.radial_width,
                    num_bessels=c.n_radial,
                    avg_num_neighbors=facts.n_neighbours,
                    per_type_energy_scales=facts.force_scale,
                    per_type_energy_shifts=facts.energy_shift,
                )
        finally:
            building.reset(token)

    def evaluate(
        self, module: nn.Module, graph: Graph, *, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) eV less those of isolated atoms, and forces (n_atoms, 3) eV/A."""
        found = module.train(training)(
            {
                "pos": graph["positions"],
                "edge_index": graph["edge_index"],
                "atom_types": graph["node_attrs"].argmax(1),
                "batch": graph["batch"],
                "num_atoms": graph["ptr"].diff(),
            }
        )
        return found["total_energy"][:, 0], found["forces"]


def _nequip(name: str) -> ModuleType:
    """A module of nequip, imported in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
