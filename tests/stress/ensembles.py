"""Compares the ensembles that two thermostatted runs of the same molecules sampled.

By hand, on real DFT, to see that an integrator leaves the ensemble as it is:

    tg80 generate --molecule-list list.smi --integrator learned --length-fs 4000 --out learned \
        --set thermostat=langevin --set thermostat_time_fs=100
    (the same with --integrator mts --out mts)
    python -m tests.stress.ensembles learned mts

Both are averages over ten blocks; the difference is shown in units of its standard error. NVE runs
of small molecules can't be compared so: each keeps the energies of its modes.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tg80.chemistry.mechanics import temperature
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.console import Table, print_tables
from tg80.dataset import load
from tg80.shards.quality import block_mean
from tg80.shards.shard import Shard

BINS = 5  # of a histogram, equally full in the first run


class Compared(NamedTuple):
    """A mean in two runs, each with its standard error, and how many errors they lie apart."""

    what: str
    first: float
    first_error: float
    second: float
    second_error: float

    @property
    def errors_apart(self) -> float:
        error = np.hypot(self.first_error, self.second_error)
        return float(abs(self.first - self.second) / error) if error else 0.0


def compare(first: Shard, second: Shard) -> list[Compared]:
    """Temperature, and mean, standard deviation and histogram of each kind of bond's length."""
    kelvin = [
        temperature(shard.read("kinetic_energy").astype(float), shard.metadata.degrees_of_freedom)
        for shard in (first, second)
    ]
    found = [_compared("temperature, K", *map(np.asarray, kelvin))]
    lengths = zip(_bond_lengths(first), _bond_lengths(second), strict=True)
    for (kind, one), (_, other) in lengths:
        found.append(_compared(f"{kind}, A", one, other))
        centre = one.mean()
        squares = [((run - centre) ** 2).mean(axis=1) for run in (one, other)]
        found.append(_compared(f"{kind}, mean square about {centre:.4f}, A^2", *squares))
        edges = np.quantile(one, np.linspace(0, 1, BINS + 1)[1:-1])
        for number in range(BINS):
            shares = [(np.searchsorted(edges, run) == number).mean(axis=1) for run in (one, other)]
            found.append(_compared(f"{kind}, share of fifth {number + 1}", *shares))
    return found


def _compared(what: str, first: np.ndarray, second: np.ndarray) -> Compared:
    series = [run.reshape(len(run), -1).mean(axis=1) for run in (first, second)]
    return Compared(what, *block_mean(series[0]), *block_mean(series[1]))


def _bond_lengths(shard: Shard) -> Iterator[tuple[str, np.ndarray]]:
    """Kind of bond, and its lengths (n_frames, n_bonds) A."""
    molecule = molecule_from_smiles(shard.metadata.smiles)
    positions = shard.read("positions").astype(float)
    kinds: dict[tuple, list[np.ndarray]] = {}
    for i, j, order in molecule.bonds:
        kind = (*sorted((molecule.atomic_numbers[i], molecule.atomic_numbers[j])), order)
        apart = np.linalg.norm(positions[:, i] - positions[:, j], axis=1)
        kinds.setdefault(kind, []).append(apart)
    for kind, found in sorted(kinds.items()):
        yield "bond {}-{} of order {:g}".format(*kind), np.stack(found, axis=1)


def main(folders: list[str]) -> None:
    first, second = (load(folder) for folder in folders)
    columns = {
        "mean of": "{what}",
        "first run": "{first:.5g} ± {first_error:.2g}",
        "second run": "{second:.5g} ± {second_error:.2g}",
        "errors apart": "{errors_apart:.1f}",
    }
    tables = [
        Table.of(name, columns, compare(first[name], second[name]))
        for name in sorted(set(first) & set(second))
    ]
    print_tables(tables, as_markdown=True)


if __name__ == "__main__":
    main(sys.argv[1:3])
