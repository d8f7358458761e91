import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from astrogan_emu.errors import ParameterError
from astrogan_emu.noise import cell_noise, white_noise_modes, whole_seed

# Seeds are fixed, so a statistical test either passes for ever or not at all; its
# level says how rarely a sound generator would fail for a seed chosen at random.
LEVEL = 1e-4


def own_half(modes):
    """One of each pair of conjugate modes, without those that are their own image."""
    n = modes.shape[0]
    signed = np.fft.fftfreq(n, 1 / n).round()
    x, y, z = np.meshgrid(signed, signed, np.arange(n // 2 + 1), indexing="ij")
    inside = (np.abs(x) < n / 2) & (np.abs(y) < n / 2) & (z < n / 2)
    first = (z > 0) | (y > 0) | ((y == 0) & (x > 0))
    return modes.numpy()[inside & first]


def correlation(one, two):
    """Sample correlation in units of its standard deviation for independent ones."""
    one, two = np.ravel(one), np.ravel(two)
    return np.corrcoef(one, two)[0, 1] * np.sqrt(len(one))


@pytest.mark.parametrize("seed", [0, 1, 123456789])
def test_modes_are_gaussian(seed):
    """Real and imaginary parts are normal with variance 1/2 each."""
    modes = own_half(white_noise_modes(seed, 32))
    parts = np.concatenate([modes.real, modes.imag]) * np.sqrt(2)
    assert stats.kstest(parts, "norm").pvalue > LEVEL


def test_modes_have_unit_variance():
    """<|g|^2> = 1, to 5 standard deviations of its mean."""
    power = np.abs(own_half(white_noise_modes(3, 48))) ** 2
    assert power.mean() == pytest.approx(1, abs=5 / np.sqrt(len(power)))


def test_real_modes_have_unit_variance_too():
    """The eight modes that are their own image are real, of variance one."""
    values = [
        white_noise_modes(seed, 4)[x, y, z]
        for seed in range(500)
        for x, y, z in itertools.product((0, 2), repeat=3)
    ]
    assert all(value.imag == 0 for value in values)
    assert stats.kstest([float(v.real) for v in values], "norm").pvalue > LEVEL


@pytest.mark.parametrize("n_cells", [2, 3, 8, 15, 16])
def test_modes_are_those_of_a_real_field(n_cells):
    """Going to real space and back changes nothing: the symmetry is whole."""
    modes = white_noise_modes(5, n_cells, dtype=torch.float64)
    back = torch.fft.rfftn(torch.fft.irfftn(modes, s=(n_cells,) * 3))
    torch.testing.assert_close(back, modes, rtol=0, atol=1e-12)


def test_the_field_of_the_modes_is_white():
    """In real space too, the noise is normal and neighbours are independent."""
    n = 32
    field = torch.fft.irfftn(white_noise_modes(6, n), s=(n,) * 3).numpy() * n**1.5
    assert stats.kstest(field.ravel(), "norm").pvalue > LEVEL
    for axis in range(3):
        assert abs(correlation(field, np.roll(field, 1, axis))) < 4


@pytest.mark.parametrize("other", [9, 16, 25, 64])
@pytest.mark.parametrize("fixed", [False, True])
def test_modes_do_not_depend_on_the_resolution(other, fixed):
    """A mode below both Nyquist frequencies is the same number at any n_cells."""
    one = white_noise_modes(7, 12, fixed=fixed)
    two = white_noise_modes(7, other, fixed=fixed)
    last = (min(12, other) - 1) // 2
    both = np.r_[0 : last + 1, -last:0]
    where = np.ix_(both, both, np.arange(last + 1))
    np.testing.assert_array_equal(one.numpy()[where], two.numpy()[where])


def test_fixed_modes_keep_their_phases():
    """Fixing sets every amplitude to one and leaves the phases."""
    free = white_noise_modes(8, 16, dtype=torch.float64)
    fixed = white_noise_modes(8, 16, dtype=torch.float64, fixed=True)
    torch.testing.assert_close(fixed, free / free.abs(), rtol=1e-12, atol=1e-12)


def test_single_precision_rounds_double():
    """The precision of a field does not choose another field."""
    double = white_noise_modes(9, 16, dtype=torch.float64)
    assert double.dtype == torch.complex128
    assert torch.equal(double.to(torch.complex64), white_noise_modes(9, 16))


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (5, -5), (7, 7 + 2**32), (0, 2**63)])
def test_seeds_are_independent(pair):
    """Neighbouring seeds, and those that differ in high bits alone, share nothing."""
    one, two = (own_half(white_noise_modes(seed, 24)) for seed in pair)
    assert abs(correlation(one.real, two.real)) < 4
    assert abs(correlation(np.abs(one), np.abs(two))) < 4
    one, two = (cell_noise(seed, 0, 24) for seed in pair)
    assert abs(correlation(one, two)) < 4


def test_modes_and_cells_of_a_seed_are_independent():
    """The noise of the network does not know the phases of the field."""
    modes = white_noise_modes(10, 16)
    cells = cell_noise(10, 0, 16)[:, :, :9]
    assert abs(correlation(modes.real, cells)) < 4
    assert abs(correlation(modes.imag, cells)) < 4


@pytest.mark.parametrize("n_dim", [2, 3])
def test_cell_noise_is_standard_normal(n_dim):
    """Mean 0, variance 1 and the normal's shape."""
    noise = cell_noise(11, 2, {2: 256, 3: 40}[n_dim], n_dim=n_dim)
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.numpy().ravel(), "norm").pvalue > LEVEL
    assert stats.kurtosistest(noise.numpy().ravel()).pvalue > LEVEL


@pytest.mark.parametrize(
    "step", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (3, -2, 1)]
)
def test_neighbouring_cells_are_independent(step):
    """No pattern along any direction of the grid."""
    noise = cell_noise(12, 0, 32).numpy()
    other = np.roll(noise, step, (0, 1, 2))
    assert abs(correlation(noise, other)) < 4
    assert abs(correlation(noise**2, other**2)) < 4


def test_streams_are_independent():
    """Layers of one network draw from streams of one seed."""
    one, two, three = (cell_noise(13, stream, 32) for stream in (0, 1, 2))
    assert abs(correlation(one, two)) < 4
    assert abs(correlation(two, three)) < 4


@pytest.mark.parametrize(
    ("start", "shape"),
    [((0, 0, 0), (4, 16, 5)), ((13, 2, 15), (6, 3, 2)), ((-3, -20, 40), (5, 5, 20))],
)
def test_a_window_is_a_piece_of_the_whole(start, shape):
    """Tiles of a box, across its faces too, see the noise of the whole box."""
    whole = cell_noise(14, 1, 16).numpy()
    window = cell_noise(14, 1, 16, start=start, shape=shape)
    places = [np.arange(a, a + s) % 16 for a, s in zip(start, shape, strict=True)]
    np.testing.assert_array_equal(window, whole[np.ix_(*places)])


def test_noise_does_not_depend_on_threads():
    """A number is a hash of its place, whoever computes it."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append((white_noise_modes(15, 48), cell_noise(15, 0, 48)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("seed", [np.int64(17), torch.tensor(17), 17 + 2**64])
def test_a_seed_is_its_integer(seed):
    """Whatever type it has; seeds are taken modulo 2^64."""
    assert torch.equal(white_noise_modes(seed, 4), white_noise_modes(17, 4))


def test_a_seed_is_no_fraction():
    """1.5 would silently mean 1."""
    with pytest.raises(TypeError):
        white_noise_modes(1.5, 4)


def test_a_seed_means_the_same_for_ever():
    """Published seeds must give the same universe in every version."""
    modes = white_noise_modes(2024, 4, dtype=torch.float64)
    np.testing.assert_allclose(
        [modes[1, 0, 0].item(), modes[0, 3, 1].item(), modes[1, 1, 1].item()],
        PINNED_MODES,
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        cell_noise(2024, 3, 4, n_dim=2)[1], PINNED_CELLS, rtol=1e-6
    )


PINNED_MODES = [
    (-0.22670893908188014 - 0.4848640985714029j),
    (0.8399113746015279 - 0.2770474453635542j),
    (0.7438051934087224 + 0.40451413655322016j),
]
PINNED_CELLS = [1.24761343, -2.5402894, 0.09421784, 1.92108095]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_is_the_same_on_the_accelerator():
    """Integers are exact anywhere; logarithms may differ in the last bit."""
    torch.testing.assert_close(
        white_noise_modes(18, 16, device="cuda").cpu(), white_noise_modes(18, 16)
    )
    torch.testing.assert_close(
        cell_noise(18, 1, 16, device="cuda").cpu(), cell_noise(18, 1, 16)
    )


@pytest.mark.parametrize("seed", [1.5, "one", None, True, float("inf"), [1, 2]])
def test_what_is_no_whole_number_is_no_seed(seed):
    """It is named, whatever it is."""
    with pytest.raises(ParameterError, match="seed must be a whole number, got"):
        whole_seed(seed)


@pytest.mark.parametrize("seed", [7, 7.0, np.int64(7), -7])
def test_any_whole_number_is_a_seed(seed):
    """Of any type and sign."""
    assert abs(whole_seed(seed)) == 7
    assert type(whole_seed(seed)) is int
