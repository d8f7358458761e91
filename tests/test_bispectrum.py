import numpy as np
import pytest
import torch

from astrogan_emu.bispectrum import bispectrum, reduced_bispectrum
from astrogan_emu.errors import GridError
from astrogan_emu.statistics import power_spectrum

BOX = 20.0
K_F = 2 * np.pi / BOX


def positive_field(shape, seed=0):
    return np.random.default_rng(seed).lognormal(sigma=0.7, size=shape)


def slow_bispectrum(field, shells):
    """Mean over all closed triples of modes, one by one, from the full transform."""
    n, n_dim = field.shape[0], field.ndim
    modes = np.fft.fftn(field / field.mean() - 1)
    number = np.round(np.fft.fftfreq(n) * n).astype(int)
    vectors = np.stack(np.meshgrid(*[number] * n_dim, indexing="ij"), -1)
    vectors = vectors.reshape(-1, n_dim)
    lengths = np.linalg.norm(vectors, axis=1)
    first, second, third = (
        [v for v, r in zip(vectors, lengths, strict=True) if low <= r < high]
        for low, high in shells
    )
    third = {tuple(v) for v in third}
    total, count = 0.0, 0
    for a in first:
        for b in second:
            c = tuple(-a - b)
            if c in third:
                total += (modes[tuple(a)] * modes[tuple(b)] * modes[c]).real
                count += 1
    value = BOX ** (2 * n_dim) / n ** (3 * n_dim) * total / count
    return value, count


@pytest.mark.parametrize("shape", [(12, 12), (13, 13), (12, 12, 12)])
def test_bispectrum_equals_the_sum_over_all_closed_triples_of_modes(shape):
    """Values and triangle counts agree with an explicit loop, to rounding."""
    field = positive_field(shape)
    measured = bispectrum(field, box_size=BOX, width=K_F)
    for i, lower in enumerate([0.5, 1.5, 2.5]):
        shells = [(lower, lower + 1)] * 3
        value, count = slow_bispectrum(field, shells)
        assert measured.n_triangles[i] == count
        assert measured.value[i] == pytest.approx(value, rel=1e-9)
    assert len(measured.value) == 3


def test_squeezed_triangles_have_two_equal_sides_and_a_long_wave():
    """They equal the explicit loop too, and so do sides given by hand."""
    field = positive_field((12, 12))
    measured = bispectrum(field, box_size=BOX, triangles="squeezed", width=K_F)
    shells = [(1.5, 2.5), (1.5, 2.5), (0.5, 1.5)]
    value, count = slow_bispectrum(field, shells)
    assert measured.n_triangles[0] == count
    assert measured.value[0] == pytest.approx(value, rel=1e-9)
    by_hand = bispectrum(
        field, box_size=BOX, triangles=K_F * np.array([[2, 2, 1]]), width=K_F
    )
    assert by_hand.value[0] == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(measured.k, measured.sides[:, 1])
    assert np.all(measured.sides[:, 2] < measured.sides[:, 0])


def test_three_plane_waves_have_the_bispectrum_of_their_phases():
    """Waves A cos(k_i x + phi_i) closing a triangle give A^3 V^2 cos(sum phi) / 8.

    There are 12 ordered closed triples: 6 orders, of the waves and their conjugates.
    """
    n, amplitude, phases = 16, 0.02, (0.3, 0.5, -0.2)
    x, y = 2 * np.pi * np.mgrid[:n, :n] / n
    waves = [(4, 0), (-2, 3), (-2, -3)]
    field = 1.0 + sum(
        amplitude * np.cos(a * x + b * y + phase)
        for (a, b), phase in zip(waves, phases, strict=True)
    )
    measured = bispectrum(
        field, box_size=BOX, triangles=[[4 * K_F] * 3], width=1.2 * K_F
    )
    per_triple = amplitude**3 * BOX**4 * np.cos(sum(phases)) / 8
    total = 12 * per_triple / measured.n_triangles[0]
    assert measured.value[0] == pytest.approx(total, rel=1e-9)


def test_quadratic_field_has_the_bispectrum_of_its_coupling():
    """A field g + b g^2 with white Gaussian g has B = 6 b P^2 at lowest order.

    The chance bispectrum of g itself is odd in g, so a pair of both signs has none;
    five standard errors of 600 such pairs are allowed. The next order is 1e-3 of it.
    """
    n, b, sigma = 32, 0.5, 0.02
    g = np.random.default_rng(4).normal(scale=sigma, size=(600, n, n))
    both = [
        bispectrum(field, box_size=BOX, relative=False).value
        for field in (g + b * g**2, -g + b * g**2)
    ]
    coupling = sum(both) / 2 / (6 * sigma**4 * (BOX / n) ** 4)
    error = coupling.std(axis=0, ddof=1) / np.sqrt(len(g))
    assert np.all(np.abs(coupling.mean(axis=0) - b) < 5 * error)
    assert np.all(error[1:] < 0.1 * b)


def test_reduced_bispectrum_divides_by_the_power_in_the_same_shells():
    """Q P^2 3 = B with P from the power spectrum in bins as wide as the shells."""
    field = positive_field((2, 16, 16, 16))
    plain = bispectrum(field, box_size=BOX)
    reduced = reduced_bispectrum(field, box_size=BOX)
    edges = K_F * np.array([0.5, 2.5, 4.5])
    power = power_spectrum(field, box_size=BOX, bins=edges).power
    np.testing.assert_allclose(3 * power**2 * reduced.value, plain.value, rtol=1e-9)
    np.testing.assert_array_equal(reduced.n_triangles, plain.n_triangles)


def test_gaussian_field_has_no_bispectrum():
    """All shells agree with zero within five times the Gaussian scatter.

    Var B = 6 V P^3 / n_triangles for equilateral triangles (Scoccimarro et al. 1998).
    """
    n = 24
    noise = np.random.default_rng(6).normal(size=(n, n, n))
    measured = bispectrum(noise, box_size=BOX, relative=False)
    power = (BOX / n) ** 3
    sigma = np.sqrt(6 * BOX**3 * power**3 / measured.n_triangles)
    assert np.all(np.abs(measured.value) < 5 * sigma)


def test_batches_tensors_and_units_give_the_same_numbers():
    """Leading axes are independent, float32 is close, a density's unit drops out."""
    batch = positive_field((2, 16, 16, 16))
    together = bispectrum(batch, box_size=BOX)
    single = bispectrum(5e8 * batch[1], box_size=BOX)
    np.testing.assert_allclose(together.value[1], single.value, rtol=1e-9)
    tensor = bispectrum(torch.tensor(batch, dtype=torch.float32), box_size=BOX)
    assert isinstance(tensor.value, torch.Tensor)
    # float32 sums of a strongly cancelling product.
    scale = np.abs(together.value).max()
    np.testing.assert_allclose(tensor.value, together.value, atol=1e-4 * scale)


def test_bispectrum_is_differentiable():
    """The gradient agrees with finite differences, reduced and not."""
    field = torch.tensor(positive_field((8, 8)), requires_grad=True)

    def values(x):
        options = {"box_size": BOX, "width": K_F}
        return bispectrum(x, **options).value, reduced_bispectrum(x, **options).value

    assert torch.autograd.gradcheck(values, field, fast_mode=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"triangles": "folded"}, "unknown"),
        ({"triangles": [[1.0, 1.0]]}, "three positive sides"),
        ({"triangles": [[3.0, 3.0, 3.0]]}, "resolve triangles of a perimeter"),
        ({"width": 0.0}, "width must be positive"),
        ({"width": 100.0}, "resolve triangles"),
    ],
)
def test_triangles_that_cannot_be_measured_are_refused(options, match):
    """Unknown names, wrong shapes, and triangles beyond the grid."""
    with pytest.raises(GridError, match=match):
        bispectrum(positive_field((16, 16)), box_size=BOX, **options)
