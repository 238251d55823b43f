"""The part of `tg80 validate` that looks at charges, dipole moment and self-consistency."""

import numpy as np

from tg80.shards.checks.evidence import Evidence
from tg80.shards.fields import FIELDS
from tg80.shards.problems import Findings

# Charges were once kept to 11 bits: their sum is known to this share of the sum of their sizes.
CHARGE_ROUNDING = 2.0**-11
# The worst frame's charges beside the usual fluctuations, which count as this many e at least.
CHARGES_OUTLIER, LEAST_CHANGE, FEW_FRAMES = 5.0, 0.003, 20
CLEAR_CHARGE = 0.05  # e
MOST_CYCLES = 5000
# Net force (eV/A) and torque (eV) before projection that tight binding, which has no grid, leaves.
RAW_WITHOUT_GRID = 1e-3
# Pauling's electronegativities. Signs are judged where one of the elements of the second list
# pulls electrons from the others beyond doubt, in hydrocarbons where charges are not next to
# nothing (mean size, e): 0.014 and of the other sign in naphthalene at PBE/def2-SVP.
ELECTRONEGATIVITY = {
    1: 2.20, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16,
    35: 2.96, 53: 2.66,
}  # fmt: skip
PULLING, OF_HYDROCARBONS = (7, 8, 9, 17, 35), 0.02
WRONG_SIGN = 0.2  # correlation of charges with electronegativity: -0.1 to -1 in what is right
POLAR = 0.1  # e A, a dipole moment whose sign can be told
# Effective charges, e: the largest, and their root mean square; 1.5 and 0.66 in what is right, 2.2
# and 1.1 in phosphoric acid.
EFFECTIVE_CHARGES, OF_OTHER_ELEMENTS = (2.5, 0.8), (5.0, 2.0)
DIPOLE_OUTLIER = 9.0  # the worst frame beside the usual one: 4 in what is right


def check_charges(evidence: Evidence, found: Findings) -> None:
    """Charges add up to the molecule's and pile up on electronegative elements."""
    charges = evidence.frames["mulliken_charges"].astype(float)
    off = np.abs(charges.sum(axis=1) - evidence.metadata.charge)
    rounding = FIELDS["mulliken_charges"].largest_rounding * evidence.n_atoms
    limit = 1e-3 + rounding + CHARGE_ROUNDING * np.abs(charges).sum(axis=1)
    message = f"do not add up to the molecule's {evidence.metadata.charge} in frame {{frame}}"
    found.above("charges", off - limit, 0.0, message)
    middle = np.median(charges, axis=0)
    usual = np.maximum(1.4826 * np.median(np.abs(charges - middle), axis=0), LEAST_CHANGE)
    away = np.sqrt(np.mean(((charges - middle) / usual) ** 2, axis=1))
    if evidence.n_frames >= FEW_FRAMES:
        message = "of frame {frame} are {worst:.0f} times as far as usual from those of the others"
        found.above("charges", away, CHARGES_OUTLIER, message)
    largest = np.abs(charges).max(axis=1)
    if np.median(largest) > CLEAR_CHARGE:
        message = "are next to zero in frame {frame}"
        found.above("charges", -largest, -0.1 * float(np.median(largest)), message)
    if _wrong_sign(charges.mean(axis=0), evidence):
        found.error("charges", "are positive on electronegative elements: the sign is wrong")


def check_dipole(evidence: Evidence, found: Findings) -> None:
    """The dipole moment is that of effective charges of the right sign and of a possible size."""
    dipole = evidence.frames["dipole"].astype(float)
    if evidence.n_frames < 2 * evidence.n_atoms:
        return
    places = evidence.relative.transpose(0, 2, 1).reshape(-1, evidence.n_atoms)
    effective = _ridge(places, dipole)
    sizes = np.abs(effective).max(), np.sqrt(np.mean(effective**2))
    elements = set(evidence.numbers.tolist())
    limits = EFFECTIVE_CHARGES if elements <= {1, 6, *PULLING} else OF_OTHER_ELEMENTS
    if sizes[0] > limits[0] or sizes[1] > limits[1]:
        message = f"needs charges up to {sizes[0]:.2g} e, {sizes[1]:.2g} e in the mean square"
        found.error("dipole", f"{message}: its unit is wrong")
    polar = np.sqrt(np.mean(np.sum(dipole**2, axis=1))) > POLAR
    clear = elements != {1, 6} and (evidence.n_atoms > 2 or 1 in elements)  # not in CO
    if polar and clear and _wrong_sign(effective, evidence):
        found.error("dipole", "points from minus to plus the wrong way: the sign is wrong")
    charges = evidence.frames["mulliken_charges"].astype(float)
    of_charges = np.einsum("ta,tai->ti", charges, evidence.relative)
    both = np.column_stack([places, of_charges.ravel()])
    left = np.linalg.norm(dipole - (both @ _ridge(both, dipole)).reshape(-1, 3), axis=1)
    usual = max(float(np.median(left)), FIELDS["dipole"].largest_rounding)
    message = "is {worst:.0f} times as far as usual from that of the charges in frame {frame}"
    found.above("dipole", left / usual, DIPOLE_OUTLIER, message)


def _ridge(design: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Coefficients (n,) of the columns of design (3 n_frames, n) that fit vectors (n_frames, 3)."""
    squares = design.T @ design
    ridge = 1e-4 * np.trace(squares) / len(squares) * np.eye(len(squares))
    return np.linalg.solve(squares + ridge, design.T @ vectors.ravel())


def _wrong_sign(charges: np.ndarray, evidence: Evidence) -> bool:
    """Whether charges (n_atoms,) grow with the electronegativity of their elements."""
    numbers = evidence.numbers.tolist()
    known = all(number in ELECTRONEGATIVITY for number in numbers)
    clear = bool(set(numbers) & set(PULLING))
    clear |= set(numbers) == {1, 6} and np.abs(charges).mean() > OF_HYDROCARBONS
    if not known or not clear or len(set(numbers)) < 2:
        return False
    pulls = np.array([ELECTRONEGATIVITY[number] for number in numbers])
    if charges.std() < 1e-6:
        return False
    return bool(np.corrcoef(charges, pulls)[0, 1] > WRONG_SIGN)


def check_scf(evidence: Evidence, found: Findings) -> None:
    """Cycles are counts, or -1 throughout; convergence is 0 or 1."""
    cycles, converged = evidence.frames["scf_cycles"], evidence.frames["scf_converged"]
    untold = evidence.metadata.level_settings.get("method") == "xtb"
    if untold and np.any(cycles != -1):
        found.error("scf cycles", "are told, though the method does not tell them")
    elif np.any(cycles != -1) and (cycles.min() < 1 or cycles.max() > MOST_CYCLES):
        message = f"are {cycles.min()} to {cycles.max()}, not 1 to {MOST_CYCLES}"
        found.error("scf cycles", message)
    if not np.all(np.isin(converged, (0, 1))):
        found.error("scf", f"scf_converged holds {converged.max()}, not 0 or 1")


def check_raw(evidence: Evidence, found: Findings) -> None:
    """What was projected out of the forces is the noise of a grid, where there is a grid.

    A net torque is always left, as the grid does not turn with the molecule; a net force only by
    shards from before forces had the grid's response.
    """
    method = evidence.metadata.level_settings.get("method")
    for name in ("raw_net_force", "raw_net_torque"):
        sizes = np.linalg.norm(evidence.frames[name].astype(float), axis=1)
        if method == "xtb":
            message = f"{name} is {{worst:.2g}} in frame {{frame}}, though there is no grid"
            found.above("raw forces", sizes, RAW_WITHOUT_GRID, message)
        elif method == "rks" and evidence.n_atoms > 2 and name == "raw_net_torque":
            message = f"{name} is zero in frame {{frame}}; an integration grid always leaves some"
            found.above("raw forces", sizes == 0, 0, message)
