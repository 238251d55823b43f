"""The output folder of a run: who may write in it, and which run it belongs to.

recipe.toml            the settings
work/begun.toml        the settings before the run was made longer
molecules.csv          name, SMILES, InChIKey of every molecule of the run
NAME-rK.h5md           finished trajectories, each with NAME-rK.h5md.sha256
left-out.csv           rows of the molecule lists that --skip-bad left out, with the reasons
work/NAME              parts and checkpoints of what is not finished; why it failed, if it did;
                       end-rK.npz, the checkpoint from which a finished trajectory goes on
session.json           the last run in this folder: where it runs or ran, and since when
"""

import csv
import fcntl
import io
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.dynamics.continuation import kept_checkpoint
from pipelines.dynamics.parts import work_folder
from pipelines.recipe import LENGTHS, Recipe, load_recipe, recipe_to_toml
from pipelines.trajectory import begun_recipe, is_shorter
from tg80.chemistry.lists import LeftOut, MoleculeList
from tg80.chemistry.molecule import Molecule, molecule_from_smiles
from tg80.errors import CorruptFile, UserError
from tg80.files import remove_temporary_files, write_atomically
from tg80.shards.shard import Shard
from tg80.untrusted.tables import csv_table

RECIPE = "recipe.toml"
MOLECULES = "molecules.csv"
SESSION = "session.json"
LEFT_OUT = "left-out.csv"
LOCK = ".lock"
_COLUMNS = ("name", "smiles", "inchikey")
_LEFT_OUT_COLUMNS = ("list", *LeftOut._fields)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a crash leaves no lock behind.

    Raises:
        UserError: another run is writing there.
    """
    lock = FileLock(folder / LOCK)
    try:
        # Whoever only asks whether a run is going on holds the lock for an instant.
        lock.acquire(timeout=0.5)
    except Timeout:
        raise UserError(
            f"{folder}: another run is writing here; wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_run(folder: Path, recipe: Recipe, listed: MoleculeList) -> list[str]:
    """Make the folder this run's own, or check that it is.

    Molecules may be added to a run and its lengths may grow; all else can't be changed.

    Returns:
        Lines about what is not as in the last run, but may be.

    Raises:
        UserError: the folder holds a run with other settings or other compounds, or other files.
    """
    remove_temporary_files(folder)
    notes = []
    if (folder / RECIPE).exists():
        notes += _check_settings(folder, recipe)
    elif foreign := [p.name for p in folder.iterdir() if p.name != LOCK]:
        raise UserError(
            f"{folder}: holds other files ({foreign[0]}) and no recipe; choose an empty --out"
        )
    notes += _check_reading(folder, listed)
    merged = _merge(folder, read_molecules(folder), listed.molecules)
    write_atomically(folder / RECIPE, recipe_to_toml(recipe).encode())
    table = io.StringIO()
    rows = ((name, *row) for name, row in merged.items())
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS, *rows])
    write_atomically(folder / MOLECULES, table.getvalue().encode())
    # Those of other lists, which were worked on here before, stay.
    kept = [tuple(row.values()) for row in read_left_out(folder) if row["list"] != listed.label]
    left_out = kept + [(listed.label, *row) for row in listed.left_out]
    if left_out or (folder / LEFT_OUT).exists():
        write_atomically(folder / LEFT_OUT, csv_table(_LEFT_OUT_COLUMNS, left_out).encode())
    return notes


def is_run(folder: Path) -> bool:
    """Whether a run has begun in this folder."""
    return (folder / RECIPE).is_file()


def read_run(folder: Path) -> tuple[Recipe, list[Molecule]]:
    """Settings and molecules of the run in this folder.

    Raises:
        UserError: there is no run in this folder.
    """
    if not is_run(folder):
        raise UserError(f"{folder}: no run here (no {RECIPE}); give the --out of `tg80 generate`")
    molecules = [
        molecule_from_smiles(smiles, name) for name, (smiles, _) in read_molecules(folder).items()
    ]
    return load_recipe(folder / RECIPE), molecules


def failure_path(folder: Path, name: str, replica: int) -> Path:
    """Where the reason lies why a trajectory could not go on when last tried."""
    return work_folder(folder, name) / f"failed-r{replica}.txt"


def begin_session(folder: Path, n_replicas: int, listed: MoleculeList) -> str:
    """Write who works in this folder from now on; tasks of earlier runs refuse to.

    The folder must be locked.

    Returns:
        The session's name.
    """
    session = secrets.token_hex(8)
    facts = {
        "session": session,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "n_replicas": n_replicas,
        "molecule_list": listed.label,
        "stereo": listed.stereo,
        "skip_bad": listed.skip_bad,
    }
    write_atomically(folder / SESSION, json.dumps(facts, indent=2).encode())
    return session


def read_session(folder: Path) -> dict[str, Any]:
    """What `begin_session` wrote; empty if nothing of that is there."""
    try:
        facts = json.loads((folder / SESSION).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def is_locked(folder: Path) -> bool | None:
    """Whether a run holds this folder; never waits. None: this file system does not tell."""
    try:
        with open(folder / LOCK, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def read_molecules(folder: Path) -> dict[str, tuple[str, str]]:
    """SMILES and InChIKey by name of the run's molecules so far."""
    path = folder / MOLECULES
    if not path.exists():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return {row["name"]: (row["smiles"], row["inchikey"]) for row in rows}
    except (UnicodeDecodeError, KeyError, csv.Error):
        raise CorruptFile(
            f"{path}: altered or cut short; restore it, or move it away and run the same "
            "`tg80 generate` again"
        ) from None


def read_left_out(folder: Path) -> list[dict[str, str]]:
    """Rows of the lists that were left out: list, line, text and reason; what is damaged is not."""
    try:
        text = (folder / LEFT_OUT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    rows = csv.DictReader(io.StringIO(text), restval="")
    return [{name: row.get(name) or "" for name in _LEFT_OUT_COLUMNS} for row in rows]


def _check_settings(folder: Path, recipe: Recipe) -> list[str]:
    """Compare the settings with those of the run in the folder, which may become longer."""
    there = load_recipe(folder / RECIPE)
    differences = "; ".join(there.differences(recipe))
    if not differences:
        return []
    if not there.is_same_but_for_lengths(recipe):
        raise UserError(
            f"{folder}: holds a run with other settings: {differences}; choose another --out or "
            "the same settings"
        )
    for name in LENGTHS:
        if getattr(there, name) != getattr(recipe, name) and name not in recipe.model_fields_set:
            option = "--length-fs" if name == "length_fs" else f"--set {name}=..."
            raise UserError(
                f"{folder}: holds a run of another length: {differences} by default; give {option}"
            )
    if any(recipe.of_replica(k).length_fs < there.of_replica(k).length_fs for k in (0, 1)):
        raise UserError(
            f"{folder}: holds a longer run: {differences}; it can't be made shorter, choose "
            "another --out or the length it has"
        )
    for path in sorted(folder.glob("*.h5md")):
        _check_goes_on(folder, path, recipe)
    begun = begun_recipe(folder)
    if begun.parent.is_dir() and not begun.exists():
        write_atomically(begun, recipe_to_toml(there).encode())
    return [f"{folder}: made longer: {differences}"]


def _check_goes_on(folder: Path, shard: Path, recipe: Recipe) -> None:
    """Refuse to make a run longer of which a trajectory can't go on."""
    name, _, number = shard.stem.rpartition("-r")
    if not number.isdigit() or (work_folder(folder, name) / f"r{number}").exists():
        return
    kept = kept_checkpoint(folder, name, int(number))
    if kept.is_file():
        return
    try:
        with Shard(shard) as opened:
            metadata = opened.metadata
    except CorruptFile:
        return  # it is named when its trajectory is resumed
    if is_shorter(metadata, recipe.of_replica(int(number)).length_fs):
        raise UserError(
            f"{shard}: can't become longer than {metadata.length_fs:g} fs, as its checkpoint "
            f"{kept.relative_to(folder)} is missing; choose another --out, or move the shard away "
            "to make the trajectory again in full"
        )


def _check_reading(folder: Path, listed: MoleculeList) -> list[str]:
    """Compare how the list was read with how the last run read its own."""
    last = read_session(folder)
    if last.get("stereo", listed.stereo) != listed.stereo:
        raise UserError(
            f"{folder}: begun with --stereo {last['stereo']}, now it is {listed.stereo}; choose "
            f"another --out or --stereo {last['stereo']}"
        )
    if last.get("skip_bad", listed.skip_bad) == listed.skip_bad:
        return []
    before, now = ("with", "without") if last["skip_bad"] else ("without", "with")
    return [f"{folder}: the last run was {before} --skip-bad, this one is {now}"]


def _merge(
    folder: Path, there: dict[str, tuple[str, str]], molecules: list[Molecule]
) -> dict[str, tuple[str, str]]:
    merged = dict(there)
    names = {inchikey: name for name, (_, inchikey) in there.items()}
    for molecule in molecules:
        if molecule.name in there and there[molecule.name][1] != molecule.inchikey:
            raise UserError(
                f"{folder}: the name {molecule.name} belongs to {there[molecule.name][0]} there, "
                f"not to {molecule.smiles}; rename it in the list"
            )
        other = names.get(molecule.inchikey, molecule.name)
        if other != molecule.name and molecule.is_same_compound(
            molecule_from_smiles(there[other][0])
        ):
            raise UserError(
                f"{folder}: {molecule.smiles} is named {other} there; use that name in the list"
            )
        merged[molecule.name] = (molecule.smiles, molecule.inchikey)
    return merged
