import numpy as np
import pytest
from astropy.table import Table

from astrogan_emu.errors import FileError, SuiteError
from astrogan_emu.gadget import write_gadget
from astrogan_emu.parameter_files import camels_parameters, quijote_parameters
from astrogan_emu.parameters import COSMOLOGICAL
from astrogan_emu.suites import (
    camels_suite,
    quijote_suite,
    read_suite,
    suite_parameters,
    write_suite,
)

CAMELS = {"omega_b": 0.049, "h": 0.6711, "n_s": 0.9624}


def snapshot(path, redshift=0.0, omega_m=0.3, omega_b=0.049, h=0.6711):
    """A small dark-matter snapshot in its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gadget(
        path,
        positions=np.random.default_rng(1).uniform(0, 25, (8, 3)),
        velocities=np.zeros((8, 3)),
        particle_mass=omega_m * 2.77536627e11 * 25**3 / 8,
        box_size=25.0,
        redshift=redshift,
        omega_m=omega_m,
        omega_b=omega_b,
        h=h,
    )
    return path


def with_gas(path, **cosmology):
    """The same with one gas particle, so that it counts as hydrodynamical."""
    import h5py

    snapshot(path, **cosmology)
    with h5py.File(path, "r+") as file:
        for name in ("NumPart_ThisFile", "NumPart_Total"):
            file["Header"].attrs[name] = np.array([1, 8, 0, 0, 0, 0], np.uint32)
        file["PartType0/Coordinates"] = np.zeros((1, 3), "f4")
        file["PartType0/Masses"] = np.full(1, 1e-3, "f4")
    return path


def suite(folder):
    """Two runs with two snapshots each; the second run has no initial conditions."""
    rows = []
    for run, omega_m in (("a", 0.2), ("b", 0.3)):
        for redshift in (1.0, 0.0):
            file = f"{run}/snap_{redshift:g}.hdf5"
            snapshot(folder / file, redshift, omega_m)
            ics = "a/ics.hdf5" if run == "a" else ""
            rows.append((run, redshift, file, ics, omega_m, 0.8, 1.5, 7))
    snapshot(folder / "a/ics.hdf5", 49.0, 0.2)
    names = ("run", "redshift", "file", "initial_conditions", "omega_m", "sigma_8")
    table = Table(rows=rows, names=(*names, "a_sn1", "seed"))
    for name, value in CAMELS.items():
        table[name] = value
    return table


def saved(table, folder):
    table.write(folder / "suite.ecsv", format="ascii.ecsv", overwrite=True)
    return folder / "suite.ecsv"


# Reading a table


def test_a_suite_is_read_with_absolute_paths(tmp_path):
    """Relative to the folder of the table, whichever folder one is in."""
    table = read_suite(saved(suite(tmp_path), tmp_path))
    assert list(table["run"]) == ["a", "a", "b", "b"]
    assert table["file"][0] == str(tmp_path / "a/snap_1.hdf5")
    assert list(table["initial_conditions"][1:3]) == [str(tmp_path / "a/ics.hdf5"), ""]
    assert list(table["seed"]) == [7] * 4


def test_the_folder_of_a_suite_stands_for_its_table(tmp_path):
    """Under the name that the table has by default."""
    saved(suite(tmp_path), tmp_path)
    assert len(read_suite(tmp_path)) == 4


def test_parameters_are_the_cosmology_and_the_astrophysics(tmp_path):
    """Seeds and sizes are not, and a table may say which are."""
    table = suite(tmp_path)
    assert suite_parameters(table) == (*COSMOLOGICAL, "a_sn1")
    table.meta["parameters"] = [*COSMOLOGICAL, "w"]
    assert suite_parameters(table) == (*COSMOLOGICAL, "w")


def test_a_written_suite_is_read_back_from_where_it_was_moved(tmp_path):
    """Paths below the table's folder are stored relative to it."""
    first = tmp_path / "here"
    table = read_suite(saved(suite(first), first))
    write_suite(table, first / "suite.ecsv")
    moved = first.rename(tmp_path / "there")
    again = read_suite(moved)
    assert again["file"][0] == str(moved / "a/snap_1.hdf5")
    for name in (*COSMOLOGICAL, "redshift", "a_sn1", "seed", "run"):
        assert list(again[name]) == list(table[name])


def test_writing_does_not_replace_a_table_unasked(tmp_path):
    """With overwrite=False an existing table stays."""
    table = read_suite(saved(suite(tmp_path), tmp_path))
    with pytest.raises(FileError, match="overwrite=True"):
        write_suite(table, tmp_path / "suite.ecsv", overwrite=False)


def put(column, row, value):
    def change(table):
        table[column][row] = value

    return change


def mask(column, row):
    def change(table):
        table[column] = np.ma.masked_array(table[column])
        table[column].mask[row] = True

    return change


BAD = {
    "no column": (
        lambda t: t.remove_column("omega_b"),
        "has no column omega_b; .* needs",
    ),
    "no rows": (lambda t: t.remove_rows(slice(None)), "has no rows"),
    "NaN": (put("omega_m", 1, np.nan), "omega_m in row 2 .* is nan"),
    "masked": (mask("sigma_8", 2), "sigma_8 in row 3"),
    "negative": (put("h", 0, -0.7), "h in row 1 .* is -0.7"),
    "negative redshift": (put("redshift", 3, -1.0), "redshift in row 4 .* is -1"),
    "text": (lambda t: t.replace_column("n_s", ["x"] * 4), "n_s in row 1 .* is x"),
    "empty run": (put("run", 1, ""), "run in row 2 .* is empty"),
    "empty file": (put("file", 1, ""), "file in row 2 .* is empty"),
    "missing file": (
        put("file", 2, "b/none"),
        "file in row 3 .* not there: .*b/none .1 of 4 rows",
    ),
    "missing ICs": (
        lambda t: t.replace_column("initial_conditions", ["no"] * 4),
        "initial_conditions in row 1 .*4 of 4 rows",
    ),
    "same snapshot": (put("redshift", 1, 1.0), "rows 1 and 2 .* same snapshot"),
    "same file": (put("file", 1, "a/snap_1.hdf5"), "rows 1 and 2 .* same snapshot"),
    "two cosmologies": (
        put("omega_m", 1, 0.21),
        "rows 1 and 2 .* run a but have different omega_m: 0.2 and 0.21",
    ),
    "two astrophysics": (put("a_sn1", 3, 1.0), "rows 3 and 4 .* different a_sn1"),
    "two ICs": (put("initial_conditions", 1, ""), "different initial_conditions"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_table_that_cannot_be_used_says_where_and_why(tmp_path, change, message):
    """The error names the table, the column and the row."""
    table = suite(tmp_path)
    change(table)
    path = saved(table, tmp_path)
    with pytest.raises(SuiteError, match=message) as caught:
        read_suite(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "run,redshift\na,0\n", "\x00\x01"])
def test_what_is_no_table_is_refused(tmp_path, content):
    """One error of ours, whatever astropy makes of it."""
    path = tmp_path / "suite.ecsv"
    path.write_text(content)
    with pytest.raises(SuiteError, match=r"cannot read .*suite\.ecsv as an ECSV table"):
        read_suite(path)


def test_a_table_that_is_not_there_is_missing(tmp_path):
    """Neither is one in a folder without it."""
    with pytest.raises(SuiteError, match=r"suite\.ecsv does not exist"):
        read_suite(tmp_path)


def test_the_real_suite_is_read(test_data):
    """Ten or more runs of four snapshots, three astrophysical parameters."""
    table = read_suite(test_data / "mpgadget_lh")
    assert suite_parameters(table)[5:] == ("a_sn1", "a_sn2", "a_agn")
    assert len(table) == 4 * len(set(table["run"])) >= 40


# Parameter files

SEED_FILE = """#Name Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 seed
LH_0 0.309 0.979 3.1 1.1 0.7 0.5 5000
LH_1 0.302 0.939 3.4 3.9 1.0 1.2 5001
LH_2 0.428 0.753 0.7 0.4 1.9 0.6 5002
"""
FIRST = {"omega_m": 0.309, "sigma_8": 0.979, **CAMELS}
FIRST_ASTROPHYSICS = {"a_sn1": 3.1, "a_agn1": 1.1, "a_sn2": 0.7, "a_agn2": 0.5}


def text(tmp_path, content, name="CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt"):
    (tmp_path / name).write_text(content)
    return tmp_path / name


def test_columns_of_camels_are_found_by_name(tmp_path):
    """Their order differs between files."""
    parameters = camels_parameters(text(tmp_path, SEED_FILE))
    assert list(parameters) == ["LH_0", "LH_1", "LH_2"]
    assert parameters["LH_0"] == {**FIRST, **FIRST_ASTROPHYSICS, "seed": 5000}
    order = [7, 1, 5, 0, 2, 3, 4, 6]
    lines = [line.lstrip("#").split() for line in SEED_FILE.splitlines()]
    shuffled = "\n".join(" ".join(line[i] for i in order) for line in lines)
    assert camels_parameters(text(tmp_path, "#" + shuffled)) == parameters


def test_a_multifield_file_without_header_has_its_documented_order(tmp_path):
    """Omega_m, sigma_8, A_SN1, A_AGN1, A_SN2, A_AGN2, one row per run."""
    rows = [line.split()[1:7] for line in SEED_FILE.splitlines()[1:]]
    content = "\n".join(" ".join(row) for row in rows)
    path = text(tmp_path, content, "params_LH_IllustrisTNG.txt")
    expected = {**FIRST, **FIRST_ASTROPHYSICS}
    assert camels_parameters(path)["LH_0"] == expected
    with pytest.raises(SuiteError, match="no header, so the order"):
        camels_parameters(text(tmp_path, content, "parameters.txt"))


def test_code_values_become_multipliers_of_the_fiducial(tmp_path):
    """The 1P and SB sets give winds of 3.6 and 7.4 where the others have 1."""
    content = (
        "#Name Omega0 sigma8 WindEnergyIn1e51erg RadioFeedbackFactor "
        "VariableWindVelFactor RadioFeedbackReiorientationFactor OmegaBaryon "
        "HubbleParam n_s IMFslope\n1P_p1_0 0.3 0.8 7.2 0.5 7.4 10 0.05 0.7 0.96 -2.3\n"
    )
    assert camels_parameters(text(tmp_path, content))["1P_p1_0"] == {
        **{"omega_m": 0.3, "sigma_8": 0.8, "omega_b": 0.05, "h": 0.7, "n_s": 0.96},
        **{"a_sn1": 2.0, "a_agn1": 0.5, "a_sn2": 1.0, "a_agn2": 0.5},
        "IMFslope": -2.3,
    }


def test_a_header_that_the_values_contradict_is_refused(tmp_path):
    """A public copy says SN1 SN2 AGN1 AGN2 and means SN1 AGN1 SN2 AGN2."""
    wrong = SEED_FILE.replace("A_SN1 A_AGN1 A_SN2 A_AGN2", "A_SN1 A_SN2 A_AGN1 A_AGN2")
    with pytest.raises(
        SuiteError, match=r"A_SN2 lies between 0\.5 and 2 .* holds 3\.9"
    ):
        camels_parameters(text(tmp_path, wrong))


def test_the_public_file_with_the_wrong_header_is_refused(test_data):
    """It is the one in circulation; the file with the seeds is the way out."""
    folder = test_data / "camels"
    with pytest.raises(SuiteError, match=r"swapped names, so give the CosmoAstroSeed"):
        camels_parameters(folder / "params_IllustrisTNG.txt")
    values = np.loadtxt(folder / "params_IllustrisTNG.txt", skiprows=1)
    true = camels_parameters(folder / "CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt")
    names = ("omega_m", "sigma_8", "a_sn1", "a_agn1", "a_sn2", "a_agn2")
    np.testing.assert_array_equal(
        values, [[row[name] for name in names] for row in true.values()]
    )


@pytest.mark.parametrize(
    ("name", "runs", "low", "high"),
    [
        ("CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt", 1000, 0.5, 2.0),
        ("CosmoAstroSeed_Astrid_L25n256_LH.txt", 1000, 0.25, 4.0),
        ("CosmoAstroSeed_IllustrisTNG_L25n256_1P.txt", 140, 0.5, 2.0),
    ],
)
def test_public_camels_files_lie_in_their_documented_ranges(
    test_data, name, runs, low, high
):
    """Each column under its own name; Astrid's A_AGN2 has another range."""
    parameters = list(camels_parameters(test_data / "camels" / name).values())
    assert len(parameters) == runs
    for key, (least, most) in {
        **{"omega_m": (0.1, 0.5), "sigma_8": (0.6, 1.0)},
        **{"a_sn1": (0.25, 4), "a_agn1": (0.25, 4), "a_sn2": (0.5, 2)},
        "a_agn2": (low, high),
    }.items():
        values = [row[key] for row in parameters]
        assert least <= min(values) < 1.05 * least
        assert 0.95 * most < max(values) <= most


def test_the_public_quijote_file_is_read(test_data):
    """Two thousand runs, numbered from 0."""
    parameters = quijote_parameters(test_data / "quijote/latin_hypercube_params.txt")
    assert len(parameters) == 2000
    assert parameters["0"] == pytest.approx(
        {"omega_m": 0.1755, "omega_b": 0.06681, "h": 0.7737}
        | {"n_s": 0.8849, "sigma_8": 0.6641}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("#Name Omega_m sigma_8\n", "no rows"),
        ("#Name Omega_m\nLH_0 0.3\n", "no column for sigma_8"),
        ("#Omega_m sigma_8\n0.3 0.8\n", "no column Name"),
        ("#Name Omega_m sigma_8\nLH_0 0.3\n", "row 1 .* has 2 columns, not 3"),
        ("#Name Omega_m sigma_8\nLH_0 0.3 ?\n", r"row 1 .* holds '\?', not a number"),
        ("#Name Omega_m sigma_8\nLH_0 0.3 nan\n", "holds 'nan', not a number"),
        ("#Name Omega_m Omega0 sigma_8\nLH_0 0.3 0.3 0.8\n", "two columns for one"),
        ("#Name Omega_m sigma_8\nLH_0 .3 .8\nLH_0 .3 .8\n", "run LH_0 more than once"),
    ],
)
def test_a_damaged_parameter_file_is_refused(tmp_path, content, message):
    """The error says which row or column."""
    with pytest.raises(SuiteError, match=message):
        camels_parameters(text(tmp_path, content))


def test_a_parameter_file_that_is_not_there_is_refused(tmp_path):
    """Also one that is no text."""
    with pytest.raises(SuiteError, match="cannot read the parameter file"):
        camels_parameters(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot read the parameter file"):
        quijote_parameters(tmp_path / "bytes.txt")


# Folders of the public suites


def camels_folder(folder, write=with_gas):
    """Two of three runs: one with new names and initial conditions, one with old."""
    write(folder / "LH_0/snapshot_090.hdf5", redshift=0.0, omega_m=0.309)
    write(folder / "LH_0/snapshot_066.hdf5", redshift=0.5, omega_m=0.309)
    write(folder / "LH_0/ICs/ics.hdf5", redshift=127.0, omega_m=0.309)
    write(folder / "LH_0/groups_090.hdf5", omega_m=0.309)
    write(folder / "LH_1/snap_033.hdf5", redshift=0.0, omega_m=0.302)
    write(folder / "LH_1/snap_024.hdf5", redshift=0.5, omega_m=0.302)
    write(folder / "CV_0/snap_033.hdf5")
    return folder


def test_a_camels_folder_becomes_a_suite(tmp_path):
    """Runs, redshifts, initial conditions and all parameters, ready to be written."""
    folder = camels_folder(tmp_path / "LH")
    table = camels_suite(folder, text(tmp_path, SEED_FILE))
    assert list(table["run"]) == ["LH_0", "LH_0", "LH_1", "LH_1"]
    assert list(table["redshift"]) == [0.5, 0.0, 0.5, 0.0]
    assert table["file"][3] == str(folder / "LH_1/snap_033.hdf5")
    ics = str(folder / "LH_0/ICs/ics.hdf5")
    assert list(table["initial_conditions"]) == [ics, ics, "", ""]
    assert suite_parameters(table) == (*COSMOLOGICAL, *FIRST_ASTROPHYSICS)
    assert {name: table[name][0] for name in FIRST} == FIRST
    assert table["a_sn2"][3] == 1.0
    assert list(table["seed"]) == [5000, 5000, 5001, 5001]
    write_suite(table, tmp_path / "suite.ecsv")
    again = read_suite(tmp_path)
    assert list(again["file"]) == list(table["file"])
    assert suite_parameters(again) == suite_parameters(table)


def test_runs_of_dark_matter_alone_have_no_astrophysics(tmp_path):
    """Their parameter files list it, but it changed nothing."""
    folder = camels_folder(tmp_path / "LH", write=snapshot)
    table = camels_suite(folder, text(tmp_path, SEED_FILE))
    assert suite_parameters(table) == COSMOLOGICAL


def test_redshifts_can_be_chosen(tmp_path):
    """By value; one that a run lacks is an error that lists what there is."""
    folder, file = camels_folder(tmp_path / "LH"), text(tmp_path, SEED_FILE)
    table = camels_suite(folder, file, redshifts=[0.5])
    assert list(table["redshift"]) == [0.5, 0.5]
    with pytest.raises(
        SuiteError, match=r"LH_0 has no snapshot at redshift 2; .* 0\.5, 0"
    ):
        camels_suite(folder, file, redshifts=[2.0])


def test_parameters_of_another_suite_are_found_out(tmp_path):
    """Snapshots know their omega_m."""
    folder = camels_folder(tmp_path / "LH")
    other = text(tmp_path, SEED_FILE.replace("0.302", "0.402"))
    with pytest.raises(
        SuiteError, match=r"omega_m of the run LH_1 is 0\.402 .* 0\.302 in"
    ):
        camels_suite(folder, other)


def test_folders_without_runs_or_snapshots_are_refused(tmp_path):
    """The error says what was looked for."""
    file = text(tmp_path, SEED_FILE)
    with pytest.raises(
        SuiteError, match=r"none of the runs of .*LH\.txt, such as LH_0"
    ):
        camels_suite(tmp_path, file)
    (tmp_path / "LH_0").mkdir()
    with pytest.raises(SuiteError, match="LH_0 holds no snapshot"):
        camels_suite(tmp_path, file)


def test_a_snapshot_under_two_names_is_refused(tmp_path):
    """The same output, once as snap and once as snapshot."""
    for name in ("snap_033.hdf5", "snapshot_090.hdf5"):
        snapshot(tmp_path / "LH_0" / name, omega_m=0.309)
    with pytest.raises(SuiteError, match="two snapshots of one run at redshift 0"):
        camels_suite(tmp_path, text(tmp_path, SEED_FILE))


QUIJOTE_FILE = "#Omega_m Omega_b h n_s sigma_8\n.2 .05 .7 .9 .8\n.3 .06 .8 1. .9\n"


def test_a_quijote_folder_becomes_a_suite(tmp_path):
    """Numbered runs, one folder for each output, parameters by row."""
    for run, cosmology in (
        ("0", {"omega_m": 0.2, "omega_b": 0.05, "h": 0.7}),
        ("1", {"omega_m": 0.3, "omega_b": 0.06, "h": 0.8}),
    ):
        for number, redshift in ((0, 3.0), (4, 0.0)):
            name = f"snapdir_00{number}/snap_00{number}.0.hdf5"
            snapshot(tmp_path / run / name, redshift, **cosmology)
        snapshot(tmp_path / run / "ICs/ics.0.hdf5", 127.0, **cosmology)
    table = quijote_suite(tmp_path, text(tmp_path, QUIJOTE_FILE, "params.txt"))
    assert list(table["run"]) == ["0", "0", "1", "1"]
    assert list(table["redshift"]) == [3.0, 0.0, 3.0, 0.0]
    assert table["file"][1] == str(tmp_path / "0/snapdir_004/snap_004.0.hdf5")
    assert table["initial_conditions"][2] == str(tmp_path / "1/ICs/ics.0.hdf5")
    assert [table[name][2] for name in COSMOLOGICAL] == [0.3, 0.06, 0.8, 1.0, 0.9]


def test_a_quijote_file_needs_its_header(tmp_path):
    """Its columns come in another order than those of CAMELS."""
    content = QUIJOTE_FILE.split("\n", 1)[1]
    with pytest.raises(SuiteError, match="has no header"):
        quijote_suite(tmp_path, text(tmp_path, content))
