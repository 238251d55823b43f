"""How well each model keeps the symmetries of mechanics: `atom-bench symmetry`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from atom import (
    ATOM,
    EquivarianceError,
    layer_equivariance,
    permutation_error,
    quasi_equivariance,
    translation_error,
)
from atom.symmetry import Operator
from benchmarks.interface import Model
from benchmarks.models import make_model
from benchmarks.scoring import metrics
from benchmarks.scoring.errors import predict_errors
from benchmarks.scoring.significance import with_spread
from benchmarks.tasks.data import SEEN_PARTS, BenchmarkData, TrainingData
from benchmarks.tasks.states import StartStates, score_mask_of
from tg80.console import Table
from tg80.errors import UserError
from tg80.windows.trajectories import reordered_hessian

# Shifts and orders of atoms may change a prediction by float32 rounding, and no more. A network
# of some blocks makes 1e-5 A of the 4e-6 A by which coordinates of 40 A are rounded.
EXACT_A = 1e-4


@dataclass(frozen=True)
class Robustness:
    """MSE of windows turned at random over the same windows as they are stored; errors in A^2."""

    s2t: float
    s2s: float
    s2t_turned: float
    s2t_stored: float


@dataclass(frozen=True)
class Layer:
    """Errors of the features behind one layer, without unit."""

    rotations: EquivarianceError
    reflections: EquivarianceError


@dataclass(frozen=True)
class Symmetry:
    """What was measured on one model.

    Attributes:
        label: the model, and its settings where it stands there with several.
        state: untrained, trained, or fitted (models without training).
        rotations: errors of the predicted positions under proper rotations, A.
        reflections: the same under rotations followed by the inversion of space.
        layers: the same of the features behind each layer, without unit; empty for models other
            than ATOM.
        displacement: root mean square of the predicted displacements, A.
        translation: largest error under shifts, A; anything beyond rounding is a fault.
        permutation: the same under other orders of the atoms.
        robustness: by part.
    """

    model: str
    label: str
    state: str
    seed: int | None
    rotations: EquivarianceError
    reflections: EquivarianceError
    layers: dict[str, Layer]
    displacement: float
    translation: float
    permutation: float
    robustness: dict[str, Robustness]

    @property
    def is_exact(self) -> bool:
        """Whether shifts and orders of atoms are exact to rounding."""
        return max(self.translation, self.permutation) < EXACT_A


@dataclass(frozen=True)
class SymmetrySettings:
    """Where and how it is measured: windows of one part, evenly taken, and M rotations."""

    part: str = "test_time"
    windows: int = 32
    rotations: int = 32
    seed: int = 0


def measure(
    model: Model,
    data: BenchmarkData,
    settings: SymmetrySettings,
    *,
    label: str,
    state: str,
    seed: int | None,
) -> Symmetry:
    """Measure one model that is ready to predict.

    Raises:
        UserError: the fold has no such part, or the model cannot predict its molecules.
    """
    states, lags_fs = _windows(model, data, settings)
    inputs = (states.positions, states.velocities, states.atomic_numbers, lags_fs)
    operator = as_operator(model, states, data.task.score)
    rotations, layers = _haar(model, operator, inputs, settings, improper=False)
    reflections, reflected_layers = _haar(model, operator, inputs, settings, improper=True)
    moved = operator(*inputs) - states.positions[:, None]
    weight = states.atom_mask[:, None, :, None].double()
    per_atom = (moved.double().square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    return Symmetry(
        model=model.id,
        label=label,
        state=state,
        seed=seed,
        rotations=rotations,
        reflections=reflections,
        layers={name: Layer(error, reflected_layers[name]) for name, error in layers.items()},
        displacement=float((per_atom / lags_fs.shape[1]).mean().sqrt()),
        translation=translation_error(operator, *inputs),
        permutation=_permutation(model, operator, data, states, lags_fs, settings.seed),
        robustness=robustness(model, data),
    )


def as_operator(model: Model, states: StartStates, score: str) -> Operator:
    """The model as a function of tensors; where it gives up it stands still, as it is scored."""

    def operator(
        positions: torch.Tensor, velocities: torch.Tensor, numbers: torch.Tensor, lags: torch.Tensor
    ) -> torch.Tensor:
        changed = replace(
            states, positions=positions, velocities=velocities, atomic_numbers=numbers,
            score_mask=score_mask_of(numbers, score),
        )  # fmt: skip
        predicted, failed = model.predict(changed, lags)
        # What stands at padding may be anything.
        real = (numbers > 0)[:, None, :, None]
        failed = failed | (real & ~torch.isfinite(predicted)).flatten(1).any(1)
        kept = real & ~failed[:, None, None, None]
        return torch.where(kept, predicted, positions[:, None])

    return operator


def robustness(model: Model, data: BenchmarkData) -> dict[str, Robustness]:
    """MSE under random rotations over MSE in the stored frame, for each part it can predict."""
    found = {}
    for name, part in data.parts.items():
        if model.seen_only and name not in SEEN_PARTS:
            continue
        molecules, stored = part.windows.states.molecule, part.stored_frame or part.windows
        errors = [predict_errors(model, w).raw for w in (part.windows, stored)]
        s2t, s2s = (
            [_mean_over_molecules(reduce(e), molecules) for e in errors]
            for reduce in (metrics.s2t, metrics.s2s)
        )
        found[name] = Robustness(s2t[0] / s2t[1], s2s[0] / s2s[1], *s2t)
    return found


def _mean_over_molecules(errors: np.ndarray, molecules: tuple[str, ...]) -> float:
    return float(metrics.mean_over_molecules(metrics.per_molecule(errors, molecules)))


def _windows(
    model: Model, data: BenchmarkData, settings: SymmetrySettings
) -> tuple[StartStates, torch.Tensor]:
    if settings.part not in data.parts:
        raise UserError(
            f"fold {data.fold} has no part {settings.part!r} here; "
            f"choose one of {', '.join(data.parts)}"
        )
    if model.seen_only and settings.part not in SEEN_PARTS:
        raise UserError(f"{model.id} cannot predict {settings.part}; choose --part test_time")
    windows = data.parts[settings.part].windows
    count = min(settings.windows, len(windows.states))
    rows = np.unique(np.linspace(0, len(windows.states) - 1, count).astype(int)).tolist()
    lags_fs = windows.lags_fs[rows]
    # Padded lags are the same for all windows of a task: the longest come last.
    return windows.states.select(rows), lags_fs[:, ~lags_fs.isnan().any(0)]


def _haar(
    model: Model,
    operator: Operator,
    inputs: tuple[torch.Tensor, ...],
    settings: SymmetrySettings,
    *,
    improper: bool,
) -> tuple[EquivarianceError, dict[str, EquivarianceError]]:
    """Errors of the positions, and of ATOM's layers."""

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(settings.seed)

    options: dict[str, Any] = {"n_rotations": settings.rotations, "improper": improper}
    found = quasi_equivariance(operator, *inputs, generator=generator(), **options)
    module = getattr(model, "module", None)
    if not isinstance(module, ATOM):
        return found, {}
    device = next(module.parameters()).device
    moved = (x.to(device) for x in inputs)
    return found, layer_equivariance(module, *moved, generator=generator(), **options)


def _permutation(
    model: Model,
    operator: Operator,
    data: BenchmarkData,
    states: StartStates,
    lags_fs: torch.Tensor,
    seed: int,
) -> float:
    """Error under an order of atoms drawn for each molecule.

    Predictors without training keep structures by molecule: they are fitted again to data whose
    atoms stand in the other order.
    """
    rng = np.random.default_rng(seed)
    sizes = {t.name: t.n_atoms for blocks in data.blocks.values() for t in blocks}
    sizes |= {t.name: t.n_atoms for t in data.training.trajectories}
    orders = {name: rng.permutation(size) for name, size in sizes.items()}
    n_atoms = states.positions.shape[1]
    order = torch.tensor(
        [[*orders[name], *range(sizes[name], n_atoms)] for name in states.molecule]
    )
    permuted = None
    if not model.trains:
        refitted = make_model(model.id)
        refitted.initialise(reordered(data.training, orders), seed=seed)
        permuted = as_operator(refitted, states, data.task.score)
    inputs = (states.positions, states.velocities, states.atomic_numbers, lags_fs)
    return permutation_error(operator, *inputs, order, permuted=permuted)


def reordered(training: TrainingData, orders: Mapping[str, np.ndarray]) -> TrainingData:
    """The training data with the atoms of each molecule in another order."""
    return replace(
        training,
        trajectories=tuple(t.reordered(orders[t.name]) for t in training.trajectories),
        finer=tuple(t.reordered(orders[t.name]) for t in training.finer),
        relaxed_positions={
            name: x[orders[name]] if name in orders else x
            for name, x in training.relaxed_positions.items()
        },
        hessians={
            name: reordered_hessian(h, orders[name]) if name in orders else h
            for name, h in training.hessians.items()
        },
    )


def document(found: Sequence[Symmetry], settings: SymmetrySettings) -> dict[str, Any]:
    """Everything as JSON-able figures, named and with their unit in mind: A, A^2 or 1."""
    return {"settings": asdict(settings), "rows": [_figures(one) for one in found]}


def _figures(found: Symmetry) -> dict[str, Any]:
    kinds = ("rotations", "reflections")
    figures = asdict(found) | {"is_exact": found.is_exact}
    figures |= {kind: getattr(found, kind)._asdict() for kind in kinds}
    figures["layers"] = {
        name: {
            kind: error._asdict() | {"relative": error.relative}
            for kind, error in ((kind, getattr(layer, kind)) for kind in kinds)
        }
        for name, layer in found.layers.items()
    }
    return figures


def tables(found: Sequence[Symmetry], settings: SymmetrySettings) -> list[Table]:
    """The tables: positions, then robustness, then the layers; means over seeds."""
    groups: dict[tuple[str, str], list[Symmetry]] = {}
    for one in found:
        groups.setdefault((one.label, one.state), []).append(one)
    title = (
        f"Errors of predicted positions, A ({settings.rotations} rotations, {settings.part}); "
        f"shifts and orders of atoms must be exact to rounding (< {EXACT_A:g} A)"
    )
    rows = [_errors_row(*key, members) for key, members in groups.items()]
    result = [Table(title, _ERRORS_HEADING, rows)]
    parts = list(dict.fromkeys(part for one in found for part in one.robustness))
    result.append(
        Table(
            "Rotation robustness: MSE turned at random / MSE in the stored frame, S2T (S2S)",
            ("model", "state", *parts),
            [(*key, *(_ratio(members, p) for p in parts)) for key, members in groups.items()],
        )
    )
    layered = {key: members for key, members in groups.items() if members[0].layers}
    return result + [_layer_table(*key, members) for key, members in layered.items()]


_ERRORS_HEADING = (
    "model", "state", "seeds", "eps paper", "eps point", "eps reflected", "displacement", "shift",
    "order of atoms", "exact",
)  # fmt: skip


def _errors_row(label: str, state: str, members: Sequence[Symmetry]) -> tuple[str, ...]:
    return (
        label,
        state,
        str(len(members)),
        with_spread([one.rotations.paper for one in members]),
        with_spread([one.rotations.point for one in members]),
        with_spread([one.reflections.point for one in members]),
        with_spread([one.displacement for one in members]),
        f"{max(one.translation for one in members):.1e}",
        f"{max(one.permutation for one in members):.1e}",
        "yes" if all(one.is_exact for one in members) else "NO",
    )


def _ratio(members: Sequence[Symmetry], part: str) -> str:
    present = [one.robustness[part] for one in members if part in one.robustness]
    if not present:
        return "-"
    s2t, s2s = ([getattr(r, key) for r in present] for key in ("s2t", "s2s"))
    return f"{np.mean(s2t):.3f} ({np.mean(s2s):.3f})"


def _layer_table(label: str, state: str, members: Sequence[Symmetry]) -> Table:
    def cell(layer: str, kind: str, figure: str) -> str:
        return with_spread([getattr(getattr(one.layers[layer], kind), figure) for one in members])

    columns = {
        "eps paper": ("rotations", "paper"),
        "eps point": ("rotations", "point"),
        "eps point / size": ("rotations", "relative"),
        "reflected / size": ("reflections", "relative"),
    }
    rows = [
        (layer, *(cell(layer, *which) for which in columns.values())) for layer in members[0].layers
    ]
    title = f"{label}, {state}: features behind each layer, scalars fixed and vectors turned"
    return Table(title, ("layer", *columns), rows)
