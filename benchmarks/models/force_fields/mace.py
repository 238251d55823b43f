"""MACE: mace-torch's model, trained on energies and forces, and integrated from every start."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from atom.layers.e3nn import o3, plain_layers
from benchmarks.models.force_fields.graph_data import Graph
from benchmarks.models.force_fields.graph_model import GraphConfig, GraphForceField, default_dtype
from benchmarks.models.learnt import Preset


class MaceConfig(GraphConfig):
    """Settings of a MACE; names in brackets are those of `mace_run_train`."""

    n_channels: int = Field(default=16, ge=1, description="features of each kind (num_channels)")
    max_l: int = Field(default=0, ge=0, description="order of the messages that are kept (max_L)")
    max_ell: int = Field(default=2, ge=0, description="order of the spherical harmonics (max_ell)")
    correlation: int = Field(default=2, ge=1, description="body order less one (correlation)")
    n_layers: int = Field(default=2, ge=1, description="layers (num_interactions)")
    n_radial: int = Field(default=8, ge=1, description="radial functions (num_radial_basis)")
    radial_widths: tuple[int, ...] = Field(
        default=(16, 16), description="hidden layers of the radial network (radial_MLP)"
    )
    readout_width: int = Field(default=16, ge=1, description="of the last readout (MLP_irreps)")


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


class Mace(GraphForceField[MaceConfig]):
    """The real MACE, trained on the frames that other models start from, then rolled out.

    References:
        Batatia et al., arXiv:2206.07697; github.com/ACEsuit/mace.
    """

    id: ClassVar[str] = "mace"
    package: ClassVar[tuple[str, str]] = ("mace", "mace-torch: pip install 'tg80[mace]'")
    config_class: type[MaceConfig] = MaceConfig
    presets: ClassVar[dict[str, Preset]] = {
        "mini": Preset(training=_TRAINING | {"learning_rate": 3e-2}),
        "published": Preset(_PUBLISHED, _TRAINING),
    }

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A ScaleShiftMACE with random weights."""
        c, facts, modules = self.config, self.known(), _mace("mace.modules")
        hidden = "+".join(
            f"{c.n_channels}x{order}{'eo'[order % 2]}" for order in range(c.max_l + 1)
        )
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        with plain_layers(), default_dtype(dtype):
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

    def evaluate(
        self, module: nn.Module, graph: Graph, *, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) eV less those of isolated atoms, and forces (n_atoms, 3) eV/A."""
        found = module(graph, training=training)
        return found["interaction_energy"], found["forces"]


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
