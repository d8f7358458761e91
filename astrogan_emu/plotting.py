"""Pictures of fields: slices, projections, power spectra, comparisons.

Each function draws into the axes it is given, or a new figure, and returns the axes,
so that everything can be changed afterwards. Maps have the first axis of the array
across and the second upwards, as yt draws them, in comoving Mpc. Nothing here saves a
file or chooses a backend; matplotlib is imported when needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from .errors import GridError
from .fields import GalaxyField, as_box_length
from .geometry import axis_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["plot_comparison", "plot_power_spectrum", "plot_projection", "plot_slice"]

# Perceptually even, and the same to colour-blind eyes.
_MAPS = {
    "matter": "magma",
    "galaxies": "viridis",
    "gas_density": "cividis",
    "gas_temperature": "inferno",
    "stellar_density": "viridis",
}
_DIVERGING = "PuOr_r"

# Okabe & Ito (2008), the dark ones first.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

# A field whose values span more than this is shown in the logarithm, down to this much
# below its highest.
_SPAN_FOR_LOG = 20.0
_MOST_DECADES = 1e5


def plot_slice(
    field: GalaxyField,
    axis: str | int = "z",
    position: u.Quantity | float | None = None,
    *,
    axes: Axes | None = None,
    **keywords: Any,
) -> Axes:
    """Draw one layer of cells.

    Parameters
    ----------
    field
        A field with three axes, or two, which are drawn as they are.
    axis
        The axis across the layer.
    position
        Where along it, as a length quantity or in Mpc/h; by default the middle.
    axes
        Where to draw; a new figure by default.
    **keywords
        ``log``, ``vmin``, ``vmax``, ``cmap``, ``colorbar`` and ``title`` replace what
        would be chosen.

    Returns
    -------
    axes
        A `~astropy.visualization.wcsaxes.WCSAxes` in comoving Mpc, or the given one.

    Raises
    ------
    GridError
        If the field has neither two nor three axes, or the position is outside.
    """
    if field.ndim == 3:
        number = axis_number(field.axes, axis)
        along = field.axes[number]
        cell = along.n_cells // 2
        if position is not None:
            h = field.parameters["h"]
            place = as_box_length(position, h, above_zero=False) - along.start
            cell = int(place // along.cell_size)
        if not 0 <= cell < along.n_cells:
            raise GridError(
                f"position {position} is outside axis {along.name}, which runs from "
                f"{along.start:g} to {along.start + along.length:g} Mpc/h"
            )
        field = field[(slice(None),) * number + (cell,)]
    return _draw_map(field, axes, **keywords)


def plot_projection(
    field: GalaxyField,
    axis: str | int = "z",
    depth: u.Quantity | float | None = None,
    *,
    weights: GalaxyField | None = None,
    axes: Axes | None = None,
    **keywords: Any,
) -> Axes:
    """Draw a projection; see `GalaxyField.project` for what it means.

    Parameters
    ----------
    field
        A field with three axes.
    axis, depth, weights
        As in `GalaxyField.project`.
    axes, **keywords
        As in `plot_slice`.

    Returns
    -------
    axes
        As `plot_slice`.

    Raises
    ------
    GridError
        As `GalaxyField.project`.
    """
    return _draw_map(
        field.project(axis, depth=depth, weights=weights), axes, **keywords
    )


def plot_power_spectrum(
    fields: GalaxyField | Sequence[GalaxyField] | Mapping[str, GalaxyField],
    *,
    axes: Axes | None = None,
    bins: Any = None,
) -> Axes:
    """Draw power spectra, relative to the mean where the field has one.

    Parameters
    ----------
    fields
        One field, several, or several by the label they are to have.
    axes
        Where to draw; a new figure by default.
    bins
        As in `statistics.power_spectrum`.

    Returns
    -------
    axes
        Logarithmic in both directions, k in h/Mpc.

    Raises
    ------
    GridError
        If a field is only part of its box.
    """
    labelled = _labelled(fields)
    if axes is None:
        axes = _figure(5.0, 4.0).add_subplot()
    for number, (label, field) in enumerate(labelled.items()):
        spectrum = field.power_spectrum(bins=bins, relative=field.spec.positive)
        axes.plot(spectrum.k, spectrum.power, label=label, **_line(number))
    first = next(iter(labelled.values()))
    unit = "" if first.spec.positive else _in_brackets(first.unit**2, " ")
    axes.set(
        yscale="log",
        ylabel=rf"power $P(k)$ [$h^{{-{first.ndim}}}$ Mpc$^{first.ndim}${unit}]",
    )
    _label_wavenumbers(axes)
    axes.legend(frameon=False)
    return axes


def plot_comparison(
    fields: Sequence[GalaxyField] | Mapping[str, GalaxyField],
    axis: str | int = "z",
    depth: u.Quantity | float | None = None,
    *,
    figure: Figure | None = None,
) -> tuple[Axes, ...]:
    """Draw fields side by side on one colour scale, and their spectra's ratios.

    Parameters
    ----------
    fields
        At least two, in one unit; several by the label they are to have, or a
        sequence. The first is the reference.
    axis, depth
        As in `GalaxyField.project`; fields with two axes are drawn as they are.
    figure
        An empty figure to draw into; a new one by default.

    Returns
    -------
    axes
        One map per field, and last the power spectra divided by the reference's.

    Raises
    ------
    GridError
        If there are fewer than two fields, or they differ in unit or cells.
    """
    labelled = _labelled(fields)
    if len(labelled) < 2:
        raise GridError(f"a comparison needs at least 2 fields, got {len(labelled)}")
    reference, *others = labelled.values()
    for other in others:
        if other.unit != reference.unit or other.axes != reference.axes:
            raise GridError(
                "a comparison needs fields on the same cells and in one unit; "
                f"{reference} and {other} differ"
            )
    maps = [
        one if one.ndim == 2 else one.project(axis, depth=depth)
        for one in labelled.values()
    ]
    if figure is None:
        figure = _figure(3.6 * (len(maps) + 1), 3.6)
    norm = _norm_for(np.stack([np.asarray(one) for one in maps]), maps[0])
    columns = len(maps) + 1
    drawn: list[Axes] = []
    for number, (label, one) in enumerate(zip(labelled, maps, strict=True), start=1):
        panel = _map_axes(figure, one, (1, columns, number))
        _draw_map(one, panel, norm=norm, colorbar=False, title=label)
        if number > 1:
            upwards = panel.coords[one.axes[1].name]
            upwards.set_axislabel(" ")
            upwards.set_ticklabel_visible(False)
        drawn.append(panel)
    _add_colour_bar(drawn, drawn[0].images[0], maps[0])
    ratios = figure.add_subplot(1, columns, columns)
    _draw_ratios(ratios, labelled)
    return (*drawn, ratios)


def _labelled(
    fields: GalaxyField | Sequence[GalaxyField] | Mapping[str, GalaxyField],
) -> dict[str, GalaxyField]:
    """Fields by label; by themselves they are told apart by what differs."""
    if isinstance(fields, Mapping):
        labelled = dict(fields)
    else:
        several = [fields] if isinstance(fields, GalaxyField) else list(fields)
        labelled = {}
        for number, field in enumerate(several, start=1):
            label = f"{field.spec.label}, redshift {field.redshift:g}"
            labelled[label if label not in labelled else f"{label} ({number})"] = field
    if not labelled:
        raise GridError("there is no field to draw; give at least one")
    return labelled


def _figure(width: float, height: float) -> Figure:
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def _map_axes(figure: Figure, field: GalaxyField, place: tuple[int, ...]) -> Any:
    """Axes in comoving Mpc with the first array axis across."""
    # FITS counts the last array axis first, so that the two have to be swapped.
    axes = figure.add_subplot(*place, projection=field.wcs, slices=("y", "x"))
    for axis in field.axes:
        coordinate = axes.coords[axis.name]
        coordinate.set_axislabel(f"{axis.name} [comoving Mpc]")
        coordinate.set_major_formatter("x")
    return axes


def _draw_map(
    field: GalaxyField,
    axes: Axes | None,
    *,
    log: bool | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: Any = None,
    norm: Normalize | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    import matplotlib

    if field.ndim != 2:
        raise GridError(
            f"a map has two axes, and this field has {field.ndim}; slice or project it"
        )
    values = np.asarray(field)
    if axes is None:
        axes = _map_axes(_figure(5.2, 4.2), field, (1, 1, 1))
    if norm is None:
        norm = _norm_for(values, field, log=log, vmin=vmin, vmax=vmax)
    name = field.name.removesuffix("_column")
    if cmap is None:
        cmap = _MAPS.get(name, "viridis") if _one_sided(values) else _DIVERGING
    colours = matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap
    # Empty cells have no logarithm; they are the lowest there is.
    colours = colours.with_extremes(bad=colours(0.0))
    place: dict[str, Any] = {}
    if not hasattr(axes, "wcs"):
        place["extent"] = _extent(field)
        axes.set(
            xlabel=f"{field.axes[0].name} [comoving Mpc]",
            ylabel=f"{field.axes[1].name} [comoving Mpc]",
        )
    image = axes.imshow(
        values.T,
        origin="lower",
        norm=norm,
        cmap=colours,
        interpolation="nearest",
        **place,
    )
    axes.set_title(_title(field) if title is None else title)
    if colorbar:
        _add_colour_bar([axes], image, field)
    return axes


def _one_sided(values: NDArray[Any]) -> bool:
    return bool(values.min() >= 0)


def _norm_for(
    values: NDArray[Any],
    field: GalaxyField,
    *,
    log: bool | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
) -> Normalize:
    """Choose a colour scale; a few extreme cells must not take all of it."""
    from matplotlib.colors import LogNorm, Normalize

    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if log is None:
        log = _one_sided(values) and _spans_decades(positive)
    if log and not positive.size:
        raise GridError(f"{field.name!r} has no value above zero; draw with log=False")
    if not (log or _one_sided(values)) and vmin is None and vmax is None:
        return _centred_norm(np.abs(finite))
    shown = positive if log else finite
    low, high = _reach(shown)
    if log:
        # Nearly nothing, by whatever power of ten, is nothing to the eye.
        low = max(low, high / _MOST_DECADES)
    low = low if vmin is None else vmin
    high = high if vmax is None else vmax
    if high <= low:
        high = low * 1.01 if low > 0 else low + 1.0
    return LogNorm(low, high) if log else Normalize(low, high)


def _centred_norm(sizes: NDArray[Any]) -> Normalize:
    """Both signs alike, linear only near zero where a few values are far larger."""
    from matplotlib.colors import AsinhNorm, CenteredNorm

    typical, reach = np.percentile(sizes, [50, 99.5]).tolist()
    if reach > _SPAN_FOR_LOG * typical > 0:
        return AsinhNorm(linear_width=typical, vmin=-reach, vmax=reach)
    return CenteredNorm(halfrange=reach or 1.0)


def _spans_decades(positive: NDArray[Any]) -> bool:
    low, high = _reach(positive)
    return high > _SPAN_FOR_LOG * low > 0


def _reach(values: NDArray[Any]) -> tuple[float, float]:
    """Nearly the whole range; in small maps, all but the most extreme cell."""
    if not values.size:
        return 0.0, 1.0
    low = np.percentile(values, 0.5, method="higher")
    return float(low), float(np.percentile(values, 99.9, method="lower"))


def _add_colour_bar(axes: Sequence[Axes], image: Any, field: GalaxyField) -> None:
    from matplotlib.colors import AsinhNorm
    from matplotlib.ticker import AsinhLocator, FuncFormatter

    figure = axes[0].figure
    values = np.ma.masked_invalid(image.get_array())
    below = values.min() < image.norm.vmin
    above = values.max() > image.norm.vmax
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    bar = figure.colorbar(
        image,
        ax=list(axes),
        label=field.spec.label + _in_brackets(field.unit, " [", "]"),
        extend=extend[int(below), int(above)],
        fraction=0.05,
        pad=0.02,
    )
    if isinstance(image.norm, AsinhNorm):
        # Its own ticks run into each other around zero.
        bar.locator = AsinhLocator(image.norm.linear_width, numticks=7, base=0)
        bar.minorticks_off()
        bar.formatter = FuncFormatter("{:g}".format)


def _in_brackets(unit: u.UnitBase, before: str, after: str = "") -> str:
    text = unit.to_string("latex_inline")
    return "" if unit == u.dimensionless_unscaled else f"{before}{text}{after}"


def _title(field: GalaxyField) -> str:
    """The redshift, and the layer that the map shows."""
    words = [f"redshift {field.redshift:g}"]
    h = field.parameters["h"]
    for axis in field.collapsed:
        first, last = axis.start / h, (axis.start + axis.length) / h
        words.append(f"{axis.name} {first:.3g} to {last:.3g} Mpc")
    return ", ".join(words)


def _extent(field: GalaxyField) -> tuple[float, ...]:
    h = field.parameters["h"]
    return tuple(
        edge / h
        for axis in field.axes
        for edge in (axis.start, axis.start + axis.length)
    )


def _line(number: int) -> dict[str, Any]:
    """Colour and dashes of the n-th line, so that neither has to be told alone."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
    }


def _draw_ratios(axes: Axes, labelled: Mapping[str, GalaxyField]) -> None:
    spectra = {
        label: field.power_spectrum(relative=field.spec.positive)
        for label, field in labelled.items()
    }
    reference_label, reference = next(iter(spectra.items()))
    for number, (label, spectrum) in enumerate(spectra.items()):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = spectrum.power / reference.power
        axes.plot(spectrum.k, ratio, label=label, **_line(number))
    axes.set(title=f"power / {reference_label}")
    _label_wavenumbers(axes)
    axes.legend(frameon=False)


def _label_wavenumbers(axes: Axes) -> None:
    """Logarithmic, with ticks that do not run into each other over few decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xscale="log", xlabel=r"wavenumber $k$ [$h$ Mpc$^{-1}$]")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
