import re
import subprocess
import sys

import dask
import numpy as np
import pytest
from astropy.table import QTable

from astrogan_emu import generation
from astrogan_emu.batch import FieldBatch, emulate_batch
from astrogan_emu.cli import main
from astrogan_emu.errors import BatchError, FieldFileError, ParameterError
from astrogan_emu.generation import generate
from astrogan_emu.sample_store import SampleStore
from astrogan_emu.statistics import power_spectrum

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
SETS = QTable([{**CENTRE, "sigma_8": s, "redshift": 1.0} for s in (0.7, 0.8, 0.9)])
OPTIONS = {"fields": ["matter"], "n_cells": 16, "seed": 1}
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def reference():
    batch = emulate_batch(SETS, **OPTIONS)
    return np.asarray(batch.compute(scheduler="synchronous"))


@pytest.fixture(params=["out.zarr", "out.h5"])
def output(request, tmp_path):
    """A store of each kind."""
    if request.param.endswith("zarr"):
        pytest.importorskip("zarr")
    return tmp_path / request.param


@pytest.fixture
def design(tmp_path):
    path = tmp_path / "design.ecsv"
    SETS.write(path)
    return path


def made(output, **keywords):
    return generate(SETS, output, progress=False, **(OPTIONS | keywords))


def stored(output, name="fields"):
    with SampleStore.open(output) as store:
        return np.asarray(store[name][...])


@pytest.fixture
def counted(monkeypatch):
    """Numbers of the samples that were emulated."""
    numbers = []
    make = generation._make

    def count(number, *others):
        numbers.append(number)
        make(number, *others)

    monkeypatch.setattr(generation, "_make", count)
    return numbers


def test_samples_on_disk_are_those_of_a_batch(output, reference):
    """Same numbers, and the table beside them."""
    assert made(output) == output
    np.testing.assert_allclose(stored(output), reference, **ROUNDING)
    with SampleStore.open(output) as store:
        np.testing.assert_allclose(store.table["sigma_8"], [0.7, 0.8, 0.9])
        assert store.finished().all()


def test_a_finished_zarr_opens_as_a_batch(tmp_path, reference):
    """With everything a field knows of itself."""
    pytest.importorskip("zarr")
    batch = FieldBatch.from_zarr(made(tmp_path / "out.zarr"))
    np.testing.assert_allclose(np.asarray(batch), reference, **ROUNDING)
    assert batch[1]["matter"].meta == emulate_batch(SETS, **OPTIONS)[1]["matter"].meta


def test_statistics_without_fields(output, reference):
    """Spectra and distributions are those of the fields, which are not kept."""
    made(output, statistics=["power", "pdf"], keep_fields=False)
    with SampleStore.open(output) as store:
        assert "fields" not in store
        k, power = store["power_k"][...], store["power"][...]
        edges, pdf = store["pdf_edges"][...], store["pdf"][...]
    box = emulate_batch(SETS, **OPTIONS).grid.box_size
    expected = power_spectrum(reference, box_size=box, n_dim=3)
    np.testing.assert_allclose(k, expected.k)
    np.testing.assert_allclose(power, expected.power, rtol=1e-3)
    assert pdf.shape == (3, 1, len(edges) - 1)
    assert np.all((pdf * np.diff(edges)).sum(axis=-1) <= 1 + 1e-9)
    if output.suffix == ".zarr":
        with pytest.raises(FieldFileError, match="statistics without fields"):
            FieldBatch.from_zarr(output)


def test_it_goes_on_where_it_was_interrupted(output, counted, monkeypatch, reference):
    """Finished samples are not made again."""
    make = generation._make

    def interrupted(number, *others):
        if number == 1:
            raise KeyboardInterrupt
        make(number, *others)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "_make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(output)
    if output.suffix == ".zarr":
        with pytest.raises(FieldFileError, match="only 1 of 3 samples"):
            FieldBatch.from_zarr(output)
    counted.clear()
    made(output)
    assert counted == [1, 2]
    made(output)
    assert counted == [1, 2]
    np.testing.assert_allclose(stored(output), reference, **ROUNDING)


def test_a_damaged_sample_is_made_again(output, counted, reference):
    """Its checksum tells, and the others are left alone."""
    made(output)
    if output.suffix == ".zarr":
        chunk = output / "fields" / "c" / "1" / "0" / "0" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:100])
    else:
        with SampleStore.open(output, write=True) as store:
            store["fields"][1, 0, 3, 3, 3] += 1
    counted.clear()
    made(output)
    assert counted == [1]
    np.testing.assert_allclose(stored(output), reference, **ROUNDING)


def test_a_sample_is_complete_only_after_it_is_written(output, counted, monkeypatch):
    """A write that fails leaves one clear error and no record."""
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(SampleStore, "_as_stored", full)
        with pytest.raises(FieldFileError, match=r"sample 0 .*: No space left"):
            made(output)
    assert not stored(output, "complete").any()
    counted.clear()
    made(output)
    assert counted == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 2}, "begun with seed = 1, not 2"),
        ({"fields": ["galaxies"]}, "begun with fields"),
        ({"n_cells": 20}, "begun with n_cells = 16, not 20"),
        ({"paired": True}, "begun with paired = False, not True"),
        ({"statistics": ["power"]}, "begun with statistics"),
        ({"n_realizations": 2}, "begun with n_realizations"),
    ],
)
def test_other_settings_are_refused(output, change, match, monkeypatch):
    """Two sets must not be mixed in one store; nothing needs to be made to know."""
    monkeypatch.setattr(generation, "_make", _stop)
    with pytest.raises(KeyboardInterrupt):
        made(output)
    with pytest.raises(FieldFileError, match=match):
        made(output, **change)


def _stop(*_):
    raise KeyboardInterrupt


def test_another_design_is_refused(output, monkeypatch):
    """Its fingerprint is part of the settings."""
    monkeypatch.setattr(generation, "_make", _stop)
    with pytest.raises(KeyboardInterrupt):
        made(output)
    with pytest.raises(FieldFileError, match="begun with design"):
        generate(SETS[::-1], output, progress=False, **OPTIONS)


@pytest.mark.parametrize(
    ("error", "match", "keywords"),
    [
        (ParameterError, "no statistic 'mean'", {"statistics": ["mean"]}),
        (ParameterError, "statistics must be a list", {"statistics": "power"}),
        (ParameterError, "nothing to keep", {"keep_fields": False}),
        (ParameterError, "workers must be at least 1", {"workers": 0}),
        (ParameterError, "one of the two", {"workers": 2, "scheduler": "tcp://a:1"}),
        (FieldFileError, "only one process can write HDF5", {"workers": 2}),
        (FieldFileError, "must end in", {"output": "out.npy"}),
        (FieldFileError, "folder of .* does not exist", {"output": "no/out.h5"}),
        (FieldFileError, "need .* GB, and the disk", {"n_realizations": 10**7}),
    ],
)
def test_mistakes_are_refused_at_once(error, match, keywords, tmp_path, monkeypatch):
    """Before anything is made or written."""
    monkeypatch.chdir(tmp_path)
    if "n_realizations" in keywords:
        keywords = {}
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(generation.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(error, match=match):
        made(keywords.pop("output", "out.h5"), **keywords)
    assert not list(tmp_path.iterdir())


def test_something_else_is_not_written_into(output):
    """Neither a file nor a folder that is no store."""
    if output.suffix == ".zarr":
        output.mkdir()
        (output / "chapter.txt").write_text("mine")
    else:
        output.write_text("mine")
    with pytest.raises(FieldFileError, match="give another name"):
        made(output)


def test_the_command(output, design, capsys):
    """Progress with the time left, and a line at the end."""
    command = ["generate", str(design), "-o", str(output), "--seed", "1"]
    command += ["--n-cells", "16", "--fields", "matter"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"wrote {output}" in said.out
    assert "3/3" in said.err
    assert "sample" in said.err
    assert main([*command[:-1], "galaxies"]) == 1
    assert "was begun with fields" in capsys.readouterr().err


def test_the_command_explains_a_design_it_cannot_read(tmp_path, capsys):
    """One line, whatever the format."""
    for name in ("none.ecsv", "design.xyz"):
        assert main(["generate", name, "-o", "out.h5", "--seed", "1"]) == 1
        error = capsys.readouterr().err
        assert f"cannot read the design {name}" in error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_killed_command_goes_on(output, design, reference):
    """Killed without warning in the middle, it leaves nothing half made."""
    command = [sys.executable, "-m", "astrogan_emu", "generate", str(design)]
    command += ["-o", str(output), "--seed", "1", "--n-cells", "16"]
    command += ["--fields", "matter"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    said = b""
    # As soon as one is finished, wherever that finds the next.
    while not re.search(rb"[12]/3", said) and process.poll() is None:
        said += process.stderr.read1()
    process.kill()
    process.stderr.close()
    process.wait()
    with SampleStore.open(output) as store:
        assert store.finished().any()
    made(output)
    np.testing.assert_allclose(stored(output), reference, **ROUNDING)


@pytest.mark.slow
def test_workers_make_the_same(tmp_path, reference):
    """Two processes write one zarr group."""
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    path = made(tmp_path / "out.zarr", workers=2)
    np.testing.assert_allclose(stored(path), reference, **ROUNDING)


@pytest.mark.slow
def test_workers_keep_no_records_that_grow():
    """Dask's profiler would hold a gigabyte after an hour."""
    pytest.importorskip("distributed")
    setting = "distributed.worker.profile.enabled"
    with generation._client(1, None, "cpu") as client:
        assert list(client.run(dask.config.get, setting).values()) == [False]
    assert dask.config.get(setting)


@pytest.mark.slow
def test_no_scheduler_is_one_clear_error(tmp_path):
    """The message says how to start one."""
    pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    with pytest.raises(BatchError, match=r"answers at tcp://127\.0\.0\.1:9"):
        made(tmp_path / "out.zarr", scheduler="tcp://127.0.0.1:9")
