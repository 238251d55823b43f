"""GPU4PySCF on a real device: `pytest -m gpu`; skipped, with the reason, where there is none."""

import subprocess
import sys

import numpy as np
import pytest

from pipelines.engines.dft.gpu_devices import find_gpus
from pipelines.engines.engine import Resources
from pipelines.engines.registry import make_engine
from pipelines.run.gpu_check import Geometry, check_against_cpu, check_in_own_process, prepare_run
from tests.pipelines.engines.test_gpu_scf import assert_agree, geometry
from tests.support.structures import displaced, references, structure
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR as FORCE
from tg80.constants import EV_PER_HARTREE
from tg80.errors import UserError
from tg80.theory import get_level

pytestmark = pytest.mark.gpu

LEVELS = ("pbe-def2svp", "pbe-def2svp-tight", "pbe-def2svp-exact")


@pytest.fixture(autouse=True)
def device():
    """Skips where no usable GPU is found."""
    try:
        return find_gpus()
    except UserError as error:
        pytest.skip(str(error))


def gpu_engine(level, numbers):
    return make_engine(level, numbers, resources=Resources(device="cuda"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", sorted(references()))
def test_energy_and_forces_of_the_cpu(level, name):
    check_against_cpu(get_level(level), geometry(name))


def test_bromine_too():
    positions = ((0.0, 0.0, 0.0), (0.0, 0.0, 1.414))
    place = Geometry("hydrogen-bromide", (35, 1), 0, positions)
    check_against_cpu(get_level("pbe-def2svp"), place)


def test_a_path_with_history_and_the_same_object():
    numbers, positions = structure("water")
    path = displaced(positions, 10)
    gpu, cpu = gpu_engine("pbe-def2svp", numbers), make_engine("pbe-def2svp", numbers)
    cycles = []
    for place in path:
        ours, theirs = gpu.evaluate(place), cpu.evaluate(place)
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-6 * EV_PER_HARTREE)
        assert np.abs(ours.forces - theirs.forces).max() < 3e-5 * FORCE
        cycles.append(ours.scf_cycles)
    assert max(cycles[4:]) <= cycles[0] - 3


def test_state_passes_between_devices():
    numbers, positions = structure("formaldehyde")
    path = displaced(positions, 6)
    cpu, gpu = make_engine("pbe-def2svp-tight", numbers), gpu_engine("pbe-def2svp-tight", numbers)
    for place in path[:3]:
        cpu.evaluate(place)
    gpu.load_state(cpu.state())
    for place in path[3:]:
        assert_agree(gpu.evaluate(place), cpu.evaluate(place))
    cpu.load_state(gpu.state())
    assert_agree(cpu.evaluate(path[5]), gpu.evaluate(path[5]))


def test_repeats_agree_to_the_summation_order():
    numbers, positions = structure("formaldehyde")
    results = [gpu_engine("pbe-def2svp", numbers).evaluate(positions) for _ in range(3)]
    energies = np.array([result.energy for result in results])
    assert np.ptp(energies) < 1e-8 * EV_PER_HARTREE
    forces = np.array([result.forces for result in results])
    assert np.ptp(forces, axis=0).max() < 1e-6 * FORCE


def test_the_check_before_a_run():
    assert (
        prepare_run("pbe-def2svp", [molecule_from_smiles("CO"), molecule_from_smiles("CCl")]) >= 1
    )
    check_in_own_process(get_level("pbe-def2svp"), [geometry()])


_SIDE_BY_SIDE = """
import sys
from pipelines.engines.registry import make_engine
from pipelines.engines.engine import Resources
from tests.support.structures import displaced, structure
numbers, positions = structure("water")
engine = make_engine("pbe-def2svp", numbers, resources=Resources(device="cuda"))
print([round(engine.evaluate(place).energy, 5) for place in displaced(positions, 20)])
"""


def test_four_processes_side_by_side_give_the_same():
    command = [sys.executable, "-c", _SIDE_BY_SIDE]
    pipes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate()[0].strip() for process in pipes]
    assert all(process.returncode == 0 for process in pipes)
    values = np.array([[float(word) for word in answer[1:-1].split(",")] for answer in answers])
    assert np.ptp(values, axis=0).max() < 1e-4
