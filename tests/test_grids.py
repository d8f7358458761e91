import math
from itertools import product

import astropy.cosmology.units as cu
import astropy.units as u
import numpy as np
import pytest
import torch

from astrogan_emu.errors import GridError
from astrogan_emu.grids import SCHEMES, GridSpec, Stencil, deposit, paint, readout
from astrogan_emu.sph import NARROWEST_KERNEL, cubic_spline
from astrogan_emu.stencils import Canvas, beyond, block_size, fill_table

GRID = GridSpec(8, 20.0)
ALL_SCHEMES = [*SCHEMES, "sph"]


def particles(n, seed=0):
    """Positions, weights and kernel radii of particles that meet all box faces."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, GRID.box_size, (n, 3))
    positions[0], positions[1] = 0.01, GRID.box_size - 0.01
    return positions, rng.uniform(0.1, 2, n), rng.uniform(0, GRID.box_size / 2, n)


def put(positions, weights, lengths, scheme, grid=GRID):
    """`deposit`, with kernels if the scheme has them."""
    extra = {"smoothing_lengths": lengths} if scheme == "sph" else {}
    return deposit(positions, weights, grid=grid, scheme=scheme, **extra)


# The share of a cell at a distance of d cells along one axis (Hockney & Eastwood 1981).
SHARES = {
    "ngp": lambda d: float(-0.5 < d <= 0.5),
    "cic": lambda d: max(1 - abs(d), 0),
    "tsc": lambda d: 0.75 - d * d if abs(d) <= 0.5 else 0.5 * max(1.5 - abs(d), 0) ** 2,
}


def kernel(q):
    """The cubic spline as Monaghan & Lattanzio (1985) write it."""
    if q >= 1:
        return 0.0
    return 1 - 6 * q**2 + 6 * q**3 if q < 0.5 else 2 * (1 - q) ** 3


def slowly(positions, weights, lengths, scheme, grid=GRID):
    """The deposit by loops over every particle, cell and periodic image."""
    n, cells = grid.n_cells, np.zeros(grid.shape)
    for x, weight, length in zip(positions, weights, lengths, strict=True):
        radius = length / grid.cell_size
        own = "cic" if scheme == "sph" and radius < NARROWEST_KERNEL else scheme
        shares = np.zeros(grid.shape)
        for index in product(range(n), repeat=3):
            for image in product((-n, 0, n), repeat=3):
                d = np.add(index, image) + 0.5 - x / grid.cell_size
                if own == "sph":
                    shares[index] += kernel(np.sqrt(d @ d) / radius)
                else:
                    shares[index] += math.prod(SHARES[own](-one) for one in d)
        cells += weight * shares / (shares.sum() if own == "sph" else 1)
    return cells


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_deposits_agree_with_a_slow_reference(scheme):
    """The fast deposit is the textbook formula, box faces included."""
    sample = particles(6)
    # Double precision sums of a few terms of order one.
    np.testing.assert_allclose(
        put(*sample, scheme), slowly(*sample, scheme), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_deposits_conserve_the_total(scheme):
    """What the particles bring is what the cells hold, whatever the kernel."""
    positions, weights, lengths = particles(5000)
    lengths[:2000] *= 0.02  # kernels far narrower than a cell
    total = put(positions, weights, lengths, scheme).sum()
    assert total == pytest.approx(weights.sum(), rel=1e-12)


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_a_million_particles_in_one_cell_are_all_counted(scheme):
    """Sums are kept in double precision: single would lose 1e-3 of 0.1 each."""
    n = 1_000_000 if scheme != "sph" else 100_000
    positions = np.full((n, 3), 1.0)
    cells = put(positions, np.full(n, 0.1), np.full(n, 4.0), scheme)
    assert cells.sum() == pytest.approx(0.1 * n, rel=1e-9)


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 3, 5), (-2, 8, 17)])
def test_moving_particles_by_whole_cells_moves_the_field(scheme, shift):
    """The periodic grid has no preferred cell."""
    positions, weights, lengths = particles(50)
    moved = positions + np.array(shift) * GRID.cell_size
    # The moved positions are rounded, by about 1e-15 of a box.
    np.testing.assert_allclose(
        put(moved, weights, lengths, scheme),
        np.roll(put(positions, weights, lengths, scheme), shift, (0, 1, 2)),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_no_axis_is_preferred(scheme, axes):
    """Exchanging x, y and z of the particles exchanges the axes of the field."""
    positions, weights, lengths = particles(50)
    np.testing.assert_allclose(
        put(positions[:, axes], weights, lengths, scheme),
        put(positions, weights, lengths, scheme).transpose(axes),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_particle_at_a_cell_centre_stays_there(scheme):
    """Cell i has its centre at i + 1/2: deposits are symmetric about it."""
    cells = deposit([[6.25, 1.25, 18.75]], grid=GRID, scheme=scheme)
    assert np.unravel_index(cells.argmax(), cells.shape) == (2, 0, 7)
    for axis, place in enumerate((2, 0, 7)):
        profile = np.roll(cells.sum(tuple({0, 1, 2} - {axis})), 4 - place)
        np.testing.assert_allclose(profile[1:4], profile[7:4:-1], atol=1e-15)


def test_ngp_counts_particles_in_cells():
    """Cell i covers [i, i + 1) cell sizes, as a histogram's bins do."""
    positions = particles(1000)[0]
    edges = [np.linspace(0, GRID.box_size, GRID.n_cells + 1)] * 3
    histogram = np.histogramdd(positions, edges)[0]
    np.testing.assert_array_equal(
        deposit(positions, grid=GRID, scheme="ngp"), histogram
    )


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_positions_outside_are_wrapped(scheme):
    """Any periodic image of a particle is the particle, even a far one."""
    positions, weights, lengths = particles(20)
    images = positions + GRID.box_size * np.random.default_rng(1).integers(
        -1000, 1000, positions.shape
    )
    # A thousand boxes away, positions are rounded by 1e-13 boxes.
    np.testing.assert_allclose(
        put(images, weights, lengths, scheme),
        put(positions, weights, lengths, scheme),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("place", [0.0, 20.0, np.nextafter(20.0, 0), -1e-18])
def test_the_faces_of_the_box_are_one_place(place):
    """A particle on a face is shared by the cells on both of its sides."""
    cells = deposit([[place, 5.0, 5.0]], grid=GRID)
    np.testing.assert_allclose(
        cells.sum((1, 2)), [0.5, 0, 0, 0, 0, 0, 0, 0.5], atol=1e-12
    )


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_fields_deposited_together_equal_each_alone(scheme):
    """Weights of shape (n, c) give c fields, as c calls would."""
    positions, weights, lengths = particles(40)
    together = put(positions, np.stack([weights, weights**2], 1), lengths, scheme)
    assert together.shape == (2, *GRID.shape)
    for cells, own in zip(together, (weights, weights**2), strict=True):
        np.testing.assert_allclose(cells, put(positions, own, lengths, scheme))


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_no_particles_make_an_empty_grid(scheme):
    """A snapshot chunk may hold none of a kind."""
    cells = put(np.zeros((0, 3)), np.zeros(0), np.zeros(0), scheme)
    assert cells.shape == GRID.shape
    assert not cells.any()


def test_weights_of_one_are_the_default():
    """Without weights, particles are counted."""
    positions = particles(30)[0]
    np.testing.assert_array_equal(
        deposit(positions, grid=GRID), deposit(positions, np.ones(30), grid=GRID)
    )


def test_narrow_kernels_are_clouds_in_cells():
    """Compact gas is never lost: below 1.5 cells a kernel is not resolved."""
    positions, weights, _ = particles(100)
    lengths = np.linspace(0, 1.49 * GRID.cell_size, 100)
    np.testing.assert_allclose(
        put(positions, weights, lengths, "sph"),
        deposit(positions, weights, grid=GRID),
        rtol=1e-12,
    )


def test_the_narrowest_kernel_is_as_noisy_as_the_cloud_it_gives_way_to():
    """At the switch from cloud to kernel, the noise of random particles is the same."""
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, GRID.box_size, (400, 3))
    lengths = np.full(1, NARROWEST_KERNEL * GRID.cell_size)
    noise = {
        scheme: np.mean(
            [np.sum(put(one[None], [1.0], lengths, scheme) ** 2) for one in positions]
        )
        for scheme in ("cic", "sph")
    }
    # The mean of 400 particles is known to about 3 %; the exact ratio is 0.97.
    assert noise["sph"] == pytest.approx(noise["cic"], rel=0.1)


def test_a_resolved_kernel_gives_the_sph_density():
    """On a fine grid, cells over their volume are the kernel's own density."""
    grid, radius = GridSpec(48, 20.0), 8.0
    cells = deposit([[10.1, 9.7, 10.0]], grid=grid, scheme="sph", smoothing_lengths=[8])
    centres = (np.indices(grid.shape) + 0.5) * grid.cell_size
    offsets = centres - np.array([10.1, 9.7, 10.0]).reshape(3, 1, 1, 1)
    q = np.sqrt((offsets**2).sum(0)) / radius
    density = 8 / (np.pi * radius**3) * np.vectorize(kernel, otypes=[float])(q)
    # The sum over 19 cells per radius stands for the integral to a few 1e-6.
    np.testing.assert_allclose(
        cells / grid.cell_volume, density, rtol=0, atol=1e-5 * density.max()
    )


def test_the_cubic_spline_is_that_of_monaghan_and_lattanzio():
    """The short form used equals the published branches."""
    q = np.linspace(0, 1.2, 50)
    np.testing.assert_allclose(
        cubic_spline(torch.from_numpy(q)), [kernel(one) for one in q], atol=1e-14
    )


BAD = {
    "NaN positions": ({"positions": np.full((4, 3), np.nan)}, "12 of 12 positions"),
    "infinite weights": ({"weights": [1, np.inf, 1, -np.inf]}, "2 of 4 weights"),
    "flat positions": ({"positions": np.zeros(12)}, r"shape \(n, 3\), got \(12,\)"),
    "2-D positions": ({"positions": np.zeros((4, 2))}, r"got \(4, 2\)"),
    "too few weights": ({"weights": [1, 2]}, r"4 particles .* got \(2,\)"),
    "words": ({"weights": ["a", "b", "c", "d"]}, "real numbers"),
    "unknown scheme": ({"scheme": "nearest"}, "'nearest'; choose ngp, cic, tsc or sph"),
    "no kernels": ({"scheme": "sph"}, "needs smoothing_lengths"),
    "kernels unasked": ({"smoothing_lengths": [1] * 4}, "takes no smoothing_lengths"),
    "negative kernels": (
        {"scheme": "sph", "smoothing_lengths": [-1, 1, 1, -2]},
        "2 of 4 smoothing lengths are negative",
    ),
    "NaN kernels": (
        {"scheme": "sph", "smoothing_lengths": [np.nan, 1, 1, 1]},
        "1 of 4 smoothing lengths are not finite",
    ),
    "few kernels": ({"scheme": "sph", "smoothing_lengths": [1]}, r"got \(1,\)"),
    "kernels in kpc": (
        {"scheme": "sph", "smoothing_lengths": [1, 1, 10.5, 1]},
        "1 of 4 smoothing lengths exceed half the box, 10 Mpc/h",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(change, message):
    """One clear error that counts what is wrong, or says what is allowed."""
    arguments = {"positions": np.ones((4, 3)), **change}
    with pytest.raises(GridError, match=message):
        deposit(arguments.pop("positions"), grid=GRID, **arguments)


@pytest.mark.parametrize("n_cells", [1, 0, -4, 2.5, math.nan, "8"])
def test_a_grid_needs_whole_cells(n_cells):
    """Cells are counted, from two up."""
    with pytest.raises(GridError, match="n_cells must be a whole number"):
        GridSpec(n_cells, 10.0)


@pytest.mark.parametrize("box_size", [0.0, -1.0, math.nan, math.inf])
def test_a_grid_needs_a_size(box_size):
    """A box is as long as a positive number."""
    with pytest.raises(GridError, match="box_size must be positive"):
        GridSpec(8, box_size)


def test_a_box_with_littleh_becomes_a_number():
    """25 Mpc/h in any length that carries its h."""
    for box_size in (25 * u.Mpc / cu.littleh, 25e3 * u.kpc / cu.littleh):
        assert GridSpec(8, box_size).box_size == pytest.approx(25.0)


def test_a_box_without_its_h_is_refused():
    """A grid knows no h, and a default one would creep in."""
    with pytest.raises(GridError, match=r"no h is known here to turn 25\.0 Mpc"):
        GridSpec(8, 25 * u.Mpc)


def test_a_grid_knows_its_cells():
    """Derived lengths follow from the count and the size of the box."""
    grid = GridSpec(np.int64(8), 20.0)
    assert grid.cell_size == 2.5
    assert grid.cell_volume == 2.5**3
    assert grid.shape == (8, 8, 8)
    assert grid.nyquist == pytest.approx(np.pi / 2.5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_paint_and_deposit_are_one(scheme):
    """The differentiable core gives what its checked front door gives."""
    positions, weights, _ = particles(100)
    painted = paint(
        torch.from_numpy(positions),
        GRID.n_cells,
        GRID.box_size,
        torch.from_numpy(weights),
        scheme,
    )
    expected = deposit(positions, weights, grid=GRID, scheme=scheme)
    np.testing.assert_allclose(painted, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_cells", [7, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_place_is_off_the_grid(scheme, n_cells):
    """Particles too far away for their numbers to tell cells apart are kept, too."""
    far = torch.tensor([[1e9, -1e9, 3.0], [2.0**31, -(2.0**40), 1e30]])
    total = paint(far, n_cells, 20.0, None, scheme).sum()
    assert total.item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_paint_is_exact_across_blocks(scheme):
    """Particles are handled in blocks, and none falls between two."""
    positions = torch.rand(300_000, 3, generator=torch.Generator().manual_seed(0))
    total = paint(positions.double(), 8, 1.0, None, scheme).sum()
    assert total.item() == pytest.approx(300_000, rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_readout_is_the_transpose_of_paint(scheme):
    """<field, paint(w)> = <readout(field), w>: forces between particles cancel."""
    positions, weights, _ = map(torch.from_numpy, particles(200))
    field = torch.from_numpy(np.random.default_rng(3).normal(size=GRID.shape))
    painted = paint(positions, GRID.n_cells, GRID.box_size, weights, scheme)
    values = readout(field, positions, GRID.box_size, scheme)
    assert (painted * field).sum().item() == pytest.approx(
        (values * weights).sum().item(), rel=1e-12
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_readout_of_a_constant_is_the_constant(scheme):
    """The shares of every particle add up to one."""
    positions = torch.from_numpy(particles(50)[0])
    values = readout(torch.full(GRID.shape, 3.5).double(), positions, 20.0, scheme)
    np.testing.assert_allclose(values, 3.5, rtol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_cells_at_once_or_one_by_one_is_the_same(scheme):
    """A processor adds to two cells at once, an accelerator does not."""
    positions, weights, _ = map(torch.from_numpy, particles(500))
    positions.requires_grad_()
    stencil = Stencil.of(positions, 8, GRID.box_size, scheme)
    at_once, one_by_one = (Canvas(8, positions, scheme) for _ in range(2))
    assert at_once._at_once
    one_by_one._at_once = False
    for canvas in (at_once, one_by_one):
        stencil.paint(canvas, weights)
    expected, field = at_once.field(), one_by_one.field()
    torch.testing.assert_close(field, expected)
    if scheme != "ngp":
        losses = (field.square().sum(), expected.square().sum())
        slopes = [
            torch.autograd.grad(loss, positions, retain_graph=True)[0]
            for loss in losses
        ]
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("n_cells", [1, 2, 3, 8])
@pytest.mark.parametrize(("after", "before"), [(0, 0), (1, 0), (3, 2), (9, 4)])
def test_a_periodic_field_goes_on_beyond_its_faces(n_cells, after, before):
    """With the cells of the opposite faces, however often around that is."""
    fields = np.random.default_rng(3).normal(size=(2, 2, *(n_cells,) * 3))
    wider = beyond(torch.from_numpy(fields), after, before).numpy()
    sides = [(0, 0), (0, 0), *[(before, after)] * 3]
    np.testing.assert_array_equal(wider, np.pad(fields, sides, mode="wrap"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_cells", [8, 7, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_looking_up_is_reading_out(scheme, n_cells, dtype):
    """The fast way for several fields gives what the differentiable one does."""
    order = ["ngp", "cic", "tsc"].index(scheme) + 1
    positions = 3 * torch.from_numpy(particles(300)[0]).to(dtype) - 20
    noise = np.random.default_rng(8).normal(size=(3, n_cells, n_cells, n_cells))
    fields = torch.from_numpy(noise).to(dtype)
    wider = beyond(fields, order - 1)
    # What nobody wrote nobody may read.
    table = fields.new_full((*wider.shape[1:], order * 3), torch.nan)
    # As a whole, or plane by plane.
    fill_table(table[:1], [field[:1] for field in wider])
    fill_table(table[1:], [field[1:] for field in wider])
    stencil = Stencil.of(positions, n_cells, GRID.box_size, scheme)
    values = stencil.readout(fields)
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        stencil.look_up(table.flatten(0, 2)), values, rtol=0, atol=tolerance
    )
    for field, own in zip(fields, values, strict=True):
        alone = readout(field, positions, GRID.box_size, scheme)
        torch.testing.assert_close(alone, own, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 8, 4), (10, 10, 10)])
def test_a_field_of_another_grid_is_not_read(shape):
    """Cells would be taken for others."""
    stencil = Stencil.of(torch.from_numpy(particles(5)[0]), 8, GRID.box_size)
    with pytest.raises(GridError, match="grid of 8 cells"):
        stencil.readout(torch.ones(shape).double())


def test_looking_up_is_exact_across_blocks():
    """Particles are handled in blocks, and each gets its own values."""
    positions = torch.rand(150_000, 3, generator=torch.Generator().manual_seed(0))
    assert len(positions) > 2 * block_size(positions)
    x = beyond(torch.arange(32.0).expand(32, 32, 32), 1)
    table = x.new_empty((33, 33, 33, 2))
    fill_table(table, [x])
    (values,) = Stencil.of(positions, 32, 1.0).look_up(table.flatten(0, 2))
    inner = (positions[:, 2] > 1 / 64) & (positions[:, 2] < 63 / 64)
    expected = 32 * positions[:, 2] - 0.5
    torch.testing.assert_close(values[inner], expected[inner], rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheme", ["cic", "tsc"])
def test_gradients_of_paint_agree_with_finite_differences(scheme):
    """In positions and in weights; no particle lies where the slope jumps."""
    positions, weights, _ = map(torch.from_numpy, particles(5, seed=4))
    target = torch.from_numpy(np.random.default_rng(5).normal(size=GRID.shape))

    def loss(positions, weights):
        cells = paint(positions, GRID.n_cells, GRID.box_size, weights, scheme)
        return ((cells - target) ** 2).sum()

    assert torch.autograd.gradcheck(
        loss, (positions.requires_grad_(), weights.requires_grad_()), eps=1e-5
    )


@pytest.mark.parametrize("scheme", ["cic", "tsc"])
def test_gradients_of_readout_agree_with_finite_differences(scheme):
    """In the field and in the positions."""
    positions = torch.from_numpy(particles(5, seed=4)[0]).requires_grad_()
    field = torch.from_numpy(np.random.default_rng(6).normal(size=(4, 4, 4)))

    def values(field, positions):
        return readout(field, positions, 20.0, scheme)

    assert torch.autograd.gradcheck(
        values, (field.requires_grad_(), positions), eps=1e-5
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_paint_and_readout_agree_on_the_accelerator(scheme):
    """The device changes the order of sums, nothing else."""
    positions, weights, _ = map(torch.from_numpy, particles(1000))
    here = paint(positions, GRID.n_cells, GRID.box_size, weights, scheme)
    there = paint(positions.cuda(), GRID.n_cells, GRID.box_size, weights.cuda(), scheme)
    np.testing.assert_allclose(there.cpu(), here, rtol=0, atol=1e-11)
    values = readout(here, positions, GRID.box_size, scheme)
    np.testing.assert_allclose(
        readout(there, positions.cuda(), GRID.box_size, scheme).cpu(), values, rtol=1e-9
    )


@pytest.mark.parametrize("n_cells", [16, 32, 64])
@pytest.mark.parametrize("file", ["snapshot_000", "snapshot_004"])
def test_real_gas_keeps_its_mass(test_data, file, n_cells):
    """Kernels of 0.1 to 11 cells: none lost in clusters, none made in voids."""
    from astrogan_emu.snapshots import read_snapshot

    snapshot = read_snapshot(test_data / "gadget_lcdm_gas" / f"{file}.hdf5")
    masses = snapshot.masses("gas")
    cells = deposit(
        snapshot.positions("gas"),
        masses,
        grid=GridSpec(n_cells, snapshot.box_size),
        scheme="sph",
        smoothing_lengths=snapshot.smoothing_lengths(),
    )
    assert cells.sum() == pytest.approx(masses.sum(), rel=1e-10)
    assert cells.min() >= 0
