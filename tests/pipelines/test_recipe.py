"""Recipes: what is read, what is refused, and that a file reads back to an equal recipe."""

from pathlib import Path

import pytest

from pipelines.recipe import Recipe, load_recipe, recipe_to_toml
from tg80.errors import UserError


def test_defaults_are_those_of_the_dataset():
    recipe = Recipe()
    assert (recipe.level, recipe.integrator, recipe.thermostat) == ("pbe-def2svp", "learned", "nve")
    assert (recipe.outer_step_fs, recipe.inner_step_fs) == (None, 0.25)
    assert (recipe.length_fs, recipe.equilibration_fs) == (32000, 2500)
    assert recipe.time_step_fs == 0.25 and recipe.first_step_fs == 1.0


def test_the_cheap_level_runs_verlet():
    recipe = Recipe(level="gfn2-xtb")
    assert (recipe.integrator, recipe.time_step_fs, recipe.segment_fs) == ("verlet", 0.5, 1000)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(level="gfn2-xtb", length_fs=100, seed=3),
        Recipe(theory={"grid_level": 4}, thermostat="bussi"),
    ],
)
def test_toml_round_trip(tmp_path, recipe):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_to_toml(recipe))
    assert load_recipe(file) == recipe
    assert load_recipe(file).sha256 == recipe.sha256


def test_shipped_recipes_load():
    folder = Path(__file__).parents[2]
    files = [*folder.glob("pipelines/recipes/*.toml"), folder / "examples/demo.toml"]
    assert len(files) >= 2
    for file in files:
        load_recipe(file)


def test_options_go_before_the_file_and_set_before_options(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("seed = 1\nlength_fs = 100\n[quality]\ngap_ev = 0.4\n")
    recipe = load_recipe(file, {"seed": 2, "length_fs": None}, ["seed=3", "quality.gap_ev=0.3"])
    assert (recipe.seed, recipe.length_fs, recipe.quality.gap_ev) == (3, 100, 0.3)


def test_a_theory_override_renames_the_level():
    name = load_recipe(None, {}, ["theory.grid_level=4"]).resolved_level().name
    assert name.startswith("custom-")


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        ({"level": "b3lyp"}, [], "b3lyp"),
        ({"length_fs": -5}, [], "length_fs"),
        ({"length_fs": float("inf")}, [], "length_fs"),
        ({"temperature_k": float("nan")}, [], "temperature_k"),
        ({"seed": 2**63}, [], "seed"),
        ({"temperature_k": 0}, [], "temperature_k"),
        ({"thermostat": "nose"}, [], "thermostat"),
        ({"level": "gfn2-xtb", "integrator": "mts"}, [], "verlet"),
        ({"length_fs": 10.3}, [], "multiple"),
        ({"store_every_fs": 3, "length_fs": 100}, [], "multiple"),
        ({}, ["lenght_fs=10"], "lenght_fs: no such setting"),
        ({}, ["quality.gap=1"], "quality.gap: no such setting"),
        ({}, ["seed"], "name=value"),
        ({}, ["seed.deep=1", "seed.deep.er=2"], "single value"),
        ({}, ["theory.grid_levle=4"], "grid_levle"),
    ],
)
def test_bad_settings_give_one_line(options, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(None, options, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"not toml", b"\xff\xfe", b"no_such = 1"])
def test_bad_recipe_files_are_named(tmp_path, content):
    file = tmp_path / "recipe.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"recipe\.toml") as caught:
        load_recipe(file)
    assert "\n" not in str(caught.value)


def test_differences_name_each_setting():
    lines = Recipe(seed=1).differences(Recipe(seed=2, length_fs=100))
    assert lines == ["length_fs: 32000.0, now 100.0", "seed: 1, now 2"]
