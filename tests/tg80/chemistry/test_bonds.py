"""The bond graph along made-up motions whose outcome is known."""

import numpy as np

from tests.support.factories import as_molecule, spring_model
from tg80.chemistry.bonds import change_mask, graph_changes, stereo_dihedrals
from tg80.chemistry.molecule import molecule_from_smiles

TIMES = np.arange(100.0)


def frames_of(smiles):
    """100 resting frames of a molecule, and what `graph_changes` needs besides."""
    molecule = as_molecule(smiles)
    rest = spring_model(molecule).rest
    return np.tile(rest, (100, 1, 1)), rest, (np.array(molecule.atomic_numbers), molecule.bonds)


def test_a_resting_molecule_keeps_its_graph():
    positions, rest, graph = frames_of("CCO")
    assert graph_changes(TIMES, positions, *graph, rest) == []


def test_a_bond_counts_as_broken_after_20_fs_and_its_interval_is_recorded():
    positions, rest, graph = frames_of("CCO")
    direction = (rest[2] - rest[1]) / np.linalg.norm(rest[2] - rest[1])
    oxygen_and_its_hydrogen = [2, 8]
    positions[30:60, oxygen_and_its_hydrogen] += 0.9 * direction[None]
    (change,) = graph_changes(TIMES, positions, *graph, rest)
    assert (change.kind, change.atoms) == ("bond_broken", (1, 2))
    assert (change.start_fs, change.end_fs) == (30.0, 59.0)
    mask = change_mask([change], "bond_broken", TIMES)
    np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(30, 60))
    assert not change_mask([change], "stereo_changed", TIMES).any()
    positions[49:60] = rest  # 19 frames are left: a vibration that overshot
    assert graph_changes(TIMES, positions, *graph, rest) == []


def test_the_bond_limit_is_one_and_a_half_times_the_covalent_radii():
    positions, rest, graph = frames_of("CCO")
    limit = 1.5 * (0.76 + 0.66)  # C and O, Cordero et al.
    bond = rest[2] - rest[1]
    bond /= np.linalg.norm(bond)
    for factor, expected in ((0.99, 0), (1.01, 1)):
        positions[:, [2, 8]] = rest[[2, 8]] + (rest[1] + factor * limit * bond - rest[2])
        assert len(graph_changes(TIMES, positions, *graph, rest)) == expected


def test_a_hydrogen_that_moves_is_transferred_not_broken():
    positions, rest, graph = frames_of("CCO")
    away = (rest[0] - rest[1]) / np.linalg.norm(rest[0] - rest[1])
    positions[50:, 8] = rest[0] + 1.1 * away  # the hydroxyl hydrogen settles on the methyl carbon
    (change,) = graph_changes(TIMES, positions, *graph, rest)
    assert (change.kind, change.atoms) == ("hydrogen_transferred", (8, 2, 0))
    assert (change.start_fs, change.end_fs) == (50.0, 99.0)


def test_a_hydrogen_that_leaves_is_broken():
    positions, rest, graph = frames_of("CCO")
    positions[50:, 8] += 10.0
    (change,) = graph_changes(TIMES, positions, *graph, rest)
    assert (change.kind, change.atoms) == ("bond_broken", (2, 8))


def test_a_double_bond_that_turns_is_seen():
    positions, rest, graph = frames_of("C/C=C/C")
    (dihedral,) = stereo_dihedrals(*graph)
    i, j = dihedral[1:3]
    axis = (rest[j] - rest[i]) / np.linalg.norm(rest[j] - rest[i])
    side = [a for a in range(len(rest)) if (rest[a] - rest[j]) @ axis > -0.1 and a != j]
    r = rest[side] - rest[j]
    along = (r @ axis)[:, None] * axis
    positions[40:, side] = rest[j] + along - (r - along)  # turned by 180 degrees
    changes = graph_changes(TIMES, positions, *graph, rest)
    assert [change.kind for change in changes] == ["stereo_changed"]
    assert changes[0].atoms == dihedral
    assert changes[0].start_fs == 40.0


def test_only_double_bonds_with_two_settings_are_watched():
    expected = {
        "C/C=C/C": 1,
        "C=CC": 0,  # two hydrogens at one end
        "CC(C)=CC": 0,  # two methyls at one end
        "C1=CCCCC1": 0,  # in a ring
        "C=C=CC": 0,  # cumulated
        "CC(=O)O": 0,
        "C/C=N/C": 1,
        "c1ccccc1": 0,
        "C/C=C/C=C/C": 2,
        "F/C=C(/F)Cl": 1,
    }
    for smiles, n_dihedrals in expected.items():
        molecule = molecule_from_smiles(smiles)
        found = stereo_dihedrals(np.array(molecule.atomic_numbers), molecule.bonds)
        assert len(found) == n_dihedrals, smiles
