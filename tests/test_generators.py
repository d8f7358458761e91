"""Physical fields: positive, of mean 1 where conserved, true to the base's modes."""

from dataclasses import replace

import pytest
import torch

from astrogan_emu.errors import GridError, TrainingError
from astrogan_emu.generators import FieldGenerator, FieldHead, GeneratorConfig
from astrogan_emu.networks import NetworkConfig

MATTER = FieldHead("matter", 0.2, conserved=True)
HEAT = FieldHead("temperature", 1e4, conserved=False, start=0.5)


def make(n_dim=2, keep_scale=2.0, head=0.3):
    """A small generator, with a head of the given strength."""
    torch.manual_seed(0)
    network = NetworkConfig(
        n_dim, 1, 2, 3, widths=(4, 4, 4), critic_widths=(4,), style=4
    )
    generator = FieldGenerator(
        GeneratorConfig(network, (MATTER, HEAT), keep_scale=keep_scale)
    )
    torch.nn.init.normal_(generator.network.head, std=head)
    return generator.requires_grad_(False)


def base_field(n_dim=2, n=32, batch=1, seed=1):
    """Lognormal clumps of mean 1, with nearly empty cells between."""
    torch.manual_seed(seed)
    clumps = torch.exp(1.5 * torch.randn(batch, 1, *(n,) * n_dim))
    return clumps / clumps.flatten(1).mean(1).view(-1, *(1,) * (n_dim + 1))


def run(generator, base, seed=2):
    noise = generator.draw_noise(
        len(base), base.shape[-1], torch.Generator().manual_seed(seed)
    )
    return generator(base, torch.zeros(len(base), 3), noise)


def test_a_fresh_generator_returns_the_base():
    """A conserved field starts as the base where the soft floor is not felt."""
    torch.manual_seed(1)
    base = 0.5 + torch.rand(1, 1, 16, 16)
    base = base / base.mean()
    # The floor lifts values above 0.3 by less than 1e-5.
    torch.testing.assert_close(
        run(make(head=0.0), base)[:, :1], base, atol=1e-4, rtol=0
    )


def test_the_soft_floor_lifts_empty_cells_only_a_little():
    """An empty cell becomes scale (2^(1/10) - 1), times what restores the mean."""
    base = torch.ones(1, 1, 16, 16)
    base[..., 0, 0] = 0.0
    base = base / base.mean()
    lowest = run(make(head=0.0, keep_scale=0.0), base)[0, 0, 0, 0]
    assert float(lowest) == pytest.approx(0.2 * (2**0.1 - 1), rel=0.01)


def test_a_fresh_field_that_is_not_conserved_starts_where_it_is_told():
    """Everywhere at the start value, on the logarithmic scale."""
    generator = make(head=0.0)
    latent = generator.to_latent(run(generator, base_field()))
    # The soft floor adds ln(1 + e^-5) / 10.
    torch.testing.assert_close(
        latent[:, 1], torch.full_like(latent[:, 1], 0.50067), atol=1e-4, rtol=0
    )


def test_a_field_may_start_as_a_power_law_of_the_base():
    """On the logarithmic scales: start + slope log(1 + base / scale of the base)."""
    generator, base = make(head=0.0), base_field()
    gas = replace(HEAT, slope=0.8)
    generator.config = replace(generator.config, heads=(MATTER, gas))
    latent = generator.to_latent(run(generator, base))[:, 1]
    expected = 0.5 + 0.8 * torch.log1p(base[:, 0] / generator.config.base_scale)
    # The soft floor is not felt above 0.5 by more than ln(1 + e^-5) / 10.
    torch.testing.assert_close(latent, expected, atol=1e-3, rtol=0)


def test_a_field_may_have_the_mean_of_its_universe():
    """Whatever the network says, in each box of a batch."""
    generator = make(n_dim=3)
    gas = replace(HEAT, mean=3e3)
    generator.config = replace(generator.config, heads=(MATTER, gas))
    fields = run(generator, base_field(3, 12, batch=2))
    mean = fields[:, 1].double().flatten(1).mean(1)
    torch.testing.assert_close(mean, torch.full_like(mean, 3e3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n_dim", [2, 3])
@pytest.mark.parametrize("keep_scale", [0.0, 2.0])
def test_conserved_fields_have_a_mean_of_one(n_dim, keep_scale):
    """Whatever the network says, to 1e-5, the rounding of float32."""
    n = 32 if n_dim == 2 else 12
    fields = run(make(n_dim, keep_scale), base_field(n_dim, n, batch=2))
    mean = fields[:, 0].double().flatten(1).mean(1)
    torch.testing.assert_close(mean, torch.ones_like(mean), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_dim", [2, 3])
def test_fields_are_positive_and_finite(n_dim):
    """Even where the base is empty."""
    base = base_field(n_dim, 12)
    base[base < 0.5] = 0.0
    fields = run(make(n_dim, head=1.0), base)
    assert torch.isfinite(fields).all()
    assert fields.min() >= 0


def low_modes_difference(keep_scale):
    """Of field and base, relative to the base, over the longest modes."""
    base = base_field(n=64)
    made = run(make(keep_scale=keep_scale, head=0.15), base)[:, :1]

    def modes(x):
        grid = torch.fft.rfftn(x, dim=(2, 3))[0, 0]
        return torch.cat([grid[:3, :3].flatten()[1:], grid[-2:, :3].flatten()])

    wanted = modes(base)
    return float((modes(made) - wanted).norm() / wanted.norm())


def test_large_scales_are_those_of_the_base():
    """The longest modes are kept to 10 per cent, and are far off without keeping.

    Not exactly: smoothing the product of field and ratio couples them to short modes.
    """
    assert low_modes_difference(keep_scale=2.0) < 0.1
    assert low_modes_difference(keep_scale=0.0) > 0.5


def test_other_noise_is_another_field():
    """Small scales differ between seeds, and are repeated by the same seed."""
    generator, base = make(), base_field()
    first, again, other = (run(generator, base, seed) for seed in (2, 2, 3))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_a_batch_is_its_samples():
    """Two at once equal two alone, to the rounding of float32."""
    generator, base = make(), base_field(batch=2)
    noise = generator.draw_noise(2, 32, torch.Generator().manual_seed(2))
    told = torch.randn(2, 3)
    both = generator(base, told, noise)
    for i in range(2):
        one = slice(i, i + 1)
        alone = generator(base[one], told[one], [m[one] for m in noise])
        torch.testing.assert_close(both[one], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_dim", [2, 3])
def test_fields_move_with_the_base(n_dim):
    """The torus has no origin, for steps of the coarsest cell."""
    generator, base = make(n_dim).double(), base_field(n_dim, 12).double()
    told, axes = torch.zeros(1, 3).double(), tuple(range(2, 2 + n_dim))
    moved = generator(base.roll((4,) * n_dim, axes), told, None)
    expected = generator(base, told, None).roll((4,) * n_dim, axes)
    torch.testing.assert_close(moved, expected)


def test_the_logarithmic_scale_is_each_fields_own():
    """`to_latent` is log(1 + value / scale)."""
    fields = torch.tensor([0.2, 1e4]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    latent = make().to_latent(fields)
    torch.testing.assert_close(latent, torch.full_like(latent, 2.0).log())


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (30, "multiple of 4 for this model, got 30; the nearest are 28 and 32"),
        (3, "multiple of 4 for this model, got 3; the nearest is 4"),
        (0, "got 0; the nearest is 4"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(n, message):
    """The message names the nearest sizes that can be used."""
    with pytest.raises(GridError, match=message):
        make().check_size(n)


@pytest.mark.parametrize("shape", [(16, 18), (18, 16)])
def test_every_side_is_checked(shape):
    """A side that is not a multiple is refused, whichever it is."""
    with pytest.raises(GridError, match="got 18; the nearest are 16 and 20"):
        make()(torch.ones(1, 1, *shape), torch.zeros(1, 3), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": (MATTER,)}, "1 heads cannot serve 2 output channels"),
        ({"base_scale": 0.0}, "base_scale must be positive, got 0.0"),
        ({"base_std": float("nan")}, "base_std must be positive, got nan"),
        ({"base_mean": float("inf")}, "base_mean must be finite, got inf"),
        ({"keep_scale": -1.0}, "keep_scale must be 0 or positive, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    """The message names the setting."""
    good = {"network": NetworkConfig(2, 1, 2, 3), "heads": (MATTER, HEAT)}
    with pytest.raises(TrainingError, match=message):
        GeneratorConfig(**{**good, **change})


@pytest.mark.parametrize(
    ("scale", "start", "message"),
    [
        (0.0, 0.0, "scale of gas must be positive"),
        (float("inf"), 0.0, "scale of gas must be positive"),
        (1.0, float("nan"), "start of gas must be finite"),
    ],
)
def test_impossible_heads_are_refused(scale, start, message):
    """The message names the field."""
    with pytest.raises(TrainingError, match=message):
        FieldHead("gas", scale, conserved=True, start=start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": float("inf")}, "slope of gas must be finite"),
        ({"mean": -1.0}, "mean of gas must be positive or 0, got -1"),
    ],
)
def test_impossible_starts_are_refused(change, message):
    """The message names the number."""
    with pytest.raises(TrainingError, match=message):
        FieldHead("gas", 1.0, conserved=False, **change)


def test_a_wild_network_leaves_finite_fields_with_finite_power():
    """A correction that exploded would end the training it is to be learned in."""
    generator = make(head=1e4)
    fields = run(generator, base_field())
    assert bool(torch.isfinite(torch.fft.rfftn(fields).abs().square()).all())


def test_several_draws_of_one_base_have_one_base():
    """Twice the noise for one base gives two fields with the same large scales."""
    generator, base = make(), base_field()
    noise = generator.draw_noise(2, 32, torch.Generator().manual_seed(3))
    both = generator(base, torch.zeros(1, 3), noise)
    alone = [
        generator(base, torch.zeros(1, 3), [each[part] for each in noise])
        for part in (slice(1), slice(1, 2))
    ]
    assert torch.allclose(both, torch.cat(alone), rtol=1e-4)
    assert not torch.allclose(both[0], both[1], rtol=1e-2)
