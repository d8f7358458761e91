"""The training set on disk: what goes in comes out, and nothing else gets in."""

import json
import pickle
import time

import h5py
import numpy as np
import pytest

from astrogan_emu.dataset import RunSamples, TrainingSet, write_training_set
from astrogan_emu.errors import DatasetError, FileError
from astrogan_emu.parameters import Parameter, ParameterSpace
from astrogan_emu.training_data import SPLITS, Description

SPACE = ParameterSpace((Parameter("omega_m", 0.1, 0.5), Parameter("a_agn", 0.25, 4)))


def description(**changes):
    values = {
        "fields": ("matter", "gas_temperature"),
        "units": {"matter": "", "gas_temperature": "K"},
        "space": SPACE,
        "n_cells": 4,
        "cell_size": 0.5,
        "base_settings": {"n_steps": 5, "mesh_factor": 1, "start_redshift": 9.0},
        "provenance": {"suite": "suite.ecsv"},
    }
    return Description(**{**values, **changes})


def samples_of(run, split, n_samples=3, *, n_dim=3, base=True, seed=0):
    rng = np.random.default_rng([seed, *run.encode()])
    side = (4,) * n_dim
    return RunSamples(
        run=run,
        split=split,
        parameters=SPACE.from_unit(rng.random(2)),
        redshifts=np.linspace(2, 0, n_samples),
        target=rng.random((n_samples, 2, *side)).astype(np.float32),
        base=rng.random((n_samples, 1, *side)).astype(np.float32) if base else None,
    )


RUNS = [
    samples_of("LH_0", "train"),
    samples_of("LH_1", "validation", 2),
    samples_of("LH_2", "test"),
    samples_of("LH_3", "train", 1),
]


@pytest.fixture
def path(tmp_path):
    write_training_set(tmp_path / "train.h5", description(), RUNS)
    return tmp_path / "train.h5"


def test_samples_come_back_as_they_were_written(path):
    """Every array of every run, to the last bit, in the order of writing."""
    with TrainingSet.open(path) as data:
        index = 0
        for run in RUNS:
            for number, redshift in enumerate(run.redshifts):
                base, target, parameters, found = data.sample(index)
                np.testing.assert_array_equal(base, run.base[number])
                np.testing.assert_array_equal(target, run.target[number])
                np.testing.assert_array_equal(parameters, run.parameters)
                assert found == redshift
                assert data.runs[index] == run.run
                index += 1
        assert index == len(data) == data.n_samples


def test_arrays_are_single_precision(path):
    """Training needs no more."""
    with TrainingSet.open(path) as data:
        base, target, _, _ = data.sample(0)
        assert base.dtype == target.dtype == np.float32


def test_the_description_comes_back(path):
    """Fields, units, geometry, ranges, base and provenance."""
    with TrainingSet.open(path) as data:
        assert data.description == description()
        assert data.box_size == 2.0
        assert data.base_channels == 1
        assert data.space == SPACE
        assert data.units["gas_temperature"] == "K"


def test_splits_are_those_of_the_runs(path):
    """Each split has the samples of its runs, and every sample has one."""
    with TrainingSet.open(path) as data:
        np.testing.assert_array_equal(data.indices("train"), [0, 1, 2, 8])
        np.testing.assert_array_equal(data.indices("validation"), [3, 4])
        parts = np.concatenate([data.indices(split) for split in SPLITS])
        np.testing.assert_array_equal(np.sort(parts), np.arange(9))


def test_an_unknown_split_is_refused(path):
    """Typing `val` must not silently train on nothing."""
    with (
        TrainingSet.open(path) as data,
        pytest.raises(DatasetError, match="no split 'val'; choose one of train"),
    ):
        data.indices("val")


def test_maps_without_a_base_are_kept_too(tmp_path):
    """Unpaired two-dimensional data give None for the base."""
    runs = [samples_of("LH_0", "train", n_dim=2, base=False)]
    flat = description(n_dim=2, paired=False)
    write_training_set(tmp_path / "maps.h5", flat, runs)
    with TrainingSet.open(tmp_path / "maps.h5") as data:
        base, target, _, _ = data.sample(1)
        assert base is None
        assert not data.paired
        assert target.shape == (2, 4, 4)


def test_the_same_samples_give_the_same_bytes(path, tmp_path):
    """No time stamps: a set made again can be compared as a file."""
    time.sleep(1.1)  # HDF5 would note seconds.
    write_training_set(tmp_path / "again.h5", description(), RUNS)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_the_fingerprint_knows_the_content(path, tmp_path):
    """It changes with one value, not with the order of runs or the provenance."""
    sha256 = TrainingSet.open(path).sha256
    other = description(provenance={"suite": "another.ecsv"})
    assert sha256 == write_training_set(tmp_path / "a.h5", other, RUNS[::-1])
    changed = RUNS[0].target.copy()
    changed[0, 0, 0, 0, 0] += 1e-3
    run = RunSamples(**{**vars(RUNS[0]), "target": changed})
    assert sha256 != write_training_set(tmp_path / "b.h5", other, [run, *RUNS[1:]])
    moved = RunSamples(**{**vars(RUNS[0]), "run": "LH_9"})
    assert sha256 != write_training_set(tmp_path / "c.h5", other, [moved, *RUNS[1:]])


def test_a_set_goes_to_other_processes(path):
    """Pickled, as data loaders do, it is opened again and gives the same samples."""
    with TrainingSet.open(path) as data:
        copy = pickle.loads(pickle.dumps(data))
        np.testing.assert_array_equal(copy.sample(4)[1], data.sample(4)[1])
        copy.close()


def test_writing_does_not_replace_unless_asked_to(path):
    """`overwrite=False` leaves the file alone."""
    before = path.read_bytes()
    with pytest.raises(FileError, match="overwrite=True"):
        write_training_set(path, description(), RUNS[:1], overwrite=False)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path):
    """A bad run in the middle ends without a file, whole or partial."""
    bad = RunSamples(**{**vars(RUNS[1]), "target": RUNS[1].target[:, :1]})
    with pytest.raises(DatasetError, match="target of run LH_1 has shape"):
        write_training_set(tmp_path / "train.h5", description(), [RUNS[0], bad])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full((3, 2, 4, 4, 4), np.nan, np.float32)}, "not all finite"),
        ({"base": None}, "lacks a base"),
        ({"base": np.zeros((3, 1, 4, 4, 5), np.float32)}, "base of run LH_0 has shape"),
        ({"parameters": np.zeros(3)}, "parameters of run LH_0 has shape"),
        ({"split": "val"}, "of the split 'val'"),
    ],
)
def test_runs_that_do_not_fit_are_not_written(tmp_path, change, message):
    """What cannot be trained on is refused where it is made."""
    run = RunSamples(**{**vars(RUNS[0]), **change})
    with pytest.raises(DatasetError, match=message):
        write_training_set(tmp_path / "train.h5", description(), [run])


def test_no_runs_make_no_set(tmp_path):
    """An empty training set would only fail later."""
    with pytest.raises(DatasetError, match="no samples to write"):
        write_training_set(tmp_path / "train.h5", description(), [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": ()}, "fields must be distinct names"),
        ({"fields": ("matter", "matter")}, "fields must be distinct names"),
        ({"units": {"matter": ""}}, "units are needed"),
        ({"units": {"matter": "", "gas_temperature": "furlong"}}, "no unit"),
        ({"n_dim": 4}, "n_dim must be 2 or 3"),
        ({"cell_size": float("nan")}, "cell_size must be positive"),
        ({"base_settings": {"n_steps": 5}}, "settings of the base are"),
    ],
)
def test_descriptions_make_sense(change, message):
    """Nothing that `training` relies on may be missing."""
    with pytest.raises(DatasetError, match=message):
        description(**change)


def edited(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


def replace(name, values):
    def edit(file):
        del file[name]
        file[name] = values

    return edit


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def without_attribute(name):
    return lambda file: file.attrs.__delitem__(name)


def set_value(name, where, value):
    return lambda file: file[name].__setitem__(where, value)


def never_written(file):
    """A shape of a terabyte in a file of a few kilobytes."""
    del file["samples/target"]
    shape = (9, 2, 4096, 4096, 4096)
    file["samples"].create_dataset("target", shape, "f4", chunks=(1, 1, 4, 4, 4))


HOSTILE = {
    "another kind of file": attribute("format", "astrogan_emu model"),
    "a later version": attribute("version", 99),
    "no format": without_attribute("format"),
    "no fields": without_attribute("fields"),
    "fields that are no JSON": attribute("fields", "matter"),
    "fields that are no names": attribute("fields", json.dumps([1, 2])),
    "a unit too few": attribute("units", json.dumps({"matter": ""})),
    "a space of nothing": attribute("space", json.dumps({"parameters": []})),
    "a space that is a list": attribute("space", "[]"),
    "an absurd number of cells": attribute("n_cells", 2**40),
    "a negative cell": attribute("cell_size", -1.0),
    "text for a number": attribute("n_dim", "three"),
    "no samples": lambda file: file.__delitem__("samples"),
    "no target": lambda file: file.__delitem__("samples/target"),
    "no base": lambda file: file.__delitem__("samples/base"),
    "no runs": lambda file: file.__delitem__("runs"),
    "a group for a dataset": lambda file: (
        file.__delitem__("samples/target"),
        file.create_group("samples/target"),
    ),
    "one redshift too few": replace("samples/redshift", np.zeros(8)),
    "a NaN redshift": set_value("samples/redshift", 2, np.nan),
    "an infinite parameter": set_value("samples/parameters", (0, 0), np.inf),
    "a parameter out of range": set_value("samples/parameters", (0, 0), 0.9),
    "a NaN target": set_value("samples/target", (3, 1, 2, 2, 2), np.nan),
    "a NaN base": set_value("samples/base", (8, 0, 0, 0, 0), np.nan),
    "a changed target": set_value("samples/target", (3, 1, 2, 2, 2), 7.0),
    "a changed base": set_value("samples/base", (8, 0, 0, 0, 0), 7.0),
    "a changed redshift": set_value("samples/redshift", 2, 3.0),
    "an unknown split": set_value("samples/split", 0, b"val"),
    "a run in two splits": set_value("samples/split", 0, b"test"),
    "a run of another name": set_value("samples/run", 8, b"LH_9"),
    "names that are no text": set_value("samples/run", 8, b"\xff\xfe"),
    "numbers for names": replace("samples/run", np.arange(9)),
    "text for numbers": replace("samples/redshift", np.array([b"0"] * 9)),
    "values that were never written": never_written,
    "a scalar for a column": replace("samples/redshift", 0.0),
    "a target that is flat": replace("samples/target", np.zeros((9, 128), "f4")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strange_file_gives_one_clear_error(path, name):
    """Whatever is inside, the error is ours and names the file."""
    edited(path, HOSTILE[name])
    with pytest.raises(DatasetError, match=r"train\.h5"):
        TrainingSet.open(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_gives_one_clear_error(path, share):
    """A download or copy that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError, match=r"train\.h5 is not a complete HDF5 file"):
        TrainingSet.open(path)


@pytest.mark.parametrize("place", np.linspace(0.02, 0.99, 12))
def test_damage_is_noticed_or_harmless(path, place):
    """One changed byte anywhere: an error of ours, or nothing that a sample holds."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)
    try:
        with TrainingSet.open(path) as data:
            found = [data.sample(i) for i in range(len(data))]
    except DatasetError:
        return
    wanted = [(r.base[i], r.target[i]) for r in RUNS for i in range(len(r.redshifts))]
    for sample, (base, target) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(sample[0], base)
        np.testing.assert_array_equal(sample[1], target)


def test_a_sample_is_checked_when_it_is_asked_for(path):
    """Opened without verification, damage still does not reach training."""
    edited(path, set_value("samples/target", (3, 1, 2, 2, 2), np.nan))
    with TrainingSet.open(path, verify=False) as data:
        data.sample(2)
        with pytest.raises(DatasetError, match=r"sample 3 .*run LH_1.* not finite"):
            data.sample(3)
        with pytest.raises(DatasetError, match=r"sample 99 .* cannot be read"):
            data.sample(99)


@pytest.mark.parametrize("what", ["missing", "folder", "text"])
def test_what_is_no_file_of_ours_is_refused(tmp_path, what):
    """A wrong path is named."""
    place = tmp_path / "train.h5"
    if what == "folder":
        place.mkdir()
    elif what == "text":
        place.write_text("omega_m = 0.3\n")
    with pytest.raises(DatasetError, match=r"train\.h5"):
        TrainingSet.open(place)
