import astropy.units as u
import matplotlib as mpl
import numpy as np
import pytest
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.figure import Figure

from astrogan_emu.errors import GridError
from astrogan_emu.fields import FIELDS, GalaxyField
from astrogan_emu.grids import GridSpec
from astrogan_emu.plotting import (
    plot_comparison,
    plot_power_spectrum,
    plot_projection,
    plot_slice,
)

N = 16


@pytest.fixture(autouse=True)
def _no_windows():
    """Draw into memory, and leave no figure open."""
    import matplotlib.pyplot as plt

    # What other tests left open: matplotlib 3.8 complains of it at a switch.
    plt.close("all")
    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def make(name="matter", spread=2.0, seed=1, **changes):
    """A lognormal field of 16 cells in 20 Mpc/h, with h = 0.5."""
    data = np.random.default_rng(seed).lognormal(0, spread, size=(N, N, N))
    given = {
        "grid": GridSpec(N, 20.0),
        "parameters": {"h": 0.5, "omega_m": 0.3},
        "redshift": 0.5,
    }
    return GalaxyField(data, name=name, **(given | changes))


def shown(axes):
    """The picture in the axes, as an array of what is drawn from below."""
    return np.asarray(axes.images[0].get_array())


def drawn(axes):
    """The axes, after a drawing that would warn of anything missing."""
    axes.figure.canvas.draw()
    return axes


@pytest.mark.parametrize(("axis", "across", "upwards"), ["zxy", "xyz", "yxz"])
def test_slices_are_right_side_up(axis, across, upwards):
    """The first axis that is left runs across, the second upwards, as in yt."""
    field = make()
    axes = drawn(plot_slice(field, axis))
    number = "xyz".index(axis)
    layer = np.take(field.data, N // 2, axis=number)
    np.testing.assert_array_equal(shown(axes), layer.T)
    assert axes.images[0].origin == "lower"
    assert axes.coords[across].get_axislabel() == f"{across} [comoving Mpc]"
    assert axes.coords[upwards].get_axislabel() == f"{upwards} [comoving Mpc]"


def test_coordinates_are_comoving_megaparsecs():
    """Three cells of 2.5 Mpc to the right, the centre is at x = 8.75, y = 1.25 Mpc."""
    axes = drawn(plot_slice(make()))
    assert isinstance(axes, WCSAxes)
    # In the order of the WCS, y first, and rounded as the tick labels.
    assert axes.format_coord(3, 0) == "1 9 (world)"


@pytest.mark.parametrize(
    ("position", "cell"), [(0, 0), (6.3, 5), (12.6 * u.Mpc, 5), (19.9, 15), (None, 8)]
)
def test_slices_are_cut_where_asked(position, cell):
    """Cells of 1.25 Mpc/h, which are 2.5 Mpc."""
    field = make()
    axes = plot_slice(field, "x", position)
    np.testing.assert_array_equal(shown(axes), field.data[cell].T)


@pytest.mark.parametrize("position", [20.0, -1.0, 41 * u.Mpc])
def test_slices_outside_are_refused(position):
    """The message says where the axis runs."""
    with pytest.raises(GridError, match="from 0 to 20 Mpc/h"):
        plot_slice(make(), position=position)


def test_projections_are_those_of_the_field():
    """Values, depth and unit of `GalaxyField.project`."""
    field = make("gas_density")
    axes = drawn(plot_projection(field, "y", 5.0))
    np.testing.assert_array_equal(shown(axes), field.project("y", depth=5.0).data.T)
    assert axes.get_title() == "redshift 0.5, y 0 to 10 Mpc"
    label = axes.images[0].colorbar.ax.get_ylabel()
    assert label.startswith("gas density, column [")
    assert r"Mpc^{-2}" in label


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_field_has_a_label_with_its_unit(name):
    """What is shown, and in what."""
    axes = drawn(plot_slice(make(name)))
    label = axes.images[0].colorbar.ax.get_ylabel()
    spec = FIELDS[name]
    assert label.startswith(spec.label)
    assert ("[" in label) == (spec.unit != u.dimensionless_unscaled)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_colour_maps_are_safe_for_colour_blind_eyes(name):
    """One of matplotlib's perceptually uniform maps."""
    used = plot_slice(make(name)).images[0].cmap.name
    assert used in {"viridis", "cividis", "magma", "inferno"}


def test_fields_over_decades_are_logarithmic():
    """And others are not."""
    assert isinstance(plot_slice(make(spread=2.0)).images[0].norm, LogNorm)
    norm = plot_slice(make(spread=0.1)).images[0].norm
    assert type(norm) is Normalize


def test_a_few_extreme_cells_do_not_take_the_scale():
    """One cell of 10^6 leaves the rest visible."""
    field = make(spread=0.1)
    field.data[0, 0, N // 2] = 1e6
    norm = plot_slice(field).images[0].norm
    assert norm.vmax < 1e6 / 2


def test_empty_cells_are_the_darkest():
    """Zero has no logarithm, and is not left white."""
    field = make()
    field.data[field.data < 0.5] = 0
    image = drawn(plot_slice(field)).images[0]
    np.testing.assert_array_equal(image.cmap.get_bad(), image.cmap(0.0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_fields_can_be_drawn(value):
    """A field without structure is drawn, not divided by zero."""
    field = make()
    field.data[:] = value
    drawn(plot_slice(field))


def test_a_field_without_positive_values_has_no_logarithm():
    """The message says what to do."""
    field = make()
    field.data[:] = 0
    with pytest.raises(GridError, match="log=False"):
        plot_slice(field, log=True)


def test_differences_are_centred_on_zero():
    """Two colours, as much of one as of the other."""
    for spread, kind in ((2.0, AsinhNorm), (0.1, Normalize)):
        image = drawn(plot_slice(make(spread=spread) - 1)).images[0]
        assert image.norm.vmin == pytest.approx(-image.norm.vmax)
        assert isinstance(image.norm, kind)
        assert image.cmap.name == "PuOr_r"


def test_choices_can_be_made_by_the_user():
    """Scale, limits, colours, title, and no colour bar."""
    axes = plot_slice(
        make(), log=False, vmin=0, vmax=3, cmap="gray", colorbar=False, title="mine"
    )
    image = axes.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (0, 3)
    assert (image.cmap.name, axes.get_title()) == ("gray", "mine")
    assert image.colorbar is None


def test_given_axes_are_used_and_returned():
    """Plain axes get comoving Mpc as their extent, without pyplot."""
    import matplotlib.pyplot as plt

    axes = Figure().add_subplot()
    assert plot_slice(make(), axes=axes) is axes
    assert axes.images[0].get_extent() == pytest.approx([0, 40, 0, 40])
    assert axes.get_xlabel() == "x [comoving Mpc]"
    assert plot_power_spectrum(make(), axes=Figure().add_subplot()).lines
    assert not plt.get_fignums()


def test_maps_are_drawn_as_they_are():
    """A field with two axes needs no axis to slice."""
    field = make().project()
    np.testing.assert_array_equal(shown(plot_slice(field)), field.data.T)


def test_lines_and_points_are_no_maps():
    """The message says what a map is."""
    with pytest.raises(GridError, match="a map has two axes"):
        plot_slice(make()[0, 0])


def test_lazy_fields_can_be_drawn():
    """Only the slice is computed."""
    import dask.array as da

    field = make()
    lazy = make()._replaced(da.from_array(field.data, chunks=8))
    np.testing.assert_array_equal(shown(plot_slice(lazy)), field.data[:, :, 8].T)


def test_power_spectra_are_those_of_the_field():
    """The line is the measurement, in both logarithms, with units on both axes."""
    field = make()
    axes = drawn(plot_power_spectrum(field))
    spectrum = field.power_spectrum()
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), spectrum.k)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), spectrum.power)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "Mpc$^{-1}$" in axes.get_xlabel()
    assert "Mpc$^3$" in axes.get_ylabel()


def test_several_spectra_are_told_apart_without_colour():
    """Each line has its own dashes and label."""
    fields = {"a": make(), "b": make(seed=2), "c": make("galaxies")}
    axes = drawn(plot_power_spectrum(fields))
    assert [line.get_label() for line in axes.lines] == ["a", "b", "c"]
    assert len({str(line.get_linestyle()) for line in axes.lines}) == 3
    labels = plot_power_spectrum([make(), make(seed=2)]).get_legend_handles_labels()[1]
    assert len(set(labels)) == 2


def test_a_comparison_shares_one_scale():
    """Maps on one colour scale, then the ratio to the first."""
    fields = {"simulation": make(), "emulated": make(seed=2)}
    *maps, ratios = plot_comparison(fields, depth=5.0)
    drawn(ratios)
    assert [one.get_title() for one in maps] == ["simulation", "emulated"]
    assert maps[0].images[0].norm is maps[1].images[0].norm
    first, second = (field.power_spectrum().power for field in fields.values())
    np.testing.assert_array_equal(ratios.lines[0].get_ydata(), 1)
    np.testing.assert_allclose(ratios.lines[1].get_ydata(), second / first)


def test_a_comparison_needs_comparable_fields():
    """Two at least, in one unit, on the same cells."""
    with pytest.raises(GridError, match="at least 2"):
        plot_comparison([make()])
    with pytest.raises(GridError, match="in one unit"):
        plot_comparison([make(), make("gas_density")])
    with pytest.raises(GridError, match="no field to draw"):
        plot_power_spectrum([])


def test_the_backend_is_the_users():
    """Drawing does not choose one."""
    before = mpl.get_backend()
    plot_slice(make())
    assert mpl.get_backend() == before
