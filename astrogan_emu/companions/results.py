"""What a search for companions found, and its one file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.wcs import WCS

from .._files import atomic_path
from ..errors import FileError

__all__ = ["CompanionDetections"]

_MAPS = {"SCORE": "detection_map", "SNR": "snr_map", "FAP": "fap_map"}


@dataclass(frozen=True, eq=False)
class CompanionDetections:
    """Maps, candidates and limits of a search for companions.

    Parameters
    ----------
    detection_map
        The score that candidates are chosen by, with WCS and mask; NaN outside the
        separations that were searched.
    snr_map
        Signal-to-noise ratio (Mawet et al. 2014) at the rank in the meta data. It is
        not a significance: near the star it follows Student's distribution of few
        degrees of freedom.
    fap_map
        For each pixel, the probability that the highest score of a whole map of noise
        reaches its score.
    candidates
        Most certain first: x, y [pixels], separation, position_angle, snr,
        significance (of the signal-to-noise ratio, in Gaussian standard deviations),
        score, fap_map, contrast, contrast_error, flags.
    limits
        By separation: contrast_5sigma, of a signal-to-noise ratio as significant as 5
        Gaussian standard deviations, and contrast_50, at which half of the companions
        become candidates.
    meta
        How all that was made.
    """

    detection_map: NDData
    snr_map: NDData
    fap_map: NDData
    candidates: QTable
    limits: QTable
    meta: dict[str, Any]

    def __repr__(self) -> str:
        low, high = self.meta["separations"]
        return (
            f"<CompanionDetections {len(self.candidates)} candidates, {low:.3g} to "
            f"{high:.3g} arcsec, {self.meta['score']} on {self.meta['noise']} noise>"
        )

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write one FITS file: SCORE, SNR, FAP, MASK, CANDIDATES and LIMITS.

        Raises
        ------
        FileError
            If the file exists and is not to be replaced.
        """
        header = self.detection_map.wcs.to_header()
        first = fits.PrimaryHDU()
        first.header["CREATOR"] = f"astrogan-emu {self.meta['version']}"
        first.header["HIERARCH SEARCH"] = "see the comment, which is JSON"
        first.header.add_comment(json.dumps(self.meta))
        hdus: list[Any] = [first]
        for name, attribute in _MAPS.items():
            array = np.asarray(getattr(self, attribute).data, dtype=np.float64)
            hdus.append(fits.ImageHDU(array, header, name=name))
        mask = np.asarray(self.detection_map.mask, dtype=np.uint8)
        hdus.append(fits.ImageHDU(mask, header, name="MASK"))
        for name, table in (("CANDIDATES", self.candidates), ("LIMITS", self.limits)):
            hdu = fits.table_to_hdu(table)
            hdu.name = name
            hdus.append(hdu)
        with atomic_path(path, overwrite) as partial:
            fits.HDUList(hdus).writeto(partial)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CompanionDetections:
        """Read what `write` wrote.

        Raises
        ------
        FileError
            If the file is damaged or of another kind.
        """
        try:
            with fits.open(path) as file:
                text = "".join(str(file[0].header["COMMENT"]).split("\n"))
                meta = json.loads(text)
                wcs = WCS(file["SCORE"].header)
                mask = np.array(file["MASK"].data, dtype=bool)
                maps = {
                    attribute: NDData(
                        np.array(file[name].data, dtype=float),
                        mask=mask,
                        wcs=wcs,
                        meta=dict(meta),
                    )
                    for name, attribute in _MAPS.items()
                }
            tables = {
                "candidates": QTable.read(path, hdu="CANDIDATES"),
                "limits": QTable.read(path, hdu="LIMITS"),
            }
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise FileError(
                f"{os.fspath(path)} is not a whole file of companions: {error}"
            ) from error
        return cls(**maps, **tables, meta=meta)
