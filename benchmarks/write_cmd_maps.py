"""Maps of a hydrodynamical suite, in files like those of the CAMELS Multifield Dataset.

    python benchmarks/write_cmd_maps.py suite.ecsv folder [--redshift 0] [--n-cells 32]

For each run of the suite, a box of 25 Mpc/h, fifteen maps of slabs 5 Mpc/h deep, five
across each axis: total matter, gas and stars as mass per area [(Msun/h) / (Mpc/h)^2],
and mass-weighted gas temperature [K]. ``Maps_Mgas_Astrid_LH_z=0.00.npy`` and other
files named like it hold those of all runs, float32, shape ``(15 n_runs, n, n)``;
``params_LH_Astrid.txt`` has the parameters: Omega_m, sigma_8, A_SN1, A_AGN1, A_SN2,
A_AGN2, the last 1 where the suite has only one strength of black holes. The public
files have n = 256. Formats: Villaescusa-Navarro et al. (2022, ApJS 259, 61).
"""

import argparse
from pathlib import Path

import numpy as np

from astrogan_emu._files import atomic_path
from astrogan_emu.grids import GridSpec
from astrogan_emu.multifield import BOX_SIZE, slab_means
from astrogan_emu.preparation import PreparationConfig
from astrogan_emu.snapshots import read_snapshot
from astrogan_emu.suites import read_suite
from astrogan_emu.targets import snapshot_fields

SLABS = 5
COLUMNS = ("omega_m", "sigma_8", "a_sn1", "a_agn1", "a_sn2", "a_agn2")
FIELDS = ("matter", "gas_density", "stellar_density", "gas_temperature")
NAMES = ("Mtot", "Mgas", "Mstar", "T")


def maps_of(fields, mean_density):
    """The fifteen maps of each field of a box, in the order of `NAMES`.

    `fields` are those of `FIELDS`, shape ``(4, n, n, n)``, in comoving units of h;
    `mean_density` is that of all matter.
    """
    matter, gas, stars, temperature = np.asarray(fields, float)
    depth = BOX_SIZE / SLABS
    masses = [slab_means(each, SLABS) * depth for each in (matter, gas, stars)]
    masses[0] = masses[0] * mean_density
    heat = slab_means(gas * temperature, SLABS) / slab_means(gas, SLABS)
    return [*masses, heat]


def row_of_parameters(row):
    """Parameters of a run in the order of the public files."""
    known = {name: float(row[name]) for name in row.colnames if name in COLUMNS}
    if "a_agn" in row.colnames:
        known.setdefault("a_agn1", float(row["a_agn"]))
    return [known.get(name, 1.0) for name in COLUMNS]


def write_maps(suite, folder, *, redshift=0.0, n_cells=32):
    """Write the maps and the parameters of all runs at one redshift."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = read_suite(suite)
    table = table[np.abs(np.asarray(table["redshift"], float) - redshift) < 1e-3]
    if len(table) == 0:
        raise SystemExit(f"the suite has no snapshots at redshift {redshift:g}")
    config = PreparationConfig(fields=FIELDS, n_cells=n_cells)
    maps = [[] for _ in NAMES]
    for row in table:
        snapshot = read_snapshot(row["file"])
        if abs(snapshot.box_size / BOX_SIZE - 1) > 1e-6:
            raise SystemExit(f"{snapshot.path} is no box of {BOX_SIZE:g} Mpc/h")
        grid = GridSpec(n_cells, snapshot.box_size)
        fields = snapshot_fields(snapshot, grid, FIELDS, config.galaxies)
        mean = snapshot.total_mass() / snapshot.box_size**3
        for own, made in zip(maps, maps_of(fields, mean), strict=True):
            own.append(made.astype(np.float32))
    for name, own in zip(NAMES, maps, strict=True):
        path = folder / f"Maps_{name}_Astrid_LH_z={redshift:.2f}.npy"
        with atomic_path(path) as part, part.open("wb") as file:
            np.save(file, np.concatenate(own))
        print(f"wrote {path}")
    with atomic_path(folder / "params_LH_Astrid.txt") as part:
        np.savetxt(part, [row_of_parameters(row) for row in table], fmt="%.6g")
    print(f"wrote {folder / 'params_LH_Astrid.txt'}")


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("folder")
    parser.add_argument("--redshift", type=float, default=0.0)
    parser.add_argument("--n-cells", type=int, default=32)
    options = parser.parse_args()
    write_maps(
        options.suite,
        options.folder,
        redshift=options.redshift,
        n_cells=options.n_cells,
    )


if __name__ == "__main__":
    main()
