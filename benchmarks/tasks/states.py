"""Start states: the input of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tg80.windows.windows import WindowBatch


@dataclass(frozen=True)
class StartStates:
    """A batch of start states.

    Attributes:
        positions: (B, N, 3) float32, A.
        velocities: (B, N, 3) float32, A/fs.
        atomic_numbers: (B, N) int64, 0 = padding.
        score_mask: (B, N) bool, the atoms that are scored.
        molecule: B names of molecules.
        start_id: B names of windows.
    """

    positions: torch.Tensor
    velocities: torch.Tensor
    atomic_numbers: torch.Tensor
    score_mask: torch.Tensor
    molecule: tuple[str, ...]
    start_id: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.molecule)

    @property
    def atom_mask(self) -> torch.Tensor:
        """(B, N) bool, False for padding."""
        return self.atomic_numbers > 0

    def select(self, indices: Sequence[int]) -> StartStates:
        """The states at `indices`, with the padding they have here."""
        index = torch.as_tensor(list(indices), dtype=torch.long)
        names = {
            key: tuple(getattr(self, key)[i] for i in index.tolist())
            for key in ("molecule", "start_id")
        }
        tensors = {
            key: getattr(self, key)[index]
            for key in ("positions", "velocities", "atomic_numbers", "score_mask")
        }
        return replace(self, **tensors, **names)


def score_mask_of(atomic_numbers: torch.Tensor, score: str) -> torch.Tensor:
    """Which atoms are scored, bool like atomic_numbers: "heavy" leaves out hydrogens, "all" none.

    Padding is never scored.
    """
    return atomic_numbers > (1 if score == "heavy" else 0)


def start_states(batch: WindowBatch, score: str) -> StartStates:
    """The start states of a batch of windows."""
    return StartStates(
        positions=batch.positions,
        velocities=batch.velocities,
        atomic_numbers=batch.atomic_numbers,
        score_mask=score_mask_of(batch.atomic_numbers, score),
        molecule=batch.molecule,
        start_id=batch.start_id,
    )
