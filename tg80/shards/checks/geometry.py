"""The part of `tg80 validate` that asks whether a frame's quantities belong to its geometry.

Forces along bonds, charges, dipole moment and HOMO-LUMO gap are functions of the geometry. Straight
lines in the inverse distances explain most of how they change, at any spacing of the frames; what
was shuffled, frozen or replaced in single frames is not explained. The same lines say where the
force along a bond vanishes and how stiff it is: at the relaxed length and as the Hessian has it.
"""

from functools import cached_property

import numpy as np

from tg80.shards.checks.evidence import Evidence
from tg80.shards.problems import Findings

# Frames a straight line needs for each of its coefficients, and coefficients that are enough.
FRAMES_EACH = 12
MOST_COEFFICIENTS = 60
FEWEST_FRAMES = 100
# Least share of the variance that the geometry explains; what is unrelated gets 1 / FRAMES_EACH.
EXPLAINED = {
    "forces": 0.18, "mulliken_charges": 0.25, "dipole": 0.25, "homo_lumo_gap": 0.13
}  # fmt: skip
# Standard deviations (eV/A, e, e A^2, eV) below which symmetry or rounding leaves nothing to see.
CONSTANT = {
    "forces": 1e-3, "mulliken_charges": 2e-4, "dipole": 1e-3, "homo_lumo_gap": 1e-3
}  # fmt: skip
# The usual rest counts as this share of a series' standard deviation at least.
LEAST_USUAL = 0.02
# The rest of the worst frame, in units of the usual one: 3.9, 5.6, 7.3 and 10.6 in what is right.
WORST = {
    "forces": 8.0, "mulliken_charges": 11.0, "dipole": 14.0, "homo_lumo_gap": 20.0
}  # fmt: skip
# Above this the limits of both widen with the temperature, as anharmonicity does.
ORDINARY_K = 300.0
SHORT_FS = 500.0  # and in trajectories that are not much longer, for want of vibrations
# Bonds against relaxed structure and Hessian, length at rest and stiffness: the ratio expected and
# how far off it may be, where forces and Hessian are both GFN2-xTB's, and at another level.
REST_LENGTH = ((1.0, 0.006), (1.01, 0.05))
STIFFNESS = ((1.0, 0.07), (1.13, 0.33))


class Geometry:
    """Functions of the geometry of all frames, computed once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_frames, n) orthonormal series of mean 0: principal components of 1/distance."""
        series = 1.0 / self.evidence.distances
        series = series - series.mean(axis=0)
        series = series / np.maximum(series.std(axis=0), 1e-12)
        squares, axes = np.linalg.eigh(series.T @ series)
        most = min(MOST_COEFFICIENTS, len(series) // FRAMES_EACH)
        kept = np.flatnonzero(squares > 1e-6 * squares[-1])[::-1][:most]
        return series @ axes[:, kept] / np.sqrt(squares[kept])

    @cached_property
    def bond_vectors(self) -> np.ndarray:
        """(n_frames, n_bonds, 3) A, from the first atom of a bond to the second."""
        first, second = self.evidence.bonded.T
        return self.evidence.positions[:, second] - self.evidence.positions[:, first]

    @cached_property
    def bond_forces(self) -> np.ndarray:
        """(n_frames, n_bonds) eV/A, forces that drive the two atoms of a bond apart."""
        evidence = self.evidence
        first, second = evidence.bonded.T
        along = self.bond_vectors / np.linalg.norm(self.bond_vectors, axis=2)[:, :, None]
        shares = 1 / evidence.masses
        reduced = 1 / (shares[first] + shares[second])
        pulls = (
            evidence.forces[:, second] * shares[second, None]
            - evidence.forces[:, first] * shares[first, None]
        )
        return reduced * np.einsum("tbi,tbi->tb", pulls, along)

    def bent(self, series: np.ndarray) -> np.ndarray:
        """Parabolas in the bonds' own lengths, fitted to series (n_frames, n_bonds)."""
        lengths = np.linalg.norm(self.bond_vectors, axis=2)
        pairs = zip((lengths - lengths.mean(axis=0)).T, series.T, strict=True)
        return np.column_stack([np.polyval(np.polyfit(x, y, 2), x) for x, y in pairs])

    def rest(
        self, series: np.ndarray, floor: float, known: np.ndarray | float = 0.0
    ) -> tuple[float, np.ndarray] | None:
        """What straight lines leave of series (n_frames, n).

        Args:
            series: functions of the geometry.
            floor: a series that varies less than this is constant.
            known: what is explained beforehand, of the shape of the series.

        Returns:
            The explained share of the variance, and (n_frames,) the size of what is left in each
            frame, in units of the usual one; None if all series are constant.
        """
        scale = series.std(axis=0)
        moving = scale > floor
        if not moving.any():
            return None
        series = ((series - known) - (series - known).mean(axis=0))[:, moving] / scale[moving]
        left = series - self.basis @ (self.basis.T @ series)
        usual = np.maximum(1.4826 * np.median(np.abs(left), axis=0), LEAST_USUAL)
        sizes = np.sqrt(np.mean((left / usual) ** 2, axis=1))
        return 1 - float(np.mean(left**2)), sizes

    def rest_and_stiffness(self) -> tuple[np.ndarray, np.ndarray]:
        """(n_bonds,) length at rest over the relaxed one, and stiffness over the Hessian's.

        Forces are fitted by straight lines in all distances over one bond and two, and a parabola
        in the bond's own length. How that answers a stretch of the relaxed bond, its atoms moved
        against each other and all others left, is compared with how the Hessian does.
        """
        evidence, reference = self.evidence, self.evidence.reference
        near = np.flatnonzero(evidence.bonds_apart > 0)
        first, second = (atoms[near] for atoms in evidence.pairs)
        axes = reference[second] - reference[first]
        relaxed = np.linalg.norm(axes, axis=1)
        axes = axes / relaxed[:, None]
        changes = evidence.distances[:, near] - relaxed
        hessian, inverse = evidence.static["hessian"], 1 / evidence.masses
        found = []
        for forces, (i, j) in zip(self.bond_forces.T, evidence.bonded, strict=True):
            own = int(np.flatnonzero((first == min(i, j)) & (second == max(i, j)))[0])
            stretch = changes[:, own]
            _, slope, value = np.polyfit(stretch, forces, 2)
            design = np.column_stack([changes, stretch**2, np.ones_like(stretch)])
            lines = np.linalg.lstsq(design, forces, rcond=None)[0][: len(relaxed)]
            move = np.zeros((evidence.n_atoms, 3))
            direction = (reference[j] - reference[i]) / relaxed[own] / (inverse[i] + inverse[j])
            move[j], move[i] = direction * inverse[j], -direction * inverse[i]
            answer = lines @ np.einsum("pi,pi->p", axes, move[second] - move[first])
            stiffness = float(move.ravel() @ hessian @ move.ravel())
            found.append((1 - value / slope / relaxed[own], -answer / stiffness))
        rest, stiff = np.array(found).T
        return rest, stiff


def check_geometry(evidence: Evidence, found: Findings) -> None:
    """Forces, charges, dipole and gap change as the geometry does."""
    if evidence.n_frames < FEWEST_FRAMES or not len(evidence.bonded):
        return
    geometry = Geometry(evidence)
    frames = evidence.frames
    for name, series in (
        ("forces", geometry.bond_forces),
        ("mulliken_charges", frames["mulliken_charges"].astype(float)),
        ("dipole", np.einsum("ti,tai->ta", frames["dipole"].astype(float), evidence.relative)),
        ("homo_lumo_gap", frames["homo_lumo_gap"].astype(float)[:, None]),
    ):
        known = geometry.bent(series) if name == "forces" else 0.0
        left = geometry.rest(series, CONSTANT[name], known)
        if left is None:
            if len(np.unique(evidence.numbers)) > 1:
                found.error("geometry", f"{name} is constant, though the geometry changes")
            continue
        explained, sizes = left
        if explained < EXPLAINED[name]:
            found.error(
                "geometry",
                f"{name} does not change as the geometry does: it explains {explained:.2f} of the "
                f"variance, not {EXPLAINED[name]:g} or more",
            )
        else:
            message = f"{name} does not fit the geometry in frame {{frame}}: "
            message += "{worst:.0f} times as far off as usual"
            found.above("geometry", sizes, WORST[name], message)
    _check_bonds(geometry, evidence, found)


def _check_bonds(geometry: Geometry, evidence: Evidence, found: Findings) -> None:
    """Length at rest and stiffness of the bonds are those of relaxed structure and Hessian."""
    metadata = evidence.metadata
    other = metadata.level != "gfn2-xtb"
    hot, short = max(1.0, metadata.temperature_k / ORDINARY_K), SHORT_FS / metadata.length_fs
    rest, stiff = geometry.rest_and_stiffness()
    middle, off = REST_LENGTH[other]
    if abs(rest.mean() - middle) > hot * off + short * REST_LENGTH[0][1]:
        message = f"forces vanish at {rest.mean():.4f} times the relaxed length, on average"
        found.error("bond lengths", message)
    stiff = stiff[(evidence.numbers[evidence.bonded] == 1).any(axis=1)]
    middle, off = STIFFNESS[other]
    if len(stiff) and abs(stiff.mean() - middle) > hot * off + short * STIFFNESS[0][1]:
        message = f"bonds of hydrogens are {stiff.mean():.3g} times as stiff as the Hessian has"
        found.error("bond stiffness", f"{message} them")
