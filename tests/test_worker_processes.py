"""Processes that work through a list: errors come back, losses are explained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import astrogan_emu
from astrogan_emu.errors import BatchError
from astrogan_emu.worker_processes import environment, in_processes

ENDS = "__import__('os')._exit(1)"


def test_every_task_is_done_and_its_errors_come_back():
    """In processes of their own; what is called afterwards is called here."""
    ended = []
    tasks = [(f"(_ for _ in ()).throw(SystemError({os.getpid()}))",)]
    with pytest.raises(SystemError, match=str(os.getpid())):
        in_processes(eval, tasks, 1, lambda: ended.append(1))
    assert not ended
    in_processes(eval, [("1 + 1",), ("2 + 2",)], 2, lambda: ended.append(os.getpid()))
    assert ended == [os.getpid()] * 2


def test_a_lost_process_is_explained():
    """A guard is the first idea only where nothing has been done yet."""
    with pytest.raises(BatchError, match=r"ended at once; in a script, .*memory"):
        in_processes(eval, [(ENDS,)], 1, lambda: None)
    with pytest.raises(BatchError, match=r"process was lost; .*memory") as caught:
        in_processes(eval, [("1",), (ENDS,)], 1, lambda: None)
    assert "script" not in str(caught.value)


def test_the_environment_is_put_back(monkeypatch):
    """As it was, what was not there included."""
    monkeypatch.setenv("ASTROGAN_ONE", "before")
    with environment({"ASTROGAN_ONE": "1", "ASTROGAN_TWO": "2"}):
        assert os.environ["ASTROGAN_ONE"] + os.environ["ASTROGAN_TWO"] == "12"
    assert os.environ["ASTROGAN_ONE"] == "before"
    assert "ASTROGAN_TWO" not in os.environ


SIMULATE = """
from astrogan_emu import SimulationConfig, simulate
from astrogan_emu.simulations import design_over_space

config = SimulationConfig(
    n_particles=16, box_size=12.5, n_mesh=16, n_steps=4, redshifts=(0.0,)
)
simulate(design_over_space(2, seed=1), "suite", config=config, workers=2)
"""
GENERATE = """
from astropy.cosmology import Planck18
from astrogan_emu import generate

generate(Planck18, "out.zarr", n_realizations=2, n_cells=16, seed=1, workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [SIMULATE, GENERATE], ids=["simulate", "generate"])
def test_a_script_without_a_guard_is_one_clear_error(script, tmp_path):
    """Its processes, which come to the same line, end without a word."""
    if script is GENERATE:
        pytest.importorskip("distributed")
        pytest.importorskip("zarr")
    path = tmp_path / "script.py"
    path.write_text(script)
    paths = [str(Path(astrogan_emu.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "BatchError" in last
    assert "below the line 'if __name__ == \"__main__\":'" in last
    assert done.stderr.count("script.py") == 1
