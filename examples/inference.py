"""
Inference with an emulator
==========================

A simulated universe is observed in its matter power spectrum at redshift 0.5, and
omega_m and sigma_8 are recovered from it in two ways: by gradients through the
emulator, and by simulation-based inference with a small neural posterior that learns
from emulated fields alone. A calibration test says whether its error bars can be
trusted. The other three parameters are taken as known.

Run time: some minutes on two cores. Expected result: both ways find the truth to
within their errors, which are larger for the posterior; the share of test universes
inside the 68 % interval is 0.68, give or take 0.05; ``inference.png`` shows posterior,
truth and calibration.

``ASTROGAN_EXAMPLE_CELLS=16`` makes a rough check in seconds. Given a training set with
held-out simulations, ``python inference.py train.h5``, it takes those for observations
instead of a simulation made here.
"""

import math
import os
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from astrogan_emu import Emulator, differentiable_fields
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.errors import CornerWarning
from astrogan_emu.grids import paint
from astrogan_emu.initial_conditions import linear_field
from astrogan_emu.particle_mesh import evolve
from astrogan_emu.statistics import power_spectrum

n_cells = int(os.environ.get("ASTROGAN_EXAMPLE_CELLS", "32"))
small = n_cells <= 16
n_emulated = int(os.environ.get("ASTROGAN_EXAMPLE_RUNS", "24" if small else "500"))
emulator = Emulator.load("nbody")
space = emulator.card.space
side = n_cells * emulator.card.cell_size
redshift = 0.5
sought, known = ["omega_m", "sigma_8"], ["omega_b", "h", "n_s"]
torch.manual_seed(0)

# %%
# What is observed
# ----------------
# The logarithm of the matter power in bins up to half the Nyquist frequency, as far as
# the emulator is held to simulations.

half_nyquist = math.pi * n_cells / side / 2
edges = np.geomspace(0.9 * 2 * math.pi / side, half_nyquist, 4 if small else 7)


def summary(matter):
    """Logarithm of the power of a density."""
    power = power_spectrum(torch.as_tensor(matter), box_size=side, bins=edges).power
    return torch.log(power.double())


def held_out(path):
    """Summaries and parameters of the simulations that training never saw."""
    with TrainingSet.open(path, verify=False) as data:
        indices = [i for i in data.indices("test") if data.redshifts[i] == redshift]
        samples = [data.sample(int(i)) for i in indices]
        matter, order = data.fields.index("matter"), data.space.names
    truths = [dict(zip(order, each[2], strict=True)) for each in samples]
    return [summary(each[1][matter]) for each in samples], truths


def simulated():
    """The same of one particle-mesh simulation, made here."""
    truth = {"omega_m": 0.31, "omega_b": 0.049, "h": 0.68, "n_s": 0.96, "sigma_8": 0.81}
    start = linear_field(truth, n_cells=2 * n_cells, box_size=side, seed=2026)
    (particles,) = evolve(
        start,
        truth,
        box_size=side,
        redshifts=[redshift],
        n_steps=10 if small else 50,
        n_mesh=4 * n_cells,
        start_redshift=49.0,
    )
    return [summary(paint(particles.positions, n_cells, side))], [truth]


observed, truths = held_out(sys.argv[1]) if len(sys.argv) > 1 else simulated()

# %%
# Emulated universes
# ------------------
# The design fills the whole trained range, corners included, where the emulator warns
# that it is less accurate; each universe has its own phases. The last fifth is kept for
# the calibration test.

warnings.simplefilter("ignore", CornerWarning)
design = space.sobol(n_emulated, seed=1)
parameters = torch.as_tensor(
    space.to_unit(np.stack([design[n] for n in space.names], 1))
)
summaries = torch.stack(
    [
        summary(
            emulator.emulate(
                row, redshift=redshift, fields=["matter"], n_cells=n_cells, seed=seed
            )["matter"].data
        )
        for seed, row in enumerate(design)
    ]
)
n_train = n_emulated * 4 // 5
print(f"{n_train} emulated universes to learn from, {n_emulated - n_train} to test on")

# %%
# Compression
# -----------
# A few hundred universes are too few for a network to find out how the power depends
# on five parameters. A quadratic fit to them can, and its residuals say how the power
# scatters at fixed parameters. With both, the power and the known parameters of each
# universe are compressed to a rough estimate of the two that are sought, by
# Gauss-Newton steps (score compression, Alsing & Wandelt 2018): two numbers that keep
# what the power says.

at = [space.names.index(name) for name in sought]


def terms(unit):
    """Of the fit, by universe: constant, linear, squares and one product."""
    u = 2 * unit - 1
    columns = [torch.ones_like(u[:, 0]), *u.T, *(u**2).T, u[:, at[0]] * u[:, at[1]]]
    return torch.stack(columns[: max(2, n_emulated // 3)], 1)


basis = terms(parameters[:n_train])
coefficients = torch.linalg.lstsq(basis, summaries[:n_train]).solution
left_over = summaries[:n_train] - basis @ coefficients
precision = torch.linalg.pinv(
    left_over.T @ left_over / (n_train - basis.shape[1]), hermitian=True
)


def compressed(seen, unit, n_steps=12):
    """Rough estimates of the parameters sought, in their ranges, shape (batch, 2)."""
    place = unit.clone()
    place[:, at] = 0.5
    for _ in range(n_steps):
        moved = place.clone().requires_grad_()
        mean = terms(moved) @ coefficients
        slopes = torch.stack(
            [
                torch.autograd.grad(m.sum(), moved, retain_graph=True)[0][:, at]
                for m in mean.T
            ],
            1,
        )
        weighed = slopes.mT @ precision
        # A weak prior keeps what the power does not tell near the middle.
        information = weighed @ slopes + 4 * torch.eye(2, dtype=slopes.dtype)
        pull = weighed @ (seen - mean.detach())[..., None]
        pull = pull - 4 * (place[:, at] - 0.5)[..., None]
        step = torch.linalg.solve(information, pull)[..., 0]
        place[:, at] = (place[:, at] + step.clamp(-0.2, 0.2)).clamp(-0.2, 1.2)
    return place[:, at]


# %%
# A neural posterior
# ------------------
# A network turns these estimates into a mixture of two Gaussians for the logit of the
# parameters' place in their range, which keeps them inside it. Several networks, each
# stopped where it is best on universes of its own, are averaged.


def inputs(seen, unit):
    """What a network is told, of order one."""
    return (4 * compressed(seen, unit) - 2).float()


x = inputs(summaries, parameters)
y = torch.logit(parameters[:, at].clamp(1e-3, 1 - 1e-3)).float()


class Posterior(nn.Module):
    """Density of two parameters, given the inputs."""

    def __init__(self, n_inputs, n_parts=2):
        super().__init__()
        self.n_parts = n_parts
        self.layers = nn.Sequential(
            nn.Linear(n_inputs, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU()
        )
        self.last = nn.Linear(48, 6 * n_parts)

    def forward(self, inputs):
        """The mixture, for a batch of inputs."""
        weight, *rest = self.last(self.layers(inputs)).split(
            [self.n_parts, 2 * self.n_parts, 2 * self.n_parts, self.n_parts], -1
        )
        mean, scale = (each.unflatten(-1, (self.n_parts, 2)) for each in rest[:2])
        root = torch.diag_embed(nn.functional.softplus(scale) + 1e-2)
        root = root + torch.tensor([[0.0, 0.0], [1.0, 0.0]]) * rest[2][..., None, None]
        parts = MultivariateNormal(mean, scale_tril=root)
        return MixtureSameFamily(Categorical(logits=weight), parts)


def trained(seed, n_steps=60 if small else 1500):
    """One network, stopped where it is best on a fifth of the universes."""
    order = torch.randperm(n_train, generator=torch.Generator().manual_seed(seed))
    fit, watch = order[n_train // 5 :], order[: n_train // 5]
    network = Posterior(x.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    best, kept = math.inf, {}
    for _ in range(n_steps):
        optimiser.zero_grad()
        noisy = x[fit] + 0.05 * torch.randn_like(x[fit])
        loss = -network(noisy).log_prob(y[fit]).mean()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            watched = float(-network(x[watch]).log_prob(y[watch]).mean())
        if watched < best:
            best = watched
            kept = {name: each.clone() for name, each in network.state_dict().items()}
    network.load_state_dict(kept)
    return network.eval()


networks = [trained(seed) for seed in range(2 if small else 5)]
low, high = space.low[at], space.high[at]


def draw(seen, n=4000):
    """Posterior samples of omega_m and sigma_8, shape (batch, n, 2)."""
    with torch.no_grad():
        parts = [each(seen).sample((n // len(networks),)) for each in networks]
    unit = torch.sigmoid(torch.cat(parts)).swapaxes(0, 1).numpy()
    return low + (high - low) * unit


# %%
# Calibration
# -----------
# If the posterior is right, the rank of the truth among its samples is uniform, and the
# 68 % interval holds it 68 % of the time (Cook, Gelman & Rubin 2006; Talts et al.
# 2018).

tests = draw(x[n_train:])
truth = low + (high - low) * parameters[n_train:, at].numpy()
ranks = (tests < truth[:, None]).mean(1)
coverage = (abs(ranks - 0.5) < 0.34).mean(0)
error = math.sqrt(0.68 * 0.32 / len(ranks))
for name, each in zip(sought, coverage, strict=True):
    print(f"calibration: 68 % interval of {name} holds {each:.2f} +- {error:.2f}")

# %%
# Gradients through the emulator
# ------------------------------
# The mean of the emulated summary over a few seeds, and its slopes, in the parameters;
# the scatter of one universe around it is that of the quadratic fit.
# Gauss-Newton steps then find the best parameters, and their errors. To hold the noise
# of the mean down, its seeds have fixed amplitudes, in pairs of opposite phases.

n_pairs = 1


def mean_and_slopes(place, others):
    """Mean summary and its derivatives in the parameters sought."""
    values = {n: torch.tensor(v, requires_grad=True) for n, v in place.items()}
    mean = 0
    for i in range(2 * n_pairs):
        (matter,) = differentiable_fields(
            {**values, **others},
            fields=["matter"],
            redshift=redshift,
            n_cells=n_cells,
            seed=1000 + i // 2,
            fixed=True,
            paired=i % 2 == 1,
        )
        mean = mean + summary(matter) / (2 * n_pairs)
    leaves = list(values.values())
    rows = [torch.autograd.grad(m, leaves, retain_graph=True) for m in mean]
    return mean.detach().numpy(), np.array([[float(g) for g in row] for row in rows])


def fitted(seen, others, n_steps=2 if small else 4):
    """Best fit and its errors, by Gauss-Newton."""
    place = np.array([0.3, 0.8])
    for _ in range(n_steps):
        mean, slopes = mean_and_slopes(
            dict(zip(sought, place.tolist(), strict=True)), others
        )
        weighed = slopes.T @ precision.numpy()
        information = weighed @ slopes
        step = np.linalg.solve(information, weighed @ (seen.numpy() - mean))
        place = np.clip(place + np.clip(step, -0.08, 0.08), low, high)
    return place, np.linalg.inv(information)


# %%
# Both, for what was observed
# ---------------------------
# The fit is the slower one; of many observations it is made for the first two.

results = []
for number, (seen, universe) in enumerate(zip(observed, truths, strict=True)):
    unit = torch.as_tensor(space.to_unit(universe))[None]
    samples = draw(inputs(seen[None], unit))[0]
    for i, name in enumerate(sought):
        print(
            f"{number}: {name} = {universe[name]:.3f}, posterior "
            f"{samples[:, i].mean():.3f} +- {samples[:, i].std():.3f}"
        )
    if number < 2:
        best, covariance = fitted(seen, {name: float(universe[name]) for name in known})
        results.append((universe, samples, best, covariance))
        for i, name in enumerate(sought):
            print(
                f"{number}: {name} = {universe[name]:.3f}, by gradients {best[i]:.3f} "
                f"+- {math.sqrt(covariance[i, i]):.3f}"
            )

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
universe, samples, best, covariance = results[0]
left.plot(*samples[:1500].T, ".", markersize=2, color="#0072b2", alpha=0.4)
left.plot([], [], ".", color="#0072b2", label="neural posterior")
angle = np.linspace(0, 2 * np.pi, 100)
circle = math.sqrt(2.30) * np.linalg.cholesky(covariance)
left.plot(
    *(best[:, None] + circle @ [np.cos(angle), np.sin(angle)]),
    color="#d55e00",
    label="by gradients, 68 %",
)
left.plot(
    *(universe[name] for name in sought), "k*", markersize=12, label="truth", zorder=5
)
left.set(xlabel=r"$\Omega_m$", ylabel=r"$\sigma_8$")
left.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
left.legend()
level = np.linspace(0, 1, 50)
for i, (label, colour) in enumerate(
    [(r"$\Omega_m$", "#0072b2"), (r"$\sigma_8$", "#d55e00")]
):
    inside = [(2 * abs(ranks[:, i] - 0.5) < each).mean() for each in level]
    right.plot(level, inside, color=colour, label=label)
right.plot(level, level, "k--", label="calibrated")
right.set(xlabel="credible level", ylabel="share of test universes inside")
right.legend()
figure.savefig("inference.png", dpi=150)
