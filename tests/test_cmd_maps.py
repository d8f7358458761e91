"""Maps of a hydrodynamical suite in files like those of the Multifield Dataset."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from astrogan_emu.dataset import TrainingSet
from astrogan_emu.fields import GalaxyField
from astrogan_emu.grids import GridSpec
from astrogan_emu.multifield import prepare_multifield
from astrogan_emu.snapshots import read_snapshot
from astrogan_emu.suites import read_suite, write_suite

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "write_cmd_maps.py"
PARAMETERS = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 0.96, "sigma_8": 0.8}
N = 32


@pytest.fixture(scope="module")
def script():
    """The script, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("write_cmd_maps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fields():
    """Matter, gas and stellar density and temperature of a box of 25 Mpc/h."""
    return np.random.default_rng(1).lognormal(size=(4, N, N, N))


def test_maps_hold_the_mass_of_the_box(script, fields):
    """The five maps across each axis add up to it: area times surface density."""
    maps = script.maps_of(fields, mean_density=7e10)
    area, volume = (25 / N) ** 2, (25 / N) ** 3
    wanted = [fields[0].sum() * 7e10, fields[1].sum(), fields[2].sum()]
    for own, total in zip(maps[:3], wanted, strict=True):
        assert own.shape == (15, N, N)
        for axis in range(3):
            mass = own[5 * axis : 5 * axis + 5].sum() * area
            assert mass == pytest.approx(total * volume, rel=1e-12)


def test_maps_are_projections_of_the_fields(script, fields):
    """The first across an axis is `GalaxyField.project`, in units of h."""
    grid = GridSpec(N, 25.0)
    unit = {"gas_density": "littleh2 solMass / Mpc3", "gas_temperature": "K"}
    gas, temperature = (
        GalaxyField(
            values,
            name=name,
            grid=grid,
            parameters=PARAMETERS,
            redshift=0,
            unit=unit[name],
        )
        for name, values in zip(unit, fields[[1, 3]], strict=True)
    )
    maps = script.maps_of(fields, mean_density=7e10)
    for axis, first in zip("xyz", (0, 5, 10), strict=True):
        column = gas.project(axis, depth=5.0).to("littleh solMass / Mpc2")
        np.testing.assert_allclose(column.data, maps[1][first], rtol=1e-5)
        mean = temperature.project(axis, depth=5.0, weights=gas)
        np.testing.assert_allclose(mean.data, maps[3][first], rtol=1e-5)


def test_maps_of_real_snapshots_become_a_training_set(script, test_data, tmp_path):
    """Names, shapes and parameters are those of the public files."""
    suite = read_suite(test_data / "mpgadget_lh")
    suite = suite[np.isin(suite["run"], ["LH_8", "LH_9"])]
    write_suite(suite, tmp_path / "suite.ecsv")
    script.write_maps(tmp_path / "suite.ecsv", tmp_path, n_cells=16)
    gas = np.load(tmp_path / "Maps_Mgas_Astrid_LH_z=0.00.npy")
    assert gas.shape == (30, 16, 16)
    assert gas.dtype == np.float32
    own = suite[(suite["run"] == "LH_9") & (suite["redshift"] == 0)]
    mass = gas[15:20].sum(dtype=float) * (25 / 16) ** 2
    expected = read_snapshot(own["file"][0]).masses("gas").sum()
    assert mass == pytest.approx(expected, rel=1e-5)
    path = prepare_multifield(
        sorted(tmp_path.glob("Maps_*.npy")),
        tmp_path / "params_LH_Astrid.txt",
        tmp_path / "train.h5",
        n_cells=16,
        progress=False,
    )
    with TrainingSet.open(path) as data:
        assert len(data) == 30
        assert not data.paired
        for name in ("omega_m", "sigma_8", "a_sn1", "a_sn2"):
            column = data.parameters[:, data.space.names.index(name)]
            assert column[-1] == pytest.approx(own[name][0], rel=1e-5)
