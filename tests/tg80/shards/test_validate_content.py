"""Every check of `validate` of frames and metadata finds the defect it is there for."""

import shutil

import h5py
import numpy as np
import pytest

from tests.support import factories
from tests.tg80.shards.validation import checks_of, errors_of, refresh_checksum
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.dataset import load
from tg80.shards.fields import LEVEL_FIELDS, MISSING
from tg80.shards.shard import Shard
from tg80.shards.validate import validate

WATER = molecule_from_smiles("O", "water")


@pytest.fixture(scope="module")
def acid():
    """Model and arrays of 600 fs of formic acid."""
    model = factories.spring_model(factories.as_molecule("formic-acid"))
    velocities = factories.start_velocities(model, np.random.default_rng(5))
    settings = {"n_frames": 600, "store_every_fs": 1.0, "time_step_fs": 0.125}
    run = factories.integrate([model], [velocities], **settings)[0]
    return model, factories.frame_arrays(model, run, 1.0, 0.125)


def problems_with(acid, tmp_path, *, spoil=None, **changes):
    """(level, check) pairs of a shard with spoilt arrays or changed metadata."""
    model, arrays = acid
    arrays = {name: np.array(values) for name, values in arrays.items()}
    metadata = factories.make_metadata(model, arrays, **({"time_step_fs": 0.125} | changes))
    if spoil is not None:
        spoil(arrays)
    path = tmp_path / "formic-acid-r0.h5md"
    factories.write_shard(path, model, arrays, metadata)
    return checks_of(path)


def spoil(name, change):
    def apply(arrays):
        arrays[name] = change(arrays[name])

    return apply


def tumble(arrays):
    arrays["velocities"] += np.cross([0, 0, 1e-3], arrays["positions"])


def drift_away(arrays):
    arrays["velocities"] += 1e-3


def at(frame, value):
    def change(values):
        values[frame] = value
        return values

    return change


def heat(arrays):
    """A conserved quantity that climbs by 0.2 meV/atom/ps, its potential energy with it."""
    climb = 0.2e-3 * 5 * arrays["time"] / 1000
    arrays["conserved_quantity"] += climb
    arrays["potential_energy"] += climb


def jump(arrays):
    arrays["conserved_quantity"][300:] += 5 * 3e-3
    arrays["potential_energy"][300:] += 5 * 3e-3


def faster(arrays):
    """Velocities in a wrong unit, and the energies that go with them."""
    arrays["velocities"] *= 1.01
    arrays["kinetic_energy"] *= 1.01**2
    arrays["potential_energy"] = arrays["conserved_quantity"] - arrays["kinetic_energy"]


CONTENT_DEFECTS = {
    "not finite": ("error", "finite", spoil("forces", at((5, 0, 0), np.nan))),
    "infinite": ("error", "finite", spoil("dipole", at(7, np.inf))),
    "late start": ("error", "time", spoil("time", lambda t: t + 1)),
    "uneven": ("error", "time", spoil("time", at(10, 10.4))),
    "slower clock": ("error", "time", spoil("time", lambda t: 2 * t)),
    "kinetic": ("error", "kinetic energy", spoil("kinetic_energy", lambda k: 1.01 * k)),
    "conserved": ("error", "energies", spoil("potential_energy", at(3, 0.0))),
    "raw forces": ("error", "net force", spoil("forces", lambda f: f + 1e-3)),
    "torque": (
        "error",
        "net torque",
        lambda a: a.update(forces=a["forces"] + np.cross([0, 0, 1e-2], a["positions"])),
    ),
    "drifting off": ("error", "linear momentum", drift_away),
    "tumbling": ("error", "angular momentum", tumble),
    "velocity unit": ("error", "velocities", faster),
    "force unit": ("error", "work", spoil("forces", lambda f: f * 1.02)),
    "force sign": ("error", "forces", spoil("forces", lambda f: -f)),
    "heating": ("error", "drift", heat),
    "jump": ("error", "drift total", jump),
    "small gap": ("warning", "gap", spoil("homo_lumo_gap", at(4, 0.3))),
    "unconverged": ("warning", "scf", spoil("scf_converged", at(4, 0))),
    "noisy grid": ("warning", "net force", spoil("raw_net_force", at(4, 0.2))),
    "noisy torque": ("warning", "net torque", spoil("raw_net_torque", at(4, 0.5))),
    "unknown flag": ("error", "flags", spoil("quality_flags", at(4, 1 << 20))),
    "dissociation": (
        "error",
        "bond graph",
        spoil("positions", lambda x: x + np.linspace(0, 1, 600)[:, None, None] * 2 * np.eye(5, 3)),
    ),
}


@pytest.mark.parametrize("name", CONTENT_DEFECTS)
def test_spoilt_frames_are_found(name, acid, tmp_path):
    level, check, change = CONTENT_DEFECTS[name]
    assert (level, check) in problems_with(acid, tmp_path, spoil=change)


@pytest.mark.filterwarnings("error")
def test_impossible_arrays_end_nothing(acid, tmp_path):
    """Each bad file gets its lines, no NumPy warning, and the files behind it are looked at."""
    model, arrays = acid
    metadata = factories.make_metadata(model, arrays, time_step_fs=0.125)
    spoilt = {"a": ("positions", 1e30), "b": ("forces", 0.0), "c": ("velocities", 3e38)}
    for folder, (field, value) in spoilt.items():
        (tmp_path / folder).mkdir()
        bad = arrays | {field: np.full_like(arrays[field], value)}
        factories.write_shard(tmp_path / folder / "formic-acid-r0.h5md", model, bad, metadata)
    factories.make_shard(tmp_path / "d", WATER, n_frames=2)
    with h5py.File(tmp_path / "d" / "water-r0.h5md", "r+") as file:
        file["particles/trajectory/mass"][:] = 0
    refresh_checksum(tmp_path / "d" / "water-r0.h5md")
    files = {problem.file for problem in validate(tmp_path) if problem.level == "error"}
    assert len(files) == 4


METADATA_DEFECTS = {
    "length": ("error", "frames", {"length_fs": 700.0}),
    "spacing": ("error", "time", {"store_every_fs": 0.5}),
    "name": ("warning", "name", {"name": "acetic-acid"}),
    "replica": ("warning", "name", {"replica": 3}),
    "level": ("error", "level", {"level": "b3lyp"}),
    "custom": ("error", "level", {"level": "custom-12345678"}),
    "settings": ("error", "level", {"level_settings": {"method": "rks"}}),
    "smiles": ("error", "molecule", {"smiles": "CC=O"}),
    "unreadable smiles": ("error", "molecule", {"smiles": "C1"}),
    "mapped": ("error", "molecule", {"mapped_smiles": "[C:1](=[O:2])([O:3][H:5])[H:4]"}),
    "charge": ("error", "molecule", {"charge": 1}),
    "inchikey": ("error", "molecule", {"inchikey": "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"}),
    "far bond": ("error", "molecule", {"bonds": ((0, 9, 1.0),)}),
    "linear": ("error", "freedom", {"linear": True, "degrees_of_freedom": 10}),
    "freedom": ("error", "freedom", {"degrees_of_freedom": 15}),
    "recipe": ("error", "recipe", {"recipe": {"quality": {"gap_ev": "large"}}}),
    "boast": ("error", "statistics", {"statistics": {"temperature": {"value": 300.0}}}),
}


@pytest.mark.parametrize("name", METADATA_DEFECTS)
def test_metadata_that_do_not_fit_are_found(name, acid, tmp_path):
    level, check, changes = METADATA_DEFECTS[name]
    assert (level, check) in problems_with(acid, tmp_path, **changes)


def test_masses_of_other_elements_are_found(copy):
    with h5py.File(copy, "r+") as file:
        file["particles/trajectory/mass"][0] = 13.003
    refresh_checksum(copy)
    assert "masses" in errors_of(copy)


def test_stated_frames_are_compared_with_stored_ones(copy):
    from tg80.shards.shard import Shard

    with Shard(copy) as shard:
        metadata = shard.metadata.model_copy(update={"n_frames": 500})
    with h5py.File(copy, "r+") as file:
        for name, value in metadata.to_attributes().items():
            file["parameters/tg80"].attrs[name] = value
    refresh_checksum(copy)
    assert errors_of(copy) == {"frames"}


@pytest.mark.parametrize(("start", "expected"), [("mean-energy", True), ("canonical", False)])
def test_temperature_is_judged_only_where_it_was_set(start, expected, tmp_path):
    """Springs at 300 K, stated as 900 K, over more than 5 ps."""
    path = factories.make_shard(
        tmp_path, WATER, n_frames=5200, temperature_k=900.0, start=start, time_step_fs=0.5
    )
    assert (("error", "temperature") in checks_of(path)) is expected


def last_between(change):
    """Change one frame of 5 that has no energies."""

    def apply(values):
        values = np.array(values)
        values[304] = change(values[304])
        return values

    return apply


@pytest.mark.parametrize("every", [2, 5])
def test_a_shard_without_energies_between_evaluations_is_sound(acid, tmp_path, every):
    model, arrays = acid
    learned = model, factories.between_evaluations(arrays, every)
    problems = problems_with(learned, tmp_path, integrator="learned")
    assert not [problem for problem in problems if problem[0] == "error"]


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("forces", last_between(lambda _: 0.0), "missing"),
        ("potential_energy", last_between(lambda _: -1.0), "missing"),
        ("scf_cycles", last_between(lambda _: 3), "missing"),
        ("scf_converged", last_between(lambda _: 1), "missing"),
        ("evaluated", last_between(lambda _: 1), "finite"),
        ("evaluated", last_between(lambda _: 2), "range"),
        ("forces", at(300, np.nan), "finite"),
        ("evaluated", at(0, 0), "missing"),
        ("positions", last_between(lambda x: 1.01 * x), "motion"),
        ("velocities", last_between(lambda v: 1.01 * v), "kinetic energy"),
        ("quality_flags", last_between(lambda _: 1), "flags"),
        ("forces", at(305, 0.0), "vanishing"),
        ("conserved_quantity", lambda values: values + 1e-3 * np.arange(600), "energies"),
    ],
)
def test_defects_are_found_between_evaluations_and_beside_them(acid, tmp_path, name, change, check):
    model, arrays = acid
    learned = model, factories.between_evaluations(arrays, 5)
    found = problems_with(learned, tmp_path, spoil=spoil(name, change), integrator="learned")
    assert ("error", check) in found


def test_the_first_frame_has_energies(acid, tmp_path):
    def without(arrays):
        for name in LEVEL_FIELDS:
            arrays[name][0] = MISSING.get(name, np.nan)
        arrays["evaluated"][0] = 0

    model, arrays = acid
    learned = model, factories.between_evaluations(arrays, 5)
    found = problems_with(learned, tmp_path, spoil=without, integrator="learned")
    assert ("error", "outer steps") in found


@pytest.mark.parametrize(
    ("every", "changes", "found"),
    [
        (4, {}, False),
        (4, {20: 0}, True),  # an evaluation left out
        (200, {}, True),  # no outer step is that long
        (30, {}, True),
    ],
)
def test_the_level_is_evaluated_where_outer_steps_end(acid, tmp_path, every, changes, found):
    def leave_out(arrays):
        for frame in changes:
            arrays["evaluated"][frame] = 0
            for name in LEVEL_FIELDS:
                arrays[name][frame] = MISSING.get(name, np.nan)

    model, arrays = acid
    learned = model, factories.between_evaluations(arrays, every)
    problems = problems_with(learned, tmp_path, spoil=leave_out, integrator="learned")
    assert bool({("error", "outer steps"), ("error", "range")} & set(problems)) == found


def test_outer_steps_may_end_between_frames(acid, tmp_path):
    """Steps of 2 fs to 50 fs, then of 3 fs; frames every 1, 2, 4 and 5 fs."""
    model, arrays = acid
    ends = {*range(0, 51, 2), *range(51, 610, 3)}
    for stride in (1, 2, 4, 5):
        some = {name: values[::stride] for name, values in arrays.items()}
        times = some["time"] - some["time"][0]
        learned = factories.between_evaluations(some, 1)
        last = np.array([min(end for end in ends if end >= t) for t in times])
        before = np.array([max((end for end in ends if end < t), default=0) for t in times])
        learned["outer_step"] = (last - before).astype("f4")
        between = ~np.isin(times, list(ends))
        learned["evaluated"][between] = 0
        for name in LEVEL_FIELDS:
            learned[name][between] = MISSING.get(name, np.nan)
        words = {"integrator": "learned", "store_every_fs": float(stride)}
        found = problems_with((model, learned), tmp_path, **words)
        assert ("error", "outer steps") not in found


def test_shards_from_before_frames_lay_between_evaluations_stay_sound(acid, tmp_path):
    model, arrays = acid
    older = {k: v for k, v in factories.between_evaluations(arrays, 1).items() if k != "evaluated"}
    problems = problems_with((model, older), tmp_path, integrator="learned")
    assert not [problem for problem in problems if problem[0] == "error"]
    with Shard(tmp_path / "formic-acid-r0.h5md") as shard:
        assert shard.evaluated.all() and shard.evaluated.shape == (600,)
    assert ("error", "outer steps") in problems_with((model, older), tmp_path)


def test_frames_of_a_defect_are_those_of_the_file(acid, tmp_path):
    model, arrays = acid
    learned = factories.between_evaluations(arrays, 5)
    learned["forces"][305] = 0.0
    path = tmp_path / "formic-acid-r0.h5md"
    metadata = factories.make_metadata(model, learned, time_step_fs=0.125, integrator="learned")
    factories.write_shard(path, model, learned, metadata)
    assert any("in frame 305" in problem.message for problem in validate(path))


def test_signs_of_charges_are_judged_where_there_are_charges(tmp_path):
    """Of naphthalene at PBE/def2-SVP they are 0.014 e, and no more on carbon than on hydrogen."""
    release = load("tg80-dft-v1")
    assert "charges" not in errors_of(release["naphthalene"].path)
    spoilt = tmp_path / release["butane"].path.name
    shutil.copy(release["butane"].path, spoilt)
    with h5py.File(spoilt, "r+") as file:
        charges = file["observables/trajectory/mulliken_charges/value"]
        charges[...] = -charges[...]
    refresh_checksum(spoilt)
    assert "charges" in errors_of(spoilt)
