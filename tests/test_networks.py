"""The networks know no edges, no preferred size, and no more than they are told."""

from itertools import product

import pytest
import torch

from astrogan_emu.convolutions import _Wrap, convolve, double, halve
from astrogan_emu.errors import TrainingError
from astrogan_emu.networks import Critic, NetworkConfig, UNet

SMALL = {"widths": (3, 4, 5), "critic_widths": (3, 4), "style": 6}
SHAPES = [(2, 1, 1, 2), (2, 3, 2, 5), (3, 1, 2, 1), (3, 2, 1, 4)]


def living_unet(n_dim=2, in_channels=1, out_channels=2, n_conditions=3):
    """Double precision, and a head that lets the inside be seen."""
    torch.manual_seed(0)
    net = UNet(NetworkConfig(n_dim, in_channels, out_channels, n_conditions, **SMALL))
    torch.nn.init.normal_(net.head)
    return net.double().requires_grad_(False)


def inputs(net, n=16, batch=1):
    config, (d, double) = net.config, (net.config.n_dim, torch.float64)
    make = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=make, dtype=double)

    x = draw(batch, config.in_channels, *(n,) * d)
    noise = [draw(batch, 1, *(n >> level,) * d) for level in net.noise_levels]
    return x, draw(batch, config.n_conditions), noise


@pytest.mark.parametrize(("n_dim", "n_in", "n_out", "n_told"), SHAPES)
def test_one_class_serves_any_dimension_channels_and_conditions(
    n_dim, n_in, n_out, n_told
):
    """The shapes are the configuration's, in two and three dimensions."""
    net = living_unet(n_dim, n_in, n_out, n_told)
    x, told, noise = inputs(net, n=8, batch=2)
    assert net(x, told, noise).shape == (2, n_out, *(8,) * n_dim)


@pytest.mark.parametrize("n_dim", [2, 3])
def test_the_world_is_a_torus(n_dim):
    """Base and noise moved by whole coarsest cells move the result along."""
    net = living_unet(n_dim)
    x, told, noise = inputs(net, n=12)
    step, axes = net.config.multiple, tuple(range(2, 2 + n_dim))

    def move(field, level):
        return field.roll(((step >> level),) * n_dim, axes)

    moved_noise = [
        move(m, level) for m, level in zip(noise, net.noise_levels, strict=True)
    ]
    moved = net(move(x, 0), told, moved_noise)
    # Rounding in double precision only.
    torch.testing.assert_close(moved, move(net(x, told, noise), 0))


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 1)])
@pytest.mark.parametrize("reach", [1, 2])
def test_wrapping_is_circular_padding(shape, reach):
    """As PyTorch's own, with its gradient, and the gradient of that."""
    if reach > min(shape):
        reach = 1
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    pads = (reach,) * (2 * len(shape))
    expected = torch.nn.functional.pad(x, pads, mode="circular")
    assert torch.equal(_Wrap.apply(x, reach), expected)
    assert torch.autograd.gradcheck(_Wrap.apply, (x, reach))
    assert torch.autograd.gradgradcheck(_Wrap.apply, (x, reach))


@pytest.mark.parametrize("n_dim", [2, 3])
def test_training_differentiates_the_same_function(n_dim):
    """The quick way of training mode has the values and gradients of the plain one."""
    net = living_unet(n_dim)
    x, told, noise = inputs(net, n=8)

    def gradients(net):
        net.requires_grad_(True)
        result = net(x, told, noise)
        return result, torch.autograd.grad(result.square().sum(), [*net.parameters()])

    quick, quick_gradients = gradients(net.train())
    plain, plain_gradients = gradients(net.eval())
    torch.testing.assert_close(quick, plain)
    for one, other in zip(quick_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_differentiates_the_same_function_coarsely():
    """Several samples, whose weights differ by factors, within bf16's three digits."""
    net = living_unet(3).float().requires_grad_(True).train()
    x, told, noise = inputs(net, n=8, batch=2)
    x, told, noise = x.float(), told.float(), [m.float() for m in noise]

    def gradients(low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            result = net(x, told, noise)
        total = result.float().square().sum()
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(total, [*net.parameters()])]
        )

    coarse, fine = gradients(True), gradients(False)
    assert float((coarse - fine).norm() / fine.norm()) < 0.03


def test_a_fresh_network_corrects_nothing():
    """Its last layer starts at zero, so training starts from the base."""
    net = UNet(NetworkConfig(2, 1, 2, 3, **SMALL)).double()
    assert net(*inputs(net)).abs().max() == 0


def test_noise_is_heard():
    """Other noise gives another field."""
    net = living_unet()
    x, told, noise = inputs(net)
    change = net(x, told, [-m for m in noise]) - net(x, told, noise)
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize("which", range(5))
def test_every_noise_map_is_heard(which):
    """Each of the maps, coarse to fine, has its say."""
    net = living_unet()
    x, told, noise = inputs(net)
    other = [-m if i == which else m for i, m in enumerate(noise)]
    assert len(noise) == 5
    assert not torch.equal(net(x, told, other), net(x, told, noise))


def test_conditions_are_heard():
    """Other conditions give another field."""
    net = living_unet()
    x, told, noise = inputs(net)
    change = net(x, told + 1, noise) - net(x, told, noise)
    assert change.abs().max() > 1e-4


def test_without_noise_the_network_is_a_function_of_base_and_conditions():
    """No noise means zero noise."""
    net = living_unet()
    x, told, noise = inputs(net)
    silent = net(x, told, [torch.zeros_like(m) for m in noise])
    torch.testing.assert_close(net(x, told, None), silent)


def test_a_batch_is_its_samples():
    """Two at once equal two alone, with conditions of their own."""
    net = living_unet()
    x, told, noise = inputs(net, batch=2)
    both = net(x, told, noise)
    for i in range(2):
        one = slice(i, i + 1)
        alone = net(x[one], told[one], [m[one] for m in noise])
        torch.testing.assert_close(both[one], alone)


def test_a_single_level_needs_no_multiple():
    """A network that never halves takes any size."""
    config = NetworkConfig(2, 1, 1, 1, widths=(4,), critic_widths=(4,), style=3)
    assert config.multiple == 1
    x = torch.ones(1, 1, 7, 7)
    assert UNet(config)(x, torch.ones(1, 1), None).shape == x.shape


@pytest.mark.parametrize(("n_dim", "n_in", "n_out", "n_told"), SHAPES)
def test_the_critic_scores_each_sample_at_each_scale(n_dim, n_in, n_out, n_told):
    """One number for each of the critic's widths, from the sample alone."""
    torch.manual_seed(0)
    critic = Critic(NetworkConfig(n_dim, n_in, n_out, n_told, **SMALL)).double()
    fields = torch.randn(2, n_out, *(8,) * n_dim, dtype=torch.float64)
    base = torch.randn(2, n_in, *(8,) * n_dim, dtype=torch.float64)
    told = torch.randn(2, n_told, dtype=torch.float64)
    both = critic(fields, base, told)
    assert both.shape == (2, 2)
    torch.testing.assert_close(both[1:], critic(fields[1:], base[1:], told[1:]))


def test_the_critic_lives_on_a_torus():
    """A shift by the coarsest cell changes no score."""
    torch.manual_seed(0)
    critic = Critic(NetworkConfig(2, 1, 1, 2, **SMALL)).double()
    fields, base = torch.randn(2, 1, 1, 16, 16, dtype=torch.float64)
    told = torch.ones(1, 2, dtype=torch.float64)
    moved = critic(fields.roll((4, 8), (2, 3)), base.roll((4, 8), (2, 3)), told)
    torch.testing.assert_close(moved, critic(fields, base, told))


def test_the_critic_compares_fields_with_their_base():
    """The same field over another base has another score."""
    torch.manual_seed(0)
    critic = Critic(NetworkConfig(2, 1, 1, 2, **SMALL))
    fields, base = torch.randn(2, 1, 1, 8, 8)
    told = torch.ones(1, 2)
    assert not torch.equal(critic(fields, base, told), critic(fields, -base, told))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_dim": 4}, "n_dim must be 2 or 3, got 4"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": -1}, "out_channels must be at least 1"),
        ({"n_conditions": 0}, "n_conditions must be at least 1"),
        ({"style": 0}, "style must be at least 1"),
        ({"widths": ()}, "widths must be positive numbers"),
        ({"critic_widths": (8, 0)}, "critic_widths must be positive numbers"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    """The message names the setting."""
    good = {"n_dim": 2, "in_channels": 1, "out_channels": 1, "n_conditions": 1}
    with pytest.raises(TrainingError, match=message):
        NetworkConfig(**{**good, **change})


@pytest.mark.parametrize("training", [False, True])
def test_small_fields_are_the_same_in_a_batch_and_one_by_one(training):
    """Small ones share a convolution, whatever their conditions."""
    torch.manual_seed(2)
    net = UNet(NetworkConfig(2, 2, 3, 2, widths=(4, 6), critic_widths=(4,), style=8))
    torch.nn.init.normal_(net.head)
    net.train(training)
    x, told = torch.randn(5, 2, 8, 8), torch.randn(5, 2)
    noise = [torch.randn(5, 1, 8 >> n, 8 >> n) for n in net.noise_levels]
    together = net(x, told, noise)
    for i in range(5):
        own = slice(i, i + 1)
        alone = net(x[own], told[own], [each[own] for each in noise])
        torch.testing.assert_close(together[own], alone, rtol=1e-4, atol=1e-5)


def test_several_draws_of_one_base_are_the_same_together_and_apart():
    """The part that hears no noise is gone through once, and nothing changes."""
    torch.manual_seed(0)
    config = NetworkConfig(3, 1, 2, 4, widths=(4, 8, 8))
    network = UNet(config)
    torch.nn.init.normal_(network.head)
    x, told = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 4)
    noise = [torch.randn(4, 1, *(8 >> n,) * 3) for n in network.noise_levels]
    with torch.no_grad():
        together = network(x, told, noise)
        apart = [
            network(x, told, [each[part] for each in noise])
            for part in (slice(2), slice(2, 4))
        ]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)
    assert not torch.allclose(together[:2], together[2:], atol=1e-3)


@pytest.mark.parametrize("n_dim", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_parts_give_what_the_whole_gives(n_dim, batch, monkeypatch):
    """A large field is worked through part by part where no gradient is wanted."""
    torch.manual_seed(3)
    x = torch.randn(batch, 3, *(10,) * n_dim)
    bias = torch.randn(6)
    kernels = ((convolve, 1), (convolve, 3), (convolve, 5), (double, 2), (halve, 2))
    for (operation, kernel), groups in product(kernels, (1, 3)):
        weight = torch.randn(6, 3 // groups, *(kernel,) * n_dim)
        whole = operation(x, weight, bias, groups)
        for cells in (10**n_dim, 10**n_dim // 3, 10 ** (n_dim - 1), 1):
            monkeypatch.setattr("astrogan_emu.convolutions._PART", cells)
            with torch.no_grad():
                cut = operation(x, weight, bias, groups)
            torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)
