"""Move particles by JaxPM, from a linear field in a file; in an environment of its own.

    python run_jaxpm.py linear.npz particles.npz

Reads ``delta`` (at redshift 0), ``omega_m``, ``omega_b``, ``h``, ``n_s``, ``sigma_8``
and ``steps``; writes ``positions`` in cells of the linear field, at redshift 0, and the
``seconds`` of a first and of a second call.
"""

import sys
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import jax_cosmo
import numpy as np
from jaxpm.pm import lpt, make_ode_fn

START = 0.1


def main(source, target):
    """Read, run twice, write."""
    given = np.load(source)
    delta = jnp.asarray(given["delta"])
    n, steps = len(delta), int(given["steps"])
    omega_m, omega_b = float(given["omega_m"]), float(given["omega_b"])
    cosmology = jax_cosmo.Cosmology(
        Omega_c=omega_m - omega_b,
        Omega_b=omega_b,
        h=float(given["h"]),
        n_s=float(given["n_s"]),
        sigma8=float(given["sigma_8"]),
        Omega_k=0.0,
        w0=-1.0,
        wa=0.0,
    )
    moved = make_ode_fn((n,) * 3, paint_absolute_pos=False)

    @jax.jit
    def kick_drift_kick(state, a, step):
        position, velocity = state
        _, kick = moved((position, velocity), a, cosmology)
        velocity = velocity + kick * step / 2
        drift, _ = moved((position, velocity), a + step / 2, cosmology)
        position = position + drift * step
        _, kick = moved((position, velocity), a + step, cosmology)
        return position, velocity + kick * step / 2

    def run():
        # What JaxPM keeps of a cosmology from one traced call is unusable in the next.
        cosmology._workspace = {}
        displacement, momentum, _ = lpt(cosmology, delta, a=START, order=2)
        state = displacement, momentum
        times = np.linspace(START, 1, steps + 1)
        for a, then in pairwise(times):
            cosmology._workspace = {}
            state = kick_drift_kick(state, float(a), float(then - a))
        return jax.block_until_ready(state[0])

    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        displacement = run()
        seconds.append(time.perf_counter() - start)
    grid = np.stack(np.meshgrid(*(np.arange(n),) * 3, indexing="ij"), -1)
    positions = (np.asarray(displacement) + grid).reshape(-1, 3)
    np.savez(target, positions=positions.astype(np.float32), seconds=seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
