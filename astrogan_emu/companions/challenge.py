"""Searches handed in to the Exoplanet Imaging Data Challenge: maps with one threshold.

The challenge (Cantalloube et al. 2020) counts what exceeds one threshold in the maps of
all sequences, so scores have to mean the same in each: here they are logarithms of
false-alarm probabilities.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike

from .._files import atomic_path
from ..errors import SequenceError
from .results import CompanionDetections

__all__ = ["write_eidc"]

# The least probability that is told from zero.
_LEAST = 1e-300


def write_eidc(
    path: str | os.PathLike[str],
    searches: Mapping[tuple[str, int], CompanionDetections],
    *,
    max_fap: float = 0.01,
    overwrite: bool = False,
) -> None:
    """Write the zip file that the challenge takes for the detection of companions.

    It holds ``<instrument>_detmap_<number>.fits``, minus the decimal logarithm of the
    false-alarm probability per map and 0 where nothing was searched,
    ``<instrument>_fwhm_<number>.fits`` [pixels], and ``detection_threshold.fits``, the
    same for all.

    Parameters
    ----------
    path
        To write to, ``.zip``.
    searches
        What was found, by instrument and number, as in ``sphere_irdis`` and 1.
    max_fap
        What noise exceeds with less than this probability per map is a detection.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    SequenceError
        If there is no search, a name cannot be part of a file's, or `max_fap` is not
        between 0 and 1.
    FileError
        If the file exists and is not to be replaced.
    """
    if not searches:
        raise SequenceError("there is no search to hand in; give at least one")
    if not 0 < max_fap < 1:
        raise SequenceError(f"max_fap must be between 0 and 1, got {max_fap}")
    files = {"detection_threshold": _fits([[-np.log10(max_fap)]])}
    for (instrument, number), found in searches.items():
        if not instrument.replace("_", "").isalnum():
            raise SequenceError(
                "an instrument must be letters, digits and underscores, as in "
                f"sphere_irdis, got {instrument!r}"
            )
        fap = np.nan_to_num(found.fap_map.data, nan=1.0)
        rarity = np.abs(np.log10(np.maximum(fap, _LEAST)))
        files[f"{instrument}_detmap_{number:d}"] = _fits(rarity)
        files[f"{instrument}_fwhm_{number:d}"] = _fits([found.meta["fwhm"]])
    with (
        atomic_path(path, overwrite) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in files.items():
            # Without the time, so that the same searches give the same file.
            archive.writestr(zipfile.ZipInfo(f"{name}.fits"), content)


def _fits(values: ArrayLike) -> bytes:
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.asarray(values, dtype=np.float64)).writeto(buffer)
    return buffer.getvalue()
