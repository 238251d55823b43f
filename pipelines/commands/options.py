"""Options that several commands share."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from tg80.errors import UserError
from tg80.untrusted.limits import MOST_PROCESSES

ListOption = Annotated[
    str,
    typer.Option(
        "--molecule-list",
        metavar="FILE",
        help="SMILES list: a .smi file (SMILES, white space, name), a table with a `smiles` "
        "column, `-` for standard input, `tg80` for the 80 compounds, or `extra-v1` for more.",
    ),
]
StereoOption = Annotated[
    Literal["given", "enumerate", "first"],
    typer.Option(
        help="Rows with unspecified stereochemistry: given refuses them; enumerate takes all "
        "stereoisomers except mirror images (same dynamics) as NAME-s1, NAME-s2, ...; first "
        "takes one as NAME (trans double bonds, the least strained ring fusion found).",
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Skip rows that can't be used and report them, instead of stopping.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.")]

# Settings of a run; None leaves them as the recipe has them.
LevelOption = Annotated[
    str | None, typer.Option(help="Level of theory: pbe-def2svp, gfn2-xtb, ...")
]
LengthOption = Annotated[float | None, typer.Option(help="Production length. Default 32000.")]
EquilibrationOption = Annotated[
    float | None,
    typer.Option(help="NVT equilibration at the level, before production. Default 2500."),
]
IntegratorOption = Annotated[
    str | None, typer.Option(help="learned (default at the DFT levels), mts or verlet.")
]
StoreOption = Annotated[float | None, typer.Option(help="Time between stored frames. Default 1.")]
RecipeOption = Annotated[Path | None, typer.Option(help="TOML file of settings.")]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. seed=7."),
]

ReplicasOption = Annotated[int, typer.Option(min=1, help="Trajectories per molecule.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_PROCESSES, help="Single-thread workers on this machine. Default: all cores."
    ),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        help="Memory of a worker, of which 0.6 GB is its base. Three-centre integrals are kept if "
        "they fit into the rest, else recomputed. Default 2.",
    ),
]


_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(option: str | None) -> float | None:
    """The wall time of --stop-after, s; None if it is not given.

    Args:
        option: Its value, such as 150min.

    Raises:
        UserError: It is not a positive number with a unit.
    """
    if option is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|h|d)", option.strip())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not value:
        raise UserError(f"--stop-after {option}: give a time such as 90s, 150min, 2h or 1d")
    return value


def molecule_names(option: str | None) -> tuple[str, ...] | None:
    """The names of --molecules A,B,...; None if it is not given.

    Args:
        option: Its value.

    Raises:
        UserError: It names nothing, which does not mean everything.
    """
    if option is None:
        return None
    names = tuple(name.strip() for name in option.split(",") if name.strip())
    if not names:
        raise UserError("--molecules names no molecule; leave it out for all")
    return names
