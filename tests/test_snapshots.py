import contextlib
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.constants import Boltzmann, proton_mass

from astrogan_emu.errors import SnapshotError, SnapshotUnitsError
from astrogan_emu.fields import GalaxyField
from astrogan_emu.gadget_particles import open_gadget
from astrogan_emu.headers import read_header
from astrogan_emu.snapshots import read_snapshot
from astrogan_emu.yt_particles import compare_with_yt

N, BOX_SIZE, REDSHIFT, H = 512, 10.0, 1.0, 0.7
OMEGA_M, OMEGA_B = 0.3, 0.05
MEAN_DENSITY = OMEGA_M * 2.77536627e11  # (Msun/h) / (Mpc/h)^3
MASS = MEAN_DENSITY * BOX_SIZE**3 / N  # of a particle of dark matter and one of gas
MASSES = {
    "gas": MASS * OMEGA_B / OMEGA_M,
    "dark_matter": MASS * (1 - OMEGA_B / OMEGA_M),
}
KPC, MPC = 3.085678e21, 3.085678e24
NUMBER = {"gas": 0, "dark_matter": 1, "stars": 4, "black_holes": 5}


def toy(seed=0):
    """Positions in Mpc/h and peculiar velocities in km/s of one kind of particles."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, BOX_SIZE, (N, 3)), rng.normal(0, 200, (N, 3))


def gadget(path, *, code_length=1e-3, rows=slice(None), swap=None):
    """A healthy Gadget file of gas and dark matter, for tests to spoil.

    `code_length` is in Mpc/h; `rows` selects the particles of one file of several.
    """
    count = len(np.arange(N)[rows])
    header = {
        "NumPart_ThisFile": np.array([count, count, 0, 0, 0, 0], np.int32),
        "NumPart_Total": np.array([N, N, 0, 0, 0, 0], np.uint32),
        "NumPart_Total_HighWord": np.zeros(6, np.uint32),
        "NumFilesPerSnapshot": np.int32(1),
        "MassTable": np.array([0, MASSES["dark_matter"] / 1e10, 0, 0, 0, 0]),
        "Time": 1 / (1 + REDSHIFT),
        "Redshift": REDSHIFT,
        "BoxSize": BOX_SIZE / code_length,
        "Omega0": OMEGA_M,
        "OmegaLambda": 1 - OMEGA_M,
        "OmegaBaryon": OMEGA_B,
        "HubbleParam": H,
        "UnitLength_in_cm": MPC * code_length,
        "UnitMass_in_g": 1.989e43,
        "UnitVelocity_in_cm_per_s": 1e5,
    }
    with h5py.File(path, "w") as file:
        file.create_group("Header").attrs.update(header)
        for kind, seed in (("gas", 0), ("dark_matter", 1)):
            positions, velocities = toy(seed)
            group = file.create_group(f"PartType{NUMBER[kind]}")
            group["Coordinates"] = (positions[rows] / code_length).astype("f4")
            stored = velocities[rows] * np.sqrt(1 + REDSHIFT)
            group["Velocities"] = stored.astype("f4")
            group["ParticleIDs"] = np.arange(count, dtype="u4")
        gas = file["PartType0"]
        gas["Masses"] = np.full(count, MASSES["gas"] / 1e10, "f4")
        density = MASSES["gas"] * N / BOX_SIZE**3 / 1e10 * code_length**3
        gas["Density"] = np.full(count, density, "f4")
        gas["SmoothingLength"] = np.full(count, 2.0 / code_length, "f4")
        gas["InternalEnergy"] = np.full(count, 1000.0, "f4")
        gas["ElectronAbundance"] = np.full(count, 1.16, "f4")
    return Path(path)


@contextlib.contextmanager
def spoiled(path):
    """Open a healthy file to change it."""
    with h5py.File(gadget(path), "r+") as file:
        yield file


def set_header(file, **values):
    for name, value in values.items():
        if value is None:
            del file["Header"].attrs[name]
        else:
            file["Header"].attrs[name] = value


def assert_toy(snapshot):
    """The snapshot holds the toy particles, in their units and order."""
    assert snapshot.redshift == REDSHIFT
    assert snapshot.box_size == pytest.approx(BOX_SIZE, rel=1e-12)
    for kind, seed in (("gas", 0), ("dark_matter", 1)):
        positions, velocities = toy(seed)
        # Half a unit in the last place of the stored single precision.
        np.testing.assert_allclose(snapshot.positions(kind), positions, atol=5e-7)
        np.testing.assert_allclose(snapshot.velocities(kind), velocities, rtol=2e-7)
        np.testing.assert_allclose(snapshot.masses(kind), MASSES[kind], rtol=1e-7)


# Units and cosmology


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "unstated"])
@pytest.mark.parametrize("code_length", [1e-3, 1.0], ids=["kpc", "Mpc"])
def test_units_are_right_whether_stated_or_not(tmp_path, code_length, stated):
    """Alone, yt reads Mpc/h as kpc/h; here the header or the mean density decides."""
    path = gadget(tmp_path / "snap.hdf5", code_length=code_length)
    if not stated:
        with h5py.File(path, "r+") as file:
            set_header(
                file,
                UnitLength_in_cm=None,
                UnitMass_in_g=None,
                UnitVelocity_in_cm_per_s=None,
            )
    snapshot = read_snapshot(path)
    assert_toy(snapshot)
    assert snapshot.cosmology == {"omega_m": OMEGA_M, "omega_b": OMEGA_B, "h": H}


def test_masses_add_up_to_the_mean_density(tmp_path):
    """The total mass is the box times omega_m times the critical density."""
    snapshot = read_snapshot(gadget(tmp_path / "snap.hdf5"))
    # Masses of gas are stored in single precision.
    assert snapshot.total_mass() == pytest.approx(MEAN_DENSITY * BOX_SIZE**3, rel=1e-7)


def test_units_that_contradict_the_mean_density_are_refused(tmp_path):
    """A header in kpc whose box is in Mpc, as public files have had."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        set_header(file, UnitLength_in_cm=MPC)
    with pytest.raises(SnapshotUnitsError, match=r"snap.hdf5 .* mean density .* 1e-09"):
        read_snapshot(tmp_path / "snap.hdf5")


def test_units_that_contradict_each_other_are_refused(tmp_path):
    """Gadget-4 describes the units in the header and at each dataset."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        file["PartType1/Coordinates"].attrs["to_cgs"] = MPC
    with pytest.raises(SnapshotUnitsError, match=r"contradicts itself: .* lengths"):
        read_snapshot(tmp_path / "snap.hdf5")


def test_positions_in_other_units_than_the_box_are_refused(tmp_path):
    """Dark matter that fills a thousandth of the box is no universe."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        for kind in ("PartType0", "PartType1"):
            for name in ("Coordinates", "Velocities"):
                values = np.tile(file[kind][name][:], (2, 1))
                del file[kind][name]
                file[kind][name] = values / (1000 if name == "Coordinates" else 1)
        for name in ("Masses", "Density", "SmoothingLength"):
            values = np.tile(file["PartType0"][name][:], 2)
            del file["PartType0"][name]
            file["PartType0"][name] = values / 2
        counts = np.array([2 * N, 2 * N, 0, 0, 0, 0])
        set_header(file, NumPart_ThisFile=counts, NumPart_Total=counts)
        set_header(file, MassTable=file["Header"].attrs["MassTable"] / 2)
    with pytest.raises(SnapshotUnitsError, match="positions and its box"):
        read_snapshot(path).positions("dark_matter")


def test_a_box_without_h_is_read_in_mpc_over_h(tmp_path):
    """A dataset that says its lengths carry no h is believed."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        set_header(file, BoxSize=BOX_SIZE * 1e3 / H)
        for kind in ("PartType0", "PartType1"):
            coordinates = file[kind]["Coordinates"]
            coordinates[:] = coordinates[:] / H
            coordinates.attrs.update({"to_cgs": KPC, "h_scaling": 0.0})
    snapshot = read_snapshot(path)
    assert snapshot.box_size == pytest.approx(BOX_SIZE)
    np.testing.assert_allclose(snapshot.positions("gas"), toy(0)[0], atol=2e-6)


@pytest.mark.parametrize("value", [None, 0.7])
def test_a_missing_omega_lambda_means_a_flat_universe(tmp_path, value):
    """Alone, yt would take the run for one without cosmology, in physical kpc."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        set_header(file, OmegaLambda=value)
    assert_toy(read_snapshot(tmp_path / "snap.hdf5"))


def test_an_einstein_de_sitter_universe_is_cosmological(tmp_path):
    """A zero OmegaLambda is what such a header must say."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        scale = 1 / OMEGA_M
        set_header(file, Omega0=1.0, OmegaLambda=0.0)
        set_header(file, MassTable=file["Header"].attrs["MassTable"] * scale)
        file["PartType0/Masses"][:] *= scale
    snapshot = read_snapshot(tmp_path / "snap.hdf5")
    assert snapshot.redshift == REDSHIFT
    np.testing.assert_allclose(snapshot.positions("gas"), toy(0)[0], atol=5e-7)


def test_cosmology_may_stand_in_parameters_and_tables_may_be_short(tmp_path):
    """Gadget-4's habits: /Parameters, and only as many types as the run has."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        header = file["Header"].attrs
        moved = ("Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam")
        moved += ("UnitLength_in_cm", "UnitMass_in_g", "UnitVelocity_in_cm_per_s")
        for name in moved:
            file.require_group("Parameters").attrs[name] = header.pop(name)
        for name in ("NumPart_ThisFile", "NumPart_Total", "MassTable"):
            header[name] = header[name][:2]
        del header["NumPart_Total_HighWord"]
    assert_toy(read_snapshot(tmp_path / "snap.hdf5"))


@pytest.mark.parametrize(
    "changes",
    [
        {"NumFilesPerSnapshot": None},
        {"BoxSize": np.full(3, BOX_SIZE * 1e3)},
        {"Code": "GIZMO"},
        {"NumPart_Total": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_headers_that_yt_stumbles_over_are_read(tmp_path, changes):
    """A missing entry that says nothing new, a box of three sides, a text."""
    with spoiled(tmp_path / "snap.hdf5") as file:
        set_header(file, **changes)
    assert_toy(read_snapshot(tmp_path / "snap.hdf5"))


def test_without_a_mass_table_particles_carry_their_masses(tmp_path):
    """Alone, yt would stop at the missing MassTable."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        set_header(file, MassTable=None)
        file["PartType1/Masses"] = np.full(N, MASSES["dark_matter"] / 1e10, "f4")
    assert_toy(read_snapshot(path))


def test_a_disagreement_with_yt_is_refused(tmp_path):
    """Whoever is wrong, a user of yt would work in another box than ours."""
    particles = open_gadget(read_header(gadget(tmp_path / "snap.hdf5")))
    compare_with_yt(particles)
    other = replace(particles, header=replace(particles.header, redshift=0.5))
    with pytest.raises(SnapshotUnitsError, match=r"yt reads .*: 1 \+ redshift is 2"):
        compare_with_yt(other)


# Particles


def test_arrays_are_in_file_order_and_exact(tmp_path):
    """No index sorts them, and single precision is carried over bit by bit."""
    path = gadget(tmp_path / "snap.hdf5")
    with h5py.File(path) as file:
        stored = file["PartType1/Coordinates"][:]
    positions = read_snapshot(path).positions("dark_matter")
    assert positions.dtype == np.float64
    np.testing.assert_array_equal((positions * 1e3).astype("f4"), stored)


def test_stars_and_black_holes_are_read_when_there(tmp_path):
    """Kinds are listed in one order, and count is 0 for those that are not there."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        for number in (4, 5):
            file.copy("PartType0", f"PartType{number}")
            file[f"PartType{number}/Masses"][:] *= 1e-3
        counts = np.array([N, N, 0, 0, N, N])
        set_header(file, NumPart_ThisFile=counts, NumPart_Total=counts)
    snapshot = read_snapshot(path)
    assert snapshot.kinds == ("dark_matter", "gas", "stars", "black_holes")
    np.testing.assert_allclose(snapshot.masses("stars"), MASSES["gas"] * 1e-3)
    without = read_snapshot(gadget(tmp_path / "other.hdf5"))
    assert without.count("stars") == 0
    with pytest.raises(
        SnapshotError, match="holds no stars; it holds dark_matter, gas"
    ):
        without.positions("stars")
    with pytest.raises(SnapshotError, match="no particles of kind 'star'"):
        without.count("star")


def test_tracers_without_positions_are_left_out(tmp_path):
    """IllustrisTNG's Monte Carlo tracers have no mass and no place."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        file["PartType3/TracerID"] = np.arange(9)
        counts = np.array([N, N, 0, 9, 0, 0])
        set_header(file, NumPart_ThisFile=counts, NumPart_Total=counts)
    assert_toy(read_snapshot(path))


def test_positions_slightly_outside_are_wrapped(tmp_path):
    """Codes wrap their particles now and then only."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        file["PartType1/Coordinates"][0] = [-5, 10005, 10000]
        file["PartType1/Coordinates"][1] = [-1e-30, 1, 1]
    positions = read_snapshot(path).positions("dark_matter")
    # Stored in single precision, 10005 kpc/h has an error of 5e-7 Mpc/h.
    np.testing.assert_allclose(positions[0], [9.995, 0.005, 0], atol=1e-6)
    assert positions[1, 0] == 0
    assert positions.min() >= 0
    assert positions.max() < BOX_SIZE


def test_gas_density_of_a_uniform_gas_is_the_mean_of_baryons(tmp_path):
    """Comoving (Msun/h) / (Mpc/h)^3, from 1e10 Msun/h and kpc/h."""
    density = read_snapshot(gadget(tmp_path / "snap.hdf5")).gas_density()
    np.testing.assert_allclose(density, MEAN_DENSITY * OMEGA_B / OMEGA_M, rtol=1e-6)


def kelvin(energy, molecular_weight):
    """(gamma - 1) u mu m_p / k_B for u in (km/s)^2."""
    return 2 / 3 * energy * 1e6 * molecular_weight * proton_mass / Boltzmann


def test_temperature_follows_from_energy_and_electrons(tmp_path):
    """Mu = 4 / (1 + 3 X + 4 X x_e) with X = 0.76, as Gadget and Arepo have it."""
    temperature = read_snapshot(gadget(tmp_path / "snap.hdf5")).temperature()
    weight = 4 / (1 + 3 * 0.76 + 4 * 0.76 * 1.16)
    np.testing.assert_allclose(temperature, kelvin(1000, weight), rtol=1e-6)


def test_without_electrons_gas_is_neutral_when_cold_and_ionised_when_hot(tmp_path):
    """The temperature rises with the energy through 10^4 K without a jump."""
    path = tmp_path / "snap.hdf5"
    energy = np.geomspace(1, 1e5, N)
    with spoiled(path) as file:
        del file["PartType0/ElectronAbundance"]
        file["PartType0/InternalEnergy"][:] = energy
    temperature = read_snapshot(path).temperature()
    neutral, ionised = 4 / (1 + 3 * 0.76), 4 / (3 + 5 * 0.76)
    assert temperature[0] == pytest.approx(kelvin(1, neutral), rel=1e-6)
    assert temperature[-1] == pytest.approx(kelvin(1e5, ionised), rel=1e-6)
    assert np.all(np.diff(temperature) >= 0)
    assert np.max(np.diff(np.log(temperature))) <= 1.01 * np.log(energy[1])


def test_a_stored_temperature_is_taken_as_it_is(tmp_path):
    """EAGLE and SWIFT store it."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        file["PartType0/Temperature"] = np.full(N, 123.0)
    np.testing.assert_array_equal(read_snapshot(path).temperature(), 123.0)


def test_smoothing_lengths_of_cells_follow_their_volume(tmp_path):
    """Twice the radius of a sphere as large, where there is only a density."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        del file["PartType0/SmoothingLength"]
    radius = np.cbrt(3 * BOX_SIZE**3 / N / (4 * np.pi))
    np.testing.assert_allclose(
        read_snapshot(path).smoothing_lengths(), 2 * radius, rtol=1e-6
    )


def test_smoothing_lengths_without_density_hold_32_neighbours(tmp_path):
    """Each ball contains 32 particles across the periodic faces, itself included."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        del file["PartType0/SmoothingLength"], file["PartType0/Density"]
    snapshot = read_snapshot(path)
    positions, radii = snapshot.positions("gas"), snapshot.smoothing_lengths()
    apart = np.abs(positions[:, None] - positions)
    apart = np.sqrt((np.minimum(apart, BOX_SIZE - apart) ** 2).sum(axis=-1))
    # The farthest of them sits on the surface, within rounding.
    counts = (apart <= radii[:, None] * (1 + 1e-12)).sum(axis=1)
    np.testing.assert_array_equal(counts, 32)


def test_initial_conditions_say_that_they_have_no_temperature(tmp_path):
    """Gas without energy, density or kernel is told apart from damage."""
    path = tmp_path / "ics.hdf5"
    with spoiled(path) as file:
        del file["PartType0/InternalEnergy"], file["PartType0/Density"]
    snapshot = read_snapshot(path)
    with pytest.raises(SnapshotError, match="neither temperature nor internal energy"):
        snapshot.temperature()
    with pytest.raises(SnapshotError, match="no density"):
        snapshot.gas_density()


# Codes


def swift(path, one=np.atleast_1d):
    """The toy in SWIFT's layout: Mpc without h, peculiar velocities, own names.

    `one` makes what SWIFT stores as arrays of one number.
    """
    gadget(path)
    with h5py.File(path, "r+") as file:
        set_header(
            file,
            Code=np.bytes_("SWIFT"),
            BoxSize=np.full(3, BOX_SIZE / H),
            Redshift=one(REDSHIFT),
            Time=one(0.5),  # an age in internal units
            Dimension=one(3),
            MassTable=np.zeros(6),
        )
        for name in ("UnitLength_in_cm", "UnitMass_in_g", "UnitVelocity_in_cm_per_s"):
            del file["Header"].attrs[name]
        for name in ("Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam"):
            del file["Header"].attrs[name]
        file.create_group("Cosmology").attrs.update(
            {
                "Redshift": one(REDSHIFT),
                "Scale-factor": one(1 / (1 + REDSHIFT)),
                "h": one(H),
                "Omega_m": one(OMEGA_M),
                "Omega_lambda": one(1 - OMEGA_M),
                "Omega_b": one(OMEGA_B),
            }
        )
        time = 3.08567758149e24 / 1e5
        file.create_group("Units").attrs.update(
            {
                "Unit length in cgs (U_L)": one(3.08567758149e24),
                "Unit mass in cgs (U_M)": one(1.98841e43),
                "Unit time in cgs (U_t)": one(time),
                "Unit temperature in cgs (U_T)": one(1.0),
            }
        )
        for name, values in {
            "Policy": {"cosmological integration": one(1)},
            "HydroScheme": {"Kernel function": np.bytes_("Quartic spline (M5)")},
            "SubgridScheme": {},
            "Parameters": {
                "InitialConditions:periodic": np.bytes_("1"),
                "Cosmology:h": np.bytes_(str(H)),
                "Cosmology:Omega_lambda": np.bytes_(str(1 - OMEGA_M)),
                "Cosmology:Omega_b": np.bytes_(str(OMEGA_B)),
                "Cosmology:Omega_cdm": np.bytes_(str(OMEGA_M - OMEGA_B)),
            },
        }.items():
            file.create_group(name).attrs.update(values)
        for kind, number in (("gas", 0), ("dark_matter", 1)):
            group = file[f"PartType{number}"]
            group["Coordinates"][:] = group["Coordinates"][:] / 1e3 / H
            group["Velocities"][:] = group["Velocities"][:] / np.sqrt(1 + REDSHIFT)
            if "Masses" in group:
                del group["Masses"]
            group["Masses"] = np.full(N, MASSES[kind] / 1e10 / H, "f4")
        gas = file["PartType0"]
        for old, new, factor in (
            ("Density", "Densities", 1e9 * H**2),
            ("SmoothingLength", "SmoothingLengths", 1e-3 / H),
            ("InternalEnergy", "InternalEnergies", 1 / (1 + REDSHIFT) ** 2),
        ):
            gas.move(old, new)
            gas[new][:] = gas[new][:] * factor
        gas["InternalEnergies"].attrs["a-scale exponent"] = [-2.0]
    return path


def test_swift_snapshots_are_read_without_h_and_with_their_kernel(tmp_path):
    """Lengths in Mpc, velocities peculiar, h_SWIFT times 2.02 the kernel's radius."""
    snapshot = read_snapshot(swift(tmp_path / "snap.hdf5"))
    assert snapshot.box_size == pytest.approx(BOX_SIZE)
    for kind, seed in (("gas", 0), ("dark_matter", 1)):
        # Positions and velocities were rounded twice on their way into the file.
        positions, velocities = toy(seed)
        np.testing.assert_allclose(snapshot.positions(kind), positions, atol=2e-6)
        np.testing.assert_allclose(snapshot.velocities(kind), velocities, rtol=1e-6)
        np.testing.assert_allclose(snapshot.masses(kind), MASSES[kind], rtol=1e-6)
    np.testing.assert_allclose(snapshot.smoothing_lengths(), 2 * 2.018932, rtol=1e-6)
    np.testing.assert_allclose(
        snapshot.gas_density(), MEAN_DENSITY * OMEGA_B / OMEGA_M, rtol=1e-6
    )
    usual = read_snapshot(gadget(tmp_path / "usual.hdf5"))
    np.testing.assert_allclose(snapshot.temperature(), usual.temperature(), rtol=1e-6)


def test_yt_agrees_on_a_swift_snapshot(tmp_path):
    """The toy is a fair one, and where yt can open it, its opinion is asked."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    # NumPy no longer turns arrays of one number into a number, as yt expects.
    path = swift(tmp_path / "snap.hdf5", one=np.asarray)
    read_snapshot(path)
    dataset = yt.load(path)
    assert type(dataset).__name__ == "SwiftDataset"
    assert dataset.domain_width[0].to_value("Mpccm/h") == pytest.approx(BOX_SIZE)


def test_arepo_snapshots_are_read_like_yt_reads_them(tmp_path):
    """Cells of a moving mesh, with the names and groups of IllustrisTNG."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        del file["PartType0/SmoothingLength"]
        file["PartType0/GFM_Metallicity"] = np.full(N, 0.01)
        file.create_group("Config").attrs["VORONOI"] = np.bytes_("")
    dataset = yt.load(path)
    assert type(dataset).__name__ == "ArepoHDF5Dataset"
    radii = dataset.all_data()["PartType0", "smoothing_length"].to_value("Mpccm/h")
    snapshot = read_snapshot(path)
    assert_toy(snapshot)
    # yt's Arepo units use the header's rounded parsec, and single precision.
    np.testing.assert_allclose(snapshot.smoothing_lengths(), radii, rtol=1e-5)


# Several files


def several(folder, name="snap_004", number=3):
    folder.mkdir(exist_ok=True)
    for index in range(number):
        path = gadget(folder / f"{name}.{index}.hdf5", rows=slice(index, None, number))
        with h5py.File(path, "r+") as file:
            set_header(file, NumFilesPerSnapshot=np.int32(number))
    return folder


@pytest.mark.parametrize("start", ["snap_004.0.hdf5", "snap_004.2.hdf5", ""])
def test_any_file_or_the_folder_opens_a_snapshot_in_several_files(tmp_path, start):
    """All particles are there, one file after the other."""
    snapshot = read_snapshot(several(tmp_path / "snapdir_004") / start)
    assert snapshot.path.name == "snap_004.0.hdf5"
    order = np.concatenate([np.arange(N)[index::3] for index in range(3)])
    np.testing.assert_allclose(
        snapshot.positions("dark_matter"), toy(1)[0][order], atol=5e-7
    )


def test_dots_in_the_names_of_several_files_do_no_harm(tmp_path):
    """For yt names end at the first dot, so it would look for snap_z0.0.hdf5."""
    folder = several(tmp_path / "run", name="snap_z0.5")
    assert read_snapshot(folder / "snap_z0.5.0.hdf5").count("gas") == N


def test_names_that_yt_takes_for_patterns_do_no_harm(tmp_path, caplog):
    """Square brackets, as copies of files get them; yt is still asked."""
    caplog.set_level("INFO", logger="astrogan_emu")
    assert_toy(read_snapshot(gadget(tmp_path / "snap [1].hdf5")))
    assert caplog.messages == []


def test_a_missing_file_of_several_is_named(tmp_path):
    """Half a universe is not read as a whole one."""
    folder = several(tmp_path / "run")
    (folder / "snap_004.1.hdf5").unlink()
    with pytest.raises(SnapshotError, match=r"3 files, .* snap_004\.1\.hdf5 first"):
        read_snapshot(folder / "snap_004.0.hdf5")


def test_files_of_two_outputs_do_not_mix(tmp_path):
    """A file of another redshift under the right name is found out."""
    folder = several(tmp_path / "run")
    with h5py.File(folder / "snap_004.1.hdf5", "r+") as file:
        set_header(file, Redshift=0.0, Time=1.0)
    with pytest.raises(SnapshotError, match="not files of one output"):
        read_snapshot(folder)


def test_renamed_files_of_several_are_refused(tmp_path):
    """The other files cannot be found from such a name."""
    folder = several(tmp_path / "run")
    (folder / "snap_004.0.hdf5").rename(folder / "first.hdf5")
    with pytest.raises(SnapshotError, match=r"first.hdf5 is one of 3 files"):
        read_snapshot(folder / "first.hdf5")


def test_a_folder_of_several_outputs_is_ambiguous(tmp_path):
    """The error lists what to choose from."""
    gadget(tmp_path / "snap_000.hdf5")
    gadget(tmp_path / "snap_001.hdf5")
    with pytest.raises(SnapshotError, match=r"2 outputs; .* snap_000.hdf5, snap_001"):
        read_snapshot(tmp_path)


# Compression


def test_blosc_needs_its_extra_and_says_so(tmp_path):
    """CAMELS and Quijote compress with Blosc, which plain h5py cannot undo."""
    plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        values = file["PartType1/Coordinates"][:]
        del file["PartType1/Coordinates"]
        file["PartType1"].create_dataset("Coordinates", data=values, **plugin.Blosc())
    assert_toy(read_snapshot(path))
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from astrogan_emu.snapshots import read_snapshot\n"
        f"read_snapshot({str(path)!r})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "MissingDependencyError" in run.stderr
    assert "astrogan-emu[camels]" in run.stderr


# No files beside the data


def listing(folder):
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def read_everything(path):
    snapshot = read_snapshot(path)
    for kind in snapshot.kinds:
        snapshot.positions(kind)
        snapshot.velocities(kind)
    snapshot.total_mass()
    if "gas" in snapshot.kinds:
        snapshot.smoothing_lengths()


def prone_to_sidecars(folder):
    """Several files of gas without smoothing lengths: all that makes yt write."""
    several(folder)
    for path in folder.iterdir():
        with h5py.File(path, "r+") as file:
            del file["PartType0/SmoothingLength"]
    return folder


def test_yt_alone_would_leave_files_beside_these_data(tmp_path):
    """So the next tests are not passed trivially."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    folder = prone_to_sidecars(tmp_path / "run")
    before = len(list(folder.iterdir()))
    yt.load(folder / "snap_004.0.hdf5").index  # noqa: B018
    if len(list(folder.iterdir())) == before:
        pytest.skip("this version of yt leaves nothing")


@pytest.mark.parametrize("mode", [0o755, 0o555], ids=["writable", "read-only"])
def test_reading_leaves_no_files_beside_the_data(tmp_path, mode):
    """No index, tree or smoothing-length cache, whether or not it could be written."""
    folder = prone_to_sidecars(tmp_path / "run")
    before = listing(folder)
    folder.chmod(mode)
    try:
        read_everything(folder)
        assert listing(folder) == before
    finally:
        folder.chmod(0o755)


# Damaged, hostile and foreign files


def delete(*names):
    def change(file):
        for name in names:
            del file[name]

    return change


def header(**values):
    return lambda file: set_header(file, **values)


def fill(name, value):
    def change(file):
        file[name][7] = value

    return change


def resize(name, shape):
    def change(file):
        del file[name]
        file[name] = np.ones(shape, "f4")

    return change


def unwritten(file):
    """A dataset that claims 24 TB, with a header to match, and stores nothing."""
    del file["PartType1/Coordinates"]
    count = 10**12
    file["PartType1"].create_dataset("Coordinates", (count, 3), "f8", chunks=(4096, 3))
    counts = np.array([N, count, 0, 0, 0, 0])
    set_header(file, NumPart_ThisFile=counts, NumPart_Total=counts)
    set_header(file, NumPart_Total_HighWord=np.zeros(6, int))


def dangling(file):
    del file["PartType1/Coordinates"]
    file["PartType1/Coordinates"] = h5py.ExternalLink("elsewhere.hdf5", "/Coordinates")


HUGE = np.array([N, 10**18, 0, 0, 0, 0])
AT_OPENING = {
    "no header": (delete("Header"), "neither a Gadget-layout"),
    "no group": (delete("PartType1"), "no PartType1/Coordinates"),
    "no coordinates": (delete("PartType1/Coordinates"), "no PartType1/Coordinates"),
    "no masses": (delete("PartType0/Masses"), "no masses for its particles of type 0"),
    "no counts": (header(NumPart_ThisFile=None, NumPart_Total=None), "neither"),
    "no redshift": (header(Redshift=None), "does not say its Redshift"),
    "no box": (header(BoxSize=None), "does not say its BoxSize"),
    "no omega": (header(Omega0=None), "does not say its Omega0"),
    "no h": (header(HubbleParam=None), "does not say its HubbleParam"),
    "negative box": (header(BoxSize=-1.0), "BoxSize .* -1, not positive"),
    "oblong box": (header(BoxSize=[1e4, 1e4, 2e4]), "only cubic boxes"),
    "NaN box": (header(BoxSize=np.nan), "BoxSize .* must be a finite number"),
    "NaN redshift": (header(Redshift=np.nan), "Redshift .* must be a finite number"),
    "text for a number": (header(Omega0="much"), "Omega0 .* finite number, got 'much'"),
    "negative redshift": (header(Redshift=-0.5, Time=2.0), "redshift .* is -0.5"),
    "time of another redshift": (header(Time=0.9), "scale factor 0.9 does not belong"),
    "curvature": (header(OmegaLambda=0.2), "not of a flat universe"),
    "two cosmologies": (
        lambda file: file.create_group("Parameters").attrs.update({"Omega0": 0.2}),
        "contradicts itself: Omega0 = 0.3 in /Header, but Omega0 = 0.2 in /Parameters",
    ),
    "absurd counts": (header(NumPart_ThisFile=HUGE, NumPart_Total=HUGE), "1000000000"),
    "other total": (header(NumPart_Total=np.array([N, 10**18, 0, 0, 0, 0])), "add up"),
    "negative counts": (header(NumPart_ThisFile=[-1] * 6), "must be whole numbers"),
    "text for counts": (header(NumPart_ThisFile="many"), "must be whole numbers"),
    "no particles": (header(NumPart_ThisFile=[0] * 6), "holds no particles"),
    "files unknown": (
        header(NumFilesPerSnapshot=None, NumPart_Total=[2 * N, 2 * N, 0, 0, 0, 0]),
        "in how many files",
    ),
    "negative masses": (header(MassTable=[0, -1.0, 0, 0, 0, 0]), "not negative"),
    "two-dimensional": (resize("PartType1/Coordinates", (N, 2)), r"shape \(512, 2\)"),
    "short": (resize("PartType1/Coordinates", (N - 1, 3)), r"shape \(511, 3\)"),
    "text coordinates": (
        lambda file: (
            delete("PartType1/Coordinates")(file),
            file["PartType1"].create_dataset("Coordinates", data=np.full((N, 3), b"x")),
        ),
        "not numbers",
    ),
    "never written": (unwritten, "claims 24000000000000 bytes but stores only 0"),
    "dangling link": (dangling, "no PartType1/Coordinates|cannot read"),
    "zoom": (
        lambda file: (
            file.copy("PartType1", "PartType2"),
            set_header(file, NumPart_ThisFile=[N, N, N, 0, 0, 0]),
            set_header(file, NumPart_Total=[N, N, N, 0, 0, 0]),
        ),
        "512 particles of type 2; only",
    ),
}


@pytest.mark.parametrize(("change", "message"), AT_OPENING.values(), ids=AT_OPENING)
def test_a_header_that_cannot_be_true_is_refused(tmp_path, change, message):
    """One error, which names the file and what is wrong with it."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        change(file)
    with pytest.raises(SnapshotError, match=message) as caught:
        read_snapshot(path)
    assert str(path) in str(caught.value)


AT_READING = {
    "NaN position": (
        fill("PartType1/Coordinates", np.nan),
        lambda s: s.positions("dark_matter"),
        "3 of 1536 positions of dark_matter .* not finite",
    ),
    "far outside": (
        fill("PartType1/Coordinates", 2e4),
        lambda s: s.positions("dark_matter"),
        "1 positions of dark_matter .* outside the box of 10 Mpc/h",
    ),
    "infinite velocity": (
        fill("PartType0/Velocities", np.inf),
        lambda s: s.velocities("gas"),
        "3 of 1536 velocities of gas .* not finite",
    ),
    "no velocities": (
        delete("PartType0/Velocities"),
        lambda s: s.velocities("gas"),
        "no Velocities for its particles of type 0",
    ),
    "negative mass": (
        fill("PartType0/Masses", -1e-3),
        lambda s: s.total_mass(),
        "1 of 512 masses of gas .* not positive",
    ),
    "two masses": (
        lambda file: file["PartType1"].create_dataset("Masses", data=np.full(N, 99.0)),
        lambda s: s.masses("dark_matter"),
        "MassTable gives every particle of type 1",
    ),
    "zero density": (
        fill("PartType0/Density", 0.0),
        lambda s: s.gas_density(),
        "1 of 512 densities of gas .* not positive",
    ),
    "NaN energy": (
        fill("PartType0/InternalEnergy", np.nan),
        lambda s: s.temperature(),
        "1 of 512 internal energies of gas .* not finite",
    ),
    "NaN electrons": (
        fill("PartType0/ElectronAbundance", np.nan),
        lambda s: s.temperature(),
        "electron abundances of gas .* not finite",
    ),
    "short density": (
        resize("PartType0/Density", N - 1),
        lambda s: s.gas_density(),
        r"Density .* shape \(511,\)",
    ),
}


@pytest.mark.parametrize(
    ("change", "read", "message"), AT_READING.values(), ids=AT_READING
)
def test_values_that_no_simulation_has_are_refused(tmp_path, change, read, message):
    """When they are read, with their number and the name of the file."""
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        change(file)
    snapshot = read_snapshot(path)
    with pytest.raises(SnapshotError, match=message) as caught:
        read(snapshot)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"BoxSize 25000\nRedshift 0\n", "neither a Gadget-layout"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "cannot read .* as HDF5"),
        (bytes(range(256)) * 64, "neither a Gadget-layout"),
    ],
    ids=["empty", "text", "only a signature", "noise"],
)
def test_files_that_are_no_snapshots_are_refused(tmp_path, content, message):
    """Also those that begin like one."""
    path = tmp_path / "snap.hdf5"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=message) as caught:
        read_snapshot(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, fraction):
    """A download that broke off."""
    path = gadget(tmp_path / "snap.hdf5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(SnapshotError, match=r"cannot read .*snap.hdf5 as HDF5"):
        read_snapshot(path)


def test_what_is_not_there_is_said_to_be_missing(tmp_path):
    """Neither a file nor an empty folder is a snapshot."""
    with pytest.raises(SnapshotError, match=r"nowhere.hdf5 does not exist"):
        read_snapshot(tmp_path / "nowhere.hdf5")
    with pytest.raises(SnapshotError, match=r"holds no .hdf5 file"):
        read_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="a path or a yt dataset, got int"):
        read_snapshot(3)


# Through yt


def gadget_binary(path, number=2):
    """The dark matter of the toy as a Gadget-2 binary snapshot in several files."""
    mass = MASS / 1e10
    for index in range(number):
        positions, velocities = (values[index::number] for values in toy(1))
        count = len(positions)
        header = struct.pack(
            "<6i6ddd2i6Ii i4d",
            *(0, count, 0, 0, 0, 0),
            *(0, mass, 0, 0, 0, 0),
            *(1 / (1 + REDSHIFT), REDSHIFT),
            *(0, 0),
            *(0, N, 0, 0, 0, 0),
            *(0, number),
            *(BOX_SIZE * 1e3, OMEGA_M, 1 - OMEGA_M, H),
        ).ljust(256, b"\0")
        blocks = [
            header,
            (positions * 1e3).astype("<f4").tobytes(),
            (velocities * np.sqrt(1 + REDSHIFT)).astype("<f4").tobytes(),
            np.arange(count, dtype="<u4").tobytes(),
        ]
        with open(f"{path}.{index}", "wb") as stream:
            for block in blocks:
                size = struct.pack("<i", len(block))
                stream.write(size + block + size)
    return Path(f"{path}.0")


def test_formats_that_only_yt_knows_are_read_through_it(tmp_path):
    """Gadget-2's binary format, in two files, leaves nothing beside the data."""
    path = gadget_binary(tmp_path / "snap")
    before = listing(tmp_path)
    snapshot = read_snapshot(path)
    order = np.concatenate([np.arange(N)[index::2] for index in range(2)])
    positions, velocities = toy(1)
    assert snapshot.kinds == ("dark_matter",)
    assert snapshot.box_size == pytest.approx(BOX_SIZE)
    np.testing.assert_allclose(
        snapshot.positions("dark_matter"), positions[order], atol=1e-6
    )
    np.testing.assert_allclose(
        snapshot.velocities("dark_matter"), velocities[order], rtol=1e-6
    )
    assert snapshot.total_mass() == pytest.approx(MEAN_DENSITY * BOX_SIZE**3, rel=1e-6)
    assert listing(tmp_path) == before


def stream(yt, **parameters):
    """The dark matter of the toy in memory, in physical Mpc."""
    positions, velocities = toy(1)
    physical = 1 / H / (1 + REDSHIFT)
    data = {
        f"particle_position_{axis}": positions[:, i] for i, axis in enumerate("xyz")
    }
    data |= {
        f"particle_velocity_{axis}": (velocities[:, i], "km/s")
        for i, axis in enumerate("xyz")
    }
    data["particle_mass"] = (np.full(N, MASS / H), "Msun")
    return yt.load_particles(
        data,
        length_unit=(physical, "Mpc"),
        bbox=np.array([[0, BOX_SIZE]] * 3),
        parameters=parameters,
    )


def test_particles_in_memory_are_read_with_the_cosmology_they_are_given():
    """Datasets of yt's loaders carry none of their own."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    known = {"omega_matter": OMEGA_M, "hubble_constant": H}
    snapshot = read_snapshot(stream(yt, **known, current_redshift=REDSHIFT))
    positions, velocities = toy(1)
    assert snapshot.box_size == pytest.approx(BOX_SIZE)
    np.testing.assert_allclose(snapshot.positions("dark_matter"), positions, rtol=1e-9)
    np.testing.assert_allclose(
        snapshot.velocities("dark_matter"), velocities, rtol=1e-9
    )
    np.testing.assert_allclose(snapshot.masses("dark_matter"), MASS, rtol=1e-9)


def test_datasets_without_cosmology_or_particles_are_refused():
    """The error lists what to give, or says that cells are not particles."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    with pytest.raises(
        SnapshotError, match=r"no cosmology; .* hubble_constant, current"
    ):
        read_snapshot(stream(yt, omega_matter=OMEGA_M))
    grid = yt.load_uniform_grid({"density": np.ones((8, 8, 8))}, (8, 8, 8))
    with pytest.raises(SnapshotError, match="not made of particles"):
        read_snapshot(grid)


def test_the_units_of_a_dataset_that_the_user_opened_are_believed(tmp_path):
    """The way out for a file whose header is wrong, and again without index files."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    path = tmp_path / "snap.hdf5"
    with spoiled(path) as file:
        set_header(file, UnitLength_in_cm=MPC)
    units = {
        "length": (1.0, "kpccm/h"),
        "mass": (1e10, "Msun/h"),
        "velocity": (1.0, "km/s * sqrt(a)"),
    }
    before = listing(tmp_path)
    snapshot = read_snapshot(yt.load(path, unit_base=units))
    assert_toy(snapshot)
    assert listing(tmp_path) == before


def deposited(dataset):
    """The box and mean density of the dark matter that a user gets by way of yt."""
    field = GalaxyField.from_yt(
        dataset, ("PartType1", "particle_mass"), 4, parameters={"h": H}
    )
    return field.grid.box_size, field.mean().value / H**2


@pytest.mark.parametrize("use", [read_snapshot, deposited])
def test_datasets_that_yt_opened_in_wrong_units_are_refused(tmp_path, use):
    """Yt takes Mpc/h for kpc/h, and a missing OmegaLambda for no cosmology."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    in_mpc = gadget(tmp_path / "mpc.hdf5", code_length=1.0)
    with pytest.raises(SnapshotUnitsError, match=r"mpc\.hdf5 .* 1 Mpc/h; .*unit_base"):
        use(yt.load(in_mpc))
    with spoiled(tmp_path / "flat.hdf5") as file:
        set_header(file, OmegaLambda=None)
    with pytest.raises(SnapshotUnitsError, match="run without cosmology"):
        use(yt.load(tmp_path / "flat.hdf5"))


def test_datasets_opened_in_the_units_of_the_user_become_fields(tmp_path):
    """They are the way out, and come out right."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    path = gadget(tmp_path / "snap.hdf5", code_length=1.0)
    units = {"length": (1.0, "Mpccm/h"), "mass": (1e10, "Msun/h")}
    box, density = deposited(yt.load(path, unit_base=units))
    assert box == pytest.approx(BOX_SIZE, rel=1e-6)
    expected = MASSES["dark_matter"] * N / BOX_SIZE**3
    # Particle masses are stored in units of a rounded solar mass.
    assert density == pytest.approx(expected, rel=1e-3)


def test_yt_is_left_as_talkative_as_it_was(tmp_path):
    """Its log is silenced for the time of reading only."""
    pytest.importorskip("yt")
    from yt.utilities.logger import ytLogger

    before = ytLogger.level
    ytLogger.setLevel(20)
    try:
        read_snapshot(gadget(tmp_path / "snap.hdf5"))
        assert ytLogger.level == 20
    finally:
        ytLogger.setLevel(before)


# Real simulations

REAL = [
    "gadget_lcdm_gas/snapshot_000.hdf5",
    "gadget_lcdm_gas/snapshot_004.hdf5",
    "mpgadget_lh/LH_0/ics.hdf5",
    "mpgadget_lh/LH_3/snap_000.hdf5",
    "mpgadget_lh/LH_3/snap_003.hdf5",
]


@pytest.mark.parametrize("name", REAL)
def test_real_snapshots_hold_the_mean_density(test_data, name):
    """Gas, dark matter, stars and black holes together fill the universe."""
    snapshot = read_snapshot(test_data / name)
    expected = snapshot.cosmology["omega_m"] * 2.77536627e11 * snapshot.box_size**3
    # Black holes of this code weigh more than the gas they were made of: 0.25 %.
    assert snapshot.total_mass() == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("name", REAL[1:4])
def test_real_snapshots_are_to_us_what_they_are_to_yt(test_data, tmp_path, name):
    """Every kind's positions, velocities and masses, and the gas, agree with yt's."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    snapshot = read_snapshot(test_data / name)
    # A copy, because yt may write beside it.
    data = yt.load(shutil.copy(test_data / name, tmp_path)).all_data()
    for kind in snapshot.kinds:
        ptype = f"PartType{NUMBER[kind]}"
        for field, unit, ours in (
            ("particle_position", "Mpccm/h", snapshot.positions(kind)),
            ("particle_velocity", "km/s", snapshot.velocities(kind)),
            ("particle_mass", "Msun/h", snapshot.masses(kind)),
        ):
            theirs = data[ptype, field].to_value(unit)
            # Velocities pass through zero.
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    if "snap" in Path(name).name:
        for field, unit, ours in (
            ("density", "Msun*h**2/Mpccm**3", snapshot.gas_density()),
            ("smoothing_length", "Mpccm/h", snapshot.smoothing_lengths()),
        ):
            theirs = data["PartType0", field].to_value(unit)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_temperatures_of_real_gas_are_yts(test_data, tmp_path):
    """Where electrons are stored, yt's formula is the same."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    name = test_data / "mpgadget_lh/LH_3/snap_003.hdf5"
    data = yt.load(shutil.copy(name, tmp_path)).all_data()
    theirs = data["PartType0", "temperature"].to_value("K")
    # yt's proton is half an electron per proton heavier, and more of that kind.
    np.testing.assert_allclose(read_snapshot(name).temperature(), theirs, rtol=2e-3)
