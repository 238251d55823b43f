"""What the checks of a trajectory's physics share: its arrays, each computed once, and tolerances.

Stored values are rounded (`tg80.shards.fields`), so quantities that vanish exactly in the run are
compared with the rounding of the sums they come from. Beyond that the tolerances are far below what
a fault would leave: thermal tumbling is 0.1, the noise of an integration grid left in the forces
1e-4 to 1e-3 of the sum of absolute contributions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tg80.chemistry.bonds import Bonds
from tg80.constants import ACCELERATION
from tg80.elements import COVALENT_RADII
from tg80.shards.fields import STATIC_FIELDS, evaluated_frames
from tg80.shards.metadata import ShardMetadata
from tg80.shards.quality import Frames, Quality, judge
from tg80.shards.shard import Shard

CENTRE_TOLERANCE_A = 1e-4
# Shares of the sum of absolute contributions.
FORCE_TOLERANCE = 5e-5
MOMENTUM_TOLERANCE = 1e-4
KINETIC_TOLERANCE = 5e-4

# What no stored value exceeds in size, in the units of the code: far beyond any molecule at any
# temperature that keeps its bonds, far below where sums of squares overflow.
LARGEST: dict[str, float] = {
    "positions": 1e3,
    "velocities": 1.0,
    "forces": 1e3,
    "potential_energy": 1e8,
    "kinetic_energy": 1e4,
    "conserved_quantity": 1e8,
    "homo_lumo_gap": 100.0,
    "dipole": 1e3,
    "mulliken_charges": 6.0,
    "scf_cycles": 1e5,
    "scf_converged": 1.0,
    "raw_net_force": 10.0,
    "raw_net_torque": 100.0,
    "quality_flags": 2**32 - 1,
    "residual_force": 100.0,
    "outer_step": 5.0,  # no recipe allows more
    "evaluated": 1.0,
    "atomic_numbers": 118.0,
    "masses": 300.0,
    "relaxed_positions": 1e3,
    "hessian": 1e4,
    "step": 1e15,
    "time": 1e12,
}


@dataclass(frozen=True)
class Evidence:
    """One shard's frames and what they are of.

    Attributes:
        frames: every per-frame field, `step` and `time`, in the units of the code.
        static: every static field.
        metadata: what the shard says of itself.
    """

    frames: Frames
    static: Mapping[str, np.ndarray]
    metadata: ShardMetadata

    @classmethod
    def of_shard(cls, shard: Shard) -> "Evidence":
        """Read all of an open shard."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no finite number
            frames = {name: shard.read(name) for name in shard.frame_fields}
            static = {field.name: shard.static(field.name) for field in STATIC_FIELDS}
        return cls(frames, static, shard.metadata)

    @property
    def masses(self) -> np.ndarray:
        return self.static["masses"]

    @property
    def numbers(self) -> np.ndarray:
        return self.static["atomic_numbers"]

    @property
    def bonds(self) -> Bonds:
        return self.metadata.bonds

    @property
    def n_frames(self) -> int:
        return len(self.frames["time"])

    @property
    def n_atoms(self) -> int:
        return len(self.masses)

    @property
    def spacing_fs(self) -> float:
        return self.metadata.store_every_fs

    @cached_property
    def evaluated(self) -> np.ndarray:
        """(n_frames,) bool, where the level was evaluated."""
        return evaluated_frames(self.frames)

    @cached_property
    def at_level(self) -> "Evidence":
        """The frames where the level was evaluated, which need not be evenly spaced."""
        if self.evaluated.all():
            return self
        return replace(self, frames={k: v[self.evaluated] for k, v in self.frames.items()})

    @cached_property
    def quality(self) -> Quality:
        """The frames judged by the limits in the shard's recipe.

        Raises:
            ValidationError: The recipe has no valid limits.
        """
        return judge(self.frames, self.static, self.metadata)

    @cached_property
    def positions(self) -> np.ndarray:
        """(n_frames, n_atoms, 3) A, float64; so are velocities and forces."""
        return self.frames["positions"].astype(float)

    @cached_property
    def velocities(self) -> np.ndarray:
        return self.frames["velocities"].astype(float)

    @cached_property
    def forces(self) -> np.ndarray:
        return self.frames["forces"].astype(float)

    @cached_property
    def accelerations(self) -> np.ndarray:
        """(n_frames, n_atoms, 3) A/fs^2 of the stored forces."""
        return self.forces * (ACCELERATION / self.masses)[:, None]

    @cached_property
    def centres(self) -> np.ndarray:
        """(n_frames, 3) centres of mass, A."""
        return np.einsum("a,tai->ti", self.masses / self.masses.sum(), self.positions)

    @cached_property
    def relative(self) -> np.ndarray:
        """Positions about the centre of mass of their frame."""
        return self.positions - self.centres[:, None]

    @cached_property
    def reference(self) -> np.ndarray:
        """(n_atoms, 3) relaxed positions about their centre of mass, A."""
        relaxed = self.static["relaxed_positions"]
        return relaxed - self.masses @ relaxed / self.masses.sum()

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The two atoms of every pair."""
        return np.triu_indices(self.n_atoms, 1)

    @cached_property
    def distances(self) -> np.ndarray:
        """(n_frames, n_pairs) A."""
        first, second = self.pairs
        return np.linalg.norm(self.positions[:, first] - self.positions[:, second], axis=2)

    @cached_property
    def touching(self) -> np.ndarray:
        """(n_pairs,) sum of the covalent radii of every pair, A."""
        radii = COVALENT_RADII[self.numbers]
        first, second = self.pairs
        return radii[first] + radii[second]

    @cached_property
    def bonded(self) -> np.ndarray:
        """(n_bonds, 2) atoms of each bond of the SMILES."""
        return np.array([bond[:2] for bond in self.bonds], dtype=int).reshape(-1, 2)

    @cached_property
    def bonds_apart(self) -> np.ndarray:
        """(n_pairs,) 1 where two atoms are bonded, 2 where both are to a third, else 0."""
        graph = np.zeros((self.n_atoms, self.n_atoms), dtype=int)
        for i, j in self.bonded:
            graph[i, j] = graph[j, i] = 1
        return np.where(graph == 1, 1, np.where(graph @ graph > 0, 2, 0))[self.pairs]

    @cached_property
    def groups(self) -> np.ndarray:
        """(n_groups, n_atoms) 1 where an atom belongs: each heavy atom with its hydrogens.

        The fastest vibrations, those of the hydrogens, leave a group's centre of mass at rest.
        """
        owner = np.arange(self.n_atoms)
        for i, j in self.bonded:
            if self.numbers[i] == 1 < self.numbers[j]:
                owner[i] = j
            elif self.numbers[j] == 1 < self.numbers[i]:
                owner[j] = i
        return (owner == np.unique(owner)[:, None]).astype(float)


def eigen_squares(hessian: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared angular frequencies, 1/fs^2, and mass-weighted modes of a Hessian in eV/A^2."""
    roots = np.sqrt(np.repeat(masses, 3))
    return np.linalg.eigh(0.5 * (hessian + hessian.T) / np.outer(roots, roots) * ACCELERATION)
