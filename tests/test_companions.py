"""Companions in images: what is put in is found, and noise is not."""

import io
import json
import zipfile

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from scipy import ndimage, stats

from astrogan_emu.cli import main
from astrogan_emu.companions import (
    ADISequence,
    CompanionDetections,
    completeness,
    detect_companions,
    write_eidc,
)
from astrogan_emu.companions.calibration import (
    NullDistribution,
    local_maxima,
    sector_of,
    uniformity,
)
from astrogan_emu.companions.detector import CompanionDetector, DetectorConfig
from astrogan_emu.companions.pca import AnnularPCA, Companion
from astrogan_emu.companions.photometry import measure
from astrogan_emu.companions.snr import (
    significance,
    snr_at,
    snr_from_apertures,
    snr_map,
)
from astrogan_emu.companions.speckle import (
    GaussianSpeckle,
    SpeckleGAN,
    SpeckleGANConfig,
    noise_pool,
)
from astrogan_emu.companions.speckle_checks import check_speckles
from astrogan_emu.companions.templates import Speckles, Templates
from astrogan_emu.errors import (
    CheckpointError,
    FileError,
    SequenceError,
    TrainingError,
)

SIDE, FWHM, FRAMES = 61, 4.0, 16
CENTER = (30.3, 29.8)
STAR = 1e4


def gaussian(shape, center, fwhm=FWHM):
    y, x = np.indices(shape)
    square = (x - center[0]) ** 2 + (y - center[1]) ** 2
    return np.exp(-4 * np.log(2) * square / fwhm**2)


def settings(**changes):
    """A sequence of speckles that drift, in photon-like noise, without a companion."""
    rng = np.random.default_rng(3)
    y, x = np.indices((SIDE, SIDE))
    halo = np.exp(-np.hypot(x - CENTER[0], y - CENTER[1]) / 9)
    still, drift = ndimage.gaussian_filter(
        rng.standard_normal((2, SIDE, SIDE)), (0, 1.6, 1.6)
    )
    phase = np.linspace(0, 1, FRAMES)[:, None, None]
    cube = 100 * halo * (5 + 8 * still + 2 * np.sin(4 * phase) * drift)
    cube += ndimage.gaussian_filter(rng.standard_normal(cube.shape), (0, 1, 1))
    return {
        **{"cube": cube, "angles": np.linspace(-30, 50, FRAMES)},
        **{"psf": gaussian((21, 21), (10, 10)), "pixel_scale": 0.025},
        **{"center": CENTER, "star_flux": STAR},
        **changes,
    }


@pytest.fixture(scope="module")
def sequence():
    return ADISequence(**settings())


@pytest.fixture(scope="module")
def maps(sequence):
    return AnnularPCA(sequence).maps()


@pytest.fixture(scope="module")
def null(sequence):
    return AnnularPCA(sequence.flip()).maps()


@pytest.fixture(scope="module")
def templates(null):
    return Templates.make(null, 60, np.random.default_rng(0))


@pytest.fixture(scope="module")
def speckles(null):
    return Speckles.of(null)


# Sequences


def test_a_sequence_keeps_what_it_is_given(sequence):
    """PSF of unit flux in one FWHM, the FWHM that was drawn, the turned angle."""
    assert sequence.fwhm == pytest.approx(FWHM, rel=1e-3)
    assert sequence.rotation == pytest.approx(80)
    # A Gaussian has half its flux within half a FWHM of its middle.
    assert sequence.psf.sum() == pytest.approx(2, rel=5e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"angles": np.arange(15.0)}, "16 frames but there are 15 angles"),
        ({"cube": np.ones((4, 30, 30)), "angles": np.arange(4.0)}, "has 4 frames"),
        ({"cube": np.ones((30, 30))}, "must have shape"),
        ({"angles": np.r_[np.nan, np.arange(15.0)]}, "1 values that are not finite"),
        ({"angles": np.linspace(0, 2, 16)}, "a companion would be removed"),
        ({"psf": gaussian((20, 20), (9.5, 9.5))}, "even number has no middle"),
        ({"psf": gaussian((21, 21), (5, 10))}, "not at its centre"),
        ({"pixel_scale": -1}, "pixel_scale must be positive"),
        ({"pixel_scale": 1 * u.m}, "must be an angle"),
        ({"center": "guess"}, r"center must be \(x, y\) or 'fit'"),
        ({"center": (99, 3)}, "outside the frames of 61 x 61"),
        ({"angle_convention": "up"}, "must be one of parallactic, clockwise"),
        ({"cube": np.ones((16, 61, 61))}, "all frames are the same"),
        ({"cube": settings()["cube"][:, 20:40, 20:40], "center": (10, 10)}, "larger"),
        ({"north_offset": np.nan}, "north_offset must be finite"),
        ({"star_flux": 0}, "star_flux must be positive"),
        ({"fwhm": 60}, "between 1 and the size of the psf"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_reason(changes, message):
    """The value and the way out are named."""
    with pytest.raises(SequenceError, match=message):
        ADISequence(**settings(**changes))


def test_values_that_are_not_finite_are_counted():
    """One bad pixel would reach every frame."""
    cube = settings()["cube"].copy()
    cube[3, 4, 5] = np.nan
    with pytest.raises(SequenceError, match="the cube has 1 values"):
        ADISequence(**settings(cube=cube))


def test_an_even_psf_with_its_centre_is_the_same_star():
    """The centre may lie between pixels."""
    even = ADISequence(
        **settings(psf=gaussian((20, 20), (9.5, 9.5)), psf_center=(9.5, 9.5))
    )
    odd = ADISequence(**settings())
    (a, corners), (b, _) = (s.stamps((20.3, 35.1)) for s in (even, odd))
    assert np.abs(a - b).max() < 0.01 * b.max()
    assert corners.shape == (2, FRAMES)


def test_an_injected_companion_has_its_flux_and_turns_with_the_field(sequence):
    """Its flux in each frame is the contrast's; turned frames agree on its place."""
    place = (0.35 * u.arcsec, 75 * u.deg)
    added = sequence.inject(*place, 0.01).cube - sequence.cube
    y, x = np.indices((SIDE, SIDE))
    track = sequence.track(*([v] for v in sequence.to_pixel(*place)))[..., 0]
    for frame, cx, cy in zip(added, *track, strict=True):
        total = frame.sum()
        assert (frame * x).sum() / total == pytest.approx(cx, abs=0.02)
        assert (frame * y).sum() / total == pytest.approx(cy, abs=0.02)
        # In one FWHM, half of a Gaussian's.
        assert total / 2 == pytest.approx(0.01 * STAR, rel=0.02)


def test_a_companion_outside_the_frames_is_refused(sequence):
    """It would be in some frames alone, or in none."""
    with pytest.raises(SequenceError, match=r"outside \d+ of 16 frames"):
        sequence.inject(0.9, 30, 0.01)
    with pytest.raises(SequenceError, match="not negative"):
        sequence.inject(-0.2, 30, 0.01)


def test_the_two_conventions_of_angles_are_each_other_s_mirror():
    """Angles of the other sign, counted the other way, are the same sequence."""
    there = ADISequence(**settings())
    back = ADISequence(
        **settings(angles=-settings()["angles"], angle_convention="clockwise")
    )
    np.testing.assert_array_equal(there.angles, back.angles)
    np.testing.assert_array_equal(there.flip().angles, -there.angles)


def test_north_is_up_and_east_left_without_an_offset(sequence):
    """An offset turns the sky, and places come back from where they went."""
    x, y = sequence.to_pixel(0.25, 90)
    assert (x, y) == pytest.approx((CENTER[0] - 10, CENTER[1]))
    turned = ADISequence(**settings(north_offset=30 * u.deg))
    for each in (sequence, turned):
        separation, angle = each.to_sky(*each.to_pixel(0.3, 200))
        assert separation.to_value("arcsec") == pytest.approx(0.3)
        assert angle.to_value("deg") == pytest.approx(200)
    assert turned.to_pixel(0.25, 120) == pytest.approx((x, y))


def test_the_centre_is_where_the_halo_is_symmetric():
    """It is found to a fraction of a pixel."""
    rng = np.random.default_rng(0)
    cube = 1000 * gaussian((SIDE, SIDE), (28.7, 31.4), 20) + rng.standard_normal(
        (FRAMES, SIDE, SIDE)
    )
    found = ADISequence(**settings(cube=cube, center="fit")).center
    assert found == pytest.approx((28.7, 31.4), abs=0.1)


def test_sequences_are_read_from_files_and_from_the_challenge_layout(tmp_path):
    """The same frames either way; a missing file is named."""
    given = settings()
    names = ("cube", "pa", "psf", "pxscale")
    values = (given["cube"], given["angles"], given["psf"], np.array([0.025]))
    for name, value in zip(names, values, strict=True):
        fits.writeto(tmp_path / f"cam_{name}_1.fits", np.float32(value))
    one = ADISequence.read_eidc(tmp_path, "cam", 1)
    assert one.center == (30, 30)
    paths = [tmp_path / f"cam_{name}_1.fits" for name in names[:3]]
    two = ADISequence.read(*paths, pixel_scale=0.025, center=(30, 30))
    np.testing.assert_array_equal(one.cube, two.cube)
    with pytest.raises(FileError, match=r"cam_cube_2\.fits"):
        ADISequence.read_eidc(tmp_path, "cam", 2)


# Reduction and ratios


def test_all_ranks_at_once_are_each_rank_by_a_full_decomposition(sequence):
    """Singular vectors of the frames in the annulus, taken away and averaged."""
    pca = AnnularPCA(sequence, (1, 3, 7))
    radius = float(pca.ring_radii[3])
    y, x = np.indices((SIDE, SIDE))
    distance = np.hypot(x - CENTER[0], y - CENTER[1])
    inside = np.abs(distance - radius) <= 1.75 * sequence.fwhm
    data = sequence.cube[:, inside & (distance >= 2)].astype(float)
    u_matrix, *_ = np.linalg.svd(data - data.mean(0), full_matrices=False)
    frames = sequence.cube - sequence.cube.mean(0)
    px, py = np.array([41.0, 27.5]), np.array([33.2, 45.0])
    track = sequence.track(px, py)
    for rank, found in zip(pca.ranks, pca.sample(radius, px, py), strict=True):
        lost = u_matrix[:, :rank] @ (u_matrix[:, :rank].T @ frames.reshape(FRAMES, -1))
        left = frames - lost.reshape(frames.shape)
        values = [
            ndimage.map_coordinates(image, [ty, tx], order=3)
            for image, tx, ty in zip(left, *track, strict=True)
        ]
        np.testing.assert_allclose(found, np.mean(values, 0), rtol=2e-3, atol=2e-3)


def test_a_companion_put_in_on_the_way_is_one_put_into_the_frames(sequence):
    """The quick way of injections gives what the slow one gives."""
    companion = Companion(41.3, 36.7, 400.0)
    there = AnnularPCA(sequence).patch(41, 37, companion)
    injected = sequence.inject_flux((companion.x, companion.y), companion.flux)
    np.testing.assert_allclose(
        AnnularPCA(injected).patch(41, 37), there, rtol=1e-2, atol=2e-3 * there.max()
    )


def test_ranks_that_cannot_be_are_refused(sequence):
    """All frames have no more components than that."""
    with pytest.raises(SequenceError, match="at most 14 for 16 frames"):
        AnnularPCA(sequence, (1, 15))


def test_ratios_of_noise_follow_student_and_become_gaussian():
    """Few apertures scatter more than many (Mawet et al. 2014)."""
    rng = np.random.default_rng(1)
    ratio = snr_from_apertures(rng.normal(5, 2, (20_000, 8)))
    assert stats.kstest(ratio, stats.t(6).cdf).pvalue > 0.01
    # Seven others at r = 8 FWHM / (2 pi).
    sigma = significance(ratio, 8.02 * FWHM / (2 * np.pi), FWHM)
    assert stats.kstest(sigma, "norm").pvalue > 0.01
    assert sigma.max() < ratio.max()


def test_the_map_of_ratios_shows_a_companion_where_it_is(sequence):
    """The highest at its separation, and the ratio there is that of the place alone."""
    x, y = 46, 36
    pca = AnnularPCA(sequence.inject_flux((x, y), 25.0), (2, 4))
    ratio = snr_map(pca.maps())[1]
    rows, columns = np.indices(ratio.shape)
    radius = np.hypot(columns - CENTER[0], rows - CENTER[1])
    # Ratios compare places of one separation.
    same = np.abs(radius - np.hypot(x - CENTER[0], y - CENTER[1])) < 0.7
    highest = np.nanargmax(np.where(same, ratio, np.nan))
    row, column = np.unravel_index(highest, ratio.shape)
    assert np.hypot(column - x, row - y) < 1.5
    assert ratio[y, x] > 5
    assert ratio[y, x] == pytest.approx(snr_at(pca, x, y)[1], rel=0.2)
    assert np.isnan(ratio[30, 30])


# Learning


def test_templates_have_the_ratio_that_they_say(maps, null, templates):
    """The flux of a ratio of 6, put in, raises the ratio by about 6 on average."""
    rng = np.random.default_rng(5)
    rank, pca = templates.best_rank, null.pca
    rises = []
    for radius, theta in zip(
        rng.uniform(9, 22, 12), rng.uniform(0, 2 * np.pi, 12), strict=True
    ):
        x, y = CENTER[0] + radius * np.cos(theta), CENTER[1] + radius * np.sin(theta)
        near = np.argsort(np.abs(templates.radius - radius))[:9]
        flux = 6 * np.median(templates.flux[near] / templates.snr[near, rank])
        with_it = snr_at(pca, x, y, Companion(x, y, flux), only=[rank])
        rises.append(float(with_it[0] - snr_at(pca, x, y, only=[rank])[0]))
    assert 4 < np.mean(rises) < 8


def test_the_gaussian_model_has_the_covariance_of_the_patches(speckles):
    """Its samples pass what a GAN's must, but for the kurtosis it does not know."""
    model = GaussianSpeckle.fit(speckles)
    drawn = model.sample(speckles.conditions, np.random.default_rng(0))
    checks = check_speckles(speckles, drawn)
    for name in ("std", "autocorrelation", "rank_correlation"):
        found, allowed = checks[name]
        assert found < allowed


def test_a_bad_imitation_is_not_accepted(speckles):
    """Too faint, or without correlation between the ranks."""
    assert check_speckles(speckles, speckles.patches)["passed"]
    checks = check_speckles(speckles, 0.5 * speckles.patches)
    assert not checks["passed"]
    assert checks["std"][0] == pytest.approx(0.5, abs=1e-3)
    rng = np.random.default_rng(0)
    shuffled = np.stack(
        [rng.permutation(rank) for rank in speckles.patches.transpose(1, 0, 2, 3)], 1
    )
    found, allowed = check_speckles(speckles, shuffled)["rank_correlation"]
    assert found > 3 * allowed


def test_the_gan_starts_from_the_gaussian_and_learns_from_its_critic(
    speckles, tmp_path
):
    """Samples repeat with their seed, and survive a file; a damaged one is refused."""
    gan = SpeckleGAN.fit(speckles, seed=1, config=SpeckleGANConfig(steps=12))
    told = speckles.conditions[:40]

    def draw(model):
        return model.sample(told, np.random.default_rng(2))

    first = draw(gan)
    start = draw(gan.gaussian)
    assert first.shape == start.shape
    assert 0 < np.abs(first - start).mean() < 0.5 * start.std()
    gan.write(tmp_path / "gan.safetensors")
    again = SpeckleGAN.read(tmp_path / "gan.safetensors")
    np.testing.assert_array_equal(draw(again), first)
    np.testing.assert_array_equal(again.score(first, told), gan.score(first, told))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        SpeckleGAN.read(tmp_path / "bad.safetensors")


def test_a_gan_that_fails_its_checks_is_not_used(speckles):
    """One that was never trained on these speckles' scale."""
    louder = Speckles(3 * speckles.patches, speckles.conditions, speckles.x, speckles.y)
    gan = SpeckleGAN.fit(louder, seed=0, config=SpeckleGANConfig(steps=1))
    with pytest.raises(TrainingError, match="not like the speckles"):
        noise_pool("gan", speckles, seed=0, trained=gan)
    with pytest.raises(TrainingError, match="noise must be one of"):
        noise_pool("pink", speckles, seed=0)


def test_a_detector_tells_companions_from_speckles(speckles, templates):
    """On patches that it has not seen, better for brighter companions."""
    here = speckles.x > CENTER[0]
    mine, others = speckles.where(here), speckles.where(~here)
    pool = noise_pool("gaussian", mine, seed=0)

    def draw(count, rng):
        chosen = rng.integers(len(pool.patches), size=count)
        return pool.patches[chosen], pool.conditions[chosen]

    detector = CompanionDetector.train(
        draw, templates, seed=0, config=DetectorConfig(steps=80)
    )
    near = np.searchsorted(
        templates.radius, np.hypot(others.x - CENTER[0], others.y - CENTER[1])
    ).clip(0, len(templates.radius) - 1)
    blank = detector.score(others.patches, others.conditions)
    areas = []
    for ratio in (1.5, 4.0):
        shown = others.patches + np.float32(ratio) * templates.patches[near]
        score = detector.score(shown, others.conditions)
        areas.append(stats.mannwhitneyu(score, blank).statistic / len(blank) ** 2)
    assert 0.6 < areas[0] < areas[1]
    assert areas[1] > 0.9


# Calibration


def test_false_alarms_are_as_frequent_as_their_probability_says():
    """For maxima of light and of heavy tails, far beyond what was seen."""
    rng = np.random.default_rng(2)
    for draw in (rng.gumbel, rng.standard_normal):
        null = NullDistribution.fit(draw(size=400))
        fresh = draw(size=(500, 400)).max(1)
        for wanted in (0.05, 0.3):
            share = np.mean(fresh > null.score_at(wanted))
            # Never more often than said by much; the exponential law is cautious.
            assert share < 2 * wanted
        assert null.map_probability(null.score_at(0.01)) == pytest.approx(
            0.01, rel=1e-3
        )


def test_probabilities_of_noise_are_uniform_and_of_something_else_are_not():
    """Each quarter is judged by the other three."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(4), 60)
    noise = rng.gumbel(size=240)
    assert uniformity(noise, groups)[0] > 0.05
    assert uniformity(noise + 2 * (groups == 1), groups)[0] < 0.01


def test_too_few_places_cannot_calibrate():
    """The reason is given."""
    with pytest.raises(SequenceError, match="19 independent places"):
        NullDistribution.fit(np.arange(19.0))


def test_maxima_stand_apart_and_come_from_the_highest_down():
    """What is not searched cannot be one."""
    image = np.full((20, 20), -1.0)
    image[5, 5], image[5, 7], image[15, 10] = 3, 2, 4
    image[0] = np.nan
    x, y = local_maxima(image, 4)
    assert [(x[i], y[i]) for i in (0, 1)] == [(10, 15), (5, 5)]
    assert not np.any((x == 7) & (y == 5))


def test_sectors_share_the_field():
    """Four quarters, counterclockwise from the right."""
    x, y = np.array([1.0, -1, -1, 1]), np.array([1.0, 1, -1, -1])
    np.testing.assert_array_equal(sector_of(x, y, (0, 0)), [0, 1, 2, 3])


# The whole search


def test_a_companion_is_measured_as_it_was_put_in(sequence, maps, templates):
    """Place to a fifth of a FWHM, flux to a fifth, at a ratio of about 15."""
    x, y = 42.4, 40.7
    radius = np.hypot(x - CENTER[0], y - CENTER[1])
    near = np.argsort(np.abs(templates.radius - radius))[:9]
    flux = 15 * float(np.median(templates.flux[near]))
    reduced = AnnularPCA(sequence.inject_flux((x, y), flux)).maps()
    found = measure(reduced, templates, 42.0, 41.0)
    assert found.settled
    assert np.hypot(found.x - x, found.y - y) < 0.2 * FWHM
    assert found.flux == pytest.approx(flux, rel=0.2)


@pytest.fixture(scope="module")
def search():
    """A companion far above the noise, on the sky."""
    given = ADISequence(
        **settings(north_offset=20, target=SkyCoord(86.8, -51.1, unit="deg"))
    ).inject(0.4, 300, 100 / STAR)
    return given, detect_companions(
        given, seed=3, detector=DetectorConfig(steps=60), known_sources=[(0.4, 300)]
    )


def test_a_companion_is_the_first_and_only_candidate(search):
    """With its place, contrast, and a flag, as it is known."""
    _, found = search
    (row,) = found.candidates
    assert row["separation"].to_value("arcsec") == pytest.approx(0.4, abs=0.02)
    assert row["position_angle"].to_value("deg") == pytest.approx(300, abs=3)
    assert row["contrast"] == pytest.approx(0.01, rel=0.2)
    assert row["fap_map"] < 0.01
    assert row["significance"] < row["snr"]
    assert "known" in row["flags"]


def test_maps_know_the_sky_and_where_nothing_was_searched(search):
    """The companion's pixel is where its separation and angle are from the star."""
    given, found = search
    x, y = given.to_pixel(0.4, 300)
    sky = found.detection_map.wcs.pixel_to_world(x, y)
    assert given.target.separation(sky).to_value("arcsec") == pytest.approx(
        0.4, rel=1e-3
    )
    angle = given.target.position_angle(sky).to_value("deg")
    assert angle == pytest.approx(300, abs=0.1)
    for each in (found.detection_map, found.snr_map, found.fap_map):
        np.testing.assert_array_equal(np.isnan(each.data), each.mask)
    fap = found.fap_map.data[~found.fap_map.mask]
    assert fap.min() >= 0
    assert fap.max() <= 1


def test_limits_are_those_of_the_noise(search):
    """Fainter companions are seen further out, and the injected one lies above them."""
    limits = search[1].limits
    assert limits["contrast_5sigma"][-1] < limits["contrast_5sigma"][0]
    here = np.argmin(np.abs(limits["separation"].to_value("arcsec") - 0.4))
    assert limits["contrast_50"][here] < 0.01


def test_a_search_comes_back_from_its_file(search, tmp_path):
    """Maps, tables and settings; an existing file stays."""
    found = search[1]
    path = tmp_path / "found.fits"
    found.write(path)
    again = CompanionDetections.read(path)
    for name in ("detection_map", "snr_map", "fap_map"):
        np.testing.assert_array_equal(
            getattr(again, name).data, getattr(found, name).data
        )
    assert again.meta == json.loads(json.dumps(found.meta))
    assert again.candidates["separation"].unit == u.arcsec
    np.testing.assert_array_equal(again.candidates["x"], found.candidates["x"])
    with pytest.raises(FileError, match="exists"):
        found.write(path)


def test_the_command_finds_nothing_where_nothing_is_and_repeats_itself(
    tmp_path, capsys
):
    """Two runs with one seed write the same numbers; choices that err are one line."""
    given = settings()
    for name in ("cube", "angles", "psf"):
        fits.writeto(tmp_path / f"{name}.fits", given[name])
    files = [str(tmp_path / f"{name}.fits") for name in ("cube", "angles", "psf")]
    where = ["--pixel-scale", "0.025", "--center", *map(str, CENTER)]
    command = ["detect", *files, *where, "--score", "snr", "--star-flux", "1e4"]
    results = []
    for name in ("a.fits", "b.fits"):
        assert main([*command, "-o", str(tmp_path / name)]) == 0
        results.append(CompanionDetections.read(tmp_path / name))
    assert "no candidate" in capsys.readouterr().out
    assert len(results[0].candidates) == 0
    for name in ("detection_map", "fap_map"):
        np.testing.assert_array_equal(*(getattr(r, name).data for r in results))
    assert main([*command, "-o", str(tmp_path / "a.fits")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "gone" / "a.fits")]) == 1
    assert "does not exist" in capsys.readouterr().err
    bad = ["detect", *files, "--pixel-scale", "0.025", "--center", "middle"]
    assert main([*bad, "-o", str(tmp_path / "c.fits")]) == 1
    assert "center must be" in capsys.readouterr().err


def test_brighter_companions_are_found_more_often(sequence):
    """From none to all; what lies beside one that is there is left out."""
    known = (0.4, 300)
    given = sequence.inject(*known, 100 / STAR)
    contrasts = np.array([1e-5, 1.0, 100.0]) * 50 / STAR
    choices = {"count": 8, "score": "snr", "seed": 1}
    table = completeness(given, contrasts, [0.3, 0.4] * u.arcsec, **choices)
    assert len(table) == 6
    for part in (table[:3], table[3:]):
        assert part["completeness"][0] == 0
        assert part["completeness"][2] == 1
        assert np.all(np.diff(part["completeness"]) >= 0)
    assert np.all(table["completeness_low"] <= table["completeness"])
    assert np.all(table["completeness"] <= table["completeness_high"])
    # The circle of 16 pixels has 25 FWHM; 4 of them are beside the companion.
    assert table["injections"][3] < 8
    again = completeness(given, contrasts, [0.3, 0.4] * u.arcsec, **choices)
    np.testing.assert_array_equal(again["completeness"], table["completeness"])


def test_completeness_of_a_detector_is_that_of_its_limits(sequence):
    """Half are found at about the contrast of which the search says so."""
    choices = {"seed": 3, "detector": DetectorConfig(steps=60)}
    limits = detect_companions(sequence, **choices).limits
    row = limits[len(limits) // 2]
    faint, half, bright = completeness(
        sequence,
        row["contrast_50"] * np.array([0.3, 1.0, 3.0]),
        row["separation"],
        **choices,
    )["completeness"]
    assert faint < 0.3
    assert 0.2 < half < 0.8
    assert bright > 0.9


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"contrasts": [0.1, -1]}, "contrasts must be positive"),
        ({"separations": 9}, "within what is searched, 0.125 to 0.5"),
        ({"count": 0}, "count must be at least 1"),
        ({"score": "eye"}, "score must be one of"),
    ],
)
def test_completeness_of_what_cannot_be_is_refused(sequence, choices, message):
    """With what can be."""
    with pytest.raises(SequenceError, match=message):
        completeness(sequence, **{"contrasts": 1e-3, "score": "snr", **choices})


def test_searches_are_handed_in_to_the_challenge(search, tmp_path):
    """One threshold, above which all maps have their candidates and nothing else."""
    found = search[1]
    path = tmp_path / "submission.zip"
    write_eidc(path, {("cam", 1): found, ("cam_b", 2): found})
    with zipfile.ZipFile(path) as archive:
        files = {
            n: fits.getdata(io.BytesIO(archive.read(n))) for n in archive.namelist()
        }
    kinds = ("cam_detmap_1", "cam_fwhm_1", "cam_b_detmap_2", "cam_b_fwhm_2")
    assert set(files) == {f"{kind}.fits" for kind in ("detection_threshold", *kinds)}
    threshold = files["detection_threshold.fits"]
    assert threshold.shape == (1, 1)
    image = files["cam_detmap_1.fits"]
    assert np.all(np.isfinite(image))
    np.testing.assert_array_equal(image > threshold, found.fap_map.data < 0.01)
    assert files["cam_fwhm_1.fits"] == pytest.approx(FWHM, rel=1e-3)
    with pytest.raises(FileError, match="exists"):
        write_eidc(path, {("cam", 1): found})
    for bad, message in (
        ({}, "no search"),
        ({("a/b", 1): found}, "letters, digits and underscores"),
    ):
        with pytest.raises(SequenceError, match=message):
            write_eidc(tmp_path / "other.zip", bad)
    with pytest.raises(SequenceError, match="max_fap"):
        write_eidc(tmp_path / "other.zip", {("a", 1): found}, max_fap=2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"noise": "pink"}, "noise must be one of real, gaussian, gan, gan"),
        ({"score": "eye"}, "score must be one of cnn, critic, snr"),
        ({"max_fap": 0}, "max_fap must be between 0 and 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"known_sources": [(0.3, np.nan)]}, "finite position angle"),
        ({"angles": np.arange(3)}, "part of the ADISequence"),
    ],
)
def test_choices_that_do_not_exist_are_refused(sequence, choices, message):
    """Before any work is done."""
    with pytest.raises(SequenceError, match=message):
        detect_companions(sequence, **choices)
    with pytest.raises(SequenceError, match="pixel_scale= and center="):
        detect_companions(sequence.cube, sequence.angles, sequence.psf)


@pytest.mark.parametrize(("name", "count"), [("b", 1), ("empty", 0)])
def test_beta_pictoris_b_is_found_blind(test_data, name, count):
    """Every fifth frame will do; with the planet taken out there is nothing."""
    start = test_data / "exoplanets" / f"naco_betapic_{name}" / "naco_betapic_"
    if not start.parent.is_dir():
        pytest.skip("the test data have no exoplanets")
    sequence = ADISequence.read(
        *(f"{start}{kind}.fits" for kind in ("cube", "pa", "psf")),
        pixel_scale=0.02719,
        center="fit",
        fwhm=4.8,
        star_flux=764939.6,
    ).take(slice(None, None, 5))
    found = detect_companions(sequence, seed=0, detector=DetectorConfig(steps=80))
    assert len(found.candidates) == count
    if count:
        separation = found.candidates["separation"][0].to_value("arcsec")
        # Absil et al. (2013), to 1.5 pixels with a fifth of the light.
        assert separation == pytest.approx(0.452, abs=1.5 * 0.02719)
