"""Linear theory against quadrature, differential equations, CAMB and colossus."""

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from scipy.integrate import quad, solve_ivp, trapezoid

from astrogan_emu.errors import (
    MissingParameterError,
    ParameterError,
    ParameterRangeError,
)
from astrogan_emu.linear_theory import (
    growth_factor,
    growth_factor_second_order,
    growth_rate,
    growth_rate_second_order,
    hubble,
    linear_power,
    sigma,
    transfer_function,
)
from astrogan_emu.matter_transfer import _table

PLANCK = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.965, "sigma_8": 0.81}
NAMES = tuple(PLANCK)
OMEGA_M = (0.1, 0.3, 0.5)


@pytest.fixture(scope="module")
def reference():
    """Spectra of CAMB at the corners of the range and at random points in it."""
    path = Path(__file__).parent / "reference" / "linear_power_camb.npz"
    with np.load(path, allow_pickle=False) as data:
        return dict(data)


def envelope(k, power):
    """Largest power within 20 % in k, which a zero of the transfer leaves alone."""
    return np.array([power[np.abs(np.log(k / at)) < 0.2].max() for at in k])


def tensors(parameters):
    """Give the parameters as 0-d tensors that ask for gradients."""
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in parameters.items()
    }


@pytest.mark.parametrize("omega_m", OMEGA_M)
def test_hubble_is_that_of_astropy(omega_m):
    """E(a) of flat LCDM without radiation."""
    a = np.array([0.05, 0.3, 1.0, 1.7])
    expected = FlatLambdaCDM(100.0, omega_m, Tcmb0=0.0).efunc(1.0 / a - 1.0)
    np.testing.assert_allclose(hubble(a, omega_m).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("omega_m", OMEGA_M)
def test_growth_is_the_heath_integral_over_the_expansion_of_astropy(omega_m):
    """Both are exact, so only the error of the adaptive quadrature remains."""
    cosmology = FlatLambdaCDM(100.0, omega_m, Tcmb0=0.0)

    def heath(a):
        integral = quad(
            lambda x: (x * cosmology.efunc(1.0 / x - 1.0)) ** -3, 0.0, a, epsrel=1e-11
        )[0]
        return cosmology.efunc(1.0 / a - 1.0) * integral

    for a in (0.02, 0.25, 0.5, 1.3):
        expected = heath(a) / heath(1.0)
        assert growth_factor(a, omega_m).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("omega_m", OMEGA_M)
def test_growth_solves_its_differential_equation(omega_m):
    """D'' + (2 + dlnE/dlna) D' = 3/2 Omega_m(a) D, started in the matter era."""

    def equation(log_a, state):
        a = np.exp(log_a)
        fraction = omega_m / (omega_m + (1.0 - omega_m) * a**3)
        growth, slope = state
        return [slope, 1.5 * fraction * growth - (2.0 - 1.5 * fraction) * slope]

    # At the start D differs from a by less than (a^3 / omega_m) = 1e-8.
    start = 1e-3
    log_a = np.log([start, 0.2, 0.6, 1.0])
    growth, slope = solve_ivp(
        equation, log_a[[0, -1]], [start, start], t_eval=log_a, rtol=1e-10, atol=1e-14
    ).y
    a = np.exp(log_a)
    np.testing.assert_allclose(
        growth_factor(a, omega_m).numpy(), growth / growth[-1], rtol=1e-7
    )
    np.testing.assert_allclose(
        growth_rate(a, omega_m).numpy(), slope / growth, rtol=1e-7
    )


@pytest.mark.parametrize(
    ("factor", "rate", "tolerance"),
    [
        (growth_factor, growth_rate, 1e-10),
        # Two independent fits of Bouchet et al. (1995), good to about 1 %.
        (growth_factor_second_order, growth_rate_second_order, 0.015),
    ],
)
def test_growth_rates_are_logarithmic_derivatives(factor, rate, tolerance):
    """F = dlnD/dlna, with the derivative taken by autograd."""
    a = torch.linspace(0.1, 1.0, 10, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.log(factor(a, 0.3).abs()).sum(), a)
    assert torch.allclose(slope * a, rate(a, 0.3), rtol=tolerance, atol=0.0)


def test_second_order_growth_is_that_of_the_matter_era_early():
    """D2 = -3/7 D^2 when matter is all there is."""
    a = torch.tensor([0.01, 0.02], dtype=torch.float64)
    ratio = growth_factor_second_order(a, 0.3) / growth_factor(a, 0.3) ** 2
    assert torch.allclose(ratio, torch.full_like(a, -3.0 / 7.0), rtol=1e-5)


def test_growth_keeps_the_shape_and_is_double():
    """Arguments broadcast; floats give a 0-d tensor."""
    a, omega_m = torch.ones(3, 1), torch.full((4,), 0.3)
    for function in (hubble, growth_factor, growth_rate, growth_rate_second_order):
        assert function(a, omega_m).shape == (3, 4)
        assert function(a, omega_m).dtype == torch.float64
        assert function(0.5, 0.3).shape == ()


def test_growth_matches_colossus():
    """An independent code; its own interpolation is good to about 1e-4."""
    cosmology = pytest.importorskip("colossus.cosmology.cosmology")
    other = cosmology.Cosmology(
        name="without radiation",
        flat=True,
        H0=70.0,
        Om0=0.3,
        Ob0=0.05,
        sigma8=0.8,
        ns=1.0,
        relspecies=False,
        persistence="",
    )
    a = np.array([0.25, 0.5, 0.8])
    expected = other.growthFactor(1.0 / a - 1.0)
    np.testing.assert_allclose(growth_factor(a, 0.3).numpy(), expected, rtol=3e-4)


def test_power_is_within_one_per_cent_of_camb(reference):
    """At the corners of the range and at random points, for k = 0.005-20 h/Mpc.

    The fit is good to 0.3 %, and to 0.03 % away from the corners. Where baryons are
    70 % of the matter the transfer function passes through zero; what is left there, a
    hundredth of the power nearby and less, is measured against that power.
    """
    k = reference["k"]
    for values, expected in zip(
        reference["parameters"], reference["power"], strict=True
    ):
        universe = dict(zip(NAMES, values.tolist(), strict=True))
        error = np.abs(linear_power(k, universe).numpy() - expected)
        scale = np.maximum(expected, 0.01 * envelope(k, expected))
        np.testing.assert_array_less(error / scale, 0.01)


def test_power_is_that_of_camb_run_now():
    """CAMB itself, at Planck's parameters and in a corner with strong wiggles."""
    camb = pytest.importorskip("camb")
    k = np.geomspace(0.005, 15.0, 40)
    for universe in (PLANCK, PLANCK | {"omega_m": 0.14, "omega_b": 0.065, "h": 0.8}):
        omega_m, omega_b, h, n_s, sigma_8 = universe.values()
        model = camb.set_params(
            H0=100.0 * h,
            ombh2=omega_b * h**2,
            omch2=(omega_m - omega_b) * h**2,
            mnu=0.0,
            nnu=3.046,
            TCMB=2.7255,
            As=2e-9,
            ns=n_s,
            WantCls=False,
        )
        model.set_matter_power(redshifts=[0.0], kmax=20.0, k_per_logint=40)
        results = camb.get_results(model)
        interpolator = results.get_matter_power_interpolator(nonlinear=False)
        expected = interpolator.P(0.0, k) * (sigma_8 / results.get_sigma8_0()) ** 2
        power = linear_power(k, universe).numpy()
        np.testing.assert_allclose(power, expected, rtol=0.01)


@pytest.mark.parametrize("omega_m", [0.1, 0.31, 0.5])
def test_sigma_8_comes_back_from_the_power(omega_m):
    """By Simpson's rule on another grid, over a wider range of wavenumbers."""
    universe = PLANCK | {"omega_m": omega_m}
    log_k = np.linspace(np.log(1e-6), np.log(100.0), 60001)
    k = np.exp(log_k)
    x = 8.0 * k
    with np.errstate(invalid="ignore"):
        window = np.where(x < 1e-3, 1.0, 3.0 * (np.sin(x) - x * np.cos(x)) / x**3)
    integrand = k**3 * linear_power(k, universe).numpy() * window**2
    variance = trapezoid(integrand, log_k) / (2.0 * np.pi**2)
    assert np.sqrt(variance) == pytest.approx(universe["sigma_8"], rel=1e-5)


def test_sigma_is_sigma_8_at_eight_and_falls_with_radius():
    """And it is the same alone as among other radii."""
    radii = torch.tensor([[1.0, 4.0], [8.0, 30.0]], dtype=torch.float64)
    values = sigma(radii, PLANCK)
    assert values.shape == radii.shape
    assert values[1, 0].item() == pytest.approx(PLANCK["sigma_8"], rel=1e-10)
    assert (torch.diff(values.reshape(-1)) < 0.0).all()
    alone = [sigma(radius, PLANCK).item() for radius in radii.reshape(-1)]
    np.testing.assert_allclose(values.reshape(-1).numpy(), alone, rtol=1e-6)


@pytest.mark.parametrize("redshift", [0.5, 2.0, 9.0])
def test_power_scales_with_the_growth_squared(redshift):
    """P(k, z) = D(z)^2 P(k, 0), and sigma with D."""
    k = np.geomspace(1e-3, 10.0, 7)
    growth = growth_factor(1.0 / (1.0 + redshift), PLANCK["omega_m"])
    ratio = linear_power(k, PLANCK, redshift) / linear_power(k, PLANCK)
    np.testing.assert_allclose(ratio.numpy(), growth.item() ** 2, rtol=1e-12)
    ratio = sigma(5.0, PLANCK, redshift) / sigma(5.0, PLANCK)
    assert ratio.item() == pytest.approx(growth.item(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_power_in_each_parameter(name):
    """Autograd against central differences, at every wavenumber, wiggles included."""
    k = torch.logspace(-3.0, 1.7, 40, dtype=torch.float64)
    leaves = tensors(PLANCK)
    step = 1e-5 * PLANCK[name]
    jacobian = torch.autograd.functional.jacobian(
        lambda value: torch.log(linear_power(k, PLANCK | {name: value})), leaves[name]
    )
    above, below = (
        torch.log(linear_power(k, PLANCK | {name: PLANCK[name] + sign * step}))
        for sign in (1.0, -1.0)
    )
    # The differences carry an error of 1e-16 / 1e-5 and of the step squared.
    difference = (above - below) / (2.0 * step)
    assert torch.allclose(jacobian, difference, rtol=1e-5, atol=1e-6)


def test_gradients_flow_after_a_first_call_in_inference_mode():
    """The table that such a call leaves behind can be differentiated through."""
    _table.cache_clear()
    with torch.inference_mode():
        linear_power(0.1, PLANCK)
    leaves = tensors(PLANCK)
    linear_power(0.1, leaves).backward()
    assert all(leaf.grad is not None for leaf in leaves.values())


def test_gradient_of_the_power_in_wavenumber():
    """Autograd against central differences, on the table and beyond it."""
    k = torch.logspace(-3.0, 2.0, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(linear_power(k, PLANCK).sum(), k)
    with torch.no_grad():
        step = 1e-5 * k
        above, below = (linear_power(k + s * step, PLANCK) for s in (1.0, -1.0))
        # A kink of the piecewise cubic's second derivative may lie inside the step.
        assert torch.allclose(slope, (above - below) / (2.0 * step), rtol=1e-4)


def test_power_at_zero_is_zero_with_finite_gradients():
    """The mean of a field has no power and must not spoil the gradients of the rest."""
    leaves = tensors(PLANCK)
    k = torch.tensor([0.0, 0.1], dtype=torch.float64, requires_grad=True)
    power = linear_power(k, leaves)
    assert power[0].item() == 0.0
    power.sum().backward()
    gradients = [k.grad, *(leaf.grad for leaf in leaves.values())]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_power_keeps_the_shape_of_every_kind_of_wavenumber():
    """A number, a list, an array or a tensor of any precision and shape."""
    assert linear_power(0.1, PLANCK).shape == ()
    assert linear_power([0.1, 1.0], PLANCK).shape == (2,)
    assert linear_power(np.full((2, 0, 3), 0.1), PLANCK).shape == (2, 0, 3)
    single = linear_power(torch.full((2, 3), 0.1), PLANCK)
    assert single.shape == (2, 3)
    assert single.dtype == torch.float64


def test_transfer_function_is_one_at_small_k():
    """Modes larger than the horizon at equality grow all the same."""
    values = transfer_function([0.0, 1e-6, 1e-4], PLANCK)
    np.testing.assert_allclose(values.numpy(), 1.0, atol=1e-3)


def test_power_is_smooth_across_the_end_of_the_table():
    """The continuation to large k goes on from the table without a step."""
    k = torch.logspace(1.0, 2.5, 400, dtype=torch.float64)
    slope = torch.diff(torch.log(linear_power(k, PLANCK))) / torch.diff(torch.log(k))
    assert (torch.diff(slope).abs() < 1e-3).all()
    assert ((slope > -3.0) & (slope < -2.5)).all()


@pytest.mark.parametrize("name", NAMES)
def test_absent_parameter_is_named(name):
    """Nothing has a default here."""
    universe = {key: value for key, value in PLANCK.items() if key != name}
    with pytest.raises(MissingParameterError, match=f"^{name} is missing"):
        linear_power(0.1, universe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"omega_b": 0.005}, r"omega_b / omega_m = 0\.0161\S+ is outside the range"),
        ({"omega_b": 0.3}, r"omega_b / omega_m = 0\.967\S+ is outside the range"),
        ({"h": 1.6}, r"omega_m h\^2 = 0\.79\S+ is outside the range \[.*\] .* for"),
        ({"h": 0.2}, r"omega_m h\^2 = 0\.012\S+ is outside the range"),
        ({"h": -0.7}, "h must be positive, got -0.7"),
        ({"omega_m": float("nan")}, "omega_b / omega_m = nan is outside"),
    ],
)
def test_parameters_off_the_table_are_refused(changes, message):
    """The message names the combination that the table knows, its value and range."""
    with pytest.raises(ParameterRangeError, match=message):
        linear_power(0.1, PLANCK | changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, PLANCK), "wavenumbers must be numbers from 0 upwards"),
        ((float("nan"), PLANCK), "wavenumbers must be numbers from 0 upwards"),
        ((0.1, PLANCK, -1.0), "redshift must be above -1, got -1"),
        ((0.1, PLANCK, [0.0, 1.0]), r"redshift must be one number, got shape \(2,\)"),
        ((0.1, PLANCK | {"h": [0.7, 0.8]}), r"h must be one number, got shape \(2,\)"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    """Instead of NaN, or of a silent broadcast."""
    with pytest.raises(ParameterError, match=message):
        linear_power(*arguments)


def test_radius_of_a_sphere_must_be_positive():
    """The rms in a sphere of no size is not defined."""
    with pytest.raises(ParameterError, match="radius of a sphere must be positive"):
        sigma([8.0, 0.0], PLANCK)


def test_range_reaches_a_little_beyond_the_documented_one():
    """So that users can go modestly outside it."""
    for changes in (
        {"omega_m": 0.54, "omega_b": 0.0275, "h": 0.98},
        {"omega_m": 0.1, "omega_b": 0.076, "h": 0.46},
        {"omega_m": 0.54, "omega_b": 0.076, "h": 0.46},
    ):
        assert linear_power(0.1, PLANCK | changes).item() > 0.0
