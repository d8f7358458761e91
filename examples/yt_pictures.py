"""
Pictures by yt
==============

An emulated universe in yt: a slice, a projection and a phase diagram, from a file that
any yt opens.

Run time: 8 s on two cores. Expected result: ``slice.png``, ``projection.png`` and
``phase.png``; galaxies lie where matter is dense, and nowhere else.
"""

import os

import yt
from astropy.cosmology import Planck18

from astrogan_emu import Emulator
from astrogan_emu.field_files import write_hdf5

yt.set_log_level("error")
n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "64"))

# %%
# From a file
# -----------
# Several fields go into one file, which plain ``yt.load`` opens: whoever gets it needs
# no more than yt.

fields = Emulator.load("nbody").emulate(Planck18, redshift=1.0, n_cells=n_cells, seed=3)
write_hdf5(list(fields.values()), "universe.h5", overwrite=True)
dataset = yt.load("universe.h5")
print(dataset.field_list)
print(dataset.domain_width.to("Mpccm"), "at redshift", dataset.current_redshift)

# %%
# A slice and a projection
# ------------------------
# The dataset knows its cosmology: axes are comoving, and so is the ruler.

matter, galaxies = sorted(dataset.field_list, key=lambda name: "galax" in name[1])
picture = yt.SlicePlot(dataset, "z", matter)
picture.set_axes_unit("Mpccm")
picture.set_cmap(matter, "cividis")
picture.annotate_timestamp(time=False, redshift=True)
picture.save("slice.png")

picture = yt.ProjectionPlot(dataset, "z", galaxies)
picture.set_axes_unit("Mpccm")
picture.set_cmap(galaxies, "magma")
picture.annotate_scale(unit="Mpccm")
picture.save("projection.png")

# %%
# Galaxies against matter
# -----------------------

picture = yt.PhasePlot(
    dataset.all_data(), matter, galaxies, ("index", "ones"), weight_field=None
)
picture.set_unit(("index", "ones"), "dimensionless")
picture.save("phase.png")
