"""Finding GPUs, refusing what can't be used, and sharing several among processes."""

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from pipelines.cli import run
from pipelines.engines.dft.gpu_devices import NO_DEVICE, check_version, find_gpus, judge_probe
from pipelines.engines.engine import Resources
from pipelines.engines.registry import make_engine
from pipelines.run.gpu_check import check_in_own_process, prepare_run
from tests.pipelines.engines.test_gpu_scf import geometry
from tg80.chemistry.molecule import molecule_from_smiles
from tg80.errors import UserError
from tg80.theory import get_level


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"missing": "cupy"}, "GPU4PySCF is not installed: pip install"),
        ({"missing": "gpu4pyscf", "devices": 1}, "GPU4PySCF is not installed: pip install"),
        ({"missing": "cutensor", "devices": 1}, "lacks module 'cutensor'"),
        ({"devices": 0}, NO_DEVICE),
        ({"error": "cudaErrorNoDevice: no CUDA-capable device is detected"}, NO_DEVICE),
        ({"error": "cudaErrorInsufficientDriver: CUDA driver version is"}, NO_DEVICE),
        ({"error": "libcublas.so.12: cannot open"}, "libcublas.so.12.*--device cpu"),
        ({"devices": 2, "version": "1.4.3"}, "1.4.3 is known to give wrong energies"),
        ({"devices": 2, "version": "1.6.1"}, "1.6.1 is older than 1.7.0"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(found, message):
    with pytest.raises(UserError, match=message) as error:
        judge_probe(found)
    assert "\n" not in str(error.value)


def test_a_usable_machine():
    assert judge_probe({"devices": 2, "version": "1.9.0"}) == 2
    check_version("2.0.0rc1")


def _no_gpu() -> str:
    try:
        find_gpus()
    except UserError as error:
        return str(error)
    pytest.skip("a GPU is at hand")


def test_without_a_gpu_everything_says_the_same_one_line():
    reason = _no_gpu()
    assert reason and "\n" not in reason
    asked = (
        lambda: make_engine("pbe-def2svp", [8, 1, 1], resources=Resources(device="cuda")),
        lambda: prepare_run("pbe-def2svp", [molecule_from_smiles("O")]),
        lambda: check_in_own_process(get_level("pbe-def2svp"), [geometry()]),
    )
    for ask in asked:
        with pytest.raises(UserError) as error:
            ask()
        assert str(error.value) == reason


def test_a_run_that_finds_no_gpu_leaves_nothing_behind(tmp_path, capsys):
    reason = _no_gpu()
    (tmp_path / "list.smi").write_text("O water\n")
    asked = ["--molecule-list", str(tmp_path / "list.smi"), "--out", str(tmp_path / "out")]
    assert run(["generate", *asked, "--device", "cuda"]) == 2
    assert capsys.readouterr().err.strip() == f"error: {reason}"
    assert not (tmp_path / "out").exists()


_TAKE = """
import os, sys
from pipelines.engines.dft.gpu_devices import take_gpu
take_gpu(2)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def test_processes_share_several_gpus_evenly_and_a_dead_one_leaves_its_place(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3,5"}

    def start(stack):
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _TAKE],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    with ExitStack() as stack:
        started = [start(stack) for _ in range(4)]
        assert sorted(name for _, name in started) == ["3", "3", "5", "5"]
        dead, place = started[1]
        dead.kill()
        dead.wait()
        replacement, name = start(stack)
        assert name == place
        for process, _ in [*started, (replacement, name)]:
            if process.poll() is None:
                process.kill()
