"""The model: start states and lags in, future positions out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atom.attention import time_mask
from atom.blocks import Block
from atom.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from atom.config import ATOMConfig
from atom.elements import (
    ATOMIC_MASSES,
    BOLTZMANN_EV_PER_K,
    MAX_ATOMIC_NUMBER,
    U_ANGSTROM2_PER_FS2_IN_EV,
)
from atom.initial import SCALAR, channel_layout, channel_order, scalar_columns
from atom.lifting import Lifting, o3
from atom.loss import masked_loss
from atom.rope import time_rotation
from atom.simulate import predict
from atom.walk import bonded_pairs, random_walk_encoding

# Initial scale of the output weights: an untrained model then moves atoms by hundredths of an
# angstrom, so its displacement output starts out close to persistence.
OUTPUT_GAIN = 0.02
# Saturation times of the lag features, fs: 8 fs to 33 ps in factors of two.
LAG_FEATURE_TIMES_FS = tuple(8.0 * 2.0**k for k in range(13))


class ATOM(nn.Module):
    """Atomistic Transformer Operator for Molecules.

    References:
        arXiv:2510.05482; the equations as built, and where they depart from the paper, are in
        ``docs/atom.md``.
    """

    _masses: Tensor
    _thermal_speeds: Tensor
    _lag_times_fs: Tensor
    _order: Tensor
    _e3nn_order: Tensor

    def __init__(self, config: ATOMConfig | None = None) -> None:
        """Build an untrained model; the weights come from torch's global generator."""
        super().__init__()
        self.config = config = config or ATOMConfig()
        width, n_vectors = config.width, config.output_heads
        self.lifting = Lifting(config)
        self.blocks = nn.ModuleList(Block(config, i == 0) for i in range(config.n_blocks))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, as in atom/lifting.py
            self.project_output = o3.Linear(self.lifting.irreps, f"{n_vectors}x1o")
        self.lag_features = (
            nn.Linear(len(LAG_FEATURE_TIMES_FS), width, bias=False)
            if config.lag_embedding
            else None
        )
        self.mix_heads = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n_vectors))
            if n_vectors > 1
            else None
        )
        with torch.no_grad():
            for parameter in self.project_output.parameters():
                parameter.mul_(OUTPUT_GAIN)
            if config.equivariant_start:
                self._start_equivariant()
        order = channel_order(config)
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_e3nn_order", order.argsort(), persistent=False)
        masses = torch.tensor(ATOMIC_MASSES, dtype=torch.float64)
        thermal = BOLTZMANN_EV_PER_K * config.temperature_k / U_ANGSTROM2_PER_FS2_IN_EV
        # Padding gets velocity unit 1, so that its zero velocities stay zero.
        speeds = (thermal / masses.where(masses > 0, torch.tensor(thermal))).sqrt()
        self.register_buffer("_masses", masses, persistent=False)
        self.register_buffer("_thermal_speeds", speeds, persistent=False)
        self.register_buffer("_lag_times_fs", torch.tensor(LAG_FEATURE_TIMES_FS), persistent=False)

    @torch.no_grad()
    def _start_equivariant(self) -> None:
        """Let the lag enter the scalars, and let scalars alone mix the output heads."""
        layout = channel_layout(self.config)
        if self.lag_features is not None:
            self.lag_features.weight.mul_((layout.component == SCALAR)[:, None])
        if self.mix_heads is not None:
            self.mix_heads.get_submodule("0").get_parameter("weight").copy_(
                scalar_columns(self.config.width, layout)
            )

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(
        self,
        positions: Tensor,
        velocities: Tensor,
        atomic_numbers: Tensor,
        lags_fs: Tensor,
        walk_encoding: Tensor | None = None,
        bonds: Tensor | None = None,
    ) -> Tensor:
        """Predict the positions at each lag.

        Args:
            positions: (B, N, 3) at the start, A.
            velocities: (B, N, 3) at the start, A/fs.
            atomic_numbers: (B, N) integers, 0 = padded atom.
            lags_fs: (B, P) times since the start (not increments), fs; NaN = padded lag.
            walk_encoding: (B, N, walk_steps) instead of the one computed from ``positions``.
            bonds: (B, N, N) bool instead of the bonds found in ``positions``.

        Returns:
            (B, P, N, 3), A. Zeros at padded atoms; the start positions at padded lags.

        Raises:
            ValueError: if shapes disagree, or (checked on the CPU only) an atomic number or a lag
                is out of range.
        """
        self._check(positions, velocities, atomic_numbers, lags_fs)
        dtype = self.lifting.embedding.weight.dtype
        atomic_numbers = atomic_numbers.long()
        real = atomic_numbers > 0
        positions = positions.where(real[..., None], 0.0)
        velocities = velocities.where(real[..., None], 0.0)
        if bonds is None:
            bonds = bonded_pairs(positions, atomic_numbers, self.config.bond_factor)
        if walk_encoding is None:
            walk_encoding = random_walk_encoding(bonds, self.config.walk_steps)

        centre = self._centre_of_mass(positions, atomic_numbers)
        centred = (positions - centre) / self.config.position_scale_angstrom
        scaled = velocities / self._thermal_speeds[atomic_numbers][..., None]
        lifted, phase = self.lifting(
            centred.to(dtype), scaled.to(dtype), atomic_numbers, walk_encoding.to(dtype)
        )
        valid = ~lags_fs.isnan()
        lags_fs = lags_fs.where(valid, 0.0)
        vectors = self._decode(lifted, phase, lags_fs, valid, real, bonds)

        if self.config.output == "displacement":
            base, vectors = positions, vectors * self._lag_gate(lags_fs).to(dtype)[..., None, None]
        else:
            base = centre.expand_as(positions)
        wanted = (valid[:, :, None] & real[:, None, :])[..., None]
        start = positions[:, None].to(dtype)
        return torch.where(wanted, base[:, None].to(dtype) + vectors, start)

    def training_loss(
        self,
        positions: Tensor,
        velocities: Tensor,
        atomic_numbers: Tensor,
        lags_fs: Tensor,
        targets: Tensor,
        score_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        lag_weights: Tensor | None = None,
        noise: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Loss of one batch with label noise; the only place where noise is added.

        Bonds and the walk encoding come from the noise-free start.

        Args:
            positions: (B, N, 3) start positions, A.
            velocities: (B, N, 3) start velocities, A/fs.
            atomic_numbers: (B, N), 0 = padding.
            lags_fs: (B, P), NaN = padded lag.
            targets: (B, P, N, 3) true positions, A; what they hold at padding is ignored.
            score_mask: (B, N) bool, atoms that count; all real atoms by default.
            generator: of the noise; torch's global one by default.
            lag_weights: (P,) or (B, P) weights of the lags; equal by default.
            noise: standard normal numbers of the shapes of ``positions``, ``velocities`` and
                ``targets`` in place of drawn ones: a sample's noise can then be its own,
                whatever batch it is in.

        Returns:
            Scalar, A^2: squared error averaged over lags, atoms and coordinates of each molecule,
            then over molecules.
        """
        real = atomic_numbers > 0
        clean = positions.where(real[..., None], 0.0)
        bonds = bonded_pairs(clean, atomic_numbers.long(), self.config.bond_factor)
        walk_encoding = random_walk_encoding(bonds, self.config.walk_steps)
        sigma_x, sigma_v = self.config.sigma_positions, self.config.sigma_velocities

        def drawn(which: int, like: Tensor) -> Tensor:
            return _noise_like(like, generator) if noise is None else noise[which].to(like)

        if sigma_x > 0:
            clean = clean + sigma_x * drawn(0, clean)
        if sigma_v > 0:
            unit = self._thermal_speeds[atomic_numbers.long()][..., None].to(velocities.dtype)
            velocities = velocities + sigma_v * unit * drawn(1, velocities)
        if sigma_x > 0 and self.config.target_noise:
            targets = targets + sigma_x * drawn(2, targets)
        predicted = self(clean, velocities, atomic_numbers, lags_fs, walk_encoding, bonds)
        scored = real if score_mask is None else real & score_mask.bool()
        return masked_loss(predicted, targets, scored, ~lags_fs.isnan(), lag_weights)

    def predict(self, atoms: Any, lags_fs: Sequence[float]) -> list[Any]:
        """Structures of ASE at each lag (fs); see :func:`atom.simulate.predict`."""
        return predict(self, atoms, lags_fs)

    def save(self, path: str | Path) -> None:
        """Write settings and parameters to one safetensors file, atomically."""
        write_checkpoint(path, self.config, dict(self.named_parameters()))

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> ATOM:
        """Rebuild a saved model, in evaluation mode.

        Raises:
            CheckpointError: if the file is damaged or its parameters are not this model's.
        """
        config, tensors = read_checkpoint(path)
        model = cls(config)
        parameters = dict(model.named_parameters())
        expected = {name: tuple(p.shape) for name, p in parameters.items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if expected != found:
            wrong = sorted(dict(expected.items() ^ found.items()))
            raise CheckpointError(f"{path}: parameters do not fit the settings: {wrong[0]}, ...")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.data = tensors[name].clone()
        return model.to(device).eval()

    def _decode(
        self,
        lifted: Tensor,
        phase: Tensor,
        lags_fs: Tensor,
        valid: Tensor,
        real: Tensor,
        bonds: Tensor,
    ) -> Tensor:
        """Run the blocks over the start state and all steps; one vector (B, P, N, 3) each."""
        config = self.config
        # State 0 is the start state itself, at lag 0.
        states_fs = torch.nn.functional.pad(lags_fs, (1, 0))
        states_valid = torch.nn.functional.pad(valid, (1, 0), value=True)
        rotation = time_rotation(
            states_fs, config.head_width, config.rope_tau_fs, config.rope_base, phase.dtype
        )
        pairs = real[:, None, :] & (bonds if config.neighbours == "bonded" else True)
        pairs = pairs.expand(-1, real.shape[1], -1)
        mask = time_mask(pairs, states_valid, config.time_attention, phase.dtype)
        lifted, phase = lifted[..., self._order], phase[..., self._order]
        tokens = phase[:, None].expand(-1, states_fs.shape[1], -1, -1)
        if self.lag_features is not None:
            saturation = -torch.expm1(-states_fs[..., None] / self._lag_times_fs)
            tokens = tokens + self.lag_features(saturation.to(phase.dtype))[:, :, None]
        first_values = None
        for block in self.blocks:
            tokens, values = block(tokens, lifted, rotation, mask, first_values)
            first_values = values if first_values is None else first_values
        return self._project(tokens[:, 1:], real)

    def _project(self, steps: Tensor, real: Tensor) -> Tensor:
        """Project steps (B, P, N, d) to (B, P, N, 3), mixing the heads by the molecule's mean."""
        vectors = self.project_output(steps[..., self._e3nn_order])
        if self.mix_heads is None:
            return vectors
        weight = real.to(steps)[:, None, :, None]
        pooled = (steps * weight).sum(2) / weight.sum(2).clamp(min=1.0)
        mix = self.mix_heads(pooled).softmax(-1)
        return torch.einsum("bpnkc,bpk->bpnc", vectors.unflatten(-1, (-1, 3)), mix)

    def _lag_gate(self, lags_fs: Tensor) -> Tensor:
        """Factor on displacements, (B, P): 0 at lag 0, proportional to short lags, then 1."""
        if self.config.lag_gate_fs is None:
            return torch.ones_like(lags_fs)
        return -torch.expm1(-lags_fs / self.config.lag_gate_fs)

    def _centre_of_mass(self, positions: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Centre of mass (B, 1, 3) of the real atoms, float64 so that no shift is left over."""
        masses = self._masses[atomic_numbers][..., None]
        total = masses.sum(1, keepdim=True).clamp(min=1e-9)
        return (masses * positions.double()).sum(1, keepdim=True) / total

    def _check(
        self, positions: Tensor, velocities: Tensor, atomic_numbers: Tensor, lags_fs: Tensor
    ) -> None:
        """Refuse what would broadcast or index wrongly."""
        shape = tuple(atomic_numbers.shape)
        if len(shape) != 2 or tuple(positions.shape) != (*shape, 3):
            raise ValueError(
                f"positions must be (B, N, 3) and atomic_numbers (B, N): "
                f"{tuple(positions.shape)}, {shape}"
            )
        if velocities.shape != positions.shape:
            raise ValueError(f"velocities must have the positions' shape: {velocities.shape}")
        if lags_fs.ndim != 2 or lags_fs.shape[0] != shape[0] or lags_fs.shape[1] == 0:
            raise ValueError(f"lags_fs must be (B, P) with P > 0: {tuple(lags_fs.shape)}")
        if atomic_numbers.device.type != "cpu":  # a look at values would make a GPU wait
            return
        if int(atomic_numbers.min()) < 0 or int(atomic_numbers.max()) > MAX_ATOMIC_NUMBER:
            raise ValueError(f"atomic_numbers must lie in 0..{MAX_ATOMIC_NUMBER} (0 = padding)")
        if bool((lags_fs < 0).any() | lags_fs.isinf().any()):
            raise ValueError("lags_fs must be finite and not negative (NaN = padded lag)")


def _noise_like(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of a tensor's shape, drawn where the generator lives."""
    device = tensor.device if generator is None else generator.device
    noise = torch.randn(tensor.shape, generator=generator, device=device, dtype=tensor.dtype)
    return noise.to(tensor.device)
