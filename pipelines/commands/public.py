"""`tg80 public`: files of MD17, rMD17 and MD22."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tg80.console import JsonOption, console
from tg80.errors import UserError
from tg80.untrusted.documents import print_json

if TYPE_CHECKING:
    from tg80.exchange.md17 import PublicData


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
    from tg80.exchange.md17 import read_public

    path = Path(file) if fetch is None else _fetched(file, fetch, address)
    data = read_public(path, set_id=set_id, molecule=molecule, frame_fs=frame_fs)
    _describe(data, json_output)


def _fetched(name: str, folder: Path, address: str | None) -> Path:
    from pipelines.commands.download import TransferProgress
    from tg80.exchange.md17_fetch import fetch_public

    set_id, slash, molecule = name.partition("/")
    if not slash:
        raise UserError(f"--fetch needs SET/MOLECULE, such as md17/ethanol, not {name}")
    with TransferProgress(console) as shown:
        shown.begin(name, None)
        return fetch_public(set_id, molecule, folder, address=address, watcher=shown)


def _describe(data: "PublicData", json_output: bool) -> None:
    first, stop = data.longest_segment
    longest, n_heavy = stop - first, int((data.atomic_numbers > 1).sum())
    mean = None if data.energies is None else float(data.energies.mean())
    kelvin = data.finite_difference_temperature_k()
    if json_output:
        facts = {
            "file": str(data.path),
            "set": data.set_id,
            "molecule": data.molecule,
            "n_frames": data.n_frames,
            "n_atoms": data.n_atoms,
            "n_heavy_atoms": n_heavy,
            "frame_fs": data.frame_fs,
            "frame_source": data.frame_source,
            "r_unit": data.r_unit,
            "e_unit": data.e_unit,
            "mean_energy_ev": mean,
            "finite_difference_temperature_k": kelvin,
            "n_segments": len(data.segments),
            "longest_segment_frames": longest,
        }
        print_json(facts, indent=2)
        return
    print(
        f"{data.set_id} {data.molecule}: {data.n_frames} frames, {data.n_atoms} atoms, {n_heavy} "
        "of them heavy"
    )
    print(f"frames {data.frame_fs:g} fs apart: {data.frame_source}")
    energy = "no energies" if mean is None else f"energies in {data.e_unit}, mean {mean:.3f} eV"
    print(f"positions in {data.r_unit}, {energy}")
    if longest == data.n_frames:
        print("all frames follow one another")
    elif longest:
        n_segments = len(data.segments)
        print(f"{n_segments} segments of consecutive frames, the longest {longest} frames")
    else:
        print("no frame follows another: no velocities")
    if kelvin is not None:
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
