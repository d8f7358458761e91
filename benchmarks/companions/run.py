"""Hold the search for companions to what it promises, on real data.

    ASTROGAN_TEST_DATA=folder python benchmarks/companions/run.py [results.json]

All choices are in ``config.json`` beside this file, fixed before the first run. First
the search as users call it: on the sequence with beta Pictoris b, on the one without,
once more with the same seed, and the contrasts of companions put in. Then receiver
operating characteristics with companions of a signal-to-noise ratio of 0.5 to 3 in the
sequence without a planet, against the signal-to-noise ratio of annular PCA, for every
kind of noise that a detector can learn from, for all frames and for every fourth.
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
from astrogan_emu.companions.detection import detect_companions
from astrogan_emu.companions.detector import CompanionDetector
from astrogan_emu.companions.pca import AnnularPCA, Companion, RankMaps
from astrogan_emu.companions.photometry import measure
from astrogan_emu.companions.snr import snr_at
from astrogan_emu.companions.speckle import (
    SpeckleGAN,
    noise_pool,
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


def bars(config, report):
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
    return sequence


def recovery(config, sequence, templates, report):
    """Contrasts of companions that were put in, over what was put in."""
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
    return maps


def test_set(config, maps, templates, rng):
    """Patches and ratios of places with and without a companion."""
    pca, plan = maps.pca, config["roc"]
    only = [pca.ranks.index(k) for k in plan["ranks"] if k in pca.ranks]
    only = only or list(range(len(pca.ranks)))
    result = {k: [] for k in ("patch", "snr", "radius", "theta", "zone", "label")}
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
                companion = None
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
                made += 1
    arrays = {k: np.array(v) for k, v in result.items()}
    arrays["patch"] = arrays["patch"].astype(np.float32)
    return arrays, only


def auc(score, label):
    """Area under the curve: the chance that a companion outscores a blank."""
    ranks = stats.rankdata(score)
    n, m = int(label.sum()), int((1 - label).sum())
    return float((ranks[label == 1].sum() - n * (n + 1) / 2) / (n * m))


def compare(score, base, tests, plan, rng):
    """Area of a score, by zone too, and how it differs from that of another."""
    label, zone = tests["label"], tests["zone"]
    block = (tests["theta"] / (2 * np.pi) * plan["blocks"]).astype(int)
    members = [np.flatnonzero(block == i) for i in range(plan["blocks"])]
    differences = []
    for _ in range(plan["bootstraps"]):
        chosen = rng.integers(plan["blocks"], size=plan["blocks"])
        index = np.concatenate([members[i] for i in chosen])
        differences.append(
            auc(score[index], label[index]) - auc(base[index], label[index])
        )
    zones = [
        (
            auc(score[zone == z], label[zone == z]),
            auc(base[zone == z], label[zone == z]),
        )
        for z in np.unique(zone)
    ]
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        "auc": auc(score, label),
        "zones": [a for a, _ in zones],
        "difference": auc(score, label) - auc(base, label),
        "interval": [float(low), float(high)],
        "worst_zone_difference": min(a - b for a, b in zones),
    }


def roc(config, sequence, report):
    """The curves, for all frames and for few."""
    plan, seed = config["roc"], config["seed"]
    for every in plan["take_every"]:
        part = sequence.take(slice(None, None, every))
        maps = AnnularPCA(part).maps()
        null = AnnularPCA(part.flip()).maps()
        templates = Templates.make(null, 200, np.random.default_rng((seed, every)))
        speckles = Speckles.of(null)
        rng = np.random.default_rng((seed, every, 1))
        tests, only = test_set(config, maps, templates, rng)
        told = conditions_at(maps.pca, tests["radius"])
        mean = templates.snr.mean(0)[only]
        base = tests["snr"][:, int(np.argmax(mean))]
        name = f"roc_every_{every}"
        table = {"frames": len(part.cube), "ranks": [maps.pca.ranks[i] for i in only]}
        table["rank"] = table["ranks"][int(np.argmax(mean))]

        def judge(score, tests=tests, base=base, seed=seed):
            return compare(score, base, tests, plan, np.random.default_rng((seed, 9)))

        table["annular PCA, rank chosen before"] = judge(base)
        areas = [auc(s, tests["label"]) for s in tests["snr"].T]
        table["annular PCA, rank chosen after"] = judge(
            tests["snr"][:, int(np.argmax(areas))]
        )
        table["annular PCA, mean over ranks"] = judge(tests["snr"].mean(1))
        gan = SpeckleGAN.fit(speckles, seed=seed)
        drawn = gan.sample(speckles.conditions, np.random.default_rng(seed))
        table["gan checks"] = check_speckles(speckles, drawn)
        table["critic"] = judge(gan.score(tests["patch"], told))
        report(name, table)
        for kind, seeds in plan["detector_seeds"].items():
            scores = []
            for i in range(seeds):
                pool = noise_pool(
                    kind, speckles, seed=seed + i, trained=gan, strict=False
                )

                def draw(n, rng, pool=pool):
                    index = rng.integers(len(pool.patches), size=n)
                    return pool.patches[index], pool.conditions[index]

                detector = CompanionDetector.train(draw, templates, seed=seed + i)
                scores.append(detector.score(tests["patch"], told))
            table[f"detector on {kind} noise, mean score"] = judge(np.mean(scores, 0))
            table[f"detector on {kind} noise, single seeds"] = [
                auc(s, tests["label"]) for s in scores
            ]
            report(name, table)


def plain(value):
    """What JSON does not know."""
    return value.item() if isinstance(value, np.generic) else list(value)


def main(path="companions.json"):
    """Run everything; write and print what it gives as it comes."""
    torch.set_num_threads(1)
    config = json.loads((Path(__file__).parent / "config.json").read_text())
    results = {"config": config}

    def report(name, value):
        results[name] = value
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(results, indent=1, default=plain))
        print(name, json.dumps(value, default=plain)[:4000], flush=True)

    sequence = bars(config, report)
    null = AnnularPCA(sequence.flip()).maps()
    templates = Templates.make(null, 200, np.random.default_rng((config["seed"], 0)))
    recovery(config, sequence, templates, report)
    roc(config, sequence, report)


if __name__ == "__main__":
    main(*sys.argv[1:])
