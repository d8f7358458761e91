"""The validation report: one HTML file with its pictures inside, to be looked at.

It shows what `scorecard` measured; nothing is measured here.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from ._files import atomic_path
from .scorecard import PDF_EDGES, Comparison, Results, by_method

__all__ = ["write_report"]

Array = NDArray[np.float64]

# Okabe & Ito (2008), which colour-blind readers can tell apart.
_COLOURS = {
    "model": "#0072B2",
    "without critic": "#E69F00",
    "without noise": "#56B4E9",
    "base": "#009E73",
    "2LPT": "#CC79A7",
    "lognormal": "#D55E00",
    "simulation": "#000000",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
td, th { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.yes { background: #e3f4e6; } .no { background: #fbe5e1; }
img { max-width: 100%; } caption { text-align: left; font-weight: 600; }
"""


def write_report(path: Path, results: Results) -> None:
    """Write the report.

    Parameters
    ----------
    path
        HTML file; replaced if it exists.
    results
        What to show.
    """
    sections = [
        ("Scorecard", _scores(results)),
        ("Power spectrum, made over true", _curves(results, _draw_power)),
        ("Correlation with the simulation", _curves(results, _draw_correlation)),
        ("One-point distribution", _curves(results, _draw_pdf)),
        ("Bispectrum, made over true", _curves(results, _draw_bispectrum)),
        ("Slices", _gallery(results)),
        ("Error over the parameter range", _over_range(results)),
        ("Scatter between realisations", _scatter(results)),
        ("Response to parameters", _response(results)),
    ]
    body = "".join(
        f"<h2>{html.escape(title)}</h2>{content}"
        for title, content in sections
        if content
    )
    name, print_of = results.model["name"], results.model["sha256"]
    missing = "".join(f"<li>{html.escape(each)}</li>" for each in results.missing)
    text = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Validation of {html.escape(name)}</title><style>{_STYLE}</style>"
        f"</head><body><h1>Validation of {html.escape(name)}</h1>"
        f"<p>Against {html.escape(results.suite)}, each followed from its own initial "
        f"conditions. Model {html.escape(print_of[:16])}.</p>{body}"
        f"<h2>Not measured</h2><ul>{missing}</ul></body></html>"
    )
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _image(figure: Figure, label: str) -> str:
    """A figure as an image inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(label)}' src='data:image/png;base64,{data}'>"


def _scores(results: Results) -> str:
    """A table for each field: metrics by redshift, for each method."""
    tables = []
    scores = results.scores
    redshifts = sorted({each.redshift for each in scores})
    for field in dict.fromkeys(each.field for each in scores):
        head = "".join(f"<th>z = {z:g}</th>" for z in redshifts)
        rows = []
        own = [each for each in scores if each.field == field]
        for metric, method in itertools.product(
            dict.fromkeys(each.metric for each in own),
            dict.fromkeys(each.method for each in own),
        ):
            cells = []
            bar = None
            for z in redshifts:
                found = [
                    each
                    for each in own
                    if (each.metric, each.method, each.redshift) == (metric, method, z)
                ]
                if not found:
                    cells.append("<td></td>")
                    continue
                bar = found[0].bar
                kind = {True: "yes", False: "no", None: ""}[found[0].passed]
                cells.append(f"<td class='{kind}'>{found[0]}</td>")
            said = "" if bar is None else f"{bar:g}"
            rows.append(
                f"<tr><td>{html.escape(metric)}</td><td>{html.escape(method)}</td>"
                f"{''.join(cells)}<td>{said}</td></tr>"
            )
        tables.append(
            f"<table><caption>{html.escape(field)}</caption><tr><th>metric</th>"
            f"<th>method</th>{head}<th>bar</th></tr>{''.join(rows)}</table>"
        )
    return "".join(tables)


def _curves(
    results: Results, draw: Callable[[Any, str, Sequence[Comparison]], None]
) -> str:
    """One panel for each field and redshift, one curve for each method."""
    groups = by_method(results.comparisons)
    fields = list(dict.fromkeys(field for _, field, _ in groups))
    redshifts = sorted({z for *_, z in groups})
    figure = Figure(
        figsize=(3.4 * len(redshifts), 3.0 * len(fields)), layout="constrained"
    )
    panels = figure.subplots(
        len(fields), len(redshifts), squeeze=False, sharex=True, sharey="row"
    )
    for (i, field), (j, z) in itertools.product(
        enumerate(fields), enumerate(redshifts)
    ):
        axes = panels[i, j]
        for (method, of, at), group in groups.items():
            if of == field and at == z:
                draw(axes, method, group)
        axes.set_title(f"{field}, z = {z:g}", fontsize=10)
    panels[0, 0].legend(fontsize=8)
    return _image(figure, "curves by field and redshift")


def _half_lines(axes: Any, group: Sequence[Comparison]) -> None:
    axes.axvline(group[0].nyquist / 2, color="0.7", lw=0.8, zorder=0)
    axes.set_xscale("log")
    # Labels of the minor ticks would run into each other.
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("k [h/Mpc]")


def _draw_power(axes: Any, method: str, group: Sequence[Comparison]) -> None:
    ratio = np.array([each.ratio("power") for each in group])
    mean, spread = np.nanmean(ratio, 0), np.nanstd(ratio, 0)
    k, colour = group[0].k, _COLOURS[method]
    if method == "model":
        axes.fill_between(k, mean - spread, mean + spread, color=colour, alpha=0.2)
        axes.axhspan(0.98, 1.02, color="0.9", zorder=0)
    axes.plot(k, mean, color=colour, label=method)
    axes.set_ylim(0.5, 1.5)
    axes.set_ylabel("P / P simulation")
    _half_lines(axes, group)


def _draw_correlation(axes: Any, method: str, group: Sequence[Comparison]) -> None:
    r = np.nanmean([each.values["r"] for each in group], 0)
    axes.plot(group[0].k, r, color=_COLOURS[method], label=method)
    axes.set_ylim(0.5, 1.01)
    axes.set_ylabel("r with the simulation")
    _half_lines(axes, group)


def _draw_pdf(axes: Any, method: str, group: Sequence[Comparison]) -> None:
    centres = np.sqrt(PDF_EDGES[1:] * PDF_EDGES[:-1])
    if method == "model":
        truth = np.mean([each.truth["pdf"] for each in group], 0)
        axes.plot(centres, truth, color="k", ls="--", label="simulation")
    made = np.mean([each.values["pdf"] for each in group], 0)
    axes.plot(centres, made, color=_COLOURS[method], label=method)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-9, 1e3)
    axes.set_xlabel("density / mean")
    axes.set_ylabel("probability density")


def _draw_bispectrum(axes: Any, method: str, group: Sequence[Comparison]) -> None:
    for name, style in (("equilateral", "-"), ("squeezed", ":")):
        made, true = (
            np.sum([(each.values if own else each.truth)[name] for each in group], 0)
            for own in (True, False)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = made / true
        label = f"{method}, {name}" if method == "model" else None
        axes.plot(
            group[0].sides[name], ratio, style, color=_COLOURS[method], label=label
        )
    axes.axhspan(0.9, 1.1, color="0.9", zorder=0)
    axes.set_ylim(0, 2)
    axes.set_ylabel("B / B simulation")
    _half_lines(axes, group)


def _gallery(results: Results) -> str:
    """Slices of simulation and methods, on the same scale of colours."""
    images = []
    for (run, z, field), drawn in results.slices.items():
        order = list(dict.fromkeys(["simulation", *_COLOURS]))
        order = [method for method in order if method in drawn]
        figure = Figure(figsize=(2.6 * len(order), 2.9), layout="constrained")
        panels = figure.subplots(1, len(order), squeeze=False)[0]
        truth = drawn["simulation"]
        high = float(np.quantile(truth, 0.999)) or 1.0
        norm: Normalize = LogNorm(high / 1000, high, clip=True)
        side = results.slice_side
        for axes, method in zip(panels, order, strict=True):
            axes.imshow(
                np.maximum(drawn[method], high / 1000).T,
                origin="lower",
                norm=norm,
                cmap="cividis",
                extent=(0, side, 0, side),
            )
            axes.set_title(method, fontsize=10)
            axes.set_xlabel("Mpc/h")
        figure.suptitle(f"{field} of {run} at z = {z:g}", fontsize=11)
        images.append(_image(figure, f"slices of {field} of {run}"))
    return "".join(images)


def _over_range(results: Results) -> str:
    """Error of the model's matter power on small scales against each parameter."""
    own = [
        c for c in results.comparisons if c.method == "model" and c.field == "matter"
    ]
    if not own:
        return ""
    names = list(own[0].parameters)
    figure = Figure(figsize=(2.8 * len(names), 3.0), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    redshifts = sorted({each.redshift for each in own})
    for z, marker in zip(redshifts, itertools.cycle("osD^v<>"), strict=False):
        of_z = [each for each in own if each.redshift == z]
        errors = []
        for each in of_z:
            half = each.nyquist / 2
            band = (each.k > half / 2) & (each.k <= half)
            errors.append(float(np.log(each.ratio("power")[band]).mean()))
        for axes, name in zip(panels, names, strict=True):
            x = [each.parameters[name] for each in of_z]
            axes.plot(x, errors, marker, ms=4, label=f"z = {z:g}")
            axes.set_xlabel(name)
    for axes in panels:
        axes.axhline(0, color="0.7", zorder=0)
    panels[0].set_ylabel("ln P ratio, k near half Nyquist")
    panels[0].legend(fontsize=8)
    return _image(figure, "error of the power against each parameter")


def _scatter(results: Results) -> str:
    """Relative scatter and correlation matrices of the matter power of the model."""
    own = [
        (z, values)
        for (method, field, z), values in results.scatters.items()
        if method == "model" and field == "matter"
    ]
    if not own:
        return ""
    figure = Figure(figsize=(11, 3.2 * len(own)), layout="constrained")
    panels = figure.subplots(len(own), 3, squeeze=False)
    for row, (z, values) in zip(panels, sorted(own, key=lambda p: p[0]), strict=True):
        row[0].plot(values["k"], values["relative_true"], "k--", label="simulation")
        row[0].plot(values["k"], values["relative_made"], label="model")
        row[0].set_xscale("log")
        row[0].set_xlabel("k [h/Mpc]")
        row[0].set_ylabel("standard deviation / mean of P")
        row[0].set_title(f"z = {z:g}", fontsize=10)
        row[0].legend(fontsize=8)
        for axes, name in zip(row[1:], ("true", "made"), strict=True):
            image = axes.imshow(
                values[f"matrix_{name}"], vmin=-1, vmax=1, cmap="PuOr", origin="lower"
            )
            label = "simulation" if name == "true" else "model"
            axes.set_title(f"correlation of P, {label}", fontsize=10)
        figure.colorbar(image, ax=row[2])
    return _image(figure, "scatter and correlation of the power")


def _response(results: Results) -> str:
    """Change of ln P with each parameter, simulation and model, mean over phases."""
    own = {
        (z, name): values
        for (method, field, z, name), values in results.responses.items()
        if method == "model" and field == "matter"
    }
    if not own:
        return ""
    redshifts = sorted({z for z, _ in own})
    names = list(dict.fromkeys(name for _, name in own))
    figure = Figure(
        figsize=(2.8 * len(names), 2.6 * len(redshifts)), layout="constrained"
    )
    panels = figure.subplots(
        len(redshifts), len(names), squeeze=False, sharex=True, sharey="col"
    )
    for (i, z), (j, name) in itertools.product(enumerate(redshifts), enumerate(names)):
        values = own.get((z, name))
        if values is None:
            continue
        made, true = (values[which].mean(0) for which in ("made", "true"))
        panels[i, j].plot(values["k"], true, "k--", label="simulation")
        panels[i, j].plot(values["k"], made, label="model")
        panels[i, j].set_xscale("log")
        panels[i, j].set_title(f"{name}, z = {z:g}", fontsize=10)
    panels[0, 0].legend(fontsize=8)
    panels[0, 0].set_ylabel("change of ln P")
    return _image(figure, "response of the power to each parameter")
