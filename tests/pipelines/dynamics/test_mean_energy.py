"""The mean energy of a start, where some frames of the NVT run have no energies."""

import numpy as np
import pytest

from pipelines.dynamics.mean_energy import mean_potential
from tests.support import factories


def test_the_mean_potential_is_taken_of_frames_that_have_one():
    model = factories.spring_model(factories.as_molecule("ethanol"))
    velocities = factories.start_velocities(model, np.random.default_rng(3))
    settings = {"n_frames": 1600, "store_every_fs": 2.0, "time_step_fs": 0.5}
    run = factories.integrate([model], [velocities], **settings)[0]
    nvt = factories.frame_arrays(model, run, 2.0, 0.5)
    whole = mean_potential(nvt, 0.3)
    some = mean_potential(factories.between_evaluations(nvt, 5), 0.3)
    # With the kinetic energy of the same frames taken off, what is left hardly fluctuates.
    assert some == pytest.approx(whole, abs=0.02)
