"""Hold the search for companions to what it promises, on real data.

    ASTROGAN_TEST_DATA=folder python benchmarks/companions/run.py [results.json] [part]

All choices are in ``config.json`` beside this file, fixed before the first run. The
parts, all if none is named, and those named are put into results that exist:

- ``search``: as users call it, on the sequence with beta Pictoris b, on the one
  without, and once more with the same seed.
- ``sky``: whether the map without a planet is like the flipped one.
- ``recovery``: contrasts of companions put in.
- ``completeness``: how many of them are found.
- ``roc``: receiver operating characteristics with companions of a signal-to-noise ratio
  of 0.5 to 3 in the sequence without a planet, against the signal-to-noise ratio of
  annular PCA, for every kind of noise that a detector can learn from, for all frames
  and for few, with all of the noise to learn from and with that of a wedge.
- ``gaussian``: checks of the Gaussian model of noise alone.
- ``long``: the same with GANs that are trained for longer; what `vip.py` needs is put
  into ``tests_every_1.npz``.

`vip.py` adds a second implementation of annular PCA.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from astrogan_emu._files import atomic_path
from astrogan_emu.companions.adi import ADISequence
from astrogan_emu.companions.calibration import local_maxima
from astrogan_emu.companions.detection import detect_companions, search
from astrogan_emu.companions.detector import CompanionDetector
from astrogan_emu.companions.injections import completeness
from astrogan_emu.companions.pca import AnnularPCA, Companion, RankMaps
from astrogan_emu.companions.photometry import measure
from astrogan_emu.companions.snr import snr_at
from astrogan_emu.companions.speckle import (
    GaussianSpeckle,
    SpeckleGAN,
    SpeckleGANConfig,
)
from astrogan_emu.companions.speckle_checks import check_speckles
from astrogan_emu.companions.templates import Speckles, Templates, conditions_at


def read(folder, config):
    """A sequence of three files."""
    start = Path(os.environ["ASTROGAN_TEST_DATA"]) / folder / "naco_betapic_"
    files = (f"{start}{kind}.fits" for kind in ("cube", "pa", "psf"))
    return ADISequence.read(*files, **config["sequence"])


def in_residual(sequence, config, x, y):
    """Whether places are where the removed planet was."""
    mask = config["removal_residual"]
    angle = np.deg2rad(mask["angle"])
    dx = x - sequence.center[0] - mask["radius"] * np.cos(angle)
    dy = y - sequence.center[1] - mask["radius"] * np.sin(angle)
    return np.hypot(dx, dy) < mask["within_fwhm"] * sequence.fwhm


def rows(table):
    """A table as plain numbers."""
    return [{n: getattr(r[n], "value", r[n]) for n in table.colnames} for r in table]


def bars(config, _, report):
    """The search as users call it."""
    choices = {"seed": config["seed"], "max_fap": config["max_fap"]}
    for name in ("with_planet", "without_planet"):
        sequence = read(config[name], config)
        start = time.process_time()
        found = detect_companions(sequence, **choices)
        own = {
            "cpu_seconds": time.process_time() - start,
            "center": sequence.center,
            "candidates": rows(found.candidates),
            "limits": rows(found.limits),
            "meta": found.meta,
        }
        x, y = local_maxima(found.detection_map.data, sequence.fwhm)
        own["lowest_faps"] = found.fap_map.data[y, x][:5].tolist()
        report(name, own)
        found.write(f"{name}.fits", overwrite=True)
    again = detect_companions(sequence, **choices)
    pairs = [
        (getattr(a, n).data, getattr(b, n).data)
        for n in ("detection_map", "snr_map", "fap_map")
        for a, b in [(found, again)]
    ]
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    report("identical_for_the_same_seed", bool(same))


def sky(config, sequence, report):
    """Whether the map without a planet is what the flipped one says of noise."""
    found = search(sequence, seed=config["seed"])
    x, y = local_maxima(found.values, sequence.fwhm)
    p = found.distribution.survival(found.values[y, x])
    apart = ~in_residual(sequence, config, x, y)
    report(
        "sky",
        {
            **{"maxima": len(p), "median": float(np.median(p))},
            "uniformity": float(stats.kstest(p, "uniform").pvalue),
            "uniformity_apart": float(stats.kstest(p[apart], "uniform").pvalue),
        },
    )


def recovery(config, sequence, report):
    """Contrasts of companions that were put in, over what was put in."""
    null = AnnularPCA(sequence.flip()).maps()
    templates = Templates.make(null, 200, np.random.default_rng((config["seed"], 0)))
    maps = AnnularPCA(sequence).maps()
    plan, angle, results = (
        config["recovery"],
        np.deg2rad(config["recovery"]["angle"]),
        [],
    )
    for radius in plan["radii"]:
        near = np.argsort(np.abs(templates.radius - radius))[:9]
        unit = np.median(templates.flux[near])
        for i, snr in enumerate(plan["snr"]):
            theta = angle + i * np.pi / 2
            x = sequence.center[0] + radius * np.cos(theta)
            y = sequence.center[1] + radius * np.sin(theta)
            injected = sequence.inject_flux((x, y), snr * unit)
            changed = RankMaps(AnnularPCA(injected), maps.images)
            found = measure(changed, templates, round(x), round(y))
            results.append(
                {
                    **{"radius": radius, "snr": snr, "settled": found.settled},
                    "flux_ratio": found.flux / (snr * unit),
                    "offset": float(np.hypot(found.x - x, found.y - y)),
                }
            )
    ratio = np.array([r["flux_ratio"] for r in results])
    report(
        "recovery",
        {
            "companions": results,
            "median": float(np.median(ratio)),
            "share_within_20_percent": float(np.mean(np.abs(ratio - 1) <= 0.2)),
        },
    )


def found_of_injected(config, sequence, report):
    """How many companions the search finds, by separation and contrast."""
    plan = config["completeness"]
    table = completeness(
        sequence,
        plan["contrasts"],
        plan["separations"],
        count=plan["count"],
        seed=config["seed"],
        max_fap=config["max_fap"],
    )
    report("completeness", rows(table))


def test_set(config, maps, templates, ranks, rng):
    """Patches and ratios of places with and without a companion."""
    pca, plan = maps.pca, config["roc"]
    only = [pca.ranks.index(k) for k in ranks]
    names = ("patch", "snr", "radius", "theta", "zone", "label", "at", "flux")
    result = {k: [] for k in names}
    for zone, (low, high) in enumerate(plan["zones"]):
        for label in (0, 1):
            made = 0
            while made < plan["per_class"]:
                radius = np.sqrt(rng.uniform(low**2, high**2))
                theta = rng.uniform(0, 2 * np.pi)
                x = maps.sequence.center[0] + radius * np.cos(theta)
                y = maps.sequence.center[1] + radius * np.sin(theta)
                if in_residual(maps.sequence, config, x, y):
                    continue
                companion, flux = None, 0.0
                shift = rng.uniform(-0.5, 0.5, 2)
                ratio = rng.uniform(*plan["snr"])
                if label:
                    near = np.argsort(np.abs(templates.radius - radius))[:9]
                    flux = ratio * float(np.median(templates.flux[near]))
                    companion = Companion(x + shift[0], y + shift[1], flux)
                ring = pca.ring_of(radius)
                patch = pca.patch(x, y, companion)[None]
                result["patch"].append(maps.scaled(patch, ring[None])[0])
                result["snr"].append(snr_at(pca, x, y, companion, only=only))
                for key, value in (("radius", radius), ("theta", theta)):
                    result[key].append(value)
                result["zone"].append(zone)
                result["label"].append(label)
                result["at"].append((x, y, x + shift[0], y + shift[1]))
                result["flux"].append(flux)
                made += 1
    arrays = {k: np.array(v) for k, v in result.items()}
    arrays["patch"] = arrays["patch"].astype(np.float32)
    return arrays


def auc(score, label):
    """Area under the curve: the chance that a companion outscores a blank."""
    ranks = stats.rankdata(score)
    n, m = int(label.sum()), int((1 - label).sum())
    return float((ranks[label == 1].sum() - n * (n + 1) / 2) / (n * m))


def shares(score, label, rates):
    """Shares of companions above what given shares of blanks exceed; the best F1."""
    blank, bright = np.sort(score[label == 0]), score[label == 1]
    result = {
        f"tpr_at_{rate:g}": float(np.mean(bright > np.quantile(blank, 1 - rate)))
        for rate in rates
    }
    order = np.argsort(-score, kind="stable")
    true = np.cumsum(label[order])
    false = np.cumsum(1 - label[order])
    # Blanks are as many as companions.
    result["best_f1"] = float(np.max(2 * true / (true + false + label.sum())))
    return result


def compare(scores, base, tests, plan, seed):
    """Areas of scores, one for each seed, and how they differ from that of another.

    All of it is the mean over the seeds; the interval is that of a bootstrap over
    sectors of azimuth, with one seed drawn for each.
    """
    rng = np.random.default_rng(seed)
    scores = np.atleast_2d(scores)
    bases = np.broadcast_to(base, scores.shape)
    label, zone = tests["label"], tests["zone"]
    block = (tests["theta"] / (2 * np.pi) * plan["blocks"]).astype(int)
    members = [np.flatnonzero(block == i) for i in range(plan["blocks"])]
    differences = []
    for i in range(plan["bootstraps"]):
        chosen = rng.integers(plan["blocks"], size=plan["blocks"])
        index = np.concatenate([members[j] for j in chosen])
        one, other = scores[i % len(scores)], bases[i % len(scores)]
        differences.append(
            auc(one[index], label[index]) - auc(other[index], label[index])
        )
    single = [auc(s, label) for s in scores]
    zones = [zone == z for z in np.unique(zone)]
    by_zone = [np.mean([auc(s[z], label[z]) for s in scores]) for z in zones]
    of_base = [np.mean([auc(b[z], label[z]) for b in bases]) for z in zones]
    low, high = np.quantile(differences, [0.025, 0.975])
    each = [shares(s, label, plan["false_positive_rates"]) for s in scores]
    return {
        "auc": float(np.mean(single)),
        "single_seeds": single,
        "spread": float(np.std(single, ddof=1)) if len(single) > 1 else 0.0,
        "zones": list(map(float, by_zone)),
        "difference": float(np.mean(single) - np.mean([auc(b, label) for b in bases])),
        "interval": [float(low), float(high)],
        "worst_zone_difference": float(np.min(np.subtract(by_zone, of_base))),
        **{key: float(np.mean([e[key] for e in each])) for key in each[0]},
    }


def wedge(speckles, center, share, seed):
    """Patches in a part of the azimuths, another part for each seed.

    Neighbouring patches overlap: as many taken at random would know nearly all.
    """
    if share == 1:
        return speckles
    theta = np.arctan2(speckles.y - center[1], speckles.x - center[0]) / (2 * np.pi)
    return speckles.where((theta - seed / 5) % 1 < share)


def draws(parts):
    """Patches of several pools, each as often as the others."""

    def draw(count, rng):
        which = rng.integers(len(parts), size=count)
        patches = np.empty((count, *parts[0][0].shape[1:]), dtype=np.float32)
        told = np.empty((count, parts[0][1].shape[1]), dtype=np.float32)
        for i, part in enumerate(parts):
            own = which == i
            index = rng.integers(len(part[0]), size=int(own.sum()))
            patches[own], told[own] = part[0][index], part[1][index]
        return patches, told

    return draw


def pools(kinds, speckles, plan, seed, gan):
    """By kind, patches of noise to learn from; models draw as many for any share."""
    rng = np.random.default_rng((seed, 3))
    index = rng.integers(len(speckles.patches), size=plan["drawn"])
    told = speckles.conditions[index]
    own = (speckles.patches, speckles.conditions)
    result = {"real": [own]}
    if "gaussian" in kinds:
        model = GaussianSpeckle.fit(speckles)
        result["gaussian"] = [(model.sample(told, rng), told)]
    if gan is not None:
        drawn = (gan.sample(told, rng), told)
        result |= {"gan": [drawn], "gan+real": [drawn, own]}
    return {kind: draws(result[kind]) for kind in kinds}


def setting(config, sequence, cell):
    """All that a number of frames decides, the same for every part that needs it."""
    plan, seed, every = config["roc"], config["seed"], cell["take_every"]
    part = sequence.take(slice(None, None, every))
    maps, null = AnnularPCA(part).maps(), AnnularPCA(part.flip()).maps()
    templates = Templates.make(null, 200, np.random.default_rng((seed, every)))
    rng = np.random.default_rng((seed, every, 1))
    ranks = cell["ranks"]
    tests = test_set(config, maps, templates, ranks, rng)
    mean = templates.snr.mean(0)
    best = int(np.argmax([mean[maps.pca.ranks.index(k)] for k in ranks]))
    rows = {
        **{"frames": len(part.cube), "rotation": part.rotation},
        **{"ranks": ranks, "rank": ranks[best]},
    }
    return maps, Speckles.of(null), templates, tests, tests["snr"][:, best], rows, plan


def trained_on(kinds, speckles, given, config, table, gan_config=None):
    """Detectors of all seeds on some noise, judged; and the checks of their GANs."""
    maps, _, templates, tests, base, _, plan = given
    told = conditions_at(maps.pca, tests["radius"])
    scores = {kind: [] for kind in kinds}
    checks = []
    for i in range(plan["seeds"]):
        seed = config["seed"] + i
        mine = speckles(i)
        gan = None
        if any("gan" in kind for kind in kinds):
            gan = SpeckleGAN.fit(mine, seed=seed, config=gan_config)
            rng = np.random.default_rng(seed)
            drawn = gan.sample(mine.conditions, rng)
            checks.append(check_speckles(mine, drawn))
            scores.setdefault("critic", []).append(gan.score(tests["patch"], told))
        for kind, draw in pools(kinds, mine, plan, seed, gan).items():
            detector = CompanionDetector.train(draw, templates, seed=seed)
            scores[kind].append(detector.score(tests["patch"], told))
    for kind, values in scores.items():
        table[kind] = compare(values, base, tests, plan, config["seed"])
        if kind in ("gaussian", "gan", "gan+real"):
            over = compare(values, scores["real"], tests, plan, config["seed"])
            keys = ("difference", "interval", "worst_zone_difference")
            table[kind]["over_real"] = {key: over[key] for key in keys}
    if checks:
        table["gan_checks"] = checks
    return scores


def roc(config, sequence, report):
    """The curves, for all frames and for few, for all of the noise and for little."""
    plan = config["roc"]
    for cell in plan["cells"]:
        start = time.process_time()
        given = setting(config, sequence, cell)
        maps, speckles, _, tests, base, table, _ = given
        for name, score in (
            ("annular PCA, rank chosen before", base),
            ("annular PCA, mean over ranks", tests["snr"].mean(1)),
        ):
            table[name] = compare(score, base, tests, plan, config["seed"])
        for share in cell["shares"]:
            own = table[f"share_{share:g}"] = {}

            def mine(i, share=share, speckles=speckles, maps=maps):
                return wedge(speckles, maps.sequence.center, share, i)

            trained_on(plan["kinds"], mine, given, config, own)
            table["cpu_seconds"] = time.process_time() - start
            report(f"roc_every_{cell['take_every']}", table)


def long(config, sequence, report):
    """GANs of more steps, their checks, and what detectors learn from them."""
    plan = config["roc"]
    for cell in [plan["cells"][i] for i in plan["long"]["cells"]]:
        given = setting(config, sequence, cell)
        table = dict(given[5])
        for steps in plan["long"]["steps"]:
            start = time.process_time()
            own = table[f"steps_{steps}"] = {}
            choices = SpeckleGANConfig(
                steps=steps, ema=1 - min(0.04, 6 / steps), **plan["long"]["choices"]
            )
            scores = trained_on(
                plan["kinds"],
                lambda _, given=given: given[1],
                (*given[:6], {**plan, "seeds": plan["long"]["seeds"]}),
                config,
                own,
                choices,
            )
            own["cpu_seconds"] = time.process_time() - start
            kept = {k: v for k, v in given[3].items() if k != "patch"}
            kept |= {"base": given[4], "detector": np.array(scores["real"])}
            np.savez(f"tests_every_{cell['take_every']}.npz", **kept)
            report(f"long_every_{cell['take_every']}", table)


def gaussian(config, sequence, report):
    """Checks of the model that the GAN starts from."""
    checks = {}
    for cell in config["roc"]["cells"]:
        every = cell["take_every"]
        part = sequence.take(slice(None, None, every)).flip()
        speckles = Speckles.of(AnnularPCA(part).maps())
        rng = np.random.default_rng(config["seed"])
        drawn = GaussianSpeckle.fit(speckles).sample(speckles.conditions, rng)
        checks[f"every_{every}"] = check_speckles(speckles, drawn)
    report("gaussian_checks", checks)


def plain(value):
    """What JSON does not know."""
    return value.item() if isinstance(value, np.generic) else list(value)


def main(path="companions.json", *parts):
    """Run all parts or some; write and print what they give as it comes."""
    torch.set_num_threads(1)
    config = json.loads((Path(__file__).parent / "config.json").read_text())
    results = json.loads(Path(path).read_text()) if parts else {}
    results["config"] = config

    def report(name, value):
        results[name] = value
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(results, indent=1, default=plain))
        print(name, json.dumps(value, default=plain)[:4000], flush=True)

    sequence = read(config["without_planet"], config)
    for part in parts or PARTS:
        PARTS[part](config, sequence, report)


PARTS = {
    **{"search": bars, "sky": sky, "recovery": recovery},
    "completeness": found_of_injected,
    **{"roc": roc, "long": long, "gaussian": gaussian},
}


if __name__ == "__main__":
    main(*sys.argv[1:])
