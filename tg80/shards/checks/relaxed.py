"""The part of `tg80 validate` that looks at the relaxed structure and its Hessian."""

import numpy as np

from tg80.shards.checks.evidence import CENTRE_TOLERANCE_A, Evidence, eigen_squares
from tg80.shards.problems import Findings

# Largest response to a shift or a turn, beside the largest eigenvalue: finite differences leave
# 3e-5, a structure 0.01 A off 1e-3.
SUM_RULE = 1e-4
# Wavenumbers, 1/cm: of the lowest mode (a shallow torsion may come out imaginary), of the highest
# of any molecule, and the least highest of one with hydrogens.
LOWEST, HIGHEST, LEAST_HIGHEST, LEAST_WITH_HYDROGEN = -120.0, 5000.0, 150.0, 1800.0
# A symmetric start may relax to a saddle point; no saddle is as steep as this share of the highest.
STEEPEST_SADDLE = 0.35
# Bond lengths of the relaxed structure over the sum of covalent radii.
BOND_LENGTHS = (0.6, 1.4)
# Mean distances in the trajectory against relaxed ones, over one bond and over two.
NEAR, ANGLE = 0.08, 0.2
_PER_CM = 2 * np.pi * 2.99792458e-5  # angular frequency in 1/fs of 1/cm


def check_hessian(evidence: Evidence, found: Findings) -> None:
    """Symmetric, blind to shifts and turns of the relaxed structure, and positive else."""
    hessian, reference = evidence.static["hessian"], evidence.reference
    largest = float(np.linalg.norm(hessian, 2))
    if largest == 0 or np.abs(hessian - hessian.T).max() > 1e-6 * largest:
        found.error("hessian", "is not symmetric" if largest else "is zero")
        return
    shifts = [np.tile(axis, evidence.n_atoms) for axis in np.eye(3)]
    turns = [np.cross(axis, reference).ravel() for axis in np.eye(3)]
    for what, moves in (("shift", shifts), ("turn", turns)):
        answers = [np.linalg.norm(hessian @ move) for move in moves]
        answer = max(answers) / max(np.linalg.norm(moves, axis=1).max(), 1e-3) / largest
        if answer > SUM_RULE:
            message = f"answers a {what} of the relaxed structure by {answer:.1e} of its largest"
            found.error("hessian", f"{message} eigenvalue, not 0")
            return
    _check_frequencies(evidence, found)


def _check_frequencies(evidence: Evidence, found: Findings) -> None:
    squares = eigen_squares(evidence.static["hessian"], evidence.masses)[0]
    wavenumbers = np.sign(squares) * np.sqrt(np.abs(squares)) / _PER_CM
    least = LEAST_WITH_HYDROGEN if 1 in evidence.numbers else LEAST_HIGHEST
    if wavenumbers[0] < LOWEST:
        level = "error" if wavenumbers[0] < -STEEPEST_SADDLE * wavenumbers[-1] else "warning"
        message = f"lowest mode at {wavenumbers[0]:.0f} 1/cm: no minimum"
        found.error("hessian", message, level=level)
    if not least < wavenumbers[-1] < HIGHEST:
        message = f"highest mode at {wavenumbers[-1]:.0f} 1/cm, not {least:.0f} to {HIGHEST:.0f}"
        found.error("hessian", message)


def check_relaxed(evidence: Evidence, found: Findings) -> None:
    """The relaxed structure is centred, is the molecule, and is near what the frames have."""
    relaxed = evidence.static["relaxed_positions"]
    centre = float(np.linalg.norm(evidence.masses @ relaxed / evidence.masses.sum()))
    if centre > CENTRE_TOLERANCE_A:
        found.error("relaxed", f"its centre of mass is {centre:.2g} A off the origin")
    first, second = evidence.pairs
    lengths = np.linalg.norm(relaxed[first] - relaxed[second], axis=1)
    apart = evidence.bonds_apart
    near = lengths / evidence.touching
    low, high = BOND_LENGTHS
    if near.min() < low or near[apart == 1].max(initial=0) > high:
        worst = near.min() if near.min() < low else near[apart == 1].max()
        found.error("relaxed", f"atoms at {worst:.2g} times the sum of their radii")
        return
    means = np.median(evidence.distances, axis=0) / lengths - 1
    for away, what, limit in ((1, "bonded", NEAR), (2, "next-nearest", ANGLE)):
        off = np.where(apart == away, np.abs(means), 0.0)
        if off.max() > limit:
            worst = int(off.argmax())
            message = f"{what} atoms {first[worst]} and {second[worst]} are {off.max():.1%} farther"
            found.error("relaxed", f"{message} apart, or nearer, than in the middle of all frames")
            return


def check_stereo(evidence: Evidence, found: Findings) -> None:
    """Stereo centres and double bonds of relaxed structure and first frame are the SMILES's."""
    stated = _stereo(evidence.metadata.mapped_smiles, None)
    if not stated:
        return
    for what, positions in (
        ("relaxed structure", evidence.reference),
        ("first frame", evidence.positions[0]),
    ):
        seen = _stereo(evidence.metadata.mapped_smiles, positions)
        if any(seen.get(place) != label for place, label in stated.items()):
            found.error("stereo", f"that of the {what} is not that of the SMILES")


def _stereo(mapped_smiles: str, positions: np.ndarray | None) -> dict[tuple[int, ...], str]:
    """R/S of stereo centres and E/Z of double bonds, as written or as positions (A) have them."""
    from rdkit import Chem, rdBase

    from tg80.chemistry.molecule import graph_of_mapped_smiles

    with rdBase.BlockLogs():
        # Without map numbers, which would take part in the priorities.
        mol = graph_of_mapped_smiles(mapped_smiles)
        if mol is None:
            raise ValueError("invalid atom-mapped SMILES")
        if positions is None:
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
        else:
            conformer = Chem.Conformer(len(positions))
            conformer.SetPositions(positions)
            mol.AddConformer(conformer)
            Chem.AssignStereochemistryFrom3D(mol)
    labels: dict[tuple[int, ...], str] = dict(
        ((atom,), label) for atom, label in Chem.FindMolChiralCenters(mol)
    )
    for bond in mol.GetBonds():
        if bond.GetStereo() != Chem.BondStereo.STEREONONE:
            ends = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            labels[tuple(ends)] = bond.GetStereo().name
    return labels
