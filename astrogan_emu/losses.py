"""Losses of the conditional GAN: pure functions of fields and scores.

The paired ones compare a generated field with the simulation of the same phases: cell
by cell on the logarithmic scale, value by value in the one-point distribution, and mode
by mode in the power spectrum and the correlation coefficient; or, two fields of one
base at once, by scores that are best for draws from the right distribution. The
adversarial one is
relativistic (Jolicoeur-Martineau 2019) with the gradient penalty of Mescheder et al.
(2018) on real and generated fields.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "cross_loss",
    "distribution_loss",
    "energy_score",
    "expectation_loss",
    "gradient_penalty",
    "joint_loss",
    "mode_score",
    "paired_loss",
    "relativistic_loss",
    "spectral_losses",
    "tail_loss",
]

# Of the square of a mode, so that an empty field has a logarithm and a root.
_TINY = 1e-30
# Partial sums of each shell: GPU threads that add to one number wait for each other.
_PARTS = 64


def relativistic_loss(winner_scores: Tensor, loser_scores: Tensor) -> Tensor:
    """How far the winner is from outscoring its partner.

    Parameters
    ----------
    winner_scores, loser_scores
        Scores of paired samples, any shape.

    Returns
    -------
    Tensor
        Scalar.
    """
    return F.softplus(loser_scores - winner_scores).mean()


def gradient_penalty(scores: Tensor, fields: Tensor) -> Tensor:
    """Squared gradient of the critic at its input, per cell (Mescheder et al. 2018).

    Parameters
    ----------
    scores
        Of shape ``(batch, n_scales)``.
    fields
        The critic's input, which requires a gradient, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Scalar, for a field of unit cells: the sum over cells times their number, so
        that its size does not depend on the grid.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), fields, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() * fields[0, 0].numel()


def paired_loss(latent: Tensor, target: Tensor) -> Tensor:
    """Smooth absolute difference on the logarithmic scale (Girshick 2015).

    Quadratic for small differences, so that sparse fields are not drawn to zero.

    Parameters
    ----------
    latent, target
        Transformed fields, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Scalar.
    """
    return F.smooth_l1_loss(latent, target)


def energy_score(made: Tensor, target: Tensor) -> Tensor:
    """Fair energy score of two draws, cell by cell (Gneiting & Raftery 2007, eq. 22).

    The mean distance of the draws from the target, less half of that between the draws.
    Its expectation is least if the draws come from the distribution of the target: a
    difference alone would be least for two draws of its median.

    Parameters
    ----------
    made
        Shape ``(2 batch, ...)``: the first draw of each sample, then the second.
    target
        The same shape, each target twice.

    Returns
    -------
    Tensor
        Scalar, the mean over samples and cells; of two draws it may be negative.
    """
    first, second = made.chunk(2)
    return (made - target).abs().mean() - 0.5 * (first - second).abs().mean()


def mode_score(fields: Tensor, target: Tensor) -> Tensor:
    """Fair energy score of two draws, Fourier mode by Fourier mode.

    Like `energy_score`, with distances in the complex plane, in units of the root of
    the powers of draw and target in the mode's shell. No gradient goes through the
    unit, so that it vanishes for draws from the distribution of the target.

    Parameters
    ----------
    fields
        Physical, shape ``(2 batch, channels, n, ...)``: the first draw of each sample,
        then the second.
    target
        The same shape, each target twice.

    Returns
    -------
    Tensor
        Scalar, the mean over samples, channels and shells up to the Nyquist frequency,
        with weights falling as k^(-1/2).
    """
    n, n_dim = fields.shape[-1], fields.ndim - 2
    axes = tuple(range(2, fields.ndim))
    made = torch.fft.rfftn(fields.float(), dim=axes).flatten(2)
    true = torch.fft.rfftn(target.float(), dim=axes).flatten(2)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        c = a - b
        # Smooth where two modes are equal.
        return _binned(torch.sqrt(c.real**2 + c.imag**2 + 1e-6 * _TINY), n, n_dim)

    with torch.no_grad():
        # Of either, so that a field without power in the target does not decide.
        both = (made.real**2 + made.imag**2) + (true.real**2 + true.imag**2)
        size = torch.sqrt(_binned(both, n, n_dim) + _TINY)
        size = size.unflatten(0, (2, -1)).mean(0)
        weight = 1 / torch.sqrt(torch.arange(1, size.shape[-1] + 1, device=size.device))
        weight = weight / weight.sum()
    first, second = made.chunk(2)
    off = distance(made, true).unflatten(0, (2, -1)).mean(0)
    misfit = (off - 0.5 * distance(first, second)) / size
    return (misfit * weight).sum(-1).mean()


def distribution_loss(latent: Tensor, target: Tensor) -> Tensor:
    """Wasserstein distance of the one-point distributions on the logarithmic scale.

    In one dimension it is the mean absolute difference of the sorted values. What
    minimises a difference cell by cell is a median, and medians are less spread than
    values: voids come out too shallow. This puts the spread back.

    Parameters
    ----------
    latent, target
        Transformed fields, shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Scalar, the mean over samples and channels.
    """
    made, wanted = (each.flatten(2).sort(-1).values for each in (latent, target))
    return (made - wanted).abs().mean()


def tail_loss(latent: Tensor, target: Tensor) -> Tensor:
    """Wasserstein distance of the one-point distributions of the values themselves.

    On the logarithmic scale the few dense cells that hold most of the objects, and most
    of the power on small scales, hardly count beside the many empty ones. Here each
    cell counts with what it holds.

    Parameters
    ----------
    latent, target
        Fields transformed by log(1 + value / scale), shape ``(batch, channels, ...)``.

    Returns
    -------
    Tensor
        Scalar, the mean over samples and channels of the mean absolute difference of
        the sorted values, in units of scale and mean together.
    """
    made, wanted = (
        torch.expm1(each.flatten(2).sort(-1).values) for each in (latent, target)
    )
    unit = 1 + wanted.mean(-1)
    return ((made - wanted).abs().mean(-1) / unit).mean()


def expectation_loss(fields: Tensor, target: Tensor) -> Tensor:
    """Deviance of the target from an expected density (Poisson's, per cell).

    Least, on average, where each cell holds the mean of what the simulations have
    there, also if nearly all of them have nothing: a difference of logarithms would be
    least at their median, which is empty.

    Parameters
    ----------
    fields, target
        Densities in one unit, shape ``(batch, channels, ...)``, none negative.

    Returns
    -------
    Tensor
        Scalar, 0 where they agree, in the unit of the densities.
    """
    tiny = 1e-6
    ratio = torch.log((target + tiny) / (fields + tiny))
    return (fields - target + (target + tiny) * ratio).mean()


def joint_loss(latent: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance of the joint distributions of the fields' values.

    Along each direction in the space of fields it is `distribution_loss`; over all
    directions it is zero only if the relations between fields agree, such as that of
    temperature and density (Bonneel et al. 2015). A difference cell by cell is least
    for values between two kinds of gas that no cell has; here they cost.

    Parameters
    ----------
    latent, target
        Transformed fields, shape ``(batch, channels, ...)``.
    directions
        Shape ``(n_directions, channels)``.

    Returns
    -------
    Tensor
        Scalar, the mean over samples and directions.
    """
    return distribution_loss(
        *(
            torch.einsum("bcn,dc->bdn", each.flatten(2), directions)
            for each in (latent, target)
        )
    )


def _robust(x: Tensor) -> Tensor:
    """Absolute value of what is small, logarithm of what is large.

    A small error that all samples share is pushed on as hard as the scatter that hides
    it; a field without power still learns, but does not decide a step alone.
    """
    return torch.log1p(x.abs())


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve in training too
def _shells(n: int, n_dim: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Part of a bin for each `rfftn` mode, its weight, and modes per bin.

    Bins are one fundamental wide, up to Nyquist; modes beyond it share a last bin that
    is not used.
    """
    full = torch.fft.fftfreq(n, 1 / n, device=device)
    half = torch.arange(n // 2 + 1, device=device, dtype=full.dtype)
    squared = half**2
    for _ in range(n_dim - 1):
        squared = full.view(-1, *(1,) * squared.ndim) ** 2 + squared
    shell = torch.clamp(torch.sqrt(squared).round().long(), max=n // 2 + 1)
    weight = torch.where((half > 0) & (half < n / 2), 2.0, 1.0).expand_as(squared)
    shell, weight = shell.reshape(-1), weight.reshape(-1).contiguous()
    count = torch.zeros(n // 2 + 2, device=device).index_add_(0, shell, weight)
    part = torch.arange(len(shell), device=device) % _PARTS
    return shell * _PARTS + part, weight, count


def _binned(products: Tensor, n: int, n_dim: int) -> Tensor:
    """Shell averages of ``(batch, channels, modes)``, for shells 1 to n / 2."""
    part, weight, count = _shells(n, n_dim, str(products.device))
    parts = products.new_zeros(*products.shape[:2], len(count) * _PARTS)
    parts = parts.index_add(2, part, products * weight)
    sums = parts.unflatten(2, (len(count), _PARTS)).sum(3)
    used = slice(1, n // 2 + 1)
    return sums[..., used] / count[used]


def spectral_losses(fields: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Misfits of the power spectrum and of the correlation with the target.

    Parameters
    ----------
    fields, target
        Physical fields of the same phases, shape ``(batch, channels, n, ...)``.

    Returns
    -------
    power
        Mean over samples, channels and shells up to three quarters of the Nyquist
        frequency of ln(1 + abs(x)) with x = ln(P / P_target), with weights falling as
        k^(-1/2).
    decorrelation
        Mean of 1 - r(k), likewise, up to the Nyquist frequency.
    """
    n, n_dim = fields.shape[-1], fields.ndim - 2
    axes = tuple(range(2, fields.ndim))
    a = torch.fft.rfftn(fields.float(), dim=axes).flatten(2)
    b = torch.fft.rfftn(target.float(), dim=axes).flatten(2)
    power_a = _binned(a.real**2 + a.imag**2, n, n_dim)
    power_b = _binned(b.real**2 + b.imag**2, n, n_dim)
    cross = _binned(a.real * b.real + a.imag * b.imag, n, n_dim)
    # A field may be empty; then its power is 0 and tells nothing.
    tiny = 1e-12 * power_b.mean(-1, keepdim=True) + torch.finfo(power_b.dtype).tiny
    power_a, power_b = power_a + tiny, power_b + tiny
    # Neither the ratio nor the product: with an empty field they leave float32.
    log_ratio = torch.log(power_a) - torch.log(power_b)
    r = cross / (torch.sqrt(power_a) * torch.sqrt(power_b))
    shells = torch.arange(1, power_a.shape[-1] + 1, device=fields.device)
    # Between even in k, where the many shells near the Nyquist frequency decide, and
    # even in ln k, where the few long modes do, which are right by construction.
    weight = 1 / torch.sqrt(shells)
    weight = weight / weight.sum()
    # Of the power the last quarter is left alone: it would be bought with errors where
    # the power is used.
    useful = torch.where(shells <= max(1, 0.75 * n / 2), weight, 0)
    useful = useful / useful.sum()
    return (
        (_robust(log_ratio) * useful).sum(-1).mean(),
        ((1 - r) * weight).sum(-1).mean(),
    )


def cross_loss(fields: Tensor, target: Tensor) -> Tensor:
    """Misfit of the cross-power of two fields.

    Parameters
    ----------
    fields, target
        Two physical fields each, shape ``(batch, 2, n, ...)``.

    Returns
    -------
    Tensor
        Mean over samples and shells up to three quarters of the Nyquist frequency of
        ``ln(1 + |x|)``, with x the difference of the cross-power over the geometric
        mean of the target's auto-powers (those of `fields` where the target is empty),
        with weights falling as k^(-1/2).
    """
    n, n_dim = fields.shape[-1], fields.ndim - 2
    axes = tuple(range(2, fields.ndim))
    a = torch.fft.rfftn(fields.float(), dim=axes).flatten(2)
    b = torch.fft.rfftn(target.float(), dim=axes).flatten(2)

    def cross(modes: Tensor) -> Tensor:
        first, second = modes[:, :1], modes[:, 1:]
        product = first.real * second.real + first.imag * second.imag
        return _binned(product, n, n_dim)[:, 0]

    with torch.no_grad():
        power, made = (_binned(m.real**2 + m.imag**2, n, n_dim) for m in (b, a))
        # A field may be empty; then its power is 0 and tells nothing.
        empty = power.mean(-1, keepdim=True) <= 1e-12 * made.mean(-1, keepdim=True)
        power = torch.where(empty, made, power)
        power = power + 1e-12 * power.mean(-1, keepdim=True)
    size = power.sqrt().prod(1) + torch.finfo(power.dtype).tiny
    misfit = (cross(a) - cross(b)) / size
    shells = torch.arange(1, misfit.shape[-1] + 1, device=fields.device)
    weight = torch.where(shells <= max(1, 0.75 * n / 2), 1 / torch.sqrt(shells), 0)
    return (_robust(misfit) * weight / weight.sum()).sum(-1).mean()
