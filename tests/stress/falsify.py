"""Does `tg80 validate` catch falsified physics? `python -m tests.stress.falsify [SHARD ...]`

Every forgery of `tests.stress.forgeries` is made of every trajectory, at every spacing of its
frames asked for, and with energies in some of them alone, and validated. Printed is who was caught
by what, and what passed. The exit code is 1 if an honest trajectory raises an alarm, or if anything
passes that is not excused: what is no falsification, or what nothing in the file contradicts.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.stress.forgeries import FORGERIES, Forgery, Trajectory, as_read, load, restate, write
from tg80.shards.checks.content import check_evidence
from tg80.shards.problems import Findings
from tg80.shards.validate import validate

SHIPPED = Path(__file__).parents[2] / "tg80" / "data"
DEFAULT = [
    SHIPPED / "mini-xtb" / f"{name}-r0.h5md" for name in ("cyclopropane", "1-butanol", "urea")
] + [SHIPPED / "mini-dft" / f"{name}-r0.h5md" for name in ("uracil", "1-butanol")]

SAME_DATA = "no falsification: "
STATISTICAL = "only statistics bear on it here: "
FREE = "nothing else in the file depends on it: "
SYMMETRIC = "in a molecule without polar groups the sign is nothing that can be told: "
# What may pass, why, and from which spacing of the frames (fs) on.
EXCUSED: dict[str, tuple[float, str]] = {
    "all: turned throughout": (0, SAME_DATA + "space has no direction"),
    "all: mirrored throughout": (
        0,
        SAME_DATA + "a chiral molecule is caught",
    ),
    "all: backwards in time, velocities reversed": (0, SAME_DATA + "mechanics runs both ways"),
    "relaxed_positions: inverted": (0, SAME_DATA + "the Hessian of the mirror image is the same"),
    "raw_net_force: zero": (0, SAME_DATA + "it is, with the response of a grid or without a grid"),
    "raw_net_torque: zero": (0, SAME_DATA + "tight binding has no grid, so it is zero to rounding"),
    "potential_energy: up by 1 eV": (0, FREE + "a constant, stated as the start's energy too"),
    "potential_energy: times 1 01": (2, STATISTICAL + "1 % of its fluctuations"),
    "homo_lumo_gap: times 1 01": (0, FREE + "1 % of it"),
    "dipole: times 1 01": (0, FREE + "1 % of it"),
    "dipole: in debye": (0, STATISTICAL + "effective charges below 0.17 e stay possible ones"),
    "dipole: reversed": (0, SYMMETRIC + "its dipole moment is below 0.1 e A"),
    "dipole: one frame zero": (0, SYMMETRIC + "it is next to zero in every frame"),
    "dipole: shuffled in time": (
        4,
        STATISTICAL + "250 frames of a dipole moment that hardly changes do not tell",
    ),
    "mulliken_charges: times 1 01": (0, FREE + "1 % of them, unless the molecule is an ion"),
    "mulliken_charges: other atoms": (0, STATISTICAL + "all charges change together with the ring"),
    "scf_cycles: one more": (0, FREE + "a count"),
    "hessian: times 1 01": (0, STATISTICAL + "stiffness of bonds is known to 7 %"),
    "hessian: times 1 2": (0, STATISTICAL + "at DFT levels GFN2-xTB's bonds are 13 to 19 % softer"),
    "relaxed_positions: times 1 01": (0, STATISTICAL + "DFT bonds are 1 to 2 % longer than GFN2's"),
    "outer_step: one frame twice": (2, FREE + "steps end between frames, and may change there"),
    "evaluated: every second left out, outer steps twice": (
        0,
        SAME_DATA + "less of it, and a step of 4 fs is allowed",
    ),
    "positions: times 1 01": (2, STATISTICAL + "DFT bonds are 1 to 2 % longer than GFN2's"),
    "velocities: times 1 01": (2, STATISTICAL + "vibrations are coarsely sampled"),
    "forces: times 1 2": (2, STATISTICAL + "DFT bonds are 13 to 19 % stiffer than GFN2's"),
    "forces: times 1 01": (2, STATISTICAL + "vibrations are coarsely sampled"),
}
LINEAR = STATISTICAL + "at 10 fs nothing is slow in acetylene, and a single pair of frames is weak"
EXCUSED_IN: dict[tuple[str, str], str] = {
    ("acetylene-r0", "velocities: one frame reversed"): LINEAR,
    ("acetylene-r0", "all: one frame left out"): LINEAR,
    ("acetylene-r0", "all: mirrored half way"): LINEAR,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one forgery.

    Attributes:
        evaluated_fs: spacing of the frames with energies.
        checks: those that found more than in the honest trajectory.
    """

    trajectory: str
    spacing_fs: float
    evaluated_fs: float
    forgery: str
    checks: tuple[str, ...]

    @property
    def caught(self) -> bool:
        return bool(self.checks)

    @property
    def excuse(self) -> str | None:
        spacing, reason = EXCUSED.get(self.forgery, (float("inf"), None))
        if self.spacing_fs >= 10 and (self.trajectory, self.forgery) in EXCUSED_IN:
            return EXCUSED_IN[self.trajectory, self.forgery]
        return reason if self.evaluated_fs >= spacing else None


def problems_of(trajectory: Trajectory, folder: Path | None) -> tuple[str, ...]:
    """Names of the checks that find something, in order.

    With a folder the shard is written there and validated as a file; without, its arrays go to the
    same checks as they would be read, which takes a fifth of the time.
    """
    if folder is not None:
        problems = validate(write(trajectory, folder))
    else:
        found = Findings(Path(f"{trajectory.metadata.name}-r{trajectory.metadata.replica}.h5md"))
        check_evidence(as_read(trajectory), found)
        problems = found.problems
    shown = [f"{p.check} (warning)" if p.level == "warning" else p.check for p in problems]
    return tuple(dict.fromkeys(shown))


def outcomes(
    path: Path,
    stride: int,
    forgeries: list[Forgery],
    folder: Path | None = None,
    n_frames: int | None = None,
    every: int | None = None,
) -> Iterator[Outcome]:
    """The honest trajectory first, under the name `nothing`, then every forgery of it.

    With `every` it has energies in every so-manieth frame alone, as `learned` stores them.
    """
    honest = Forgery("nothing", (), lambda _: None)
    known: set[str] = set()  # what the honest one is warned of, as a drift no run this short shows
    for forgery in [honest, *forgeries]:
        trajectory = load(path, stride, n_frames, every)
        if not forgery.fits(trajectory):
            continue
        restate(trajectory)
        forgery.apply(trajectory)
        flags = trajectory.frames["quality_flags"].copy()
        restate(trajectory)
        if forgery.keep_flags:
            trajectory.frames["quality_flags"] = flags
        checks = problems_of(trajectory, folder)
        if forgery is honest:
            known = {check for check in checks if check.endswith("(warning)")}
        new = tuple(check for check in checks if check not in known)
        name = f"{path.stem}, energies in 1 of {every}" if every else path.stem
        spacing = trajectory.metadata.store_every_fs
        yield Outcome(name, spacing, spacing * (every or 1), forgery.name, new)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", nargs="*", type=Path, default=DEFAULT)
    parser.add_argument("--spacings-fs", default="1,4,10", help="of those a shard has")
    parser.add_argument(
        "--evaluated-every", default="1,3", help="energies in every so-manieth frame, at 1 fs"
    )
    parser.add_argument("--only", default="", help="forgeries whose name contains this")
    parser.add_argument("--files", action="store_true", help="write and validate files: slower")
    arguments = parser.parse_args()
    spacings = [float(word) for word in arguments.spacings_fs.split(",")]
    forgeries = [forgery for forgery in FORGERIES if arguments.only in forgery.name]
    every = [int(word) for word in arguments.evaluated_every.split(",")]
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) if arguments.files else None
        for path in arguments.shards:
            stored = load(path, 1, 1).metadata.store_every_fs
            for stride in (spacing / stored for spacing in spacings):
                if stride == int(stride) and stride >= 1:
                    for n in every if stride * stored == 1 else [1]:
                        found += outcomes(
                            path, int(stride), forgeries, folder, every=n if n > 1 else None
                        )
    return report(found, forgeries)


def report(found: list[Outcome], forgeries: list[Forgery]) -> int:
    """Print the table and the counts; 1 if something is left that has no excuse."""
    columns = sorted({(o.spacing_fs, o.trajectory) for o in found})
    table = Table("forgery", *(f"{name} {spacing:g} fs" for spacing, name in columns))
    cells = {(o.forgery, o.spacing_fs, o.trajectory): o for o in found}
    for name in ["nothing", *(forgery.name for forgery in forgeries)]:
        row = [cells.get((name, *column)) for column in columns]
        if name == "nothing" or not all(o is None or o.caught for o in row):
            shown = ("-" if o is None else ", ".join(o.checks[:2]) or "passes" for o in row)
            table.add_row(name, *shown)
    Console(width=max(100, 30 * (1 + len(columns)))).print(table)
    honest = [o for o in found if o.forgery == "nothing"]
    forged = [o for o in found if o.forgery != "nothing"]
    alarms = [o for o in honest if o.caught]
    passed = [o for o in forged if not o.caught]
    left = [o for o in passed if o.excuse is None]
    for name, reason in sorted({(o.forgery, o.excuse) for o in passed if o.excuse}):
        where = sorted({f"{o.trajectory} {o.spacing_fs:g} fs" for o in passed if o.forgery == name})
        print(f"excused: {name}: {reason} ({', '.join(where)})")
    for o in left:
        print(f"PASSED: {o.forgery}: {o.trajectory}, {o.spacing_fs:g} fs")
    print(
        f"{len(forgeries)} forgeries, {len(honest)} honest trajectories: {len(forged)} tried, "
        f"{len(forged) - len(passed)} caught, {len(passed) - len(left)} excused, "
        f"{len(left)} passed; {len(alarms)} false alarms"
    )
    return 1 if left or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
