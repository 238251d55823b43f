"""The GPU engine's own code run on PySCF's CPU classes: real DFT, no GPU.

GPU4PySCF mirrors these classes; what only a GPU can show is in test_gpu_device.py.
"""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.engines.dft.gpu import LibraryHamiltonian, pyscf_library
from pipelines.engines.dft.scf import KohnShamEngine
from pipelines.engines.engine import Resources
from pipelines.engines.registry import make_engine
from pipelines.engines.xtb import XtbEngine
from pipelines.run.gpu_check import (
    Geometry,
    check_against_cpu,
    prepare_run,
    representatives,
    tightened,
)
from tests.support.structures import displaced, structure
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.constants import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR as FORCE
from tg80.constants import EV_PER_HARTREE
from tg80.errors import RunFailed
from tg80.theory import Level, get_level

ENERGY_TOLERANCE = 1e-6 * EV_PER_HARTREE
FORCE_TOLERANCE = 1e-5 * FORCE


def twin(level: str | Level = "pbe-def2svp", numbers=(8, 1, 1), charge=0, **library):
    """The GPU engine on PySCF's classes."""
    level = get_level(level) if isinstance(level, str) else level
    library = replace(pyscf_library(), **library)
    return KohnShamEngine(LibraryHamiltonian(level, numbers, charge, library))


def geometry(name="water") -> Geometry:
    numbers, positions = structure(name)
    return Geometry(name, tuple(numbers), 0, tuple(map(tuple, positions.tolist())))


def assert_agree(first, second):
    assert first.energy == pytest.approx(second.energy, abs=ENERGY_TOLERANCE)
    assert np.abs(first.forces - second.forces).max() < FORCE_TOLERANCE
    assert np.abs(first.dipole - second.dipole).max() < 1e-5
    assert np.abs(first.charges - second.charges).max() < 1e-5
    assert first.gap == pytest.approx(second.gap, abs=1e-4)
    assert first.converged and second.converged


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("pbe-def2svp", "formaldehyde"),
        ("pbe-def2svp-exact", "water"),
        pytest.param("pbe-def2svp-tight", "water", marks=pytest.mark.slow),
    ],
)
def test_same_energy_forces_and_properties_as_the_cpu_engine(level, name):
    numbers, positions = structure(name)
    level = tightened(get_level(level))
    ours = twin(level, numbers).evaluate(positions)
    assert_agree(ours, make_engine(level, numbers).evaluate(positions))


def test_an_ions_dipole_is_about_its_centre_of_mass():
    positions = structure("water")[1][:2]
    level = tightened(get_level("pbe-def2svp"))
    ours = twin(level, [8, 1], charge=-1).evaluate(positions)
    assert_agree(ours, make_engine(level, [8, 1], charge=-1).evaluate(positions))


def test_state_passes_between_cpu_and_gpu_engines():
    """Three geometries on one side, three on the other, and back; the history saves cycles."""
    numbers, positions = structure("water")
    path = displaced(positions, 9)
    reference = make_engine("pbe-def2svp", numbers)
    expected = [reference.evaluate(place) for place in path]
    engines = [make_engine("pbe-def2svp", numbers), twin(), make_engine("pbe-def2svp", numbers)]
    results, cycles = [], []
    for index, engine in enumerate(engines):
        if results:
            engine.load_state(engines[index - 1].state())
        for place in path[3 * index : 3 * index + 3]:
            results.append(engine.evaluate(place))
            cycles.append(engine.last_solution.coarse_cycles)
    for result, wanted in zip(results, expected, strict=True):
        assert result.energy == pytest.approx(wanted.energy, abs=ENERGY_TOLERANCE)
        assert np.abs(result.forces - wanted.forces).max() < 2e-5 * FORCE
    assert engines[1].last_attempt == "two grids"
    assert max(cycles[3:]) <= cycles[0] - 4
    states = [engine.state() for engine in engines]
    for name, array in states[0].items():
        # Of the products of pairs with each other there are as many as pairs.
        assert name == "pair_products" or states[1][name].shape[1:] == array.shape[1:]
        assert states[1][name].dtype == array.dtype


def test_reset_forgets_and_another_molecules_state_is_refused():
    engine = twin()
    positions = structure("water")[1]
    first = engine.evaluate(positions)
    state = engine.state()
    engine.reset()
    again = engine.evaluate(positions)
    assert again.scf_cycles == first.scf_cycles
    with pytest.raises(RunFailed, match="another run"):
        twin(numbers=[1, 1]).load_state(state)


def test_failure_ladder():
    positions = structure("water")[1]
    with pytest.raises(RunFailed, match=r"a fresh guess.*level shift.*second-order") as error:
        twin(get_level("pbe-def2svp").customised(max_cycles=1)).evaluate(positions)
    assert "\n" not in str(error.value)
    rescued = twin(get_level("pbe-def2svp").customised(max_cycles=6, gradient_threshold=9e-6))
    evaluation = rescued.evaluate(positions)
    assert rescued.last_attempt == "second-order optimisation"
    plain = make_engine("pbe-def2svp", [8, 1, 1]).evaluate(positions)
    assert np.abs(evaluation.forces - plain.forces).max() < 2e-5 * FORCE


def test_a_full_or_broken_gpu_ends_with_a_named_reason():
    def full(array):
        raise MemoryError("Out of memory allocating 512 bytes\n(limit set to: 256 bytes)")

    def broken(array):
        raise RuntimeError("int3c2e_ejk_ip1 failed")

    positions = structure("water")[1]
    with pytest.raises(RunFailed, match=r"H2O at pbe-def2svp: out of GPU memory .*--gpu-traj"):
        twin(to_device=full).evaluate(positions)
    with pytest.raises(RunFailed, match="int3c2e_ejk_ip1 failed"):
        twin(to_device=broken).evaluate(positions)


def test_held_memory_is_given_back_when_it_exceeds_the_limit():
    released = []
    positions = structure("water")[1]
    for held, times in ((10_000_000, 0), (3_000_000_000, 1)):
        released.clear()
        library = {"held_bytes": lambda held=held: held, "release": lambda: released.append(1)}
        twin(**library).evaluate(positions)
        assert len(released) == times


def test_check_accepts_the_same_physics():
    level = get_level("pbe-def2svp")
    check_against_cpu(level, geometry(), twin(tightened(level)))


def test_check_stops_another_density_fit_by_its_energy_and_another_grid_by_its_forces():
    level = get_level("pbe-def2svp")
    fit = tightened(level).customised(auxiliary_basis="def2-universal-jfit")
    with pytest.raises(RunFailed, match=r"hartree, the CPU -7\d\.\d+: .*use --device cpu"):
        check_against_cpu(level, geometry(), twin(fit))
    grid = tightened(level).customised(grid_level=2)
    with pytest.raises(RunFailed, match=r"force on atom \d along [xyz]: the GPU gives"):
        check_against_cpu(level, geometry(), twin(grid))


def test_nan_is_no_agreement():
    level = get_level("pbe-def2svp")

    class Lost(KohnShamEngine):
        def evaluate(self, positions):
            return replace(super().evaluate(positions), energy=float("nan"))

    with pytest.raises(RunFailed, match="the GPU gives nan"):
        lost = Lost(LibraryHamiltonian(tightened(level), (8, 1, 1), 0, pyscf_library()))
        check_against_cpu(level, geometry(), lost)


def test_few_small_molecules_stand_for_all_elements_of_a_run():
    smiles = ["CCCCO", "CO", "c1ccccc1", "CCl", "CCCl", "CS", "O"]
    chosen = representatives([molecule_from_smiles(text) for text in smiles])
    elements = set().union(*(set(place.atomic_numbers) for place in chosen))
    assert elements == {1, 6, 8, 16, 17}
    assert len(chosen) == 3
    assert all(len(place.atomic_numbers) <= 6 for place in chosen)
    assert np.isfinite(np.array(chosen[0].positions)).all()
    assert representatives([]) == []


def test_xtb_stays_on_the_cpu():
    engine = make_engine("gfn2-xtb", [8, 1, 1], resources=Resources(device="cuda"))
    assert isinstance(engine, XtbEngine)
    assert prepare_run("gfn2-xtb", []) == 0
