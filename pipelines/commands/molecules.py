"""The molecule list that a command is given, and what it says of rows left out."""

from tg80.chemistry.lists import MoleculeList, Stereo, read_list
from tg80.chemistry.molecule import Molecule
from tg80.console import console
from tg80.theory import Level

MAX_SHOWN = 10


def listed_molecules(
    source: str, stereo: Stereo, skip_bad: bool, level: Level | None = None
) -> MoleculeList:
    """Read a list and show on standard error what it left out.

    Args:
        source: path, `-` or `tg80`.
        stereo: what to do with open stereocentres.
        skip_bad: leave out bad rows.
        level: level that is to compute the molecules; None for any.

    Raises:
        UserError: one line for each bad row.
    """

    def check(molecule: Molecule) -> None:
        if level is not None:
            level.check_molecule(molecule.atomic_numbers, molecule.charge)

    found = read_list(source, stereo=stereo, skip_bad=skip_bad, check=check)
    for row in found.left_out[:MAX_SHOWN]:
        _say(f"{found.label}:{row.line}: left out: {row.reason}")
    if (n := len(found.left_out)) > MAX_SHOWN:
        _say(f"... and {n - MAX_SHOWN} more")
    if n:
        _say(f"{n} bad row{'s' * (n > 1)} left out of {found.label}, {len(found.molecules)} taken")
    return found


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
