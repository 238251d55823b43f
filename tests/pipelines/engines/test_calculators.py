"""The GFN2-xTB engine, engines by name, and the ASE calculator around them."""

import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS
from scipy.spatial.transform import Rotation

from pipelines.engines.ase import EngineCalculator
from pipelines.engines.engine import formula
from pipelines.engines.registry import make_engine
from pipelines.engines.xtb import XtbEngine
from tests.support.structures import directional_derivatives, displaced, structure
from tg80.errors import RunFailed, UserError
from tg80.theory import get_level


def test_forces_are_minus_the_slope_of_the_energy():
    numbers, positions = structure("ethanol")
    analytic, numerical = directional_derivatives(make_engine("gfn2-xtb", numbers), positions, 1e-3)
    assert analytic == pytest.approx(numerical, abs=5e-5)


def test_moves_with_the_frame():
    numbers, positions = structure("ethanol")
    engine = make_engine("gfn2-xtb", numbers)
    here = engine.evaluate(positions)
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    there = engine.evaluate(positions @ turn.T + np.array([3.0, -20.0, 7.0]))
    assert there.energy == pytest.approx(here.energy, abs=1e-6)
    assert np.abs(there.forces - here.forces @ turn.T).max() < 1e-4
    assert np.abs(there.dipole - turn @ here.dipole).max() < 1e-4
    assert there.gap == pytest.approx(here.gap, abs=1e-4) and here.gap > 1.0


def test_known_dipole_and_charges_of_water():
    """GFN2-xTB gives water 2.2 debye (0.46 e A), along the bisector, away from oxygen."""
    atoms = molecule("H2O")
    evaluation = make_engine("gfn2-xtb", atoms.numbers).evaluate(atoms.positions)
    assert evaluation.charges.sum() == pytest.approx(0.0, abs=1e-8)
    assert evaluation.charges[0] < -0.3
    assert np.linalg.norm(evaluation.dipole) == pytest.approx(0.46, abs=0.03)
    bisector = atoms.positions[1:].mean(axis=0) - atoms.positions[0]
    assert np.dot(evaluation.dipole, bisector) > 0


def test_an_ions_dipole_is_about_its_centre_of_mass():
    numbers, positions = structure("water")
    engine = make_engine("gfn2-xtb", numbers[:2], charge=-1)
    here = engine.evaluate(positions[:2])
    there = engine.evaluate(positions[:2] + np.array([0.0, 10.0, -4.0]))
    assert here.charges.sum() == pytest.approx(-1.0, abs=1e-6)
    assert np.abs(there.dipole - here.dipole).max() < 1e-5


def test_reset_gives_the_same_bits_whatever_came_before():
    numbers, positions = structure("ethanol")
    path = displaced(positions, 6)
    engine = make_engine("gfn2-xtb", numbers)
    fresh = [engine.evaluate(geometry) for geometry in path[3:]]
    engine.reset()
    for geometry in path:
        engine.evaluate(geometry)
    engine.load_state(engine.state())
    again = [engine.evaluate(geometry) for geometry in path[3:]]
    assert engine.state() == {}
    for first, second in zip(fresh, again, strict=True):
        assert first.energy == second.energy
        assert np.array_equal(first.forces, second.forces)


_OTHER = """
import sys
import numpy as np
from pipelines.engines.registry import make_engine
data = np.load(sys.argv[1])
engine = make_engine("gfn2-xtb", data["numbers"])
np.save(sys.argv[2], np.stack([engine.evaluate(p).forces for p in data["positions"]]))
"""


def test_another_process_gives_the_same_bits(tmp_path):
    numbers, positions = structure("ethanol")
    path = displaced(positions, 3)
    np.savez(tmp_path / "in.npz", numbers=numbers, positions=path)
    files = [str(tmp_path / "in.npz"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", _OTHER, *files], check=True)
    engine = make_engine("gfn2-xtb", numbers)
    here = np.stack([engine.evaluate(geometry).forces for geometry in path])
    assert np.array_equal(np.load(tmp_path / "out.npy"), here)


def test_restarting_from_the_last_density_changes_forces_by_little():
    numbers, positions = structure("ethanol")
    engine = make_engine("gfn2-xtb", numbers)
    path = displaced(positions, 10)
    restarted = [engine.evaluate(geometry) for geometry in path][-1]
    engine.reset()
    assert np.abs(engine.evaluate(path[-1]).forces - restarted.forces).max() < 1e-5


def test_broken_bonds_are_rescued_and_the_energy_rises_with_the_distance():
    atoms = molecule("C2H4")
    energies = [
        make_engine("gfn2-xtb", atoms.numbers).evaluate(factor * atoms.positions).energy
        for factor in (1, 2, 3, 4, 5, 300)  # the first attempt fails from 3 on
    ]
    assert energies == sorted(energies) and energies[-1] - energies[-2] < 0.1


def test_no_self_consistency_fails_soon_and_by_name_and_leaves_nothing_behind():
    atoms = molecule("CO2")
    engine = make_engine("gfn2-xtb", atoms.numbers)
    fresh = engine.evaluate(atoms.positions)
    began = time.process_time()
    for factor in (4, 20, 600):  # after a density and after a failure
        with pytest.raises(RunFailed, match=r"CO2 at gfn2-xtb: no .*fresh guess, damping 0.1, .*"):
            engine.evaluate(factor * atoms.positions)
    assert time.process_time() - began < 30  # 1 s is usual; 5000 cycles would take hours
    again = engine.evaluate(atoms.positions)
    assert again.energy == fresh.energy and np.array_equal(again.forces, fresh.forces)


def test_thresholds_beyond_double_precision_are_no_self_consistency():
    numbers, positions = structure("ethanol")
    unreachable = get_level("gfn2-xtb").customised(accuracy=1e-14, max_cycles=5)
    with pytest.raises(RunFailed, match=r"C2H6O at custom-"):
        make_engine(unreachable, numbers).evaluate(positions)
    with pytest.raises(UserError, match="max_cycles"):
        get_level("gfn2-xtb").customised(max_cycles=5000)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-3, 0.01, 0.1, 20.0, 999.0, 1e30, 1e200])
def test_any_distance_gives_finite_numbers_or_a_named_error(distance):
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.76, 0.6], [0.0, 0.76, 0.6 + distance]])
    try:
        evaluation = make_engine("gfn2-xtb", [8, 1, 1]).evaluate(positions)
    except RunFailed as error:
        assert "H2O at gfn2-xtb" in str(error)
    else:
        assert np.isfinite([evaluation.energy, *evaluation.charges, *evaluation.dipole]).all()
        assert np.isfinite(evaluation.forces).all()


def test_positions_that_are_not_finite_fail_by_name():
    with pytest.raises(RunFailed, match="not finite"):
        make_engine("gfn2-xtb", [8, 1, 1]).evaluate(np.full((3, 3), np.inf))


def test_foreign_state_is_refused():
    with pytest.raises(RunFailed, match="orbitals"):
        make_engine("gfn2-xtb", [1, 1]).load_state({"orbitals": np.zeros((0, 0, 0))})


def test_engines_by_name():
    assert isinstance(make_engine("gfn2-xtb", [1, 1]), XtbEngine)
    with pytest.raises(UserError, match="gfn2-xtb"):
        make_engine("gfn7", [1, 1])
    with pytest.raises(UserError, match="element Xe"):
        make_engine("gfn2-xtb", [54, 1])


def test_ase_relaxes_water_through_the_calculator():
    atoms = Atoms("OHH", molecule("H2O").positions * 1.08)
    atoms.calc = EngineCalculator(make_engine("gfn2-xtb", atoms.numbers))
    assert BFGS(atoms, logfile=None).run(fmax=0.005, steps=100)
    assert atoms.get_distance(0, 1) == pytest.approx(0.96, abs=0.01)
    assert atoms.get_charges().sum() == pytest.approx(0.0, abs=1e-8)
    assert atoms.get_dipole_moment().shape == (3,)


def test_formula():
    assert formula([8, 6, 6, 1, 1, 17]) == "C2H2ClO"
