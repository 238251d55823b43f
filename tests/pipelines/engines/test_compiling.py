"""A process that compiles the loops and one that finds them compiled round alike."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
from numba.core.registry import CPUDispatcher

from pipelines.engines.dft import kernels

EVALUATE = """
import sys
from pipelines.engines.registry import make_engine
from tests.support.structures import displaced, structure

numbers, positions = structure("formaldehyde")
engine = make_engine("pbe-def2svp", numbers)
for place in displaced(positions, 2):
    found = engine.evaluate(place)
print(found.energy.hex(), found.forces.tobytes().hex())
"""


def dispatchers() -> dict[str, CPUDispatcher]:
    """All compiled functions of the room by name."""
    modules = [
        importlib.import_module(f"{kernels.__name__}.{module.name}")
        for module in pkgutil.iter_modules(kernels.__path__)
    ]
    found = {name: value for module in modules for name, value in vars(module).items()}
    return {name: value for name, value in found.items() if isinstance(value, CPUDispatcher)}


def test_fast_loops_that_others_call_are_inlined():
    known = dispatchers()
    called = {name for one in known.values() for name in one.py_func.__code__.co_names}
    assert {"_boys", "radial_of", "exp_of_minus"} <= called & set(known)
    for name in called & set(known):
        options = known[name].targetoptions
        inlined = options.get("forceinline") or options.get("inline") == "always"
        assert inlined or not options.get("fastmath"), name


@pytest.mark.slow
def test_a_first_run_has_the_bits_of_the_next(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", EVALUATE]
    first, second = (subprocess.check_output(command, env=environment) for _ in range(2))
    assert first == second
