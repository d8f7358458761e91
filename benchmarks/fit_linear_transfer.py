"""Remake the table behind `astrogan_emu.linear_theory.transfer_function`.

Run ``python benchmarks/fit_linear_transfer.py`` with CAMB installed (``pip install
camb``); it takes about a quarter of an hour on two cores and writes

- ``astrogan_emu/data/linear_transfer.npz``, the table,
- ``tests/reference/linear_power_camb.npz``, spectra of CAMB that the tests compare
  with, at the edges of the range and at random points,

then compares the new table with CAMB at random points that neither file holds.
``--check N`` does only the comparison, with N points.

The transfer function of a universe without massive neutrinos depends on
``omega_m h^2`` and ``omega_b h^2`` alone if k is in 1/Mpc. Its ratio to the fit of
Eisenstein & Hu (1998) without wiggles, at fixed k times the sound horizon (where
the wiggles of all universes are in step), is smooth in the baryon fraction and in
``ln(omega_m h^2)`` and is expanded in Chebyshev polynomials of these two. The
region that the box of parameters fills is not a rectangle in them; the polynomials
`centre` and `half_width` of the baryon fraction wrap it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import camb
import numpy as np
from numpy.polynomial import Polynomial, chebyshev
from scipy.interpolate import CubicSpline
from scipy.optimize import linprog

from astrogan_emu.linear_theory import linear_power
from astrogan_emu.matter_transfer import smooth_transfer_function

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "astrogan_emu" / "data" / "linear_transfer.npz"
REFERENCE = ROOT / "tests" / "reference" / "linear_power_camb.npz"

# The range that must be covered, and the wider one that is.
RANGE = {
    "omega_m": (0.1, 0.5),
    "omega_b": (0.03, 0.07),
    "h": (0.5, 0.9),
    "n_s": (0.8, 1.2),
    "sigma_8": (0.6, 1.0),
}
COVERED = {"omega_m": (0.09, 0.55), "omega_b": (0.027, 0.077), "h": (0.45, 0.99)}
COVERED_FRACTION = (0.027 / 0.55, 0.77)

# Nodes in the baryon fraction and in ln(omega_m h^2). The last coefficients are then
# as small as the noise of CAMB, a few 1e-4.
N_FRACTION, N_MATTER = 13, 8

# Nodes in x = k s are even in u = ln(1 + x / TURN) + DENSITY x / (1 + x / END), and so
# even in ln x but for more of them where the wiggles are.
TURN, DENSITY, END = 0.05, 0.1, 100.0
STEP, LARGEST = 0.04, 3300.0

# Temperature and neutrinos of the standard universe, massless.
FIXED = {"mnu": 0.0, "nnu": 3.046, "TCMB": 2.7255, "omk": 0.0}


def camb_model(omega_m: float, omega_b: float, h: float) -> Any:
    """CAMB's settings for one universe, for transfer functions at z = 0 alone."""
    model = camb.CAMBparams()
    model.set_cosmology(
        H0=100.0 * h,
        ombh2=omega_b * h**2,
        omch2=(omega_m - omega_b) * h**2,
        **FIXED,
    )
    model.WantCls = model.Want_CMB = False
    model.NonLinear = camb.model.NonLinear_none
    return model


def camb_transfer(
    omega_m: float, omega_b: float, h: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Transfer function of CAMB on its own wavenumbers, and the sound horizon.

    The wiggles need denser wavenumbers than CAMB takes by default, and the hierarchy of
    the neutrinos more multipoles: by default the transfer function jumps by up to
    0.6 % at k = 0.005 and 0.03 / Mpc if omega_m h^2 is as low as 0.025. The smooth
    rest needs neither, and is where the time goes.

    Returns
    -------
    k
        Wavenumbers [1/Mpc].
    transfer
        T(k), 1 at the smallest k.
    sound_horizon
        At the drag epoch [Mpc].
    """
    model = camb_model(omega_m, omega_b, h)
    model.set_matter_power(redshifts=[0.0], kmax=40.0)
    results = camb.get_transfer_functions(model)
    sound_horizon = results.get_derived_params()["rdrag"]
    k, smooth = read_transfer(results, h)

    model.set_matter_power(redshifts=[0.0], kmax=120.0 / sound_horizon, k_per_logint=80)
    model.set_accuracy(AccuracyBoost=2.0, lAccuracyBoost=4.0)
    k_dense, dense = read_transfer(camb.get_transfer_functions(model), h)

    beyond = k > 1.02 * k_dense[-1]
    transfer = np.concatenate([dense / dense[0], smooth[beyond] / smooth[0]])
    return np.concatenate([k_dense, k[beyond]]), transfer, sound_horizon


def read_transfer(results: Any, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumber [1/Mpc] and transfer function of the total matter."""
    data = results.get_matter_transfer_data()
    k = data.transfer_z("k/h", 0).astype(float) * h
    return k, data.transfer_z("delta_tot", 0).astype(float)


def wrap_region() -> tuple[Polynomial, Polynomial]:
    """Centre and half width of ln(omega_m h^2), polynomials of the scaled fraction."""
    t = np.linspace(-1.0, 1.0, 2001)
    fraction = unscale(t, *COVERED_FRACTION)
    (m_low, m_high), (b_low, b_high), (h_low, h_high) = COVERED.values()
    low = np.log(np.maximum(m_low, b_low / fraction) * h_low**2)
    high = np.log(np.minimum(m_high, b_high / fraction) * h_high**2)
    centre = Polynomial.fit(t, (low + high) / 2.0, 3).convert()
    needed = np.maximum(high - centre(t), centre(t) - low)
    basis = np.vander(t, 3, increasing=True)
    narrowest = linprog(
        basis.mean(0), A_ub=-basis, b_ub=-needed, bounds=[(None, None)] * 3
    )
    return centre, Polynomial(narrowest.x * (1.0 + 1e-6))


def unscale(t: np.ndarray, low: float, high: float) -> np.ndarray:
    """From [-1, 1] to [low, high]."""
    return low + (high - low) * (t + 1.0) / 2.0


def universe_with(physical_m: float, fraction: float) -> tuple[float, float, float]:
    """Choose the (omega_m, omega_b, h) amid the range that has this transfer function.

    Only `physical_m` = omega_m h^2 and the baryon fraction matter to it.
    """
    (m_low, m_high), (b_low, b_high) = RANGE["omega_m"], RANGE["omega_b"]
    low, high = max(m_low, b_low / fraction), min(m_high, b_high / fraction)
    h = np.clip(np.sqrt(physical_m / np.sqrt(low * high)), *COVERED["h"])
    omega_m = physical_m / h**2
    return omega_m, fraction * omega_m, h


def place_nodes() -> np.ndarray:
    """Nodes in x = k s, from 0 on."""

    def u_of(x: np.ndarray) -> np.ndarray:
        return np.log1p(x / TURN) + DENSITY * x / (1.0 + x / END)

    u = np.arange(0.0, u_of(np.array(LARGEST)), STEP)
    guesses = np.concatenate([[0.0], np.geomspace(1e-6, 2.0 * LARGEST, 100_001)])
    x = np.interp(u, u_of(guesses), guesses)
    for _ in range(5):  # Newton's method, to rounding
        x -= (u_of(x) - u) / (1.0 / (TURN + x) + DENSITY / (1.0 + x / END) ** 2)
    return x


def fit_table() -> dict[str, np.ndarray]:
    """Run CAMB at the Chebyshev nodes and expand."""
    centre, half_width = wrap_region()
    x_nodes = np.cos(np.pi * (np.arange(N_FRACTION) + 0.5) / N_FRACTION)
    y_nodes = np.cos(np.pi * (np.arange(N_MATTER) + 0.5) / N_MATTER)
    nodes = place_nodes()
    ratio = np.empty((N_FRACTION, N_MATTER, len(nodes)))
    log_sound_horizon = np.empty((N_FRACTION, N_MATTER))
    for i, x in enumerate(x_nodes):
        fraction = unscale(x, *COVERED_FRACTION)
        for j, y in enumerate(y_nodes):
            physical_m = np.exp(centre(x) + y * half_width(x))
            omega_m, omega_b, h = universe_with(physical_m, fraction)
            k, transfer, sound_horizon = camb_transfer(omega_m, omega_b, h)
            smooth = smooth_transfer_function(k, physical_m, fraction * physical_m)
            known = transfer / smooth.numpy()
            spline = CubicSpline(np.log(k), known / known[0])
            k_nodes = np.maximum(nodes / sound_horizon, k[0])
            ratio[i, j] = spline(np.log(k_nodes))
            log_sound_horizon[i, j] = np.log(sound_horizon)
        print(f"baryon fraction {fraction:.3f}: {N_MATTER} runs of CAMB", flush=True)

    def expand(values: np.ndarray) -> np.ndarray:
        to_x = np.linalg.inv(chebyshev.chebvander(x_nodes, N_FRACTION - 1))
        to_y = np.linalg.inv(chebyshev.chebvander(y_nodes, N_MATTER - 1))
        return np.einsum("ai,bj,ij...->ab...", to_x, to_y, values)

    return {
        "ratio": expand(ratio).astype(np.float32),
        "log_sound_horizon": expand(log_sound_horizon),
        "baryon_fraction": np.array(COVERED_FRACTION),
        "centre": centre.coef,
        "half_width": half_width.coef,
        "nodes": nodes,
        "spacing": np.array([TURN, DENSITY, END, STEP]),
    }


def camb_power(
    universe: dict[str, float], k: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Power of CAMB scaled to sigma_8, at its own wavenumbers or at those given.

    Returns
    -------
    k
        Wavenumbers [h/Mpc].
    power
        P(k) [(Mpc/h)^3].
    """
    omega_m, omega_b, h, n_s, sigma_8 = (universe[name] for name in RANGE)
    k_camb, transfer, _ = camb_transfer(omega_m, omega_b, h)
    k_camb = k_camb / h
    # The transfer function can pass through zero, so its square is the wrong thing
    # to interpolate.
    spline = CubicSpline(np.log(k_camb), transfer)
    k = k_camb if k is None else k
    power = k**n_s * spline(np.log(k)) ** 2

    # Variance in spheres of 8 Mpc/h, independently of the package.
    fine = np.exp(np.linspace(np.log(k_camb[0]), np.log(15.0), 40_001))
    x = 8.0 * fine
    window = 3.0 * (np.sin(x) - x * np.cos(x)) / x**3
    integrand = fine ** (3.0 + n_s) * (spline(np.log(fine)) * window) ** 2
    variance = np.trapezoid(integrand, np.log(fine)) / (2.0 * np.pi**2)
    return k, power * sigma_8**2 / variance


def draw(n_points: int, seed: int) -> list[dict[str, float]]:
    """Universes drawn uniformly from the range."""
    low, high = np.array(list(RANGE.values())).T
    points = np.random.default_rng(seed).uniform(low, high, (n_points, len(RANGE)))
    return [dict(zip(RANGE, map(float, point), strict=True)) for point in points]


def corners() -> list[dict[str, float]]:
    """Give the corners in omega_m, omega_b and h, with n_s at its ends in turn."""
    points = []
    for corner in range(8):
        ends = [corner >> 2, corner >> 1 & 1, corner & 1, corner.bit_count() & 1, 0]
        points.append(
            {name: RANGE[name][end] for name, end in zip(RANGE, ends, strict=True)}
        )
    return points


def make_reference() -> dict[str, np.ndarray]:
    """Spectra of CAMB at the corners and at eight random points."""
    k = np.geomspace(0.005, 20.0, 60)
    universes = corners() + draw(8, seed=1)
    power = [camb_power(universe, k)[1] for universe in universes]
    return {
        "k": k,
        "power": np.array(power),
        "parameters": np.array([list(universe.values()) for universe in universes]),
        "names": np.array(list(RANGE)),
    }


def envelope(k: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Largest power within 20 % in k: what a zero of T cannot pull down."""
    return np.array([power[np.abs(np.log(k / at)) < 0.2].max() for at in k])


def check(n_points: int) -> None:
    """Compare with CAMB on its own wavenumbers, at the corners and random points."""
    print("  omega_m omega_b  h     n_s    error    at k    of envelope")
    worst = worst_of_envelope = 0.0
    for universe in corners() + draw(n_points, seed=2):
        k, power = camb_power(universe)
        inside = (k >= 0.005) & (k <= 20.0)
        k, power = k[inside], power[inside]
        difference = np.abs(linear_power(k, universe).numpy() - power)
        error, of_envelope = difference / power, difference / envelope(k, power)
        print(
            "  {omega_m:.3f}   {omega_b:.4f}  {h:.3f} {n_s:.3f}".format(**universe),
            f"  {error.max():.5f} {k[error.argmax()]:7.4f}  {of_envelope.max():.5f}",
            flush=True,
        )
        worst = max(worst, error.max())
        worst_of_envelope = max(worst_of_envelope, of_envelope.max())
    print(f"largest error {worst:.5f}, of the envelope {worst_of_envelope:.5f}")


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write one npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def main() -> None:
    """Fit, write and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=int, metavar="N", help="only compare")
    n_points = parser.parse_args().check
    start = time.perf_counter()
    if n_points is None:
        save(TABLE, fit_table())
        save(REFERENCE, make_reference())
        n_points = 16
    check(n_points)
    print(f"took {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
