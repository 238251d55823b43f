"""Falsified physics is caught: a short form of `python -m tests.stress.falsify`."""

import pytest

from tests.stress.falsify import EXCUSED, SHIPPED, outcomes, problems_of
from tests.stress.forgeries import FORGERIES, load, restate
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS, LEARNED_FIELDS, STATIC_FIELDS

LEARNED = {field.name for field in LEARNED_FIELDS}

CASES = [  # shard, every which frame, frames, every which with energies: 10, 1, 4, 1, 1, 2 fs apart
    ("mini-xtb/urea-r0.h5md", 1, 700, None),
    ("mini-dft/formaldehyde-r0.h5md", 1, None, None),
    ("mini-dft/formaldehyde-r0.h5md", 4, None, None),
    ("mini-dft/formaldehyde-r0.h5md", 1, None, 2),
    ("mini-dft/uracil-r0.h5md", 1, None, 3),
    ("mini-dft/acetic-acid-r0.h5md", 2, None, 2),
]


@pytest.mark.parametrize(("shard", "stride", "n_frames", "every"), CASES)
def test_forgeries_are_caught(shard, stride, n_frames, every):
    found = list(outcomes(SHIPPED / shard, stride, FORGERIES, n_frames=n_frames, every=every))
    assert found[0].forgery == "nothing" and not found[0].caught
    tried = {o.forgery for o in found}
    assert all((f.name in tried) == (bool(every) or not LEARNED & {*f.fields}) for f in FORGERIES)
    assert [o.forgery for o in found[1:] if not o.caught and o.excuse is None] == []


@pytest.mark.parametrize(
    "field", [f.name for f in (*FRAME_FIELDS, *STATIC_FIELDS, *AXIS_FIELDS, *LEARNED_FIELDS)]
)
def test_every_stored_field_has_a_forgery_that_must_be_caught(field):
    assert any(field in f.fields and f.name not in EXCUSED for f in FORGERIES)


def test_the_checks_of_a_file_are_those_of_its_arrays(tmp_path):
    swapped = next(f for f in FORGERIES if "swapped half way" in f.name)
    trajectory = load(SHIPPED / "mini-xtb" / "urea-r0.h5md")
    swapped.apply(trajectory)
    restate(trajectory)
    assert problems_of(trajectory, tmp_path) == problems_of(trajectory, None) != ()
