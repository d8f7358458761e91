"""Figures of the page on how it works: ``python docs/figures.py FOLDER``."""

import hashlib
import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm

from astrogan_emu import Emulator
from astrogan_emu.checkpoints import model_path
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.linear_theory import growth_factor, linear_power
from astrogan_emu.statistics import power_spectrum

NAMES = ["chain.png", "power.png", "seeds.png"]
PLANCK = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.677, "n_s": 0.967, "sigma_8": 0.81}
CELLS = int(os.environ.get("ASTROGAN_DOCS_CELLS", "64"))
REDSHIFT = 0.5


def identity():
    """What decides how the figures look."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(model_path("nbody").read_bytes())
    return f"{digest.hexdigest()} {CELLS}"


def realisation(emulator, parameters, seed=1):
    """Linear field, base and emulated fields of one seed."""
    side = CELLS * emulator.card.cell_size
    linear = linear_field(parameters, n_cells=CELLS, box_size=side, seed=seed)
    with torch.no_grad():
        base = emulator.base(linear, parameters, REDSHIFT, side)[0]
    fields = emulator.emulate(parameters, redshift=REDSHIFT, n_cells=CELLS, seed=seed)
    return linear, base, fields


def draw_chain(path, emulator, linear, base, fields):
    """The steps from white noise to galaxies, in one slab."""
    side = CELLS * emulator.card.cell_size
    slab = slice(0, CELLS // 4)
    panels = [
        ("linear overdensity, z = 0", linear.numpy()[..., slab].mean(2), None),
        ("base: twenty particle-mesh steps", base.numpy()[..., slab].mean(2), "log"),
        ("emulated matter", fields["matter"].data[..., slab].mean(2), "log"),
        ("emulated galaxies", fields["galaxies"].data[..., slab].mean(2), "faint"),
    ]
    figure, grid = plt.subplots(
        2, 2, figsize=(8, 8.2), layout="constrained", sharex=True, sharey=True
    )
    axes = grid.flat
    for ax, (title, values, scale) in zip(axes, panels, strict=True):
        norm, cmap = None, "cividis"
        if scale == "log":
            norm = LogNorm(0.1, 20, clip=True)
        elif scale == "faint":
            top = values.max()
            norm, cmap = LogNorm(1e-3 * top, top, clip=True), "magma"
        else:
            cmap = "RdBu_r"
        ax.imshow(
            values.T, origin="lower", extent=(0, side, 0, side), norm=norm, cmap=cmap
        )
        ax.set_title(title)
    for ax in grid[1]:
        ax.set_xlabel("x [Mpc/h]")
    for ax in grid[:, 0]:
        ax.set_ylabel("y [Mpc/h]")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_power(path, emulator, base, fields):
    """Power of the linear theory, the base and the emulated matter."""
    side = CELLS * emulator.card.cell_size
    figure, ax = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
    made = power_spectrum(fields["matter"])
    k = np.asarray(made.k)
    growth = float(growth_factor(1 / (1 + REDSHIFT), PLANCK["omega_m"])) ** 2
    smooth = np.geomspace(k[0], k[-1], 100)
    theory = linear_power(torch.as_tensor(smooth), PLANCK).numpy() * growth
    ax.loglog(smooth, theory, "k--", label="linear theory")
    start = power_spectrum(base, box_size=side)
    ax.loglog(start.k, start.power, color="#0072b2", label="base")
    ax.loglog(k, np.asarray(made.power), color="#d55e00", label="emulated matter")
    ax.axvline(k[-1] / 2, color="grey", linewidth=1)
    ax.text(
        k[-1] / 2 * 0.97,
        made.power[0],
        "half Nyquist",
        rotation=90,
        ha="right",
        va="top",
        color="grey",
    )
    ax.set(xlabel="k [h/Mpc]", ylabel=r"P(k) [(Mpc/h)$^3$]")
    ax.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_seeds(path, emulator):
    """One seed for three values of sigma_8."""
    side = CELLS * emulator.card.cell_size
    values = (0.6, 0.8, 1.0)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    for ax, sigma_8 in zip(axes, values, strict=True):
        field = emulator.emulate(
            PLANCK | {"sigma_8": sigma_8},
            redshift=REDSHIFT,
            fields=["matter"],
            n_cells=CELLS,
            seed=1,
        )["matter"]
        slab = field.data[..., : CELLS // 4].mean(2)
        ax.imshow(
            slab.T,
            origin="lower",
            extent=(0, side, 0, side),
            norm=LogNorm(0.1, 20, clip=True),
            cmap="cividis",
        )
        ax.set(title=rf"$\sigma_8$ = {sigma_8:g}", xlabel="x [Mpc/h]")
    axes[0].set_ylabel("y [Mpc/h]")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(folder):
    """Draw all of them into a folder."""
    emulator = Emulator.load("nbody")
    linear, base, fields = realisation(emulator, PLANCK)
    draw_chain(folder / "chain.png", emulator, linear, base, fields)
    draw_power(folder / "power.png", emulator, base, fields)
    draw_seeds(folder / "seeds.png", emulator)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
