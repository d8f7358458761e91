import json

import astropy.units as u
import dask.array as da
import h5py
import numpy as np
import pytest
import yt
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS

from astrogan_emu.errors import (
    FieldFileError,
    FileError,
    GridError,
    MissingParameterError,
    UnknownFieldError,
)
from astrogan_emu.field_files import field_names, read_fits, read_hdf5, write_hdf5
from astrogan_emu.fields import FIELDS, GalaxyField
from astrogan_emu.grids import GridSpec

PARAMETERS = {
    "omega_m": 0.3,
    "omega_b": 0.05,
    "h": 0.7,
    "n_s": 0.96,
    "sigma_8": 0.8,
    "a_sn1": 2.0,
}
FORMATS = ["h5", "fits"]


def make(name="matter", seed=1, **changes):
    """A lognormal field of 16 cells in 25 Mpc/h at redshift 1."""
    data = np.random.default_rng(seed).lognormal(size=(16, 16, 16))
    given = {
        "grid": GridSpec(16, 25.0),
        "parameters": PARAMETERS,
        "redshift": 1.0,
        "seed": seed,
        "model": {"name": "nbody", "sha256": "abc"},
        "meta": {"expected error": 0.1, "steps": [1, 2], "note": "naïve δ"},
    }
    return GalaxyField(data, name=name, **(given | changes))


@pytest.fixture(autouse=True)
def _quiet_yt():
    """Yt reports every load."""
    yt.set_log_level(50)


# Round trips.


@pytest.mark.parametrize("name", sorted(FIELDS))
@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trips_are_exact(tmp_path, suffix, name):
    """Values bit by bit, unit, place, parameters, seed, model and meta."""
    field = make(name)
    field.write(tmp_path / f"field.{suffix}")
    assert GalaxyField.read(tmp_path / f"field.{suffix}") == field


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f[3],
        lambda f: f[2:9, :, 4:],
        lambda f: f.project("y", depth=7.0),
        lambda f: f - 1,
        lambda f: f / make("gas_density"),
        lambda f: f * (2 * u.Mpc**3),
        lambda f: f * np.where(f.data > 1, np.nan, 1),
    ],
)
@pytest.mark.parametrize("suffix", FORMATS)
def test_derived_fields_round_trip(tmp_path, suffix, change):
    """Slices, maps, differences and quotients come back as what they are."""
    field = change(make())
    field.write(tmp_path / f"field.{suffix}")
    assert GalaxyField.read(tmp_path / f"field.{suffix}") == field


@pytest.mark.parametrize("kind", [StdDevUncertainty, InverseVariance])
@pytest.mark.parametrize("suffix", FORMATS)
def test_uncertainties_and_masks_round_trip(tmp_path, suffix, kind):
    """What NDData carries is kept."""
    field = make(uncertainty=kind(make(seed=2).data))
    field.mask = field.data > 2
    field.write(tmp_path / f"field.{suffix}")
    assert GalaxyField.read(tmp_path / f"field.{suffix}") == field


def test_units_with_littleh_round_trip_in_hdf5(tmp_path):
    """Astropy alone could not parse the unit back."""
    field = make("galaxies").to("littleh3 / Mpc3")
    field.write(tmp_path / "field.h5")
    assert GalaxyField.read(tmp_path / "field.h5") == field


def test_fits_refuses_units_that_cannot_be_read_back(tmp_path):
    """CCDData writes such a BUNIT and then cannot read it; we say what to do."""
    field = make("galaxies").to("littleh3 / Mpc3")
    with pytest.raises(FieldFileError, match=r"field\.to\('1 / Mpc3'\)"):
        field.write(tmp_path / "field.fits")
    assert not list(tmp_path.iterdir())


def test_lazy_fields_are_written_as_computed_ones(tmp_path):
    """A dask array is stored block by block."""
    field = make()
    lazy = make()._replaced(da.from_array(field.data, chunks=8))
    lazy.write(tmp_path / "lazy.h5")
    assert GalaxyField.read(tmp_path / "lazy.h5") == field


def test_one_hdf5_file_holds_many_fields(tmp_path):
    """Read back by name; without one, the message lists what there is."""
    path = tmp_path / "fields.h5"
    fields = {name: make(name) for name in FIELDS}
    write_hdf5(list(fields.values()), path)
    assert sorted(field_names(path)) == sorted(FIELDS)
    assert GalaxyField.read(path, name="gas_density") == fields["gas_density"]
    with pytest.raises(UnknownFieldError, match="give one as name"):
        GalaxyField.read(path)
    with pytest.raises(UnknownFieldError, match="there is no 'mater'"):
        GalaxyField.read(path, name="mater")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([make(seed=2)], "same name"),
        ([make("galaxies", redshift=2.0)], "redshift"),
        ([make("galaxies", grid=GridSpec(16, 30.0))], "axes"),
        ([make("galaxies", parameters={**PARAMETERS, "h": 0.6})], "parameters"),
    ],
)
def test_fields_of_one_file_share_the_box(tmp_path, others, message):
    """One file is one box at one time in one universe."""
    with pytest.raises(GridError, match=message):
        write_hdf5([make(), *others], tmp_path / "fields.h5")


def test_hdf5_needs_a_cosmology_for_yt(tmp_path):
    """Without omega_m there is no redshift in yt, so none is invented."""
    with pytest.raises(MissingParameterError, match="omega_m"):
        make(parameters={"h": 0.7}).write(tmp_path / "field.h5")


# Writing safely.


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_are_not_overwritten_unless_asked(tmp_path, suffix):
    """The old file stays, and the message says how to replace it."""
    path = tmp_path / f"field.{suffix}"
    make().write(path)
    with pytest.raises(FileError, match="overwrite=True"):
        make(seed=2).write(path)
    assert GalaxyField.read(path) == make()
    make(seed=2).write(path, overwrite=True)
    assert GalaxyField.read(path) == make(seed=2)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_failed_write_leaves_nothing(tmp_path, suffix):
    """An array that fails to compute leaves neither a file nor a part of one."""

    def fail(values):
        raise RuntimeError("no")

    array = da.from_array(make().data, chunks=8).map_blocks(
        fail, dtype="f4", meta=np.empty((0, 0, 0), "f4")
    )
    with pytest.raises(RuntimeError, match="no"):
        make()._replaced(array).write(tmp_path / f"field.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}])
@pytest.mark.parametrize("suffix", FORMATS)
def test_meta_that_no_file_keeps_is_refused(tmp_path, suffix, value):
    """Nothing is dropped or changed silently; the key is named."""
    with pytest.raises(FieldFileError, match="'odd'"):
        make(meta={"odd": value}).write(tmp_path / f"field.{suffix}")


def test_numpy_values_in_meta_are_kept(tmp_path):
    """They come back as plain numbers and lists, equal to what they were."""
    field = make(meta={"error": np.float32(0.5), "k": np.arange(3)})
    field.write(tmp_path / "field.h5")
    assert GalaxyField.read(tmp_path / "field.h5") == field


# Reading what is no field.


def damaged_files(tmp_path):
    """Files that are not what their name says, by what is wrong with them."""
    for suffix in FORMATS:
        whole = tmp_path / f"whole.{suffix}"
        make().write(whole)
        content = whole.read_bytes()
        flipped = bytearray(content)
        # Among the values, which fill most of the later part of each file.
        flipped[3 * len(content) // 4] ^= 0xFF
        for what, changed in {
            "empty": b"",
            "text": b"not a field\n" * 100,
            "short": content[: len(content) // 3],
            "flipped": bytes(flipped),
        }.items():
            path = tmp_path / f"{what}.{suffix}"
            path.write_bytes(changed)
            yield path
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = 1
    yield other
    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.ones((4, 4))).writeto(plain)
    yield plain


def test_damaged_and_foreign_files_give_one_clear_error(tmp_path):
    """Empty, truncated, of another kind, or with a flipped bit: the file is named."""
    for path in damaged_files(tmp_path):
        with pytest.raises(FieldFileError, match=path.name):
            GalaxyField.read(path)


def edit(path, change):
    """Change the description in a file."""
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__delitem__("astrogan_emu/matter"),
        lambda f: f["astrogan_emu/matter"].attrs.__delitem__("description"),
        lambda f: f["astrogan_emu/matter"].attrs.modify("description", "[1, 2]"),
        lambda f: f["astrogan_emu/matter"].attrs.modify("description", "{"),
        lambda f: f.__delitem__("data"),
        lambda f: f.move("data/grid_0000000000/matter", "data/other"),
    ],
)
def test_hdf5_with_missing_parts_gives_one_clear_error(tmp_path, change):
    """Whatever is missing, it is a FieldFileError that names the file."""
    path = tmp_path / "field.h5"
    make().write(path)
    edit(path, change)
    with pytest.raises((FieldFileError, UnknownFieldError), match=r"field\.h5"):
        GalaxyField.read(path)


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    """A dataset that claims terabytes and holds none is a trap."""
    path = tmp_path / "field.h5"
    make().write(path)
    with h5py.File(path, "r+") as file:
        grid = file["data/grid_0000000000"]
        del grid["matter"]
        grid.create_dataset("matter", (10**4, 10**4, 10**4), "f4", chunks=True)
    with pytest.raises(FieldFileError, match="claims 4000000000000 bytes"):
        GalaxyField.read(path)


def test_newer_files_say_so(tmp_path):
    """A format from the future asks for an update."""
    path = tmp_path / "field.h5"
    make().write(path)

    def age(file):
        attrs = file["astrogan_emu/matter"].attrs
        attrs["description"] = attrs["description"].replace(
            '"version": 1', '"version": 2'
        )

    edit(path, age)
    with pytest.raises(FieldFileError, match="update astrogan_emu"):
        GalaxyField.read(path)


def test_gdf_files_of_others_point_to_yt(tmp_path):
    """They are opened by yt, and become fields by from_yt."""
    path = tmp_path / "field.h5"
    make().write(path)
    edit(path, lambda file: file.__delitem__("astrogan_emu"))
    with pytest.raises(FieldFileError, match="from_yt"):
        GalaxyField.read(path)


def test_a_missing_file_is_named(tmp_path):
    """Through the registry and directly."""
    with pytest.raises(FileNotFoundError, match="absent"):
        GalaxyField.read(tmp_path / "absent.h5")
    for read in (read_hdf5, read_fits):
        with pytest.raises(FieldFileError, match="absent does not exist"):
            read(tmp_path / "absent")


# Stock tools: astropy.


def test_formats_are_known_by_content_too(tmp_path):
    """A name without suffix is enough to read, and format= to write."""
    for form in ("hdf5", "fits"):
        make().write(tmp_path / form, format=form)
        assert GalaxyField.read(tmp_path / form) == make()


def test_astropy_lists_our_formats():
    """``GalaxyField.read.list_formats`` is astropy's own."""
    from astropy.io import registry

    _ = GalaxyField.read
    table = registry.get_formats(GalaxyField)
    assert set(table["Format"]) == {"hdf5", "fits"}


def test_fits_opens_as_an_image_with_world_coordinates(tmp_path):
    """The data are those of the field, the WCS its comoving Mpc, and FITS verifies."""
    field = make("gas_density")
    field.write(tmp_path / "field.fits")
    with fits.open(tmp_path / "field.fits", checksum=True) as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus[0].data, field.data)
        header = hdus[0].header
        wcs = WCS(header)
    assert u.Unit(header["BUNIT"]) == field.unit
    assert header["REDSHIFT"] == 1.0
    assert header["OMEGA_M"] == 0.3
    assert header["LITTLEH"] == 0.7
    # Free of h, as all lengths in files.
    assert header["BOXSIZE"] == pytest.approx(25 / 0.7)
    assert header["A_SN1"] == 2.0
    here, there = (
        [one.to_value(u.Mpc) for one in each.array_index_to_world(3, 5, 7)]
        for each in (wcs, field.wcs)
    )
    # Headers keep 14 digits.
    np.testing.assert_allclose(here, there, rtol=1e-12)
    # z, y, x: cells of 25 / 16 / 0.7 Mpc, counted from their centres.
    np.testing.assert_allclose(there, np.array([7.5, 5.5, 3.5]) * 25 / 16 / 0.7)


def test_long_parameter_names_fit_into_the_header(tmp_path):
    """As HIERARCH cards, without a warning."""
    parameters = {**PARAMETERS, "wind_free_travel_density": 0.05}
    make(parameters=parameters).write(tmp_path / "field.fits")
    header = fits.getheader(tmp_path / "field.fits")
    assert header["WIND_FREE_TRAVEL_DENSITY"] == 0.05


def test_ccddata_reads_our_fits(tmp_path):
    """With unit, coordinates and uncertainty, in 2-D and 3-D."""
    field = make("gas_temperature", uncertainty=StdDevUncertainty(make(seed=2).data))
    for one in (field, field[4]):
        one.write(tmp_path / "field.fits", overwrite=True)
        ccd = CCDData.read(tmp_path / "field.fits")
        assert ccd.unit == u.K
        assert ccd.wcs.pixel_n_dim == one.ndim
        np.testing.assert_array_equal(ccd.uncertainty.array, one.uncertainty.array)


def test_the_rest_of_a_fits_file_is_a_table(tmp_path):
    """``Table.read`` shows everything that is in no keyword."""
    make().write(tmp_path / "field.fits")
    table = Table.read(tmp_path / "field.fits", hdu="ABOUT")
    rows = dict(zip(table["name"], table["json"], strict=True))
    assert json.loads(rows["meta"])["note"] == "naïve δ"


# Stock tools: yt, without a plug-in.


@pytest.fixture
def gas_file(tmp_path):
    """Gas density, temperature and matter in one file."""
    path = tmp_path / "gas.h5"
    write_hdf5([make("gas_density"), make("gas_temperature"), make()], path)
    return path


def test_yt_load_opens_the_file(gas_file):
    """Redshift, cosmology, box and our parameters are there."""
    ds = yt.load(gas_file)
    assert ds.current_redshift == 1.0
    assert (ds.omega_matter, ds.omega_lambda, ds.hubble_constant) == (0.3, 0.7, 0.7)
    assert (ds.parameters["sigma_8"], ds.parameters["a_sn1"]) == (0.8, 2.0)
    assert ds.parameters["seed"] == 1
    assert ds.parameters["model_name"] == "nbody"
    assert all(ds.periodicity)
    np.testing.assert_allclose(ds.domain_width.to("Mpccm/h").d, 25.0, rtol=1e-12)
    np.testing.assert_allclose(ds.domain_width.to("Mpc").d, 25 / 0.7 / 2, rtol=1e-12)
    age = make().cosmology.age(1.0).to_value(u.Gyr)
    assert float(ds.current_time.to("Gyr")) == pytest.approx(age, rel=1e-6)


def test_yt_knows_what_h_is(gas_file):
    """Without cosmology, yt takes h = 1 silently."""
    assert float(yt.load(gas_file).quan(1, "Mpc/h").to("Mpc")) == pytest.approx(1 / 0.7)


def test_yt_gives_physical_densities(gas_file):
    """Ours are comoving: (1 + z)^3 = 8 times fewer than physical ones."""
    ds = yt.load(gas_file)
    density = ds.all_data()["gas", "density"]
    expected = make("gas_density").data.ravel()
    np.testing.assert_allclose(density.to("Msun/Mpccm**3").d, expected, rtol=1e-6)
    np.testing.assert_allclose(density.to("Msun/Mpc**3").d, 8 * expected, rtol=1e-6)
    assert str(ds.all_data()["gas", "temperature"].units) == "K"


def test_ratios_are_dimensionless_in_yt(gas_file):
    """An empty unit would become code units."""
    values = yt.load(gas_file).all_data()["gdf", "matter"]
    assert values.units.is_dimensionless
    np.testing.assert_array_equal(values.d, make().data.ravel())


def test_the_file_keeps_clear_of_gdf_traps(gas_file):
    """Yt fails on field_to_cgs, on text units, on a 2-D grid_level, on a Header."""
    with h5py.File(gas_file) as file:
        for about in file["field_types"].values():
            assert "field_to_cgs" not in about.attrs
            assert isinstance(about.attrs["field_units"], bytes)
        assert file["grid_level"].ndim == 1
        assert "Header" not in file
        assert set(file["dataset_units"]) >= {"velocity_unit", "magnetic_unit"}


def test_maps_open_in_yt_with_their_depth(tmp_path):
    """A slab of 5 Mpc/h is two-dimensional, and projects through 5 Mpc/h."""
    field = make("gas_density").project("z", depth=5.0)
    field.write(tmp_path / "map.h5")
    ds = yt.load(tmp_path / "map.h5")
    assert ds.dimensionality == 2
    np.testing.assert_allclose(ds.domain_width.to("Mpccm/h").d, [25, 25, 5])
    values = ds.all_data()["gdf", "gas_density_column"].to("Msun/Mpccm**2")
    np.testing.assert_allclose(values.d, field.data.ravel(), rtol=1e-6)


def test_slices_across_x_stay_across_x_in_yt(tmp_path):
    """The missing axis keeps its place, one cell thick."""
    make()[3].write(tmp_path / "slice.h5")
    ds = yt.load(tmp_path / "slice.h5")
    np.testing.assert_array_equal(ds.domain_dimensions, [1, 16, 16])
    assert tuple(ds.periodicity) == (False, True, True)
    edge = ds.domain_left_edge.to("Mpccm/h").d
    np.testing.assert_allclose(edge, [3 * 25 / 16, 0, 0], atol=1e-12)


def test_slice_plots_of_files_are_right_side_up(tmp_path, gas_file):
    """Yt draws array axis 0 across: its buffer is the transpose of the array."""
    ds = yt.load(gas_file)
    plot = yt.SlicePlot(ds, "z", ("gas", "density"), buff_size=(16, 16))
    picture = plot.frb["gas", "density"].to("Msun/Mpccm**3").d
    np.testing.assert_allclose(picture, make("gas_density").data[:, :, 8].T, rtol=1e-6)


def test_yt_leaves_nothing_beside_the_file(gas_file):
    """No index files that a glob for fields would find."""
    ds = yt.load(gas_file)
    ds.proj(("gas", "density"), 2)
    assert list(gas_file.parent.iterdir()) == [gas_file]


def test_what_yt_saves_of_it_opens_again(gas_file, tmp_path):
    """Yt copies our parameters into its own files; they must not be taken for ours."""
    saved = (
        yt.load(gas_file)
        .all_data()
        .save_as_dataset(str(tmp_path / "saved"), fields=[("gas", "density")])
    )
    again = yt.load(saved)
    assert again.current_redshift == 1.0
    with pytest.raises(FieldFileError):
        GalaxyField.read(saved)
