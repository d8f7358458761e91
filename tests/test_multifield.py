"""Maps and grids of the CAMELS Multifield Dataset, in files of exactly its format."""

import numpy as np
import pytest

from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.errors import DatasetError, GridError, SuiteError
from astrogan_emu.multifield import prepare_multifield, slab_means
from astrogan_emu.training import TrainingConfig, train

N_RUNS, SIDE = 5, 16


@pytest.fixture
def folder(tmp_path):
    """Five simulations: fifteen maps and one grid of each, and their parameters."""
    random = np.random.default_rng(1)
    for prefix, mean in (("Mtot", 1e10), ("Mgas", 1e9)):
        grids = mean * random.lognormal(size=(N_RUNS, SIDE, SIDE, SIDE))
        maps = np.concatenate([slab_means(grid, 5) for grid in grids]) * 5.0
        name = f"{prefix}_IllustrisTNG_LH"
        np.save(tmp_path / f"Maps_{name}_z=0.00.npy", maps.astype("f4"))
        np.save(tmp_path / f"Grids_{name}_{SIDE}_z=0.5.npy", grids.astype("f4"))
    low, high = [0.1, 0.6, 0.25, 0.25, 0.5, 0.5], [0.5, 1.0, 4, 4, 2, 2]
    np.savetxt(
        tmp_path / "params_LH_IllustrisTNG.txt", random.uniform(low, high, (N_RUNS, 6))
    )
    return tmp_path


def prepare_maps(folder, *prefixes, kind="Maps", **options):
    files = sorted(
        path
        for prefix in prefixes or ("Mtot", "Mgas")
        for path in folder.glob(f"{kind}_{prefix}_*.npy")
    )
    return prepare_multifield(
        files,
        folder / "params_LH_IllustrisTNG.txt",
        folder / "train.h5",
        **{"n_cells": 8, "progress": False, **options},
    )


def test_slabs_cover_the_cube():
    """Means over fifths of 16 cells, with cells shared between two slabs."""
    cube = np.random.default_rng(2).normal(size=(16, 16, 16))
    slabs = slab_means(cube, 5)
    assert slabs.shape == (15, 16, 16)
    for axis in range(3):
        own = slabs[5 * axis : 5 * axis + 5]
        np.testing.assert_allclose(own.mean(0), cube.mean(axis), atol=1e-12)
    first = (cube[:, :3].sum(1) + 0.2 * cube[:, 3]) / 3.2
    np.testing.assert_allclose(slabs[5], first, atol=1e-12)


def test_maps_become_an_unpaired_training_set(folder):
    """All maps of a simulation are in one split, with its parameters."""
    raw = np.load(folder / "Maps_Mgas_IllustrisTNG_LH_z=0.00.npy")
    numbers = np.loadtxt(folder / "params_LH_IllustrisTNG.txt")
    with TrainingSet.open(prepare_maps(folder)) as data:
        assert len(data) == 15 * N_RUNS
        assert not data.paired
        assert data.n_dim == 2
        assert data.cell_size == 25 / 8
        assert data.fields == ("gas_density", "matter")
        assert data.units["gas_density"] == "littleh solMass / Mpc2"
        assert data.base_settings["depth"] == 5
        # The files' order is A_SN1, A_AGN1, A_SN2, A_AGN2.
        column = data.space.names.index("a_sn2")
        np.testing.assert_allclose(data.parameters[15 * 3, column], numbers[3, 4])
        for index in (0, 3 * 15 + 7):
            base, target, *_ = data.sample(index)
            assert base.shape == (1, 8, 8)
            coarse = raw[index].reshape(8, 2, 8, 2).mean((1, 3))
            np.testing.assert_allclose(target[0], coarse, rtol=1e-6)
        matter = np.stack([data.sample(i)[1][1] for i in range(15)])
        assert matter.mean() == pytest.approx(1, abs=1e-6)
        bases = np.stack([data.sample(i)[0][0] for i in range(15)])
        assert bases.mean() == pytest.approx(1, abs=1e-5)


def test_grids_become_a_training_set(folder):
    """One of each simulation, in three dimensions."""
    with TrainingSet.open(prepare_maps(folder, "Mtot", kind="Grids")) as data:
        assert len(data) == N_RUNS
        assert data.n_dim == 3
        assert data.redshifts.tolist() == [0.5] * N_RUNS
        base, target, *_ = data.sample(2)
        assert base.shape == target.shape == (1, 8, 8, 8)
        assert target.mean() == pytest.approx(1, abs=1e-6)


def test_an_interrupted_preparation_ends_the_same(folder, monkeypatch):
    """Simulations that were done are used again, and the bytes are the same."""
    from astrogan_emu import multifield

    whole = prepare_maps(folder).read_bytes()
    (folder / "train.h5").unlink()
    make = multifield._make_part

    def dying(files, index, *rest):
        if index == 3:
            raise KeyboardInterrupt
        return make(files, index, *rest)

    monkeypatch.setattr(multifield, "_make_part", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_maps(folder)
    assert len(list((folder / "train.h5.parts").iterdir())) == 3
    again = []
    monkeypatch.setattr(
        multifield, "_make_part", lambda *a: again.append(a[1]) or make(*a)
    )
    assert prepare_maps(folder).read_bytes() == whole
    assert again == [3, 4]
    assert not (folder / "train.h5.parts").exists()


@pytest.mark.parametrize("kind", ["Maps", "Grids"])
def test_unpaired_data_train_a_model_that_emulates(folder, kind):
    """From the critic and the power spectrum alone, in two and three dimensions."""
    config = TrainingConfig(
        paired_steps=2,
        adversarial_steps=2,
        widths=(4, 6),
        critic_widths=(4, 6),
        validate_every=2,
        penalty_every=2,
    )
    data = prepare_maps(folder, kind=kind, n_cells=16)
    model = train(data, folder / "run", config, progress=False)
    assert "adversarial" in (folder / "run" / "log.csv").read_text().splitlines()[0]
    emulator = Emulator.load(model)
    middle = {p.name: (p.low + p.high) / 2 for p in emulator.card.space.parameters}
    redshift = emulator.card.redshifts[0]
    fields = emulator.emulate(middle, redshift=redshift, n_cells=16, seed=1)
    matter, gas = fields["matter"], fields["gas_density"]
    assert matter.data.shape == (16,) * (2 if kind == "Maps" else 3)
    assert np.isfinite(gas.data).all()
    unit = "solMass / Mpc2" if kind == "Maps" else "solMass / Mpc3"
    assert gas.unit.is_equivalent(unit)
    if kind == "Grids":
        assert matter.data.mean() == pytest.approx(1, abs=1e-5)
    else:
        # A slab need not have the mean of the universe, but it is close.
        assert matter.data.mean() == pytest.approx(1, abs=0.5)
        with pytest.raises(GridError, match="5 Mpc/h deep"):
            emulator.emulate(middle, redshift=redshift, n_cells=2)


def test_a_truncated_file_is_refused(folder):
    """With its name, before anything is made of it."""
    path = folder / "Maps_Mtot_IllustrisTNG_LH_z=0.00.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="not a complete NumPy file"):
        prepare_maps(folder)


def test_a_pickle_is_not_loaded(folder):
    """An array of objects would run code."""
    path = folder / "Maps_Mtot_IllustrisTNG_LH_z=0.00.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="not a complete NumPy file"):
        prepare_maps(folder)


def test_values_that_are_not_finite_are_refused(folder):
    """They are named with the samples that hold them."""
    path = folder / "Maps_Mtot_IllustrisTNG_LH_z=0.00.npy"
    maps = np.load(path)
    maps[20, 3, 4] = np.nan
    np.save(path, maps)
    with pytest.raises(DatasetError, match=r"samples 15 to 29 of .*not finite"):
        prepare_maps(folder)


def test_files_that_do_not_belong_together_are_refused(folder):
    """Maps and grids, or another number of simulations than of parameters."""
    path = folder / "params_LH_IllustrisTNG.txt"
    files = [
        folder / "Maps_Mtot_IllustrisTNG_LH_z=0.00.npy",
        folder / "Grids_Mgas_IllustrisTNG_LH_16_z=0.5.npy",
    ]
    with pytest.raises(DatasetError, match="do not belong together: their kind"):
        prepare_multifield(files, path, folder / "train.h5", n_cells=8)
    with pytest.raises(DatasetError, match="a field is given twice"):
        prepare_multifield(files[:1] * 2, path, folder / "train.h5", n_cells=8)
    np.savetxt(path, np.loadtxt(path)[:4])
    with pytest.raises(DatasetError, match="75 samples, which 4 simulations cannot"):
        prepare_maps(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maps.npy", "not named like a file of the Multifield Dataset"),
        ("Maps_HI_IllustrisTNG_LH_z=0.00.npy", "holds HI; the fields known here"),
    ],
)
def test_other_files_are_refused(folder, name, message):
    """The message says what is expected."""
    np.save(folder / name, np.ones((15, 16, 16), "f4"))
    parameters = folder / "params_LH_IllustrisTNG.txt"
    with pytest.raises(DatasetError, match=message):
        prepare_multifield([folder / name], parameters, folder / "train.h5")


def test_a_grid_that_does_not_divide_is_refused(folder):
    """Cells are averaged in whole blocks."""
    with pytest.raises(DatasetError, match="n_cells = 6 does not divide the 16 cells"):
        prepare_maps(folder, n_cells=6)


def test_an_existing_output_is_kept(folder):
    """Unless asked."""
    output = prepare_maps(folder)
    with pytest.raises(DatasetError, match="overwrite=True"):
        prepare_maps(folder)
    before = output.read_bytes()
    assert prepare_maps(folder, overwrite=True).read_bytes() == before


def test_a_parameter_file_that_cannot_be_trusted_is_refused(folder):
    """Six columns without a header are understood under their own name alone."""
    other = folder / "parameters.txt"
    (folder / "params_LH_IllustrisTNG.txt").rename(other)
    maps = folder / "Maps_Mtot_IllustrisTNG_LH_z=0.00.npy"
    with pytest.raises(SuiteError, match="no header"):
        prepare_multifield([maps], other, folder / "train.h5", n_cells=8)
