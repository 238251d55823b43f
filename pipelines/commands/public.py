"""`tg80 public`: files of MD17, rMD17 and MD22."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tg80.console import JsonOption, console
from tg80.errors import UserError
from tg80.untrusted.documents import print_json


def public(
    file: Annotated[
        str | None,
        typer.Argument(help="An npz file; with --fetch SET/MOLECULE, such as md17/ethanol."),
    ] = None,
    fetch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="First download the file into this folder.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="With --fetch: a mirror of the data set.")
    ] = None,
    set_id: Annotated[
        str | None,
        typer.Option("--set", help="md17, rmd17 or md22, if the file name does not say."),
    ] = None,
    molecule: Annotated[
        str | None, typer.Option(help="The molecule, if the file name does not say.")
    ] = None,
    frame_fs: Annotated[
        float | None,
        typer.Option(help="Time between frames, for other files of this layout."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Describe a file of MD17, rMD17 or MD22.

    Without a file, list the data sets: molecules, frame spacing and its source, address. The files
    state no frame spacing; the temperature from finite differences shows whether the assumed one is
    right.

    Example: tg80 public

    Example: tg80 public md17_ethanol.npz

    Example: tg80 public md17/ethanol --fetch public-data
    """
    if file is None:
        _list_sets(json_output)
        return
    path = Path(file) if fetch is None else _fetched(file, fetch, address)
    facts = _describe(path, set_id=set_id, molecule=molecule, frame_fs=frame_fs)
    if json_output:
        print_json(facts, indent=2)
    else:
        _show(facts)


def _fetched(name: str, folder: Path, address: str | None) -> Path:
    from pipelines.commands.download import TransferProgress
    from tg80.exchange.md17_fetch import fetch_public

    set_id, slash, molecule = name.partition("/")
    if not slash:
        raise UserError(f"--fetch wants SET/MOLECULE, such as md17/ethanol, not {name}")
    with TransferProgress(console) as shown:
        shown.begin(name, None)
        return fetch_public(set_id, molecule, folder, address=address, watcher=shown)


def _describe(path: Path, **wish: Any) -> dict[str, Any]:
    from tg80.exchange.md17 import read_public

    data = read_public(path, **wish)
    first, stop = data.longest_stretch
    return {
        "file": str(path),
        "set": data.set_id,
        "molecule": data.molecule,
        "n_frames": data.n_frames,
        "n_atoms": data.n_atoms,
        "n_heavy_atoms": int((data.atomic_numbers > 1).sum()),
        "frame_fs": data.frame_fs,
        "frame_source": data.frame_source,
        "r_unit": data.r_unit,
        "e_unit": data.e_unit,
        "mean_energy_ev": None if data.energies is None else float(data.energies.mean()),
        "finite_difference_temperature_k": data.finite_difference_temperature_k(),
        "n_stretches": len(data.stretches),
        "longest_stretch_frames": stop - first,
    }


def _show(facts: dict[str, Any]) -> None:
    n_frames, frame_fs = facts["n_frames"], facts["frame_fs"]
    print(
        f"{facts['set']} {facts['molecule']}: {n_frames} frames, {facts['n_atoms']} atoms, "
        f"{facts['n_heavy_atoms']} of them heavy"
    )
    print(f"frames {frame_fs:g} fs apart: {facts['frame_source']}")
    mean = facts["mean_energy_ev"]
    energy = (
        f"energies in {facts['e_unit']}, mean {mean:.3f} eV" if mean is not None else "no energies"
    )
    print(f"positions in {facts['r_unit']}, {energy}")
    longest = facts["longest_stretch_frames"]
    if longest == n_frames:
        print("all frames follow one another")
    elif longest:
        print(
            f"{facts['n_stretches']} stretches of consecutive frames, the longest {longest} frames"
        )
    else:
        print("no frame follows another: no velocities")
    if (kelvin := facts["finite_difference_temperature_k"]) is not None:
        print(f"temperature of finite differences: {kelvin:.0f} K")


def _list_sets(json_output: bool) -> None:
    from tg80.exchange.md17_sets import PUBLIC_SETS

    rows = [
        {
            "set": each.id,
            "frame_fs": each.frame_fs,
            "frame_source": each.frame_source,
            "address": each.address,
            "molecules": {m.name: m.file for m in each.molecules},
        }
        for each in PUBLIC_SETS.values()
    ]
    if json_output:
        print_json(rows, indent=2)
        return
    for row in rows:
        print(f"{row['set']}: {', '.join(row['molecules'])}")
        print(f"  {row['frame_fs']:g} fs: {row['frame_source']}")
        print(f"  {row['address']}")
