"""Preparation: samples are what they say, and interruptions leave no trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.table import Table, vstack

from astrogan_emu.bases import BaseSettings, base_fields
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.errors import (
    DatasetError,
    SuiteError,
    UnknownFieldError,
)
from astrogan_emu.grids import GridSpec, deposit
from astrogan_emu.initial_conditions import linear_field, linear_field_from_velocities
from astrogan_emu.preparation import PreparationConfig, _make_part, prepare
from astrogan_emu.simulations import (
    SimulationConfig,
    design_at_point,
    design_over_space,
    simulate,
)
from astrogan_emu.snapshots import read_snapshot
from astrogan_emu.statistics import correlation_coefficient
from astrogan_emu.suites import read_suite

POINT = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 0.96, "sigma_8": 0.9}
SIMULATION = SimulationConfig(
    n_particles=16, box_size=12.5, n_mesh=16, n_steps=8, redshifts=(1.0, 0.0)
)
CONFIG = PreparationConfig(n_cells=8, base_steps=3)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Four runs over the default space, one for validation and one for testing."""
    folder = tmp_path_factory.mktemp("runs") / "suite"
    design = vstack(
        [
            design_over_space(2, seed=1),
            design_at_point(POINT, 1, seed=2, name="val"),
            design_at_point(POINT, 1, seed=3, name="test"),
        ]
    )
    simulate(design, folder, config=SIMULATION, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def prepared(suite, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "train.h5"
    return prepare(suite, path, config=CONFIG, workers=1, progress=False)


@pytest.fixture
def data(prepared):
    with TrainingSet.open(prepared) as opened:
        yield opened


def own_copy(suite, tmp_path):
    """A suite that a test may damage."""
    return Path(shutil.copytree(suite, tmp_path / "suite"))


def snapshot_of(suite, data, index):
    table = read_suite(suite)
    chosen = (table["run"] == data.runs[index]) & np.isclose(
        table["redshift"], data.redshifts[index]
    )
    return read_snapshot(table["file"][chosen][0])


def run_of(suite, run):
    table = read_suite(suite)
    return table[table["run"] == run]


def test_every_snapshot_becomes_a_sample(suite, data):
    """With the parameters of its run, in the order of the suite."""
    table = read_suite(suite)
    assert len(data) == len(table) == 8
    np.testing.assert_array_equal(data.runs, table["run"])
    np.testing.assert_array_equal(data.redshifts, table["redshift"])
    for name, column in zip(data.space.names, data.parameters.T, strict=True):
        np.testing.assert_array_equal(column, table[name])


def test_matter_is_the_particles_deposited(suite, data):
    """Cloud in cell, as a ratio to the mean, to single precision."""
    for index in (0, 5):
        snapshot = snapshot_of(suite, data, index)
        cells = deposit(snapshot.positions("dark_matter"), grid=GridSpec(8, 12.5))
        target = data.sample(index)[1]
        np.testing.assert_allclose(target[0], cells / cells.mean(), rtol=1e-6)
        assert target[0].mean() == pytest.approx(1, abs=1e-6)


def test_galaxies_sit_where_matter_is(data):
    """Their mean is a number density, and they follow the densest cells."""
    last = np.flatnonzero(data.redshifts == 0)
    targets = np.stack([data.sample(index)[1] for index in last])
    matter, galaxies = targets[:, 0], targets[:, 1]
    # Between 1e-4 and 0.1 (h/Mpc)^3, as for halos above 1e12 Msun/h.
    assert 1e-4 < galaxies.mean() < 0.1
    assert (galaxies >= 0).all()
    assert matter[galaxies > galaxies.mean()].mean() > 3


def test_the_base_is_what_the_emulator_would_make(suite, data):
    """The same calls with the recovered linear field give the same numbers."""
    rows = run_of(suite, "val_0")
    start = read_snapshot(rows["initial_conditions"][0])
    delta = linear_field_from_velocities(
        torch.from_numpy(start.positions("dark_matter")).float(),
        torch.from_numpy(start.velocities("dark_matter")).float(),
        None,
        redshift=start.redshift,
        omega_m=POINT["omega_m"],
        n_cells=8,
        box_size=12.5,
    )
    for index in np.flatnonzero(data.runs == "val_0"):
        with torch.no_grad():
            (base,) = base_fields(
                delta,
                POINT,
                box_size=12.5,
                redshift=data.redshifts[index],
                settings=BaseSettings(n_steps=3),
            )
        # Single precision through three steps; threads may change the last digits.
        np.testing.assert_allclose(data.sample(index)[0][0], base, rtol=1e-4, atol=1e-5)


def test_the_base_has_the_phases_of_the_run(suite, data):
    """It follows the simulation, and the field that the simulation was drawn from."""
    for index in np.flatnonzero(data.redshifts == 0):
        base, target, _, _ = data.sample(index)
        r = correlation_coefficient(base[0], target[0], box_size=12.5).value
        # The largest modes of the box; a half-cell shift would cost a tenth here.
        assert r[0] > 0.97
        row = run_of(suite, data.runs[index])[0]
        drawn = linear_field(
            {name: row[name] for name in data.space.names},
            n_cells=8,
            box_size=12.5,
            seed=int(row["seed"]),
        )
        of_drawn = correlation_coefficient(
            1 + 1e-3 * drawn.numpy(), base[0], box_size=12.5
        )
        assert of_drawn.value[0] > 0.8


def test_the_set_says_what_it_is(data):
    """Fields with units, geometry, base and where all of it comes from."""
    assert data.fields == ("matter", "galaxies")
    assert data.units == {"matter": "", "galaxies": "littleh3 / Mpc3"}
    assert data.cell_size == pytest.approx(12.5 / 8)
    recipe = data.base_settings["galaxies"]
    assert recipe["occupation"] == data.provenance["settings"]["occupation"]
    assert recipe["linking_length"] > data.provenance["settings"]["linking_length"]
    assert data.base_settings == {
        "n_steps": 3,
        "mesh_factor": 1,
        "start_redshift": 9.0,
        "galaxies": recipe,
    }
    assert data.paired
    assert data.provenance["settings"]["occupation"]["log10_m_min"] == 12.0
    assert data.provenance["suite"] == "suite"
    assert data.provenance["code"] == "astrogan_emu particle mesh"


def test_sets_decide_the_split(data):
    """Sets called val and test are held out, whole runs at a time."""
    assert set(data.runs[data.indices("train")]) == {"LH_0", "LH_1"}
    assert set(data.runs[data.indices("validation")]) == {"val_0"}
    assert set(data.runs[data.indices("test")]) == {"test_0"}


def test_the_set_is_complete_without_its_parts(prepared):
    """Nothing stays beside it."""
    assert list(prepared.parent.iterdir()) == [prepared]


def test_preparing_again_changes_nothing(suite, prepared):
    """A finished set is recognised."""
    before = prepared.stat().st_mtime_ns
    prepare(suite, prepared, config=CONFIG, progress=False)
    assert prepared.stat().st_mtime_ns == before


def test_workers_do_not_change_the_bytes(suite, prepared, tmp_path):
    """Two processes, the same file."""
    again = prepare(
        suite, tmp_path / "train.h5", config=CONFIG, workers=2, progress=False
    )
    assert again.read_bytes() == prepared.read_bytes()


def test_threads_do_not_change_the_bytes(suite, prepared, tmp_path):
    """Nor does a session that uses several threads, which it keeps."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = prepare(
            suite, tmp_path / "train.h5", config=CONFIG, workers=1, progress=False
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert again.read_bytes() == prepared.read_bytes()


def test_the_place_of_the_suite_does_not_change_the_bytes(suite, prepared, tmp_path):
    """A table in memory, or a folder elsewhere, is the same suite."""
    copy = own_copy(suite, tmp_path)
    again = prepare(
        copy, tmp_path / "train.h5", config=CONFIG, workers=1, progress=False
    )
    assert again.read_bytes() == prepared.read_bytes()


def test_a_killed_preparation_goes_on_and_ends_the_same(
    suite, prepared, tmp_path, monkeypatch
):
    """Killed after its first run, it keeps that run and ends with the same bytes."""
    output = tmp_path / "train.h5"
    code = (
        "from astrogan_emu.preparation import PreparationConfig, _make_part, prepare\n"
        f"prepare({str(suite)!r}, {str(output)!r}, workers=1, progress=False,"
        " config=PreparationConfig(n_cells=8, base_steps=3))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    parts = tmp_path / "train.h5.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("[!.]*.h5")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    done = {part.stem for part in parts.glob("[!.]*.h5")}
    # What a kill in the midst of writing leaves is not taken for a part.
    (parts / ".0123456789abcdef.LH_1.h5").write_bytes(b"half")

    made = []

    def noted(rows, *arguments):
        made.append(rows[0]["run"])
        return _make_part(rows, *arguments)

    monkeypatch.setattr("astrogan_emu.preparation._make_part", noted)
    prepare(suite, output, config=CONFIG, workers=1, progress=False)
    assert done
    assert not done & set(made)
    assert output.read_bytes() == prepared.read_bytes()
    assert list(tmp_path.iterdir()) == [output]


def test_an_interruption_at_the_end_leaves_no_parts(suite, prepared, tmp_path):
    """Killed between the last two steps, the next call tidies up."""
    output = Path(shutil.copy(prepared, tmp_path / "train.h5"))
    (tmp_path / "train.h5.parts").mkdir()
    (tmp_path / "train.h5.parts" / "LH_0.h5").write_bytes(b"")
    prepare(suite, output, config=CONFIG, progress=False)
    assert list(tmp_path.iterdir()) == [output]


@pytest.fixture
def begun(suite, tmp_path):
    """An interrupted preparation: its output would be this, its parts are there."""
    output = tmp_path / "train.h5"
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "astrogan_emu.preparation._assemble", lambda *_: _raise(KeyboardInterrupt)
        )
        prepare(suite, output, config=CONFIG, workers=1, progress=False)
    return output


def _raise(kind):
    raise kind


def test_parts_of_other_settings_are_refused(suite, begun):
    """Nothing is mixed, and the setting is named."""
    other = PreparationConfig(n_cells=8, base_steps=4)
    with pytest.raises(DatasetError, match="begun with other base_steps: 3, not 4"):
        prepare(suite, begun, config=other, workers=1, progress=False)


def test_parts_of_other_snapshots_are_refused(suite, begun, tmp_path):
    """A file that changed meanwhile is noticed by its content."""
    copy = own_copy(suite, tmp_path)
    with h5py.File(copy / "LH_0" / "snap_001.hdf5", "r+") as file:
        file["PartType1/Coordinates"][0, 0] += 1e-3
    with pytest.raises(DatasetError, match="begun with other files"):
        prepare(copy, begun, config=CONFIG, workers=1, progress=False)


def test_a_damaged_part_is_refused(suite, begun):
    """It is named, so that it can be removed."""
    part = begun.parent / "train.h5.parts" / "LH_0.h5"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"LH_0\.h5.* is damaged .*remove it"):
        prepare(suite, begun, config=CONFIG, workers=1, progress=False)


def test_another_set_is_not_replaced_unless_asked_to(suite, prepared, tmp_path):
    """An output made with other settings is refused, and replaced on request."""
    output = Path(shutil.copy(prepared, tmp_path / "train.h5"))
    other = PreparationConfig(n_cells=8, base_steps=3, fields=("matter",))
    with pytest.raises(DatasetError, match="prepared with other settings; pass"):
        prepare(suite, output, config=other, progress=False)
    prepare(suite, output, config=other, workers=1, overwrite=True, progress=False)
    with TrainingSet.open(output) as data:
        assert data.fields == ("matter",)


def test_a_dry_run_writes_nothing(suite, tmp_path):
    """It says where the set would be."""
    output = tmp_path / "train.h5"
    assert prepare(suite, output, config=CONFIG, dry_run=True) == output
    assert list(tmp_path.iterdir()) == []


def with_changed_table(suite, tmp_path, change):
    copy = own_copy(suite, tmp_path)
    table = Table.read(copy / "suite.ecsv")
    change(table)
    table.write(copy / "suite.ecsv", overwrite=True)
    return copy


def set_column(name, run, value):
    def change(table):
        table[name][table["run"] == run] = value

    return change


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_column("omega_m", "LH_0", 0.31),
            "has omega_m = .* but the suite says 0.3",
        ),
        (set_column("h", "LH_1", 0.9), "has h = .* but the suite says 0.9"),
        (
            lambda table: table.replace_column("redshift", [0.5, 0.0] * 4),
            "has redshift 1 in its header, but the suite says 0.5",
        ),
    ],
)
def test_headers_that_contradict_the_suite_are_refused(
    suite, tmp_path, change, message, dry_run
):
    """A wrong parameter file must not teach wrong parameters; a dry run sees it."""
    copy = with_changed_table(suite, tmp_path, change)
    with pytest.raises(DatasetError, match=message):
        prepare(
            copy,
            tmp_path / "train.h5",
            config=CONFIG,
            workers=1,
            dry_run=dry_run,
            progress=False,
        )


def test_runs_of_different_boxes_are_refused(suite, tmp_path):
    """Their cells would have different sizes."""
    folder = tmp_path / "large"
    larger = SimulationConfig(
        n_particles=16, box_size=25.0, n_mesh=16, n_steps=2, redshifts=(0.0,)
    )
    design = design_at_point(POINT, 1, seed=9, name="large")
    simulate(design, folder, config=larger, workers=1, progress=False)
    both = vstack([read_suite(suite), read_suite(folder)], metadata_conflicts="silent")
    with pytest.raises(DatasetError, match="run large_0 has a box of 25 Mpc/h"):
        prepare(both, tmp_path / "train.h5", dry_run=True)
    with pytest.raises(DatasetError, match="run large_0 has a box of 25 Mpc/h"):
        prepare(both, tmp_path / "train.h5", config=CONFIG, workers=1, progress=False)
    assert not (tmp_path / "train.h5").exists()


def test_a_suite_without_initial_conditions_is_not_paired(suite, data, tmp_path):
    """Its bases have the parameters of the run and other phases."""
    table = read_suite(suite)
    table = table[table["run"] == "LH_0"]
    table["initial_conditions"] = ""
    path = prepare(
        table, tmp_path / "train.h5", config=CONFIG, workers=1, progress=False
    )
    with TrainingSet.open(path) as unpaired:
        assert not unpaired.paired
        base, target, *_ = unpaired.sample(1)
    own, same, *_ = data.sample(1)
    np.testing.assert_array_equal(target, same)
    base, own = base[0], own[0]
    assert base.mean() == pytest.approx(1, abs=1e-5)
    # As clumpy as that of the run's own phases, and another field.
    assert base.std() == pytest.approx(own.std(), rel=0.5)
    assert abs(np.corrcoef(base.ravel(), own.ravel())[0, 1]) < 0.3


def test_initial_conditions_of_some_runs_only_are_refused(suite, tmp_path):
    """A set is paired or not."""
    table = read_suite(suite)
    table["initial_conditions"][table["run"] == "LH_1"] = ""
    with pytest.raises(DatasetError, match="run LH_1 has no initial conditions"):
        prepare(table, tmp_path / "train.h5", dry_run=True)


def test_a_bad_snapshot_is_named_with_its_run(suite, tmp_path):
    """What goes wrong in a worker arrives as one error of ours."""
    copy = own_copy(suite, tmp_path)
    with h5py.File(copy / "LH_1" / "snap_000.hdf5", "r+") as file:
        file["PartType1/Coordinates"][3, 1] = np.nan
    for workers in (1, 2):
        with pytest.raises(DatasetError, match=r"run LH_1 cannot .*snap_000"):
            prepare(
                copy,
                tmp_path / "train.h5",
                config=CONFIG,
                workers=workers,
                progress=False,
            )


def test_a_grid_finer_than_the_particles_is_refused(suite, tmp_path):
    """The error says what to change."""
    with pytest.raises(DatasetError, match=r"run LH_0 cannot be prepared.*n_cells"):
        prepare(
            suite,
            tmp_path / "train.h5",
            config=PreparationConfig(n_cells=32),
            workers=1,
            progress=False,
        )


def test_the_folder_of_the_output_must_exist(suite, tmp_path):
    """Said before anything is computed."""
    with pytest.raises(DatasetError, match=r"folder of .* does not exist"):
        prepare(suite, tmp_path / "none" / "train.h5", config=CONFIG)


def test_a_missing_suite_is_said(tmp_path):
    """By the reader of suites."""
    with pytest.raises(SuiteError, match="does not exist"):
        prepare(tmp_path / "suite.ecsv", tmp_path / "train.h5")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"fields": ("matters",)}, UnknownFieldError, "no field 'matters'"),
        ({"fields": ()}, DatasetError, "one or several different names"),
        ({"fields": ("matter", "matter")}, DatasetError, "different names"),
        ({"n_cells": 2}, DatasetError, "n_cells must be a whole number of at least 4"),
        ({"base_steps": 0}, DatasetError, "base_steps must be a whole number"),
        ({"base_mesh_factor": 1.5}, DatasetError, "base_mesh_factor must be a whole"),
        ({"base_linking_length": -0.2}, DatasetError, "0 for a base without halos"),
    ],
)
def test_impossible_settings_are_refused(change, kind, message):
    """Before any work."""
    with pytest.raises(kind, match=message):
        PreparationConfig(**change)


def test_a_json_list_of_fields_makes_an_equal_configuration():
    """Settings survive their own description."""
    values = json.loads(json.dumps({"fields": ["matter"], "n_cells": 16}))
    assert PreparationConfig(**values).fields == ("matter",)


def test_fields_of_gas_follow_the_gas(test_data, tmp_path):
    """Real hydrodynamical runs: mass kept, temperatures of gas, phases of the start."""
    table = read_suite(test_data / "mpgadget_lh")
    table = table[(table["run"] == "LH_9") & (table["redshift"] < 0.6)]
    fields = ("matter", "gas_density", "gas_temperature", "stellar_density")
    path = prepare(
        table,
        tmp_path / "hydro.h5",
        config=PreparationConfig(n_cells=32, fields=fields),
        workers=1,
        progress=False,
    )
    with TrainingSet.open(path) as data:
        assert data.space["h"].low == data.space["h"].default == 0.6711
        base, target, _, redshift = data.sample(1)
        assert redshift == 0
    matter, gas, temperature, stars = target
    snapshot = read_snapshot(table["file"][1])
    for values, kind in ((gas, "gas"), (stars, "stars")):
        mass = values.sum(dtype=np.float64) * (25 / 32) ** 3
        # Cells are kept in single precision.
        assert mass == pytest.approx(snapshot.masses(kind).sum(), rel=1e-6)
    heat = (gas.astype(float) * temperature).sum() / gas.sum(dtype=float)
    masses = snapshot.masses("gas")
    mean = np.average(snapshot.temperature(), weights=masses)
    assert heat == pytest.approx(mean, rel=1e-5)
    assert snapshot.temperature().min() <= temperature.min()
    r = correlation_coefficient(base[0], matter, box_size=25.0)
    assert r.value[r.k < 1.2].min() > 0.99
    with_gas = correlation_coefficient(gas, matter, box_size=25.0)
    assert with_gas.value[0] > 0.99
