"""Validation: the scorecard tells right from wrong, and the report shows it."""

import json
import shutil

import numpy as np
import pytest
from astropy.table import vstack

from astrogan_emu.checkpoints import model_path
from astrogan_emu.emulator import Emulator
from astrogan_emu.ensembles import (
    error_table,
    response,
    response_scores,
    responses,
    scatter,
    scatter_scores,
)
from astrogan_emu.errors import DatasetError
from astrogan_emu.metrics import score
from astrogan_emu.scorecard import compare
from astrogan_emu.simulations import (
    SimulationConfig,
    design_at_point,
    design_pairs,
    simulate,
)
from astrogan_emu.validation import score_table, validate

POINT = {"omega_m": 0.3, "omega_b": 0.05, "h": 0.7, "n_s": 1.0, "sigma_8": 0.8}
BOX = 25.0


def lognormal(seed, n=32, amplitude=0.8):
    """A clumpy field of mean one, with power falling towards small scales."""
    random = np.random.default_rng(seed)
    modes = np.fft.rfftn(random.normal(size=(n, n, n)))
    k = [np.fft.fftfreq(n) * n, np.fft.fftfreq(n) * n, np.fft.rfftfreq(n) * n]
    size = np.sqrt(sum(x**2 for x in np.meshgrid(*k, indexing="ij")))
    field = np.fft.irfftn(modes / (1 + size) ** 1.5, s=(n, n, n), axes=(0, 1, 2))
    field = np.exp(amplitude * field / field.std())
    return field / field.mean()


def compared(made, truth, **keywords):
    options = {"run": "a", "redshift": 0.0, "parameters": POINT, **keywords}
    return compare({"model": made}, truth, box_size=BOX, **options)


def numbers(comparisons):
    return {each.metric: each for each in score(comparisons)}


def test_a_perfect_model_passes_everything():
    """Every departure is zero, every correlation one."""
    fields = {"matter": lognormal(1)}
    found = numbers(compared(fields, fields))
    judged = [each for each in found.values() if each.passed is not None]
    assert len(judged) >= 7
    assert all(each.passed for each in judged)
    assert found["M1 mean power, interior"].value == pytest.approx(0, abs=1e-12)
    assert found["M7 r up to half Nyquist"].value == pytest.approx(1, abs=1e-6)
    assert found["M5 bispectrum, equilateral"].value == pytest.approx(0, abs=1e-9)


def test_a_known_error_of_the_power_is_found():
    """Contrast 5 % higher is power 10.25 % higher, with the same phases."""
    truth = {"matter": lognormal(1)}
    made = {"matter": 1 + 1.05 * (truth["matter"] - 1)}
    found = numbers(compared(made, truth))
    power = found["M1 mean power, interior"]
    assert power.value == pytest.approx(0.1025, abs=1e-6)
    assert power.passed is False
    assert found["M7 r up to k = 1"].value == pytest.approx(1, abs=1e-6)
    # A bispectrum grows as the third power of the contrast.
    bispectrum = found["M5 bispectrum, squeezed"].value
    assert bispectrum == pytest.approx(1.05**3 - 1, abs=1e-4)


def test_other_phases_are_found():
    """The power may be right and the correlation gone."""
    found = numbers(compared({"matter": lognormal(2)}, {"matter": lognormal(1)}))
    assert found["M7 r up to half Nyquist"].value < 0.5
    assert found["M7 r up to half Nyquist"].passed is False


def test_a_wrong_tail_is_found():
    """The densest cells count, though they are one in a thousand."""
    truth = {"matter": lognormal(1)}
    squeezed = np.minimum(truth["matter"], np.quantile(truth["matter"], 0.99))
    found = numbers(compared({"matter": squeezed / squeezed.mean()}, truth))
    assert found["M4 99.9 % tail"].passed is False


def test_edges_of_the_range_have_a_bar_of_their_own():
    """Interior and edge are two groups."""
    fields = {"matter": lognormal(1)}
    both = compared(fields, fields) + compared(fields, fields, run="b", edge=True)
    found = numbers(both)
    assert found["M1 mean power, interior"].bar == 0.02
    assert found["M1 mean power, edge"].bar == 0.04
    assert found["M1 mean power, edge"].n_runs == 1


def test_a_mean_has_the_error_of_a_mean():
    """Contrasts too high by various factors: power errors scatter by a known amount."""
    truth = {"matter": lognormal(1)}
    factors = np.array([1.01, 1.03, 1.04, 1.08])
    many = [
        each
        for i, factor in enumerate(factors)
        for each in compared(
            {"matter": 1 + factor * (truth["matter"] - 1)}, truth, run=str(i)
        )
    ]
    found = numbers(many)
    power = found["M1 mean power, interior"]
    assert power.value == pytest.approx((factors**2).mean() - 1, rel=1e-6)
    assert power.error == pytest.approx((factors**2).std(ddof=1) / 2, rel=1e-6)
    assert str(power) == f"{power.value:.3g} ± {power.error:.1g}"
    assert power.to_dict()["error"] == power.error
    assert found["mean"].error is None
    two = numbers(many[:2])["M1 mean power, interior"]
    assert two.error is None
    assert "±" not in str(two)


def test_runs_of_one_seed_count_as_one():
    """Runs that share their phases share their chances."""
    truth = {"matter": lognormal(1)}
    many = [
        compared({"matter": 1 + factor * (truth["matter"] - 1)}, truth, run=str(i))[0]
        for i, factor in enumerate([1.01, 1.01, 1.03, 1.03, 1.08, 1.08])
    ]
    seeds = dict(zip("012345", [7, 7, 8, 8, 9, 9], strict=True))
    (power,) = (s for s in score(many, seeds) if s.metric.endswith("interior"))
    squares = np.array([1.01, 1.03, 1.08]) ** 2
    assert power.error == pytest.approx(squares.std(ddof=1) / 3**0.5, rel=1e-6)
    (power,) = (
        s for s in score(many, dict.fromkeys(seeds, 7)) if "interior" in s.metric
    )
    assert power.error is None


def test_cross_power_ties_fields_together():
    """Galaxies that follow other matter have the wrong cross-power."""
    matter = lognormal(1)
    truth = {"matter": matter, "galaxies": 0.01 * matter**2}
    made = {"matter": matter, "galaxies": 0.01 * lognormal(3) ** 2}
    for galaxies, passed in ((truth["galaxies"], True), (made["galaxies"], False)):
        comparisons = compared({**made, "galaxies": galaxies}, truth)
        own = [each for each in comparisons if each.field == "galaxies"]
        assert numbers(own)["M14 cross-power with matter"].passed is passed


def test_an_empty_field_is_left_out():
    """There are snapshots without a galaxy; no ratio to nothing is known."""
    matter = lognormal(1)
    truth = {"matter": matter, "galaxies": 0 * matter}
    found = compared({"matter": matter, "galaxies": matter}, truth)
    assert [each.field for each in found] == ["matter"]


def test_scatter_is_that_of_the_realisations():
    """Twice the contrast has the same relative scatter; no phases, another one."""
    fields = [{"matter": lognormal(i, n=16)} for i in range(12)]
    pairs = [compared(f, f, run=str(i))[0] for i, f in enumerate(fields)]
    found = scatter(pairs)
    np.testing.assert_allclose(found["relative_made"], found["relative_true"])
    np.testing.assert_allclose(np.diag(found["matrix_made"]), 1)
    same = [compared(fields[0], f, run=str(i))[0] for i, f in enumerate(fields)]
    assert (scatter(same)["relative_made"] < 1e-12).all()


def test_response_is_the_difference_of_log_power():
    """Contrast 1 % higher changes ln P by 2 ln 1.01."""
    low = {"matter": lognormal(1)}
    high = {"matter": 1 + 1.01 * (low["matter"] - 1)}
    found = response(compared(low, low), compared(high, high))
    assert found["made"].shape == (1, len(found["k"]))
    np.testing.assert_allclose(found["made"], 2 * np.log(1.01), rtol=1e-6)
    np.testing.assert_allclose(found["true"], found["made"])


def test_scatter_has_bars():
    """Fields of the same scatter pass; fields of one realisation have none."""
    fields = [{"matter": lognormal(i, n=16)} for i in range(12)]
    key = ("model", "matter", 0.0)
    good, bad = (
        {
            each.metric: each
            for each in scatter_scores(
                key, scatter([compared(m, f)[0] for m, f in pairs]), 12
            )
        }
        for pairs in (
            [(f, f) for f in fields],
            [(fields[0], f) for f in fields],
        )
    )
    assert good["M2 scatter of power"].passed is True
    assert good["M3 correlation of power"].passed is True
    assert bad["M2 scatter of power"].value == pytest.approx(1)
    assert bad["M2 scatter of power"].passed is False


def test_a_response_that_is_too_weak_fails():
    """Half the change of the simulation is an error of half of it."""
    key = ("model", "matter", 0.0, "sigma_8")
    true = np.array([0.1, -0.2, 0.4, 9.0])
    k = np.array([0.1, 0.5, 1.0, 4.0])
    for share, value in ((1.0, 0.0), (0.5, 0.5)):
        changes = {"k": k, "made": share * true[None], "true": true[None]}
        found = response_scores(key, changes, 2.0)
        assert found.value == pytest.approx(value)
        assert found.passed is (share == 1.0)
        assert found.error is None


def test_chances_of_a_response_average_out():
    """Errors that cancel over realisations are sampling errors, and said to be."""
    key = ("model", "matter", 0.0, "h")
    true = np.full((4, 3), 0.2)
    chance = 0.04 * np.array([1, -1, 1, -1])[:, None]
    values = {"k": np.array([0.1, 0.5, 1.0]), "made": true + chance, "true": true}
    found = response_scores(key, values, 2.0)
    assert found.value == pytest.approx(0)
    assert found.n_runs == 8
    # Without one of four, a third of its chance is left.
    assert found.passed is True
    values["made"] = values["made"] + 0.02
    found = response_scores(key, values, 2.0)
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(0.2 / 3 * np.sqrt(3))


def test_responses_are_those_of_the_widest_pair_of_each_seed():
    """Runs of two seeds at three values of one parameter; one run of a third seed."""
    own = []
    for seed, values in ((1, (0.7, 0.8, 0.9)), (2, (0.7, 0.9)), (3, (0.7,))):
        for sigma_8 in values:
            fields = {"matter": 1 + sigma_8 * (lognormal(seed) - 1)}
            run = f"{seed} {sigma_8}"
            own += compared(fields, fields, run=run, parameters={"sigma_8": sigma_8})
    seeds = {each.run: int(each.run[0]) for each in own}
    key = (own[0].method, "matter", own[0].redshift)
    ((name, found),) = responses({key: own}, seeds).items()
    assert name == (*key, "sigma_8")
    assert found["made"].shape == (2, len(own[0].k))
    np.testing.assert_allclose(found["true"], 2 * np.log(0.9 / 0.7), rtol=1e-6)
    assert responses({key: own}, dict.fromkeys(seeds)) == {}


def test_errors_by_scale_are_those_of_the_fields():
    """Contrast 5 % higher in one run and 5 % lower in another: no bias, 10 % error."""
    truth = {"matter": lognormal(1)}
    both = [
        compared({"matter": 1 + f * (truth["matter"] - 1)}, truth, run=str(f))[0]
        for f in (1.05, 0.95)
    ]
    table = error_table(both, "model")
    interior = table["fields"]["matter"]["interior"]
    assert interior["runs"] == 2
    assert interior["redshifts"] == [0.0]
    np.testing.assert_allclose(interior["power"][0], 0.1, atol=1e-3)
    np.testing.assert_allclose(interior["power_bias"][0], 0.0025, atol=1e-4)
    np.testing.assert_allclose(interior["correlation"][0], 1, atol=1e-4)
    assert len(table["k"]) == len(interior["power"][0])


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Two toy runs of one point for testing, and a pair in each parameter."""
    folder = tmp_path_factory.mktemp("suite")
    config = SimulationConfig(
        n_particles=16, box_size=12.5, n_mesh=16, n_steps=4, redshifts=(1.0, 0.0)
    )
    pairs = design_pairs(POINT, seed=5, name="1P")
    design = vstack(
        [design_at_point(POINT, 2, seed=3, name="test"), pairs[pairs["run"] != "x"][:3]]
    )
    simulate(design, folder, config=config, workers=1, progress=False)
    return folder


def test_the_shipped_model_is_held_to_simulations(suite, tmp_path):
    """Numbers as JSON and a page that needs nothing beside it."""
    results = validate(suite, tmp_path / "report", progress=False)
    written = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert written["model"] == results.model
    assert {each["method"] for each in written["scores"]} == {
        *("model", "without noise", "base", "2LPT", "lognormal")
    }
    assert {each["redshift"] for each in written["scores"]} == {0.0, 1.0}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "src='http" not in page
    assert any("M2, M3" in each for each in results.missing)
    table = score_table(results.scores)
    assert "matter: M7 r up to k = 1" in table
    # Phases are those of the simulation, so even the base follows it.
    base = [
        e
        for e in results.scores
        if e.method == "base" and "M7 r up to k = 1" in e.metric
    ]
    assert all(each.value > 0.9 for each in base)


def test_pairs_give_the_response(suite, tmp_path):
    """Runs of one seed that differ in one parameter."""
    results = validate(suite, tmp_path, sets=["1P"], progress=False)
    assert ("model", "matter", 0.0, "omega_m") in results.responses
    values = results.responses["base", "matter", 1.0, "omega_m"]
    # The base of the same phases responds much as the simulation does.
    assert np.corrcoef(values["made"][0, :4], values["true"][0, :4])[0, 1] > 0.5


def test_a_card_keeps_what_was_measured(suite, tmp_path):
    """Fields of the model then say what they are expected to be off by."""
    path = tmp_path / "own.safetensors"
    shutil.copy(model_path("nbody"), path)
    results = validate(
        *(suite, tmp_path / "report"),
        model=path,
        baselines=False,
        write_card=True,
        progress=False,
    )
    assert {each.method for each in results.scores} == {"model"}
    field = Emulator.load(path).emulate(POINT, n_cells=16, seed=1, redshift=0.5)
    expected = field["matter"].meta["expected_error"]
    assert expected["region"] == "interior"
    assert expected["runs"] == 2
    assert len(expected["power"]) == len(expected["k"])
    assert field["matter"].smooth(2.0).meta["expected_error"] == expected
    with pytest.raises(DatasetError, match="only be written into a model file"):
        validate(suite, tmp_path, model="nbody", write_card=True, progress=False)


def test_a_set_that_is_not_there_is_named(suite, tmp_path):
    """Before anything is read."""
    with pytest.raises(DatasetError, match="no set 'CV'; it has 1P, test"):
        validate(suite, tmp_path, sets=["CV"], progress=False)
