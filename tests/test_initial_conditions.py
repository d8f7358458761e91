import math

import numpy as np
import pytest
import torch
from scipy import stats

from astrogan_emu.errors import GridError, ParameterError
from astrogan_emu.initial_conditions import (
    linear_field,
    linear_field_from_velocities,
    lpt_displacements,
    resample,
    wavenumbers,
)
from astrogan_emu.linear_theory import linear_power
from astrogan_emu.particle_mesh import evolve, lattice
from astrogan_emu.statistics import (
    correlation_coefficient,
    power_spectrum,
    transfer_function,
)

PLANCK = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.967, "sigma_8": 0.81}
BOX = 100.0


def draw(n_cells=32, seed=1, dtype=torch.float64, **options):
    return linear_field(
        PLANCK, n_cells=n_cells, box_size=BOX, seed=seed, dtype=dtype, **options
    )


def cell_centres(n, box_size):
    """Coordinates of the cells' centres, broadcastable."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * box_size / n
    return x[:, None, None], x[None, :, None], x[None, None, :]


def test_the_power_of_drawn_fields_is_the_input():
    """In each bin, within the scatter that its number of modes allows."""
    ratios = []
    for seed in range(20):
        measured = power_spectrum(draw(seed=seed), box_size=BOX, relative=False)
        # Bins hold modes of slightly different k; the field of the expected
        # amplitudes averages the input over the same modes.
        expected = power_spectrum(
            draw(seed=seed, fixed=True), box_size=BOX, relative=False
        )
        ratios.append(np.asarray(measured.power / expected.power))
    n_modes = 20 * np.asarray(measured.n_modes) / 2
    # The mean of m squared amplitudes is Gamma(m, 1/m); all bins at level 1e-4.
    chance = stats.gamma.cdf(np.mean(ratios, 0), n_modes, scale=1 / n_modes)
    assert np.all((chance > 5e-5 / len(chance)) & (chance < 1 - 5e-5 / len(chance)))


def test_fixed_amplitudes_are_the_input():
    """Fixed fields have exactly the power of theory, mode by mode."""
    modes = torch.fft.rfftn(draw(fixed=True))
    kx, ky, kz = wavenumbers(32, BOX, dtype=torch.float64)
    k = torch.sqrt(kx**2 + ky**2 + kz**2)
    measured = modes.abs() ** 2 * BOX**3 / 32**6
    # Nyquist modes are half a wave: their phase is rounded to their sign.
    inside = slice(1, 16)
    torch.testing.assert_close(
        measured[inside, inside, inside],
        linear_power(k, PLANCK)[inside, inside, inside],
        rtol=1e-9,
        atol=0,
    )


def test_fixing_keeps_the_phases():
    """A fixed field correlates with the free one of its seed as |g| with 1."""
    free, fixed = draw(seed=3), draw(seed=3, fixed=True)
    ratio = torch.fft.rfftn(free)[1:16, 1:16, 1:16]
    ratio = ratio / torch.fft.rfftn(fixed)[1:16, 1:16, 1:16]
    assert ratio.imag.abs().max() < 1e-9 * ratio.real.abs().max()
    assert ratio.real.min() > 0


def test_pairing_flips_the_field():
    """The paired field is the negative: overdensities become voids."""
    assert torch.equal(draw(paired=True), -draw())


def test_a_field_has_no_mean():
    """The box has the mean density."""
    assert abs(draw().mean()) < 1e-12


@pytest.mark.parametrize(("fine", "coarse"), [(64, 32), (48, 32), (33, 16), (64, 17)])
def test_a_seed_is_one_universe_at_any_resolution(fine, coarse):
    """The coarse field is the fine one without its small scales, in place."""
    last = (coarse - 1) // 2 * 2 + 1  # an odd grid holds no Nyquist modes
    torch.testing.assert_close(
        resample(draw(fine), last), resample(draw(coarse), last), rtol=0, atol=1e-10
    )


def test_structure_stays_in_place_in_real_space():
    """Averages of 2^3 fine cells lie where the coarse cells are: no half-cell shift."""
    smooth = 2 * math.pi / BOX * 4

    def power(k):
        return 1e4 * torch.exp(-((k / smooth) ** 4))

    fine, coarse = (draw(n, power=power) for n in (64, 32))
    averaged = fine.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
    # Averaging damps a wave of 8 cells by 0.2 %; a shift of half a fine cell would
    # leave an error of 10 %.
    assert (averaged - coarse).abs().max() < 0.02 * coarse.abs().max()


def test_single_precision_is_the_same_field():
    """To the rounding of float32 and its Fourier transform."""
    single = draw(dtype=torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), draw(), rtol=0, atol=1e-5)


def test_phases_do_not_depend_on_parameters():
    """Universes of one seed share their phases, for derivatives at equal noise."""
    other = linear_field(
        {**PLANCK, "omega_m": 0.2, "sigma_8": 0.9},
        n_cells=32,
        box_size=BOX,
        seed=1,
        dtype=torch.float64,
    )
    phase = torch.fft.rfftn(other) / torch.fft.rfftn(draw())
    assert phase[1:16, 1:16, 1:16].imag.abs().max() < 1e-9


def test_sigma_8_scales_the_field():
    """The field is linear in the amplitude."""
    louder = linear_field(
        {**PLANCK, "sigma_8": 2 * 0.81},
        n_cells=16,
        box_size=BOX,
        seed=1,
        dtype=torch.float64,
    )
    torch.testing.assert_close(louder, 2 * draw(16), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_power_spectrum_of_ones_own(kind):
    """Any function of k replaces that of the parameters, in torch or in NumPy."""

    def power(k):
        return 50.0 * k**-1.5 if kind == "tensor" else 50.0 * k.numpy() ** -1.5

    field = linear_field({}, n_cells=32, box_size=BOX, seed=2, fixed=True, power=power)
    measured = power_spectrum(field, box_size=BOX, relative=False, bins="linear")
    # Averaged over the modes of a bin, a steep power exceeds that at the mean k.
    np.testing.assert_allclose(
        measured.power[2:], 50 * measured.k[2:] ** -1.5, rtol=0.05
    )


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (lambda k: k[1:], "one finite value for each k"),
        (lambda k: k * math.nan, "one finite value for each k"),
        (lambda k: -k, "not be negative"),
    ],
)
def test_impossible_powers_are_refused(power, message):
    """Before they become a field of NaN."""
    with pytest.raises(GridError, match=message):
        draw(8, power=power)


@pytest.mark.parametrize(("n_cells", "box_size"), [(1, 10.0), (8, 0.0), (8.5, 10.0)])
def test_impossible_grids_are_refused(n_cells, box_size):
    """As everywhere."""
    with pytest.raises(GridError):
        linear_field(PLANCK, n_cells=n_cells, box_size=box_size, seed=0)


def test_missing_parameters_are_named():
    """The linear power needs all five."""
    incomplete = {name: PLANCK[name] for name in PLANCK if name != "sigma_8"}
    with pytest.raises(ParameterError, match="sigma_8"):
        linear_field(incomplete, n_cells=8, box_size=BOX, seed=0)


@pytest.mark.parametrize("name", PLANCK)
def test_gradients_of_the_field_agree_with_finite_differences(name):
    """In each parameter."""

    def mean_square(value):
        field = linear_field(
            {**PLANCK, name: value},
            n_cells=8,
            box_size=25.0,
            seed=4,
            dtype=torch.float64,
        )
        return (field**2).mean()

    value = torch.tensor(PLANCK[name], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mean_square(value), value)
    step = 1e-4 * PLANCK[name]
    with torch.no_grad():
        low, high = (mean_square(PLANCK[name] + side * step) for side in (-1, 1))
    # Central differences err by the square of the step.
    assert slope.item() == pytest.approx(((high - low) / (2 * step)).item(), rel=1e-5)


@pytest.mark.parametrize("n_cells", [16, 24, 31, 32])
def test_resampling_back_and_forth_is_the_identity(n_cells):
    """Modes that both grids hold survive."""
    field = resample(draw(16), 15)
    torch.testing.assert_close(
        resample(resample(field, n_cells), 15), field, rtol=0, atol=1e-12
    )


def test_resampling_keeps_waves_in_place():
    """A wave sampled at the cells' centres is one at those of any grid."""

    def wave(n):
        x, y, z = cell_centres(n, BOX)
        return torch.cos(2 * math.pi / BOX * (2 * x + y - 3 * z) + 0.4)

    for m, n in ((16, 40), (40, 16), (16, 2)):
        expected = wave(n) if n > 6 else torch.zeros(2, 2, 2).double()
        torch.testing.assert_close(resample(wave(m), n), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [(1, 0, 0), (0, 0, 3), (2, -1, 1)])
def test_the_displacement_of_a_plane_wave(number):
    """Its slope is -delta, and there is no second order (Zel'dovich 1970)."""
    n, amplitude = 16, 0.3
    k = torch.tensor(number, dtype=torch.float64) * 2 * math.pi / BOX
    x, y, z = cell_centres(n, BOX)
    phase = k[0] * x + k[1] * y + k[2] * z
    first, second = lpt_displacements(amplitude * torch.cos(phase), BOX)
    expected = -amplitude * torch.sin(phase) * (k / (k @ k))[:, None, None, None]
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(second, torch.zeros_like(second), rtol=0, atol=1e-12)


def test_the_second_order_of_two_crossed_waves():
    """For delta = a cos kx + b cos ky, div psi_2 is a b cos kx cos ky.

    psi_1 = -(a sin kx, b sin ky, 0) / k has the diagonal strains -a cos kx and
    -b cos ky alone, whose product is the source. cos kx cos ky has the wave number
    squared 2 k^2, so psi_2 = (a b / 2 k) (sin kx cos ky, cos kx sin ky, 0).
    """
    n, a, b, k = 16, 0.3, 0.2, 2 * math.pi / BOX
    x, y, _ = cell_centres(n, BOX)
    x, y = (one.expand(n, n, n) * k for one in (x, y))
    _, second = lpt_displacements(a * torch.cos(x) + b * torch.cos(y), BOX)
    zero = torch.zeros_like(x)
    expected = torch.stack(
        [torch.sin(x) * torch.cos(y), torch.cos(x) * torch.sin(y), zero]
    )
    torch.testing.assert_close(second, a * b / (2 * k) * expected, rtol=0, atol=1e-12)


def test_the_second_order_of_sheared_waves():
    """Off-diagonal strains count too: delta = a cos kx + b cos k(x + y).

    The second wave, along (1, 1, 0) with wave number squared 2 k^2, has the strains
    -b/2 cos k(x + y) in xx, yy and xy alike; the first -a cos kx in xx. The source
    xx yy - xy^2 keeps only the mixed term, a b / 2 cos kx cos k(x + y).
    """
    n, a, b, k = 16, 0.3, 0.2, 2 * math.pi / BOX
    x, y, _ = cell_centres(n, BOX)
    x, y = (one.expand(n, n, n) * k for one in (x, y))
    _, second = lpt_displacements(a * torch.cos(x) + b * torch.cos(x + y), BOX)
    # cos A cos B = (cos(2x + y) + cos y) / 2, of wave numbers squared 5 and 1.
    along = a * b / (4 * k) * torch.sin(2 * x + y) / 5
    expected = torch.stack(
        [2 * along, along + a * b / (4 * k) * torch.sin(y), torch.zeros_like(x)]
    )
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-12)


def starts(n, seed=5, redshift=49.0, box_size=BOX):
    """Second-order initial conditions of a drawn field on a lattice."""
    delta = linear_field(PLANCK, n_cells=n, box_size=box_size, seed=seed)
    (particles,) = evolve(
        delta,
        PLANCK,
        box_size=box_size,
        redshifts=[redshift],
        n_steps=1,
        n_mesh=4,
        start_redshift=redshift,
    )
    return delta, particles.positions, particles.velocities


def recover(positions, velocities, n_cells, masses=None, redshift=49.0, box_size=BOX):
    return linear_field_from_velocities(
        positions,
        velocities,
        masses,
        redshift=redshift,
        omega_m=PLANCK["omega_m"],
        n_cells=n_cells,
        box_size=box_size,
    )


@pytest.mark.parametrize(("n", "n_cells"), [(32, 32), (32, 16), (24, 15)])
def test_the_field_comes_back_from_its_particles(n, n_cells):
    """At every scale below the Nyquist frequencies, second order removed."""
    delta, positions, velocities = starts(n, box_size=n * 0.8)
    field = recover(positions, velocities, n_cells, box_size=n * 0.8)
    expected = resample(resample(delta, (n_cells - 1) // 2 * 2 + 1), n_cells)
    # Positions are rounded to 1e-7 of the box, and divided by D(49) = 0.025.
    torch.testing.assert_close(field, expected, rtol=0, atol=2e-3 * field.std().item())


def test_the_field_comes_back_from_a_shifted_lattice():
    """Lattices begin anywhere in a cell; the structure stays where it is."""
    delta, positions, velocities = starts(24)
    moved = torch.remainder(positions + BOX / 24 * torch.tensor([2.5, 0.25, -0.1]), BOX)
    modes = torch.fft.rfftn(recover(moved, velocities, 24).double())
    kx, ky, kz = wavenumbers(24, BOX, dtype=torch.float64)
    phase = (2.5 * kx + 0.25 * ky - 0.1 * kz) * BOX / 24
    expected = torch.fft.rfftn(delta.double()) * torch.exp(-1j * phase)
    inside = slice(0, 12)
    torch.testing.assert_close(
        modes[inside, inside, inside],
        expected[inside, inside, inside],
        rtol=0,
        atol=4e-3 * expected.abs().mean().item(),
    )


def test_the_order_of_particles_does_not_matter():
    """Snapshots sort particles as they like."""
    _, positions, velocities = starts(16)
    order = torch.randperm(16**3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        recover(positions[order], velocities[order], 16),
        recover(positions, velocities, 16),
        rtol=0,
        atol=1e-6,
    )


def test_gas_and_dark_matter_are_weighted_by_mass():
    """Each kind has its lattice; the field is that of all matter."""
    _, positions, velocities = starts(16, seed=6)
    _, others, other_velocities = starts(16, seed=7)
    shifted = torch.remainder(others + BOX / 32, BOX)
    together = recover(
        torch.cat([positions, shifted]),
        torch.cat([velocities, other_velocities]),
        16,
        torch.tensor([5.0, 1.0]).repeat_interleave(16**3),
    )
    alone = [recover(positions, velocities, 16), recover(shifted, other_velocities, 16)]
    torch.testing.assert_close(
        together, (5 * alone[0] + alone[1]) / 6, rtol=0, atol=1e-5
    )


def test_particles_without_a_lattice_give_the_large_scales():
    """From a glass, or a lattice with a hole, mean velocities still do."""
    delta, positions, velocities = starts(48)
    field = recover(positions[1:], velocities[1:], 24)
    expected = resample(delta, 24)
    r = correlation_coefficient(field, expected, box_size=BOX)
    ratio = transfer_function(field, expected, box_size=BOX, relative=False)
    half = len(r.k) // 2
    # Means over 8 particles a cell: aliasing of smaller scales sets in towards the
    # Nyquist frequency. Measured: 0.998 and 2 % at half of it.
    assert r.value[:half].min() > 0.995
    np.testing.assert_allclose(ratio.value[:half], 1, atol=0.03)


def test_a_grid_finer_than_the_particles_is_refused():
    """Initial conditions hold no structure below their own lattice."""
    _, positions, velocities = starts(8)
    with pytest.raises(GridError, match=r"lattice of 8\^3 particles.*at most 8"):
        recover(positions, velocities, 16)
    with pytest.raises(GridError, match="cells hold no particle"):
        recover(positions[1:], velocities[1:], 16)


@pytest.mark.parametrize("factor", [math.sqrt(50), 1 / math.sqrt(50), -1.0, 0.0])
def test_velocities_of_another_convention_are_refused(factor):
    """Gadget's sqrt(a), for one, would go unnoticed in the phases."""
    _, positions, velocities = starts(8)
    with pytest.raises(GridError, match="peculiar velocities in km/s"):
        recover(positions, factor * velocities, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fields_are_the_same_on_the_accelerator():
    """Drawn and recovered."""
    there = draw(device="cuda")
    torch.testing.assert_close(there.cpu(), draw(), rtol=0, atol=1e-10)
    _, positions, velocities = starts(16)
    for particles in (slice(None), slice(1, None)):
        here = recover(positions[particles], velocities[particles], 8)
        there = recover(positions[particles].cuda(), velocities[particles].cuda(), 8)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", ["LH_0", "LH_3", "LH_9"])
def test_real_initial_conditions_are_lattices(test_data, run):
    """Gas and dark matter of MP-Gadget: modes have about the linear amplitude.

    These runs fix the amplitudes. Their spectrum is tilted against CAMB's at z = 0, the
    more so the larger the fraction of baryons: measured, from +4 % to -3 % for LH_0 and
    +7 % to -15 % for LH_9, alike for displacements and velocities.
    """
    from astropy.table import Table

    from astrogan_emu.snapshots import read_snapshot

    suite = Table.read(test_data / "mpgadget_lh" / "suite.ecsv")
    row = suite[suite["run"] == run][0]
    snapshot = read_snapshot(test_data / "mpgadget_lh" / row["initial_conditions"])
    positions, velocities, masses = (
        torch.from_numpy(np.concatenate([read(kind) for kind in snapshot.kinds]))
        for read in (snapshot.positions, snapshot.velocities, snapshot.masses)
    )
    field = linear_field_from_velocities(
        positions,
        velocities,
        masses,
        redshift=snapshot.redshift,
        omega_m=float(row["omega_m"]),
        n_cells=32,
        box_size=snapshot.box_size,
    )
    measured = power_spectrum(field, box_size=25.0, relative=False)
    parameters = {name: float(row[name]) for name in PLANCK}
    amplitude = torch.sqrt(measured.power / linear_power(measured.k, parameters))
    assert amplitude.min() > 0.82
    assert amplitude.max() < 1.1


def test_lattice_points_are_cell_centres():
    """Particles start where the field is sampled: no half-cell offset."""
    x, y, z = (one.expand(4, 4, 4) for one in cell_centres(4, 10.0))
    points = lattice(4, 10.0, torch.zeros(1).double()).reshape(4, 4, 4, 3)
    torch.testing.assert_close(points, torch.stack([x, y, z], -1))
