import pickle
import threading

import dask
import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.cosmology import Planck18
from astropy.table import QTable

from astrogan_emu.batch import FieldBatch, emulate_batch
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import (
    CheckpointError,
    ExtrapolationWarning,
    FieldFileError,
    GridError,
    MissingParameterError,
    ParameterError,
    ParameterRangeError,
    UnknownFieldError,
    UnknownModelError,
    UnknownParameterError,
)
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.sample_plan import sample_seed
from astrogan_emu.statistics import correlation_coefficient
from astrogan_emu.torch_threads import shared_cores

CENTRE = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
SETS = [{**CENTRE, "sigma_8": s} for s in (0.7, 0.8, 0.9)]
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}


def small(parameters=SETS, **keywords):
    """A batch of the smallest box that is worth emulating."""
    options = {"seed": 1, "n_cells": 16, "fields": ["matter"], **keywords}
    return emulate_batch(parameters, **options)


def computed(parameters=SETS, **keywords):
    return np.asarray(small(parameters, **keywords).compute(scheduler="synchronous"))


@pytest.fixture(scope="module")
def reference():
    """Three sets, one sample each."""
    return computed()


def test_a_batch_is_a_lazy_dask_array_and_a_table():
    """Nothing is emulated; shape, dtype, units and rows are known."""
    batch = small(fields=["galaxies", "matter"], n_realizations=2)
    assert isinstance(batch.data.dask, dask.highlevelgraph.HighLevelGraph)
    assert batch.shape == batch.data.shape == (6, 2, 16, 16, 16)
    assert batch.data.dtype == np.float32
    assert batch.data.chunks[0] == (1,) * 6
    assert len(batch) == len(batch.table) == 6
    np.testing.assert_array_equal(batch.table["realization"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(batch.table["sigma_8"], [0.7, 0.8, 0.9] * 2)
    assert "lazy" in repr(batch)


def test_the_graph_carries_no_weights():
    """It names the model's file; that has 2.6 MB."""
    assert len(pickle.dumps(small().data.dask)) < 20_000


def test_a_sample_is_that_of_the_emulator():
    """A batch adds nothing of its own: same seed, same fields, same units."""
    batch = small(fields=None, redshift=[0.0, 0.5, 1.0])
    sample = batch[-2]
    assert batch.table["seed"][1] == sample_seed(1, 1)
    alone = Emulator.load().emulate(
        SETS[1], redshift=0.5, n_cells=16, seed=int(batch.table["seed"][1])
    )
    assert list(sample) == list(alone)
    for name, field in sample.items():
        np.testing.assert_allclose(field.data, alone[name].data, rtol=1e-4)
        assert field.unit == alone[name].unit
        assert field.meta == alone[name].meta
        assert "expected_error" in field.meta
        assert field.grid == alone[name].grid
    with pytest.raises(IndexError, match="no sample 3"):
        batch[3]


def test_parts_of_a_batch_are_batches(reference):
    """A slice or a mask keeps rows and data together, and stays lazy."""
    batch = small()
    part = batch[1:]
    assert isinstance(part, FieldBatch)
    np.testing.assert_allclose(np.asarray(part), reference[1:], **ROUNDING)
    chosen = batch[batch.table["sigma_8"] > 0.85]
    assert list(chosen.table["seed"]) == [batch.table["seed"][2]]
    assert len(list(part)) == 2


@pytest.mark.parametrize("chunks", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_no_chunking_or_scheduler_changes_a_sample(reference, chunks, scheduler):
    """To the rounding of float32."""
    batch = small(chunks=chunks).compute(scheduler=scheduler, num_workers=2)
    np.testing.assert_allclose(np.asarray(batch), reference, **ROUNDING)


def test_order_does_not_matter(reference):
    """The last sample made first is the same."""
    batch = small()
    for i in (2, 0, 1):
        np.testing.assert_allclose(batch[i]["matter"].data, reference[i, 0], **ROUNDING)


def test_more_samples_leave_the_earlier_ones_alone(reference):
    """More sets of one realisation, and more realisations, come behind."""
    longer = small([*SETS, CENTRE])
    np.testing.assert_array_equal(longer.table["seed"][:3], small(SETS).table["seed"])
    more = small(n_realizations=3)
    np.testing.assert_array_equal(more.table["seed"][:3], small().table["seed"])
    np.testing.assert_allclose(
        np.asarray(more[:3].compute(scheduler="synchronous")), reference, **ROUNDING
    )
    assert len(set(more.table["seed"])) == 9


def test_same_phases_are_shared_by_all_sets():
    """Realisation j has one seed, structure in one place for all parameters."""
    batch = small(n_realizations=2, same_phases=True, n_cells=32)
    seeds = batch.table["seed"]
    assert list(seeds) == [seeds[0]] * 3 + [seeds[3]] * 3
    assert seeds[0] != seeds[3]
    low, high = batch[0]["matter"], batch[2]["matter"]
    assert correlation_coefficient(low, high).value[0] > 0.95


def test_pairs_have_flipped_phases():
    """Overdense regions of one are underdense in the other."""
    batch = small(CENTRE, paired=True, n_realizations=2, n_cells=32, redshift=2)
    assert list(batch.table["flipped"]) == [False, True, False, True]
    np.testing.assert_array_equal(
        batch.table["seed"], np.repeat(small(CENTRE, n_realizations=2).table["seed"], 2)
    )
    one, two = batch[0]["matter"], batch[1]["matter"]
    assert correlation_coefficient(one, two).value[0] < -0.5


def test_fixed_amplitudes_take_the_scatter_from_large_scales():
    """The power of the largest modes hardly differs between realisations."""
    scatter = []
    for fixed in (False, True):
        batch = small(CENTRE, n_realizations=4, fixed=fixed, redshift=2)
        power = [sample["matter"].power_spectrum().power[0] for sample in batch]
        scatter.append(np.std(power) / np.mean(power))
    assert scatter[1] < 0.5 * scatter[0]


def test_given_initial_conditions_are_followed():
    """All samples then have their structure, whatever their seeds."""
    seed = sample_seed(1, 0)
    box = Emulator.load().card.cell_size * 16
    delta = linear_field(CENTRE, n_cells=16, box_size=box, seed=seed).numpy()
    batch = small(CENTRE, n_realizations=2, initial_conditions=delta, chunks=2)
    drawn = small(CENTRE)[0]["matter"]
    np.testing.assert_allclose(batch[0]["matter"].data, drawn.data, rtol=1e-3)
    r = correlation_coefficient(batch[1]["matter"], drawn).value
    assert r[0] > 0.95
    assert batch[1]["matter"].seed != drawn.seed


FORMS = {
    "table": QTable(SETS),
    "table with more columns": QTable([{**s, "name": "a"} for s in SETS]),
    "structured": QTable(SETS).as_array(),
    "mapping of columns": {**CENTRE, "sigma_8": [0.7, 0.8, 0.9]},
    "rows": list(QTable(SETS)),
    "array": np.array([list(s.values()) for s in SETS]),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_parameters_come_in_any_form(form):
    """The table of samples is the same."""
    table = small(form).table
    np.testing.assert_allclose(table["sigma_8"], [0.7, 0.8, 0.9])
    np.testing.assert_allclose(table["omega_m"], 0.3)


def test_an_array_may_bring_its_names():
    """Its columns may then stand in any order."""
    array = np.array([list(s.values())[::-1] for s in SETS])
    table = small(array, names=list(CENTRE)[::-1]).table
    np.testing.assert_allclose(table["sigma_8"], [0.7, 0.8, 0.9])


def test_a_cosmology_and_a_draw_are_parameters_too():
    """One cosmology is one set; a design of the model's space is inside its range."""
    assert len(small(Planck18, n_realizations=2)) == 2
    space = Emulator.load().card.space
    assert len(small(space.sobol(5, seed=1))) == 5


def test_redshift_can_be_a_column():
    """Of a table, of mappings, or an argument; never two of them."""
    table = QTable([{**s, "redshift": z} for s, z in zip(SETS, (0, 1, 2), strict=True)])
    for form in (table, [dict(zip(r.colnames, r, strict=True)) for r in table]):
        np.testing.assert_allclose(small(form).table["redshift"], [0, 1, 2])
    assert set(small(redshift=0.5 * u.one).table["redshift"]) == {0.5}
    with pytest.raises(ParameterError, match="redshift is given twice"):
        small(table, redshift=1)
    with pytest.raises(ParameterError, match=r"1 of 3 sets .* have a redshift"):
        small([{**CENTRE, "redshift": 0}, CENTRE, CENTRE])


@pytest.mark.parametrize(
    ("error", "match", "keywords"),
    [
        (ParameterError, "seed must be a whole number of at least 0", {"seed": -1}),
        (ParameterError, "seed must be a whole number", {"seed": 1.5}),
        (ParameterError, "n_realizations must be .* at least 1", {"n_realizations": 0}),
        (ParameterRangeError, r"redshift = 7 .*\[0, 2\]", {"redshift": 7}),
        (ParameterError, "each of the 3 sets", {"redshift": [0, 1]}),
        (ParameterError, "finite", {"redshift": np.nan}),
        (UnknownFieldError, "no model makes 'light'; ", {"fields": ["light"]}),
        (ParameterError, "each field once", {"fields": ["matter", "matter"]}),
        (ParameterError, "each field once", {"fields": []}),
        (UnknownModelError, "no model 'none'", {"model": "none"}),
        (CheckpointError, "not exist", {"model": "none.safetensors"}),
        (GridError, "multiple of", {"n_cells": 18}),
        (GridError, "chunks must be", {"chunks": 0}),
        (GridError, "chunks must be", {"chunks": "many"}),
        (GridError, "hold 4 samples, and there are 3", {"chunks": (2, 2)}),
        (GridError, "shape", {"initial_conditions": np.zeros((16, 16))}),
        (GridError, "initial_conditions must be", {"initial_conditions": object()}),
        (
            ParameterError,
            "leave one of the two out",
            {"initial_conditions": np.zeros((16,) * 3), "paired": True},
        ),
        (
            ParameterRangeError,
            r"omega_m = 0.9 \(and 1 more\) is outside",
            {"parameters": {**CENTRE, "omega_m": [0.9, 0.8, 0.3]}},
        ),
        (MissingParameterError, "missing .*sigma_8", {"parameters": {"omega_m": 0.3}}),
        (UnknownParameterError, "omega_x", {"parameters": {**CENTRE, "omega_x": 1}}),
        (ParameterError, "no set of parameters", {"parameters": QTable(SETS)[:0]}),
        (
            ParameterError,
            "sobol",
            {"parameters": Emulator.load().card.space},
        ),
        (
            ParameterError,
            r"shape \(n, 2\)",
            {"parameters": np.ones((3, 5)), "names": ["h", "n_s"]},
        ),
        (ParameterError, "leave names out", {"names": ["h"], "parameters": CENTRE}),
    ],
)
def test_mistakes_are_refused_at_once(error, match, keywords):
    """By one sentence that says what is allowed, before anything is computed."""
    with pytest.raises(error, match=match):
        small(keywords.pop("parameters", SETS), **keywords)


def test_extrapolation_warns_once():
    """When the batch is planned, and not in every task."""
    with pytest.warns(ExtrapolationWarning, match="sigma_8 = 1.1") as caught:
        batch = small([{**CENTRE, "sigma_8": 1.1}] * 3, extrapolate=True)
    assert len(caught) == 1
    batch.compute(scheduler="synchronous")


def test_another_model_file_is_noticed(tmp_path):
    """A file that was replaced after planning is not used quietly."""
    from importlib.resources import files

    path = tmp_path / "own.safetensors"
    content = (files("astrogan_emu") / "models" / "nbody.safetensors").read_bytes()
    path.write_bytes(content)
    batch = small(model=path)
    path.unlink()
    with pytest.raises(CheckpointError, match="every worker needs it"):
        batch.compute(scheduler="synchronous")
    # Spaces behind the metadata: valid, but another file.
    header = int.from_bytes(content[:8], "little")
    changed = (header + 8).to_bytes(8, "little") + content[8 : 8 + header]
    path.write_bytes(changed + b" " * 8 + content[8 + header :])
    with pytest.raises(CheckpointError, match="is not the one the batch"):
        batch.compute(scheduler="synchronous")


def test_torch_threads_are_shared_and_restored(monkeypatch):
    """Alone a task has all cores, beside others its share; afterwards all is as was."""
    monkeypatch.setattr("astrogan_emu.torch_threads._cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with shared_cores() as alone:
            assert alone == torch.get_num_threads() == 4
        assert torch.get_num_threads() == 4
        shares = []

        def task():
            with shared_cores() as share:
                shares.append((share, torch.get_num_threads()))
            shares.append(torch.get_num_threads())

        for workers in (2, 8):
            with dask.config.set(num_workers=workers):
                thread = threading.Thread(target=task)
                thread.start()
                thread.join()
        assert shares == [(2, 2), 4, (1, 1), 4]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_threads_are_restored_after_a_batch():
    """In this thread, and for threads yet to come."""
    before = torch.get_num_threads()
    small(n_realizations=2).compute(scheduler="threads", num_workers=2)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [torch.get_num_threads()] == [before]


def test_zarr_and_back(tmp_path, reference):
    """The values, the table and what a field knows of itself survive."""
    pytest.importorskip("zarr")
    path = tmp_path / "out.zarr"
    small(chunks=2).to_zarr(path)
    back = FieldBatch.from_zarr(path)
    np.testing.assert_allclose(np.asarray(back), reference, **ROUNDING)
    assert back.data.chunks[0] == (1, 1, 1)
    one, same = small()[1]["matter"], back[1]["matter"]
    assert (one.meta, one.unit, one.grid) == (same.meta, same.unit, same.grid)
    with pytest.raises(FieldFileError, match="overwrite=True"):
        small().to_zarr(path)
    small(CENTRE).compute(scheduler="synchronous").to_zarr(path, overwrite=True)
    assert len(FieldBatch.from_zarr(path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_only_a_store_is_overwritten(tmp_path):
    """A folder of something else is left alone."""
    pytest.importorskip("zarr")
    other = tmp_path / "thesis.zarr"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    with pytest.raises(FieldFileError, match=r"thesis\.zarr"):
        small().to_zarr(other, overwrite=True)
    assert (other / "chapter.txt").read_text() == "mine"
    with pytest.raises(FieldFileError, match=r"must end in \.zarr"):
        small().to_zarr(tmp_path / "out.txt")


@pytest.mark.slow
def test_a_cluster_of_processes_makes_the_same(reference, tmp_path):
    """Each worker loads the model by its name; the numbers are the same."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("zarr")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        batch = small()
        np.testing.assert_allclose(np.asarray(batch.compute()), reference, **ROUNDING)
        batch.to_zarr(tmp_path / "out.zarr")
    back = FieldBatch.from_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(np.asarray(back), reference, **ROUNDING)
