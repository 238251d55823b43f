"""The model: start states and lags in, future positions out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atom.ase import predict
from atom.checkpoint import CheckpointError, read_checkpoint, stored_parameters, write_checkpoint
from atom.config import ATOMConfig
from atom.decoder import Decoder
from atom.elements import (
    ATOMIC_MASSES,
    BOLTZMANN_EV_PER_K,
    MAX_ATOMIC_NUMBER,
    U_ANGSTROM2_PER_FS2_IN_EV,
)
from atom.label_noise import LabelNoise, add_label_noise
from atom.layers.lifting import make_lifting
from atom.loss import LossKind, masked_loss
from atom.valence.head import ModesHead
from atom.valence.topology import topologies_of_bonds
from atom.walk import bonded_pairs, random_walk_encoding

# The decoder is told of motion in normal modes in this unit.
MOTION_UNIT_ANGSTROM = 0.2
# Of what attention adds to steps of time, at the start of training.
CORRECTION_FS = 50.0


class ATOM(nn.Module):
    """Atomistic Transformer Operator for Molecules.

    References:
        arXiv:2510.05482; the equations as built, and where they depart from the paper, are in
        ``docs/model/atom.md``.
    """

    _masses: Tensor
    _thermal_speeds: Tensor

    def __init__(self, config: ATOMConfig | None = None) -> None:
        """Build an untrained model; the weights come from torch's global generator."""
        super().__init__()
        self.config = config = config or ATOMConfig()
        self.decoder = Decoder(config)
        self.lifting = make_lifting(config)
        self.modes = self.correction = self.log_lasts = None
        if config.moves:
            features = config.multiplicity
            self.modes = ModesHead(features, config.modes_width, config.modes_rounds)
            # The correction to the modes starts at nothing.
            self.correction = nn.Parameter(torch.zeros(()))
        if config.output == "steps":
            # For how long attention knows better than the terms do, fs.
            self.log_lasts = nn.Parameter(torch.tensor(CORRECTION_FS).log())
        masses = torch.tensor(ATOMIC_MASSES, dtype=torch.float64)
        thermal = BOLTZMANN_EV_PER_K * config.temperature_k / U_ANGSTROM2_PER_FS2_IN_EV
        # Padding gets velocity unit 1, so that its zero velocities stay zero.
        speeds = (thermal / masses.where(masses > 0, torch.tensor(thermal))).sqrt()
        self.register_buffer("_masses", masses, persistent=False)
        self.register_buffer("_thermal_speeds", speeds, persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> ATOM:
        """A model of its own with the same weights; hooks are not copied.

        It is built anew, because e3nn 0.4 turns its layers into TorchScript to copy them.
        """
        with torch.random.fork_rng(devices=[]):
            twin = type(self)(self.config)
        memo[id(self)] = twin
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                twin.get_buffer(name).data = buffer.clone()
            for name, parameter in self.named_parameters():
                copied = twin.get_parameter(name)
                copied.data = parameter.detach().clone()
                copied.requires_grad_(parameter.requires_grad)
        return twin.train(self.training)

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
        harmonic: Tensor | None = None,
    ) -> Tensor:
        """Predict the positions at each lag.

        Args:
            positions: (B, N, 3) at the start, A.
            velocities: (B, N, 3) at the start, A/fs.
            atomic_numbers: (B, N) integers, 0 = padded atom.
            lags_fs: (B, P) times since the start (not increments), fs; NaN = padded lag.
            walk_encoding: (B, N, walk_steps) instead of the one computed from ``positions``.
            bonds: (B, N, N) bool instead of the bonds found in ``positions``.
            harmonic: (B, P, N, 3), A, with output = modes or steps: the motion by force constants
                instead of what these make of it.

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
            walk_encoding = self._walk_encoding(bonds)
        elif not self.config.walk_encoding:
            raise ValueError(
                "walk_encoding is given, but this model reads none (walk_encoding=False)"
            )

        centre = self._centre_of_mass(positions, atomic_numbers)
        centred = (positions - centre) / self.config.position_scale_angstrom
        scaled = velocities / self._thermal_speeds[atomic_numbers][..., None]
        lifted, phase = self.lifting(
            centred.to(dtype),
            scaled.to(dtype),
            atomic_numbers,
            None if walk_encoding is None else walk_encoding.to(dtype),
        )
        valid = ~lags_fs.isnan()
        lags_fs = lags_fs.where(valid, 0.0)
        start = positions[:, None].to(dtype)
        if self.modes is not None and harmonic is None:
            harmonic = self.modes(
                positions, velocities, atomic_numbers, lags_fs,
                topologies_of_bonds(bonds, atomic_numbers), self.lifting.embedding,
                steps=self.config.output == "steps" and not self.training,
            )  # fmt: skip
        moved = None if harmonic is None else (harmonic - positions[:, None]).to(dtype)
        vectors = self.decoder(
            lifted, phase, lags_fs, valid, real, positions, bonds,
            None if moved is None else moved / MOTION_UNIT_ANGSTROM,
        )  # fmt: skip
        if self.config.output == "absolute":
            base = centre.expand_as(positions)[:, None].to(dtype)
        else:
            vectors = vectors * self._lag_gate(lags_fs).to(dtype)[..., None, None]
            base = start + self._flight(velocities, lags_fs).to(dtype)
        if moved is not None:
            base, vectors = start + moved, vectors * self._correction(lags_fs)
        wanted = (valid[:, :, None] & real[:, None, :])[..., None]
        return torch.where(wanted, base + vectors, start)

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
        noise: LabelNoise | None = None,
        kind: LossKind = "mse",
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
            noise: standard normal numbers in place of drawn ones: a sample's noise can then be
                its own, whatever batch it is in.
            kind: ``mse``, or ``rmse``; see :func:`atom.loss.masked_loss`.

        Returns:
            Scalar, A^2 or A: error averaged over lags, atoms and coordinates of each molecule,
            then over molecules.
        """
        real = atomic_numbers > 0
        clean = positions.where(real[..., None], 0.0)
        bonds = bonded_pairs(clean, atomic_numbers.long(), self.config.bond_factor)
        walk_encoding = self._walk_encoding(bonds)
        thermal_speeds = self._thermal_speeds[atomic_numbers.long()]
        noisy = add_label_noise(
            self.config, LabelNoise(clean, velocities, targets), thermal_speeds, noise, generator
        )
        predicted = self(
            noisy.positions, noisy.velocities, atomic_numbers, lags_fs, walk_encoding, bonds
        )
        scored = real if score_mask is None else real & score_mask.bool()
        return masked_loss(predicted, noisy.targets, scored, ~lags_fs.isnan(), lag_weights, kind)

    def predict(self, atoms: Any, lags_fs: Sequence[float]) -> list[Any]:
        """Structures of ASE at each lag (fs); see :func:`atom.ase.predict`."""
        return predict(self, atoms, lags_fs)

    def save(self, path: str | Path) -> None:
        """Write settings and parameters to one safetensors file, atomically."""
        write_checkpoint(path, self.config, stored_parameters(self))

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> ATOM:
        """Rebuild a saved model, in evaluation mode.

        Raises:
            CheckpointError: if the file is damaged or its parameters are not this model's.
        """
        config, tensors = read_checkpoint(path)
        model = cls(config)
        parameters = stored_parameters(model)
        expected = {name: tuple(p.shape) for name, p in parameters.items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if expected != found:
            wrong = sorted(dict(expected.items() ^ found.items()))
            raise CheckpointError(f"{path}: parameters do not fit the settings: {wrong[0]}, ...")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.data = tensors[name].clone()
        return model.to(device).eval()

    def _walk_encoding(self, bonds: Tensor) -> Tensor | None:
        """The random-walk encoding (B, N, walk_steps), if this model reads one."""
        if not self.config.walk_encoding:
            return None
        return random_walk_encoding(bonds, self.config.walk_steps)

    def _lag_gate(self, lags_fs: Tensor) -> Tensor:
        """Factor on displacements, (B, P): 0 at lag 0, proportional to short lags, then 1."""
        if self.config.lag_gate_fs is None:
            return torch.ones_like(lags_fs)
        gate = -torch.expm1(-lags_fs / self.config.lag_gate_fs)
        return gate**self.config.lag_gate_power

    def _correction(self, lags_fs: Tensor) -> Tensor:
        """Factor on what attention adds to motion by force constants, one for all or by lag."""
        assert self.correction is not None
        if self.log_lasts is None:
            return self.correction
        lasts = (-(lags_fs / self.log_lasts.exp()).square() / 2).exp()
        return self.correction * lasts[..., None, None].to(self.correction)

    def _flight(self, velocities: Tensor, lags_fs: Tensor) -> Tensor:
        """Free flight with velocities (B, N, 3) that die away, (B, P, N, 3) A; or zeros."""
        if self.config.output != "flight":
            return velocities.new_zeros(1)
        time = self.config.flight_fs * -torch.expm1(-lags_fs / self.config.flight_fs)
        return time[..., None, None] * velocities[:, None]

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
