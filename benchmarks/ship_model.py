"""Put a trained model into the package, with its speed in its card.

    astrogan-emu validate suite -o report --model run/model.safetensors --write-card
    python -m benchmarks.ship_model run/model.safetensors

The first command puts scores and errors into the card; the second times an emulated box
and the simulation that it stands in for (128^3 particles, 256^3 mesh, 50 steps) beside
each other, and writes ``astrogan_emu/models/<name>.safetensors``. On 2 cores it takes
about a minute.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from astrogan_emu.checkpoints import read_model, write_model
from benchmarks.emulation import simulation

FOLDER = Path(__file__).parent.parent / "astrogan_emu" / "models"


def main(path):
    """Time, write."""
    model = read_model(path)
    if not model.card.errors:
        sys.exit(f"{path} has no errors in its card; run validate with --write-card")
    timed = simulation(n_steps=50, model=path)
    print(
        f"emulation {timed['field_beside_s']:.3f} s, simulation {timed['s']:.1f} s: "
        f"ratio {timed['over_field']:.1f} ({torch.get_num_threads()} threads)"
    )
    provenance = dict(model.card.provenance)
    provenance["simulation_over_emulation"] = round(timed["over_field"], 1)
    output = FOLDER / f"{model.card.name}.safetensors"
    write_model(output, model.generator, replace(model.card, provenance=provenance))
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main(*sys.argv[1:])
