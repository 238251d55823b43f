"""The predictability floor, from files of twins to the tables."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.cli import main
from benchmarks.leaderboard.floor import PartFloor, molecule_floors, on_molecules, part_floors
from benchmarks.leaderboard.leaderboard import boards_beside
from benchmarks.leaderboard.lines import entries
from benchmarks.models import Budget, make_model
from benchmarks.runs.evaluation import fit_references
from benchmarks.runs.runner import run_once
from benchmarks.tasks.tasks import get_task
from tg80.errors import UserError
from tg80.shards.twins import find_twins, floor, read_twins, shipped_twins, write_twins

TASK = get_task("mini-xtb-v1")
SHIPPED = shipped_twins("mini-xtb")


@pytest.fixture(scope="module")
def runs(mini, tmp_path_factory):
    """Two trivial predictors on fold 2 of the shipped data."""
    out, references = tmp_path_factory.mktemp("runs"), fit_references(mini)
    records = [
        run_once(make_model(name), mini, seed=None, budget=Budget(epochs=1), out=out,
                 references=references)
        for name in ("persistence", "blend")
    ]  # fmt: skip
    return out, records


def made(path, *, spread, n_starts, n_twins, seed, changes=None):
    """A file of twins whose scored positions are independent, of a known standard deviation."""
    base = read_twins(next(iter(find_twins(SHIPPED))))
    n_frames, n_atoms = len(base.times_fs), len(base.atomic_numbers)
    rng = np.random.default_rng(seed)
    shape = (n_starts, n_twins, n_frames, n_atoms, 3)
    positions = 3 + spread * rng.normal(size=shape).astype("f4")
    asked = base.metadata.settings.model_copy(
        update={"n_starts": min(n_starts, 16), "n_twins": n_twins} | (changes or {})
    )
    write_twins(
        path / f"{base.metadata.name}-r0-twins.h5",
        replace(
            base,
            metadata=base.metadata.model_copy(update={"settings": asked}),
            positions=positions,
            start_frames=np.arange(n_starts),
            start_velocities=np.zeros((n_starts, n_twins, n_atoms, 3), "f4"),
            start_energies=np.zeros((n_starts, n_twins)),
        ),
    )
    return base.metadata.name


@given(n_twins=st.integers(2, 6), spread=st.floats(0.01, 1.0), seed=st.integers(0, 1000))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_floor_is_the_variance_whatever_the_number_of_twins(
    tmp_path_factory, n_twins, spread, seed
):
    folder = tmp_path_factory.mktemp("twins")
    n_starts = 40
    name = made(folder, spread=spread, n_starts=n_starts, n_twins=n_twins, seed=seed)
    (found,) = molecule_floors(folder, TASK, [120.0, 960.0])
    assert (found.molecule, found.n_starts, found.n_twins) == (name, n_starts, n_twins)
    n_heavy = int((read_twins(next(folder.glob("*.h5"))).atomic_numbers > 1).sum())
    error = np.sqrt(2 / ((n_twins - 1) * n_starts * 3 * n_heavy))
    for lag in (120.0, 960.0):
        # Dividing by K in place of K - 1 would be off by a half to a sixth.
        assert found.values[lag] == pytest.approx(spread**2, rel=5 * error)


def test_tracks_know_different_things(tmp_path):
    made(tmp_path, spread=0.1, n_starts=2, n_twins=4, seed=0)
    heavy = get_task("mini-xtb-v1", "heavy-input")
    assert len(molecule_floors(tmp_path, TASK, [120.0])) == 1
    assert molecule_floors(tmp_path, heavy, [120.0]) == []
    resampled = tmp_path / "resampled"
    resampled.mkdir()
    made(resampled, spread=0.1, n_starts=2, n_twins=4, seed=0,
         changes={"resample_hydrogens": True})  # fmt: skip
    assert molecule_floors(resampled, TASK, [120.0]) == []
    assert len(molecule_floors(resampled, heavy, [120.0])) == 1
    assert molecule_floors(tmp_path, get_task("mini-dft-v1"), [100.0]) == []
    assert molecule_floors(tmp_path, TASK, [33.0]) == []


def test_every_displacement_has_a_floor_of_its_own(tmp_path, runs):
    _, records = runs
    for i, path in enumerate(find_twins(SHIPPED)[:6]):
        twins = read_twins(path)
        sizes = [1e-3, 1e-2] if i < 4 else [1e-3]
        for size in sizes:
            metadata = twins.metadata.model_copy(
                update={"settings": twins.metadata.settings.model_copy(
                    update={"perturbation_angstrom": size})}
            )  # fmt: skip
            write_twins(tmp_path / f"{size}-{path.name}", replace(twins, metadata=metadata))
    found = part_floors(records[:1], tmp_path)
    assert {one.displacement_angstrom for one in found} == {1e-3, 1e-2}
    assert not any(one.is_complete for one in found if one.part == "test_time")


def test_floors_of_the_shipped_data(mini, runs):
    _, records = runs
    found = {one.part: one for one in part_floors(records)}
    assert set(found) == set(mini.parts)
    for part, one in found.items():
        names = set(mini.parts[part].windows.states.molecule)
        assert set(one.molecules) == names and one.is_complete
        by_hand = np.mean(
            [
                floor(read_twins(SHIPPED / f"{name}-r0-twins.h5"), "heavy", TASK.lags_fs)[1].mean(0)
                for name in names
            ],
            axis=0,
        )
        np.testing.assert_allclose(list(one.mse.values()), by_hand)
        assert one.s2s == pytest.approx(by_hand[-1]) and one.s2t == pytest.approx(by_hand.mean())
        # What can be known of the future is far from what persistence knows.
        still = records[0].value(part, "s2s", "mean-over-molecules")
        assert 0 < one.s2s < 0.2 * still


def test_records_of_other_data_have_no_floor(runs):
    _, records = runs
    other = records[0].model_copy(update={"manifest_sha256": "0" * 64})
    assert part_floors([other]) == []
    assert part_floors([other], SHIPPED)  # Unless it is said which twins are theirs.
    with pytest.raises(UserError, match="no such file or folder"):
        part_floors(records, SHIPPED / "none")


def test_tables_show_the_floor_last_and_do_not_rank_it(runs, capsys):
    out, _ = runs
    assert main(["leaderboard", str(out), "--format", "markdown"]) == 0
    blocks = capsys.readouterr().out.split("### ")[1:]
    assert len(blocks) == 4
    for block in blocks:
        rows = [line for line in block.splitlines() if line.startswith("| ")]
        assert rows[-1].startswith("| floor (0.001 A) | ") and len(rows) == 5
        assert "molecules; not ranked" in block and "2 sigma over seeds" in block
    assert main(["leaderboard", str(out), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    floors = [line for line in lines if line["model"] == "floor"]
    assert len(floors) == 4 and floors[0]["displacement_angstrom"] == 1e-3
    assert all(line["skill"] is None and line["oracle"] is None for line in floors)
    assert main(["leaderboard", str(out), "--skill"]) == 0
    assert "floor" not in capsys.readouterr().out
    assert main(["leaderboard", str(out), "--summary", "--format", "markdown"]) == 0
    _, _, heading, _, *rows = capsys.readouterr().out.strip().splitlines()
    (shown,) = [row.split("|")[1:-1] for row in rows if "floor" in row]
    (time,) = [line for line in floors if line["part"] == "test_time"]
    at = [cell.strip() for cell in heading.split("|")[1:-1]].index("test_time S2S")
    assert shown[at].strip() == f"{100 * time['s2s']:.2g}" and rows[-1].startswith("| floor")


def test_errors_on_the_molecules_with_twins_stand_beside_a_floor_of_some(runs, tmp_path, capsys):
    out, records = runs
    kept = sorted(set(_molecules(records[0], "test_time")))[:3]
    for name in kept:
        path = SHIPPED / f"{name}-r0-twins.h5"
        write_twins(tmp_path / path.name, read_twins(path))
    asked = ["leaderboard", str(out), "--twins", str(tmp_path), "--format", "markdown"]
    assert main(asked) == 0
    blocks = capsys.readouterr().out.split("### ")[1:]
    (some,) = [b for b in blocks if "molecules with twins only" in b]
    assert "of 3 of 16 molecules; not ranked" in some
    record = on_molecules(records[0], kept)
    mean = np.mean([records[0].value("test_time", "s2s", name) for name in kept])
    assert record.value("test_time", "s2s", "mean-over-molecules") == pytest.approx(mean)
    assert main([*asked, "--summary"]) == 0
    assert "floor" not in capsys.readouterr().out
    (entry,) = [e for e in entries([record]) if e.part == "test_time"]
    assert entry.s2s == pytest.approx(mean) and entry.skill is None


def _molecules(record, part):
    averages = {"mean-over-molecules", "pooled", "median-over-molecules"}
    return [r.molecule for r in record.rows if r.part == part and r.molecule not in averages]


def test_a_damaged_file_is_one_line(runs, tmp_path, capsys):
    out, _ = runs
    made(tmp_path, spread=0.1, n_starts=1, n_twins=2, seed=0)
    (path,) = tmp_path.glob("*.h5")
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["leaderboard", str(out), "--twins", str(tmp_path)]) == 2
    shown = capsys.readouterr().err.strip()
    assert "cut short or altered" in shown and len(shown.splitlines()) == 1


def test_a_model_stands_once_beside_a_floor_of_some_molecules(runs):
    """Even if it ran on another fold, whose molecules have no twins."""
    _, (still, blend) = runs
    part = "test_id"
    names = [row.molecule for row in still.rows if row.part == part][:1]
    rows = [r._replace(molecule="other") if r.molecule in names else r for r in still.rows]
    elsewhere = still.model_copy(update={"fold": 3, "rows": rows})
    lags = {lag: 1e-5 for lag in still.spec.lags_fs}
    floor = PartFloor(
        task=still.task, track=still.track, part=part, displacement_angstrom=1e-3, mse=lags,
        s2t=1e-5, s2s=1e-5, molecules={name: lags for name in names}, n_molecules=3, folds=(2,),
    )  # fmt: skip
    (table,) = boards_beside([still, blend, elsewhere], [floor])
    assert sorted(row[0] for row in table.rows[:-1]) == ["blend", "persistence"]
