"""
A light cone
============

Galaxies on the past light cone of an observer, with redshifts that their motions
disturb, as a survey would list them.

Run time: 10 s on two cores. Expected result: ``lightcone.fits``, a catalogue of sky
positions and redshifts, and ``lightcone.png``: a wedge of walls and filaments, and the
number of galaxies in redshift.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from astropy.cosmology import Planck18

from astrogan_emu import lightcone

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "64"))
small = n_cells <= 16

# %%
# The cone
# --------
# Boxes are stacked along the line of sight and beside it; each shell in redshift is
# emulated at its own redshift, with the same phases. Copies of the box are turned and
# shifted at random.

catalogue = lightcone(
    Planck18,
    z_max=0.02 if small else 0.15,
    area=100,  # deg^2
    seed=1,
    n_cells=n_cells,
    n_snapshots=2 if small else 4,
)
print(catalogue["sky", "z_cosmological", "v_los", "z_observed"][:5])
print(len(catalogue), "galaxies to redshift", catalogue.meta["z_max"])
catalogue.write("lightcone.fits", overwrite=True)

# %%
# Look
# ----
# The right ascension is stretched, or the wedge would be thin.

right_ascension = catalogue["sky"].ra.deg - 180
thin = abs(catalogue["sky"].dec.deg) < 2
distance = catalogue["distance"].value

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.2), width_ratios=(2, 1), layout="constrained"
)
left.plot(
    distance[thin],
    distance[thin] * np.radians(right_ascension[thin]),
    ".",
    markersize=1,
    color="#0072b2",
)
left.set(
    xlabel="comoving distance [Mpc]",
    ylabel="across [Mpc]",
    title="galaxies within 2 degrees of the equator",
)
right.hist(catalogue["z_cosmological"], 30, histtype="step", label="cosmological")
right.hist(catalogue["z_observed"], 30, histtype="step", label="observed")
right.set(xlabel="redshift", ylabel="galaxies")
right.legend()
figure.savefig("lightcone.png", dpi=150)
