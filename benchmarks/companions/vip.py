"""Annular PCA of VIP (vip_hci) as one more score, for part of the places of `run.py`.

    ASTROGAN_TEST_DATA=folder python benchmarks/companions/vip.py results.json

It needs both packages in one environment and the file of places that the part ``long``
of `run.py` leaves, and puts ``vip`` into results that exist. For each companion the
frames are reduced anew by `vip_hci.psfsub.pca_annular`, with annuli of one FWHM and its
default limit of rotation and median, at the number of components that shows companions
best in the flipped frames, of those in ``config.json``. The other scores are of the
same places, and differences are to VIP's.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from run import compare, plain, read
from vip_hci.metrics import snr
from vip_hci.preproc import frame_shift
from vip_hci.psfsub import pca_annular

from astrogan_emu._files import atomic_path


def reduced(sequence, n_components):
    """What VIP leaves of a sequence, the star in the middle pixel."""
    n_y, n_x = sequence.cube.shape[1:]
    dx, dy = n_x // 2 - sequence.center[0], n_y // 2 - sequence.center[1]
    cube = [frame_shift(f.astype(float), dy, dx) for f in sequence.cube]
    frame = pca_annular(
        cube=np.stack(cube),
        angle_list=sequence.angles,
        ncomp=n_components,
        radius_int=sequence.fwhm,
        fwhm=sequence.fwhm,
        asize=sequence.fwhm,
        imlib="opencv",
        interpolation="lanczos4",
        verbose=False,
    )
    return frame, (dx, dy)


def ratio(found, x, y, fwhm):
    """VIP's ratio at a pixel of the sequence."""
    frame, (dx, dy) = found
    return snr(frame, (x + dx, y + dy), fwhm)


def with_companion(sequence, tests, i, n_components):
    """VIP's ratio at a place, with its companion if it has one."""
    x, y, at_x, at_y = tests["at"][i]
    own = sequence.inject_flux((at_x, at_y), tests["flux"][i])
    found = reduced(own, n_components)
    return ratio(found, x, y, sequence.fwhm)


def planet(config, n_components):
    """The highest ratio within 3 pixels of beta Pictoris b, and where that is."""
    sequence = read(config["with_planet"], config)
    found = reduced(sequence, n_components)
    mask = config["removal_residual"]
    angle = np.deg2rad(mask["angle"])
    x = round(sequence.center[0] + mask["radius"] * np.cos(angle))
    y = round(sequence.center[1] + mask["radius"] * np.sin(angle))
    places = [(x + i, y + j) for i in range(-3, 4) for j in range(-3, 4)]
    ratios = [ratio(found, *place, sequence.fwhm) for place in places]
    best = places[int(np.argmax(ratios))]
    separation = float(sequence.to_sky(*best)[0].value)
    return {"snr": float(max(ratios)), "separation": separation}


def main(path):
    """Run it; write and print what it gives."""
    here = Path(__file__).parent
    config = json.loads((here / "config.json").read_text())
    plan, own = config["roc"], config["vip"]
    sequence = read(config["without_planet"], config)
    with np.load("tests_every_1.npz") as file:
        tests = dict(file)
    base, learned = tests.pop("base"), tests.pop("detector")
    seed = config["seed"]
    start = time.process_time()
    bright = np.flatnonzero(tests["label"] == 1)
    trial = bright[:: len(bright) // own["trials"]]
    means = {
        k: float(np.mean([with_companion(sequence.flip(), tests, i, k) for i in trial]))
        for k in own["components"]
    }
    best = max(means, key=means.get)
    print(means, flush=True)
    blank = reduced(sequence, best)
    chosen, scores = [], []
    for zone in np.unique(tests["zone"]):
        for label in (0, 1):
            same = (tests["zone"] == zone) & (tests["label"] == label)
            for i in np.flatnonzero(same)[: own["per_class"]]:
                x, y = tests["at"][i, :2]
                chosen.append(i)
                scores.append(
                    with_companion(sequence, tests, i, best)
                    if label
                    else ratio(blank, x, y, sequence.fwhm)
                )
        print(zone, len(scores), time.process_time() - start, flush=True)
    part = {k: v[chosen] for k, v in tests.items()}
    scores = np.array(scores)
    rows = {
        **{"version": version("vip-hci"), "components": best, "trials": means},
        **{"places": len(scores), "cpu_seconds": time.process_time() - start},
    }
    for name, values in (
        ("VIP", scores),
        ("annular PCA", base[chosen]),
        ("detector on real noise", learned[:, chosen]),
    ):
        rows[name] = compare(values, scores, part, plan, seed)
    rows["planet"] = planet(config, best)
    rows["correlation"] = float(np.corrcoef(scores, base[chosen])[0, 1])
    results = json.loads(Path(path).read_text())
    results["vip"] = rows
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(results, indent=1, default=plain))
    print(json.dumps(rows, default=plain))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
