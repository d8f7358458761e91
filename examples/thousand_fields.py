"""
A thousand fields and a covariance
==================================

Many realisations of one universe are a lazy dask array, of which only the power spectra
are kept. They give the mean, its error, and the covariance that a likelihood needs.

Run time: 15 minutes on two cores; ``ASTROGAN_EXAMPLE_RUNS=100`` makes a tenth of it.
Expected result: ``covariance.png``. Neighbouring bins on small scales are correlated by
more than a half, because the largest modes of the box make all small-scale power rise
and fall together; the scatter is that of Gaussian modes on large scales, and larger on
small ones.
"""

import os

import dask
import matplotlib.pyplot as plt
import numpy as np
from astropy.cosmology import Planck18

from astrogan_emu import emulate_batch
from astrogan_emu.statistics import power_spectrum

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "64"))
small = n_cells <= 16
n_fields = int(os.environ.get("ASTROGAN_EXAMPLE_RUNS", "24" if small else "1000"))

# %%
# The batch
# ---------
# Nothing is emulated yet. Sample i has a seed of its own, made of `seed` and i, so that
# more fields can be added later without changing these.

batch = emulate_batch(
    Planck18,
    fields=["matter"],
    n_realizations=n_fields,
    seed=1,
    redshift=0.5,
    n_cells=n_cells,
)
print(batch)
side = batch[0]["matter"].grid.box_size

# %%
# Only spectra are kept
# ---------------------
# The reduction is part of the graph: each worker makes a field, keeps its spectrum and
# forgets it. The synchronous scheduler is for one machine; with
# ``dask.distributed.Client()`` the same lines use a cluster.

edges = np.geomspace(0.9 * 2 * np.pi / side, np.pi * n_cells / side, 5 if small else 13)


def spectrum(fields):
    """Binned power of one sample, whose axes are sample, field, x, y, z."""
    return power_spectrum(fields[0, 0], box_size=side, bins=edges)


lazy = [dask.delayed(spectrum)(batch.data[i : i + 1]) for i in range(n_fields)]
spectra = dask.compute(*lazy, scheduler="synchronous")
power = np.array([each.power for each in spectra])
k, n_modes = spectra[0].k, spectra[0].n_modes

# %%
# Mean, scatter, correlation
# --------------------------
# Gaussian modes would scatter by the square root of two over their number (Feldman,
# Kaiser & Peacock 1994; both halves of Fourier space count).

mean, scatter = power.mean(0), power.std(0, ddof=1)
matrix = np.corrcoef(power, rowvar=False)
gaussian = np.sqrt(2 / n_modes)
for row in zip(k, mean, scatter / mean, gaussian, strict=True):
    print("k = {:.2f}: P = {:8.2f}, scatter {:.3f}, Gaussian {:.3f}".format(*row))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
left.loglog(k, scatter / mean, "o-", label="emulated")
left.loglog(k, gaussian, "k--", label="Gaussian modes")
left.set(xlabel="k [h/Mpc]", ylabel="scatter of P(k) over its mean")
left.legend()
image = right.imshow(matrix, origin="lower", vmin=-1, vmax=1, cmap="RdBu_r")
right.set_xticks(range(0, len(k), 3), [f"{each:.2g}" for each in k[::3]])
right.set_yticks(range(0, len(k), 3), [f"{each:.2g}" for each in k[::3]])
right.set(xlabel="k [h/Mpc]", ylabel="k [h/Mpc]", title="correlation of P(k)")
figure.colorbar(image, ax=right)
figure.savefig("covariance.png", dpi=150)
