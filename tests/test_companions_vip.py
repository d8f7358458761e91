"""Companions against VIP (vip_hci), a package of its own, where it is installed."""

import numpy as np
import pytest
from scipy import ndimage

from astrogan_emu.companions import ADISequence
from astrogan_emu.companions.pca import AnnularPCA
from astrogan_emu.companions.snr import significance, snr_from_apertures, snr_map

pytest.importorskip("vip_hci")
pytestmark = pytest.mark.filterwarnings("default")

RANKS = (2, 6)


def synthetic():
    """A companion at (57, 52) among speckles; VIP wants the star in the middle."""
    rng = np.random.default_rng(3)
    y, x = np.indices((91, 91)) - 45
    still, drift = ndimage.gaussian_filter(
        rng.standard_normal((2, 91, 91)), (0, 1.6, 1.6)
    )
    phase = np.linspace(0, 1, 16)[:, None, None]
    cube = 5 + 8 * still + 2 * np.sin(4 * phase) * drift
    cube = 100 * np.exp(-np.hypot(x, y) / 9) * cube
    # As smooth as the optics make everything: images are turned by interpolation.
    cube += ndimage.gaussian_filter(rng.standard_normal(cube.shape), (0, 1.6, 1.6))
    square = (x**2 + y**2)[35:56, 35:56]
    psf = np.exp(-4 * np.log(2) * square / 4.0**2)
    return ADISequence(
        cube, np.linspace(-30, 50, 16), psf, pixel_scale=0.025, center=(45, 45)
    ).inject_flux((57, 52), 25.0)


def real(test_data):
    """Beta Pictoris as it is; the middle of the frames is near enough to its star."""
    start = test_data / "exoplanets" / "naco_betapic_b" / "naco_betapic_"
    if not start.parent.is_dir():
        pytest.skip("the test data have no exoplanets")
    files = (f"{start}{kind}.fits" for kind in ("cube", "pa", "psf"))
    return ADISequence.read(
        *files, pixel_scale=0.02719, center=(50, 50), fwhm=4.8, star_flux=764939.6
    )


@pytest.fixture(params=["synthetic", "real"])
def sequence(request):
    if request.param == "synthetic":
        return synthetic()
    return real(request.getfixturevalue("test_data"))


def test_residuals_are_those_of_vip(sequence):
    """In one annulus, without a limit of rotation: 0.2 to 1.6 % apart.

    VIP turns frames that are zero outside the annulus, and with another law: the
    middle is compared. The outermost annulus, which VIP widens by a pixel, is not.
    """
    from vip_hci.psfsub import pca_annular

    pca = AnnularPCA(sequence, RANKS)
    maps = pca.maps()
    fwhm = sequence.fwhm
    y, x = np.indices(sequence.cube.shape[1:])
    radius = np.hypot(x - sequence.center[0], y - sequence.center[1])
    # The first with all of its annulus outside what lies behind a mask.
    ring = int(np.argmax(pca.ring_radii > 2.3 * fwhm))
    near = np.abs(radius - pca.ring_radii[ring]) < 0.25 * fwhm
    for ours, rank in zip(maps.images[ring], RANKS, strict=True):
        theirs = pca_annular(
            cube=sequence.cube.astype(float),
            angle_list=sequence.angles,
            ncomp=rank,
            radius_int=pca.ring_radii[ring] - 1.75 * fwhm,
            fwhm=fwhm,
            asize=3.5 * fwhm,
            delta_rot=0,
            scaling="temp-mean",
            collapse="mean",
            imlib="skimage",
            interpolation="biquartic",
            verbose=False,
        )
        difference = (ours - theirs)[near]
        assert difference.std() < 0.02 * theirs[near].std()


def test_ratios_are_those_of_vip(sequence):
    """The same law of the same apertures, and the same scale all over an image.

    VIP lays apertures side by side from the place on, which leaves a gap at its end;
    here they are spread evenly, so single ratios of noise scatter by 0.08.
    """
    from vip_hci.metrics import snr

    maps = AnnularPCA(sequence, RANKS).maps()
    ours = snr_map(maps)[1]
    x, y = (v[::9] for v in maps.positions)
    found = [
        snr(maps.images[maps.ring[b, a], 1], (a, b), sequence.fwhm, full_output=True)
        for a, b in zip(x, y, strict=True)
    ]
    theirs = np.array([each[4] for each in found])
    law = [snr_from_apertures(np.array([each[2], *each[3]])) for each in found]
    np.testing.assert_allclose(law, theirs, rtol=1e-9)
    # Its aperture among the others would be cut in two here and not there.
    row, column = np.unravel_index(np.nanargmax(ours), ours.shape)
    middle = sequence.center
    peak = np.hypot(column - middle[0], row - middle[1])
    radius = np.hypot(x - middle[0], y - middle[1])
    apart = np.abs(radius - peak) > 1.5 * sequence.fwhm
    a, b = ours[y, x][apart], theirs[apart]
    assert np.std(a - b) < 0.1
    assert (a @ b) / (b @ b) == pytest.approx(1, abs=0.01)


def test_significances_are_those_of_vip():
    """VIP does not round the number of apertures down, so a little larger."""
    from vip_hci.metrics import significance as theirs

    for ratio, radius in ((3.0, 8.0), (5.0, 12.0), (8.0, 20.0)):
        found = float(significance(ratio, radius, 4.8))
        wanted = theirs(ratio, radius, 4.8, student_to_gauss=True, verbose=False)
        assert found <= wanted
        assert found == pytest.approx(wanted, rel=0.015)
