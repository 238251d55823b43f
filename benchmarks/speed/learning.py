"""What the `learned` integrator is taught before it is measured, and what that costs.

It learns on a branch of its own, as `tg80 generate` does: from frames of GFN2-xTB with stretched
bonds to hydrogen, then from dynamics at the level (NVT), which begin at the same geometry with
other velocities. So what is measured afterwards is not what was fitted.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.scaffold import timed
from benchmarks.speed.starts import Start, cheap_dynamics
from pipelines.dynamics.inner_potential import (
    KernelCorrection,
    fit_correction,
    largest_correction,
)
from pipelines.dynamics.learner import OUTER_STEPS, Learner, most_fits
from pipelines.dynamics.segments import Stage, StagePlan
from pipelines.engines.engine import Resources
from tg80.chemistry.permutations import feasible_permutations

SEED_DYNAMICS_FS = 2000.0  # GFN2-xTB dynamics that the frames with stretched bonds come from
SEGMENT_FS = 50.0
_NEVER = 10**9


@dataclass(frozen=True)
class Learning:
    """What a correction took.

    Attributes:
        n_labels: geometries at which the level and GFN2-xTB were evaluated.
        n_seeds: those of them with stretched bonds.
        length_fs: length of the dynamics that gave the others.
        outer_step_fs: what the integrator came to in these by its own rule.
        cpu_s: CPU time of all of it, fits included.
        fit_cpu_s: CPU time of a fit to as many frames as one takes at most.
    """

    n_labels: int
    n_seeds: int
    length_fs: float
    outer_step_fs: float
    cpu_s: float
    fit_cpu_s: float

    def run_cpu_s(self, length_fs: float, outer_fs: float, cpu_s_per_fs: float) -> float:
        """CPU time of a run of that length that begins with this learning.

        Args:
            length_fs: of the run, the dynamics of the learning included.
            outer_fs: outer step of the rest.
            cpu_s_per_fs: what the rest costs, but for the fits.
        """
        rest_fs = max(0.0, length_fs - self.length_fs)
        fits = most_fits(self.n_labels, self.n_labels + rest_fs / outer_fs)
        return self.cpu_s + rest_fs * cpu_s_per_fs + fits * self.fit_cpu_s


def learn(
    start: Start, level: str, inner_fs: float, labels: int, resources: Resources
) -> tuple[KernelCorrection, Learning]:
    """A correction fitted to at least so many labels.

    Raises:
        RunFailed: a computation failed, or the last fit.
    """
    rng = np.random.default_rng([start.molecule.n_atoms, 1])
    branch = start.warmed(rng)
    path = [one.positions for one in cheap_dynamics(branch, SEED_DYNAMICS_FS, rng)]
    permutations = feasible_permutations(start.molecule, start.positions)
    stepper = branch.stepper(level, OUTER_STEPS[0].fs, inner_fs, resources)
    learner = Learner(
        stepper, start.molecule.atomic_numbers, OUTER_STEPS,
        seed_frames=lambda: np.array(path[::20]), before=lambda: None,
        permutations=lambda _: permutations,
    )  # fmt: skip
    plan = StagePlan(
        identity=start.molecule.name, n_steps=_NEVER,
        steps_per_segment=round(SEGMENT_FS / inner_fs), store_stride=_NEVER, seed=(1,),
    )  # fmt: skip
    begin = lambda: (branch.positions, branch.velocities)  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="atom-bench-") as folder, timed() as clock:
        stage = Stage(Path(folder), plan, start.body, stepper, branch.thermostat(), begin, learner)
        while (progress := stage.advance()).header["inner"]["n_seen"] < labels:
            pass
        known = learner.known
        correction = fit_correction(known.positions, known.differences, permutations)
    with timed() as fit_clock:
        largest_correction(start.positions, permutations, rng)
    return correction, Learning(
        n_labels=known.n_seen,
        n_seeds=known.n_seeds,
        length_fs=progress.step * inner_fs,
        outer_step_fs=known.outer_step_fs,
        cpu_s=clock.cpu_s,
        fit_cpu_s=fit_clock.cpu_s,
    )
