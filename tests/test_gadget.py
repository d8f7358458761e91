import h5py
import numpy as np
import pytest

from astrogan_emu.errors import SnapshotError
from astrogan_emu.gadget import write_gadget
from astrogan_emu.snapshots import read_snapshot

N_SIDE, BOX_SIZE = 8, 10.0
COSMOLOGY = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7}
# The mean density of 512 equal particles, so that the reader trusts the units.
PARTICLE_MASS = 0.3 * 2.77536627e11 * BOX_SIZE**3 / N_SIDE**3


def particles(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "positions": rng.uniform(0, BOX_SIZE, (N_SIDE**3, 3)),
        "velocities": rng.normal(0, 300, (N_SIDE**3, 3)),
    }


def write(path, **changes):
    arguments = {
        **particles(),
        **COSMOLOGY,
        "particle_mass": PARTICLE_MASS,
        "box_size": BOX_SIZE,
        "redshift": 1.0,
    }
    write_gadget(path, **{**arguments, **changes})
    return path


def test_our_reader_gets_back_what_was_written(tmp_path):
    """Positions, velocities, masses and cosmology survive to single precision."""
    snapshot = read_snapshot(write(tmp_path / "snap.hdf5"))
    given = particles()
    assert snapshot.kinds == ("dark_matter",)
    assert snapshot.redshift == 1
    assert snapshot.box_size == BOX_SIZE
    assert snapshot.cosmology == COSMOLOGY
    # Half a unit in the last place of single precision, at 10 Mpc/h and 1000 km/s.
    np.testing.assert_allclose(
        snapshot.positions("dark_matter"), given["positions"], atol=5e-7
    )
    np.testing.assert_allclose(
        snapshot.velocities("dark_matter"), given["velocities"], rtol=2e-7
    )
    np.testing.assert_allclose(snapshot.masses("dark_matter"), PARTICLE_MASS)


def test_yt_reads_the_same_universe(tmp_path):
    """A user's own yt.load finds box, cosmology, masses, velocities and attributes."""
    yt = pytest.importorskip("yt")
    yt.set_log_level(50)
    dataset = yt.load(write(tmp_path / "snap.hdf5", attributes={"sigma_8": 0.8}))
    data = dataset.all_data()
    assert dataset.current_redshift == 1
    assert dataset.hubble_constant == 0.7
    assert dataset.omega_matter == 0.3
    assert dataset.parameters["sigma_8"] == 0.8
    np.testing.assert_allclose(dataset.domain_width.to_value("Mpccm/h"), BOX_SIZE)
    np.testing.assert_allclose(
        data["PartType1", "particle_mass"].to_value("Msun/h"), PARTICLE_MASS
    )
    np.testing.assert_allclose(
        data["PartType1", "particle_velocity"].to_value("km/s"),
        particles()["velocities"],
        rtol=2e-7,
    )


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """Nothing in the file depends on when it was written."""
    attributes = {"seed": 3, "code": "astrogan_emu", "sigma_8": 0.8}
    first = write(tmp_path / "a.hdf5", attributes=attributes)
    second = write(tmp_path / "b.hdf5", attributes=attributes)
    assert first.read_bytes() == second.read_bytes()


def test_positions_are_wrapped_into_the_box(tmp_path):
    """Also those that single precision would round up to the far face."""
    positions = particles()["positions"]
    positions[0] = [-0.5, BOX_SIZE + 0.5, -1e-9]
    path = write(tmp_path / "snap.hdf5", positions=positions)
    with h5py.File(path) as file:
        stored = file["PartType1/Coordinates"][0]
    np.testing.assert_array_equal(stored, np.float32([9500, 500, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.full((N_SIDE**3, 3), np.nan)}, "1536 values .* not finite"),
        ({"velocities": np.full((N_SIDE**3, 3), np.inf)}, "velocities .* not finite"),
        ({"positions": np.zeros((4, 2))}, r"shape \(n, 3\)"),
        ({"positions": np.zeros((0, 3))}, "n at least 1"),
        ({"velocities": np.zeros((4, 3))}, r"velocities .* must have the shape"),
        ({"particle_mass": 0.0}, "particle_mass .* positive"),
        ({"box_size": -1.0}, "box_size .* positive"),
        ({"redshift": -1.0}, "redshift .* positive"),
        ({"omega_m": np.nan}, "omega_m .* finite"),
        ({"omega_b": 0.4}, "omega_b .* between 0 and omega_m"),
        ({"attributes": {"Omega0": 0.2}}, "Omega0.* header fields"),
    ],
)
def test_nonsense_is_refused_and_leaves_no_file(tmp_path, changes, message):
    """A snapshot is written whole or not at all."""
    with pytest.raises(SnapshotError, match=message):
        write(tmp_path / "snap.hdf5", **changes)
    assert list(tmp_path.iterdir()) == []
