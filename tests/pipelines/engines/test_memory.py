"""What the engine asks of the system's memory allocator."""

import os
import subprocess
import sys

import pytest

CHURN = """
import resource, sys
import numpy as np
from pipelines.engines.registry import make_engine

if sys.argv[1] == "engine":
    make_engine("gfn2-xtb", [1, 1])
for repeat in range(100):
    np.ones(2**17)
    if repeat == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_an_engine_under_dasks_nanny_makes_arrays_of_memory_it_had():
    """Its MALLOC_TRIM_THRESHOLD_ otherwise costs 256 new pages for each array of 1 MB."""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    pages = {
        who: int(subprocess.check_output([sys.executable, "-c", CHURN, who], env=environment))
        for who in ("nobody", "engine")
    }
    assert pages["nobody"] > 89 * 200
    assert pages["engine"] < 89 * 10
