"""The published values of `docs/experiment`, and what was computed for the same compounds."""

import numpy as np
import pytest
from pydantic import ValidationError

from docs.experiment.published import LEVELS, Published, bands, read_computed, read_published
from tg80.chemistry.lists import tg80_molecules


def test_every_mode_of_every_compound_has_a_value_with_a_source():
    published, computed = read_published(), read_computed()
    molecules = {molecule.name: molecule for molecule in tg80_molecules()}
    assert len(published.molecules) >= 8 and set(published.molecules) == set(computed)
    for name, one in published.molecules.items():
        assert len(one.fundamentals) == 3 * molecules[name].n_atoms - 6
        for level in LEVELS:
            waves = computed[name][level].wavenumbers
            assert len(waves) == len(one.fundamentals) and waves == sorted(waves)
            assert waves[0] > 0, f"{name} is no minimum at {level}"
            assert one.bonds.keys() <= computed[name][level].bonds.keys()
    bad = published.model_dump()
    bad["molecules"]["ethylene"]["bonds_source"] = ""
    with pytest.raises(ValidationError, match="ethylene: bonds has no known source"):
        Published.model_validate(bad)


def test_bands_are_what_lies_close_together():
    assert bands([100.0, 120.0, 400.0, 900.0, 925.0, 950.0]) == [range(2), range(2, 3), range(3, 6)]


def test_peaks_of_trajectories_are_where_their_level_has_modes():
    """Within half the width of a line, as the median over all bands of a level."""
    for level in LEVELS:
        off = []
        for levels in read_computed().values():
            if seen := levels[level].trajectory:
                waves = np.array(levels[level].wavenumbers)
                centres = [waves[list(band)].mean() for band in bands(waves.tolist())]
                pairs = zip(seen.peaks, centres, strict=True)
                off += [(p - c) / seen.resolution for p, c in pairs if p is not None and c > 300]
        assert len(off) > 20 and abs(np.median(off)) < 0.5
