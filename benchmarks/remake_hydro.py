"""Make the model `hydro` from a suite of hydrodynamical runs: one command for it all.

    python benchmarks/remake_hydro.py mpgadget_lh/ work/ [--ship]

Marks the runs that are kept from training, prepares the training set, trains from the
weights of `nbody`, and prints the scores on the runs kept for testing. More runs in the
suite are more runs to train on. With ``--ship`` the model goes into the package, its
scores in its card. Interrupted, it goes on when started again.

Convolutions are in bf16; a processor without instructions for it takes hundreds of
times as long for them, and wants ``--precision float32``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from score_hydro import K_MAX, departure, measure, table

from astrogan_emu.checkpoints import model_path, read_model, write_model
from astrogan_emu.dataset import TrainingSet
from astrogan_emu.emulator import Emulator
from astrogan_emu.preparation import PreparationConfig, prepare
from astrogan_emu.scoring import total_score, validation_scores
from astrogan_emu.suites import read_suite, write_suite
from astrogan_emu.training import TrainingConfig, train

FOLDER = Path(__file__).parent.parent / "astrogan_emu" / "models"
# Kept from training; those for testing from all choices too.
KEPT = {"LH_0": "val", "LH_7": "test", "LH_12": "test"}
PREPARATION = PreparationConfig(
    fields=("matter", "gas_density", "gas_temperature", "stellar_density"),
    n_cells=32,
    base_steps=20,
)
# Steps that cross-validation was made with.
EARLY = 500
TRAINING = TrainingConfig(
    name="hydro",
    paired_steps=2 * EARLY,
    adversarial_steps=100,
    batch_size=2,
    draws=1,
    learning_rate=1e-3,
    adversarial_rate=3e-4,
    condition_rate=1.0,
    ema=0.98,
    cell_weight=8.0,
    joint_weight=16.0,
    power_weight=2.0,
    phase_weight=2.0,
    distribution_weight=0.0,
    tail_weight=0.0,
    cross_weight=1.0,
    condition_noise=0.1,
    adversarial_weight=0.3,
    penalty=0.003,
    expected=("stellar_density",),
    trends={"gas_temperature": "gas_density"},
    trend_conditions=("omega_m", "sigma_8", "a"),
    levels=("stellar_density",),
    level_conditions=("a_sn1", "sigma_8(z)", "a"),
    field_weights={"gas_density": 1, "gas_temperature": 1, "stellar_density": 0.03},
    precision="bf16",
    validate_every=100,
    checkpoint_every=50,
    keep_every=EARLY,
)
# What is kept of the network's corrections: chosen with all else by cross-validation,
# as seven runs teach it more of themselves than of others. Stars have nothing else.
KEPT_CORRECTION = 0.5
CORRECTED = ("matter", "gas_density", "gas_temperature")


def reduced(path, share=KEPT_CORRECTION):
    """The model of a training, with a share of its corrections."""
    model = read_model(path)
    channels = [model.generator.config.fields.index(name) for name in CORRECTED]
    with torch.no_grad():
        for weight in (model.generator.network.head, model.generator.network.head_bias):
            weight[channels] *= share
    output = path.with_name(f"{path.stem}_{share:g}.safetensors")
    write_model(output, model.generator, model.card)
    return output


def marked(suite):
    """The suite with a column that says what each run is for."""
    known = read_suite(suite)
    known["set"] = [KEPT.get(str(run), "LH") for run in known["run"]]
    return known


def scores_of(k, rows):
    """Numbers for the card, over all redshifts."""
    low, one = k <= K_MAX, int(np.argmin(np.abs(k - 1)))
    scores = {}
    for method, field in sorted({key[:2] for key in rows}):
        found = [
            v for key, own in rows.items() for v in own if key[:2] == (method, field)
        ]
        if method == "base":
            continue
        power, crossed, r, mean = np.mean(found, 0)
        scores[f"{field}_worst_power_ratio"] = round(departure(power[low]), 4)
        scores[f"{field}_worst_cross_ratio"] = round(departure(crossed[low]), 4)
        scores[f"{field}_r_k1"] = round(float(r[one]), 4)
        scores[f"{field}_mean_ratio"] = round(float(mean[0]), 4)
    return scores


def departure_on_validation(path, data):
    """One number for a network, without stars, which are too few to choose by."""
    scores = validation_scores(read_model(path).generator, data, "validation")
    return total_score(scores, data.fields[:3])


def main():
    """Prepare, train, score, ship."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("work", type=Path)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--precision", default=TRAINING.precision)
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    write_suite(marked(options.suite), work / "suite.ecsv")
    data = prepare(work / "suite.ecsv", work / "train.h5", config=PREPARATION)
    training = replace(TRAINING, precision=options.precision)
    path = train(data, work / "run", training, initial=model_path("nbody"))
    names = {
        "with critic": path.name,
        "without critic": "paired.safetensors",
        "early": f"step_{EARLY}.safetensors",
    }
    paths = {name: reduced(work / "run" / file) for name, file in names.items()}
    with TrainingSet.open(data) as opened:
        found = {n: departure_on_validation(p, opened) for n, p in paths.items()}
        for name, value in found.items():
            print(f"{name}: {value:.4f} on the validation run")
        best = paths[min(found, key=found.__getitem__)]
        models = {name: Emulator.load(each) for name, each in paths.items()}
        for line in table(*measure(opened, models, "test")):
            print(line)
        runs = len(set(opened.runs[opened.indices("test")]))
        k, rows, _ = measure(opened, {"hydro": Emulator.load(best)}, "test")
    print(f"best on the validation run: {best}")
    if options.ship:
        model = read_model(best)
        scores = {"test_runs": float(runs), **scores_of(k, rows)}
        output = FOLDER / "hydro.safetensors"
        # Networks of one training have one card.
        provenance = read_model(path).card.provenance
        card = replace(model.card, scores=scores, provenance=provenance)
        write_model(output, model.generator, card)
        print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
