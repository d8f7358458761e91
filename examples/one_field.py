"""
One field
=========

A cosmology, a redshift and a seed become a field, a picture and a power spectrum.

Run time: 5 s on two cores. Expected result: ``one_field.png``, with the cosmic web of a
slab on the left; on the right, emulated power that follows linear theory on the largest
scales, to the scatter of one box, and rises above it on small ones.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from astropy.cosmology import Planck18

from astrogan_emu import emulate_galaxy_field
from astrogan_emu.linear_theory import growth_factor, linear_power
from astrogan_emu.plotting import plot_projection

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "64"))

# %%
# Emulate
# -------
# The same seed makes the same field again; leave it out to be surprised.

matter = emulate_galaxy_field(
    Planck18, redshift=0.5, field="matter", n_cells=n_cells, seed=1
)
print(matter)

# %%
# Look
# ----
# A slab as deep as a quarter of the box, and the power spectrum beside what linear
# theory says for the same parameters.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
plot_projection(matter, axis="z", depth=matter.grid.box_size / 4, axes=left)

spectrum = matter.power_spectrum()
k = np.geomspace(spectrum.k[0], spectrum.k[-1], 100)
growth = float(growth_factor(1 / (1 + matter.redshift), matter.parameters["omega_m"]))
right.loglog(spectrum.k, spectrum.power, label="emulated")
right.loglog(k, growth**2 * linear_power(k, matter.parameters), "k--", label="linear")
right.set(xlabel="k [h/Mpc]", ylabel="P(k) [(Mpc/h)$^3$]")
right.legend()
figure.savefig("one_field.png", dpi=150)
