"""Frames with energies and forces, where some of a trajectory have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.interface import CannotPredict
from benchmarks.models.force_fields.frames import (
    TrainingFrames,
    _frames_of,
    labelled_frames,
    labels_of,
)
from benchmarks.testing import toy_trajectory


def partly_known(block, every):
    """The block as `learned` stores it: forces in every so-manieth frame, from the second on."""

    def source(first, stop):
        energies, forces = (np.array(values) for values in block.labels.source(first, stop))
        missing = np.arange(first, stop) % every != 1
        energies[missing], forces[missing] = np.nan, np.nan
        return energies, forces

    return replace(block, labels=replace(block.labels, source=source))


def test_force_fields_learn_from_the_frames_that_have_forces():
    whole = toy_trajectory("toy-molecule-a")
    block = partly_known(whole, 5)
    _, all_forces = whole.labels.read()
    known = labels_of(block.frames(10, 40))
    assert known.frames.tolist() == [1, 6, 11, 16, 21, 26]
    np.testing.assert_array_equal(known.forces, all_forces[10 + known.frames])
    x, forces = labelled_frames([block, whole])
    assert len(x) == len(forces) == len(labels_of(block).frames) + whole.n_frames
    frames = TrainingFrames([block], {}, seed=0, windows_per_trajectory=40)
    batch = frames.__getitems__(range(40))
    drawn = [int(start.split("@")[1]) for start in batch.start_id]
    assert {frame % 5 for frame in drawn} == {1} and len(set(drawn)) > 10
    np.testing.assert_array_equal(batch.forces, all_forces[drawn])
    np.testing.assert_array_equal(batch.positions, whole.positions[drawn])
    assert bool(torch.isfinite(batch.energies).all())
    (held_out,) = _frames_of([block.start_id(i) for i in (0, 3, 14)], [block], {}, 32)
    frames = [int(start.split("@")[1]) for start in held_out.start_id]
    # Those nearest to the starts, and as these are few, others from the block's beginning to end.
    assert {1, 16} <= set(frames) and len(frames) >= 8 and {f % 5 for f in frames} == {1}
    assert frames == sorted(set(frames)) and frames[-1] >= block.n_frames - 5
    with pytest.raises(CannotPredict, match="no frame of toy-molecule-a here has energies"):
        labels_of(block.frames(2, 5))
