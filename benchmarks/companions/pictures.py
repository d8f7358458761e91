"""Draw the pictures of the page on companions from what `run.py` wrote.

    ASTROGAN_TEST_DATA=folder python benchmarks/companions/pictures.py \
        results.json docs/images

The files ``with_planet.fits`` and ``without_planet.fits`` lie beside the results.
"""

import json
import os
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from matplotlib.colors import AsinhNorm

from astrogan_emu.companions import CompanionDetections

CASES = {
    "with_planet": "with beta Pictoris b",
    "without_planet": "planet taken out of the frames",
}


def draw_maps(results, folder, path):
    """Median frame, signal-to-noise ratio and score, with and without the planet."""
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6.8), layout="constrained")
    found = {name: CompanionDetections.read(folder / f"{name}.fits") for name in CASES}
    top = max(np.nanmax(each.snr_map.data) for each in found.values())
    high = max(np.nanmax(each.detection_map.data) for each in found.values())
    for row, (name, title) in zip(axes, CASES.items(), strict=True):
        each, own = found[name], results[name]
        data = Path(os.environ["ASTROGAN_TEST_DATA"]) / results["config"][name]
        cube = fits.getdata(data / "naco_betapic_cube.fits")
        scale = own["meta"]["pixel_scale"]
        x, y = own["center"]
        n_y, n_x = cube.shape[1:]
        extent = np.array([-0.5 - x, n_x - 0.5 - x, -0.5 - y, n_y - 0.5 - y]) * scale
        threshold = own["meta"]["threshold"]
        panels = (
            (
                np.median(cube, 0),
                "median frame",
                {"cmap": "gray", "norm": AsinhNorm(300)},
            ),
            (each.snr_map.data, "signal-to-noise ratio", {"vmin": -4, "vmax": top}),
            (
                each.detection_map.data,
                "detector's score",
                {"norm": AsinhNorm(10, vmin=-20, vmax=high), "cmap": "magma"},
            ),
        )
        for axis, (image, label, style) in zip(row, panels, strict=True):
            shown = axis.imshow(image, origin="lower", extent=extent, **style)
            bar = figure.colorbar(shown, ax=axis, shrink=0.85, label=label)
            # Left to itself, the scale crowds its numbers about 0.
            bar.minorticks_off()
            if "frame" in label:
                bar.set_ticks([0, 300, 1000, 3000], labels=["0", "300", "1000", "3000"])
            if "score" in label:
                bar.set_ticks([-20, 0, 20, 60], labels=["-20", "0", "20", "60"])
                bar.ax.axhline(threshold, color="cyan", lw=2)
            axis.plot(0, 0, "+", color="cyan", ms=8)
            for candidate in each.candidates:
                place = [(candidate["x"] - x) * scale, (candidate["y"] - y) * scale]
                axis.add_patch(
                    plt.Circle(place, 0.16, fill=False, color="cyan", lw=1.5)
                )
        row[0].set_ylabel(f"{title}\n\noffset from the star [arcsec]")
    for axis in axes[1]:
        axis.set_xlabel("offset [arcsec]")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_limits(results, path):
    """Contrast limits, and the planet."""
    figure, axis = plt.subplots(figsize=(5.6, 3.9), layout="constrained")
    own = results["without_planet"]
    radius = [row["separation"] for row in own["limits"]]
    for name, label, style in (
        ("contrast_5sigma", "5 sigma, annular PCA", "C0-o"),
        ("contrast_50", "half become candidates", "C1-s"),
    ):
        values = [row[name] for row in own["limits"]]
        axis.semilogy(radius, values, style, ms=3, label=label)
    planet = results["config"]["planet"]
    axis.plot(planet["separation"], planet["contrast"], "k*", ms=11)
    axis.annotate(
        "beta Pictoris b",
        (planet["separation"], planet["contrast"]),
        xytext=(8, 4),
        textcoords="offset points",
    )
    axis.set(xlabel="separation [arcsec]", ylabel="contrast to the star")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_areas(results, path):
    """How much better than annular PCA detectors are; the critic is off the scale."""
    panels = [
        (table, key, values)
        for name, table in results.items()
        if name.startswith("roc_every")
        for key, values in table.items()
        if key.startswith("share")
    ]
    figure, axes = plt.subplots(
        2, 3, figsize=(10.5, 5.6), layout="constrained", sharex=True, sharey=True
    )
    names = ("real", "gaussian", "gan", "gan+real")
    for axis, (table, key, values) in zip(axes.flat, panels, strict=True):
        for i, name in enumerate(names):
            row = values[name]
            axis.plot(row["interval"], [i, i], "C0-")
            axis.plot(row["difference"], i, "C0o")
            axis.annotate(
                f"{row['auc']:.3f}",
                (0.99, i),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
            )
        axis.axvline(0, color="0.6", lw=1)
        axis.set_yticks(range(len(names)), names)
        share = float(key.removeprefix("share_"))
        axis.set_title(
            f"{table['frames']} frames, {share:.0%} of the noise", fontsize=10
        )
    # Shared by all panels.
    axes[0, 0].set_ylim(len(names) - 0.6, -0.7)
    for axis in axes[1]:
        axis.set_xlabel("area less that of annular PCA")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(results, folder):
    """Draw all."""
    path, folder = Path(results), Path(folder)
    values = json.loads(path.read_text())
    draw_maps(values, path.parent, folder / "companions-maps.png")
    draw_limits(values, folder / "companions-limits.png")
    if any(name.startswith("roc_every") for name in values):
        draw_areas(values, folder / "companions-roc.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
