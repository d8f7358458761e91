"""Suites: designs that say what is run, and runs that leave the same bytes however."""

import os
import signal
import subprocess
import sys
import time

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.table import Table

from astrogan_emu.errors import SimulationError
from astrogan_emu.simulations import (
    LCDM_SPACE,
    SimulationConfig,
    design_at_point,
    design_over_space,
    design_pairs,
    simulate,
)
from astrogan_emu.suites import read_suite

POINT = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 0.96, "sigma_8": 0.8}
TINY = SimulationConfig(
    n_particles=8, box_size=10.0, n_mesh=8, n_steps=3, redshifts=(1.0, 0.0)
)


def contents(folder):
    """Every file below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Three finished runs."""
    folder = tmp_path_factory.mktemp("suite")
    simulate(design_over_space(3, seed=1), folder, config=TINY, progress=False)
    return folder


def test_the_table_has_a_row_for_each_snapshot(suite):
    """Run, set, seed, parameters, redshift and files, which are there."""
    table = read_suite(suite)
    assert len(table) == 3 * 2
    assert set(table["run"]) == {"LH_0", "LH_1", "LH_2"}
    assert list(table["redshift"][:2]) == [1.0, 0.0]
    for name in LCDM_SPACE.names:
        assert np.ptp(table[name]) > 0
    for row in table:
        assert os.path.isfile(row["file"])
        assert row["initial_conditions"].endswith("ics.hdf5")


def test_yt_opens_the_snapshots(suite):
    """As a Gadget snapshot, with the cosmology, box and mass of the run."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    row = read_suite(suite)[1]
    ds = yt.load(str(row["file"]))
    assert ds.current_redshift == 0
    assert ds.omega_matter == pytest.approx(row["omega_m"])
    assert ds.domain_width[0].to_value("Mpccm/h") == pytest.approx(10.0)
    mass = ds.all_data()["PartType1", "particle_mass"].sum().to_value("Msun/h")
    # 2.775e11 h^2 Msun / Mpc^3 times omega_m in 10 Mpc/h; yt's Msun differs by 0.03 %.
    assert mass == pytest.approx(2.77536627e11 * row["omega_m"] * 1e3, rel=1e-3)


def test_the_number_of_workers_does_not_change_the_bytes(suite, tmp_path):
    """Each run has one thread, wherever it is run."""
    simulate(
        design_over_space(3, seed=1), tmp_path, config=TINY, workers=1, progress=False
    )
    assert contents(tmp_path) == contents(suite)


@pytest.mark.slow
@pytest.mark.parametrize("files_before_the_kill", [1, 4])
def test_a_killed_suite_goes_on_and_ends_the_same(
    suite, tmp_path, files_before_the_kill
):
    """SIGKILL to the whole, in the midst of a run; finished runs are not repeated."""
    code = (
        "import sys\n"
        "from astrogan_emu.simulations import *\n"
        "if __name__ == '__main__':\n"
        "    config = SimulationConfig(n_particles=8, box_size=10.0, n_mesh=8,"
        " n_steps=3, redshifts=(1.0, 0.0))\n"
        "    simulate(design_over_space(3, seed=1), sys.argv[1], config=config,"
        " workers=1, progress=False)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    folder = tmp_path / "suite"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/*.hdf5"))) < files_before_the_kill:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {
        path: path.stat().st_mtime_ns
        for path in folder.glob("*/*.hdf5")
        if len(list(path.parent.glob("[!.]*.hdf5"))) == 3
    }
    simulate(design_over_space(3, seed=1), folder, config=TINY, progress=False)
    expected = contents(suite)
    found = contents(folder)
    assert {name: found[name] for name in expected} == expected
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_a_finished_suite_is_left_alone(suite):
    """Nothing is run or written again."""
    before = {p: p.stat().st_mtime_ns for p in suite.rglob("snap*.hdf5")}
    simulate(design_over_space(3, seed=1), suite, config=TINY, progress=False)
    assert {p: p.stat().st_mtime_ns for p in suite.rglob("snap*.hdf5")} == before


def test_other_settings_do_not_go_on(suite):
    """A run begun otherwise is not mixed with this one."""
    other = SimulationConfig(
        n_particles=8, box_size=10.0, n_mesh=8, n_steps=4, redshifts=(1.0, 0.0)
    )
    with pytest.raises(SimulationError, match="begun with n_steps = 3, not 4"):
        simulate(design_over_space(3, seed=1), suite, config=other, progress=False)
    with pytest.raises(SimulationError, match=r"run LH_0 .* begun with seed"):
        simulate(design_over_space(3, seed=2), suite, config=TINY, progress=False)


def test_another_set_joins_the_suite(tmp_path):
    """What is there stays in the table."""
    for seed, name in ((1, "LH"), (2, "test")):
        design = design_over_space(1, seed=seed, name=name)
        simulate(design, tmp_path, config=TINY, workers=1, progress=False)
    assert list(read_suite(tmp_path)["set"]) == ["LH", "LH", "test", "test"]


def test_an_unknown_device_is_refused(tmp_path):
    """Before anything is written."""
    design = design_over_space(1, seed=1)
    with pytest.raises(SimulationError, match="device must be cpu or cuda, got 'tpu'"):
        simulate(design, tmp_path / "suite", device="tpu", progress=False)
    assert not (tmp_path / "suite").exists()


def test_a_dry_run_does_nothing(tmp_path):
    """Not even a folder is made."""
    folder = tmp_path / "suite"
    simulate(design_over_space(2, seed=1), folder, config=TINY, dry_run=True)
    assert not folder.exists()


def test_snapshots_remember_what_made_them(suite):
    """Parameters that Gadget headers have no place for, seed and settings."""
    row = read_suite(suite)[0]
    with h5py.File(row["file"]) as file:
        everything = {k: v for group in file.values() for k, v in group.attrs.items()}
    assert everything["sigma_8"] == pytest.approx(row["sigma_8"])
    assert everything["n_s"] == pytest.approx(row["n_s"])
    assert everything["pm_n_steps"] == 3
    assert everything["seed"] == row["seed"]


@pytest.mark.parametrize("method", ["sobol", "latin_hypercube"])
def test_a_design_fills_the_space(method):
    """Each parameter's range is covered, and seeds differ."""
    design = design_over_space(16, seed=3, method=method)
    points = np.stack([design[name] for name in LCDM_SPACE.names], -1)
    assert LCDM_SPACE.contains(points).all()
    unit = LCDM_SPACE.to_unit(points)
    assert ((unit.min(0) < 0.1) & (unit.max(0) > 0.9)).all()
    assert len(set(design["seed"])) == 16


def test_pairs_differ_in_one_parameter_each():
    """They share the seed, and stand to either side of the point."""
    design = design_pairs(POINT, seed=7)
    assert len(design) == 1 + 2 * len(LCDM_SPACE)
    assert set(design["seed"]) == {7}
    for name in LCDM_SPACE.names:
        low, high = (
            design[design["run"] == f"1P_{name}_{side}"][0] for side in ("low", "high")
        )
        assert low[name] + high[name] == pytest.approx(2 * POINT[name])
        assert low[name] < high[name]
        for other in set(LCDM_SPACE.names) - {name}:
            assert low[other] == high[other] == POINT[other]


def test_seeds_at_a_point_are_independent():
    """Longer designs begin with the shorter ones."""
    short, long = (design_at_point(POINT, n, seed=5) for n in (3, 6))
    assert len(set(long["seed"])) == 6
    assert list(long["seed"][:3]) == list(short["seed"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_particles": 1}, "n_particles must be a whole number of at least 2"),
        ({"box_size": float("nan")}, "box_size must be positive and finite"),
        ({"box_size": 50 * u.Mpc}, r"finite \[Mpc/h\], got 50.0 Mpc"),
        ({"redshifts": (0.0, 1.0)}, "redshifts must decrease"),
        ({"redshifts": ()}, "redshifts must decrease"),
        ({"n_steps": 2, "redshifts": (2.0, 1.0, 0.0)}, "at least the number of outp"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    """The message names the value."""
    with pytest.raises(SimulationError, match=message):
        SimulationConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.remove_column("h"), "no column h"),
        (lambda t: t.remove_rows([0, 1]), "has no runs"),
        (lambda t: t.__setitem__("run", ["a", "a"]), "several runs called 'a'"),
        (lambda t: t.__setitem__("run", ["../a", "b"]), "cannot be the name"),
    ],
)
def test_unusable_designs_are_refused(tmp_path, change, message):
    """Before anything is run."""
    design = Table(design_over_space(2, seed=1))
    change(design)
    with pytest.raises(SimulationError, match=message):
        simulate(design, tmp_path, config=TINY, progress=False)
    assert not list(tmp_path.iterdir())
