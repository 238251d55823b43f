"""Levels of theory: names, overrides, refusals, isolated atoms."""

import json

import pytest

from tg80.errors import UserError
from tg80.theory import LEVELS, SUPPORTED_ELEMENTS, UNPAIRED_ELECTRONS, get_level


def test_the_dataset_level_is_what_the_design_says():
    level = get_level("pbe-def2svp")
    assert (level.functional, level.basis) == ("PBE", "def2-SVP")
    assert level.auxiliary_basis == "def2-universal-jkfit"
    assert (level.grid_level, level.small_rho_cutoff) == (3, 0.0)


def test_unknown_level_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="pbe-def2svp-exact"):
        get_level("b3lyp")


def test_override_renames_and_equal_overrides_share_the_name():
    level = get_level("pbe-def2svp")
    first, second = level.customised(grid_level=4), level.customised(grid_level=4)
    assert first.name == second.name != level.customised(grid_level=5).name
    assert first.name.startswith("custom-") and len(first.name) == len("custom-") + 8
    assert first.grid_level == 4 and first.isolated_atom_energies == {}
    assert level.customised(grid_level=3) is level


@pytest.mark.parametrize("override", [{"grids": 3}, {"grid_level": 12}, {"name": "mine"}])
def test_bad_override_is_refused_in_one_line(override):
    with pytest.raises(UserError) as error:
        get_level("pbe-def2svp").customised(**override)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", list(LEVELS))
def test_uncovered_elements_are_refused_by_name(name):
    with pytest.raises(UserError, match=rf"{name} does not cover element Fe"):
        get_level(name).check_molecule([26, 8], 0)
    with pytest.raises(UserError, match="atomic number 0"):
        get_level(name).check_elements([0, 8])


def test_open_shells_are_refused():
    level = get_level("pbe-def2svp")
    level.check_molecule([8, 1, 1], 0)
    with pytest.raises(UserError, match="9 electrons at charge \\+1"):
        level.check_molecule([8, 1, 1], 1)
    with pytest.raises(UserError, match="electrons"):
        level.check_molecule([1, 1], 2)


@pytest.mark.parametrize("name", list(LEVELS))
def test_every_level_knows_its_isolated_atoms_and_dumps_to_json(name):
    level = get_level(name)
    assert set(level.isolated_atom_energies) == set(SUPPORTED_ELEMENTS) == set(UNPAIRED_ELECTRONS)
    assert all(energy < -5.0 for energy in level.isolated_atom_energies.values())
    assert json.loads(json.dumps(level.model_dump(mode="json")))["name"] == name
