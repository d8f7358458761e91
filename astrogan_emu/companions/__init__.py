"""Companions of stars in images: exoplanets by direct imaging.

`detect_companions` looks for faint companions in an angular differential imaging
sequence, with a detector that learns its noise from the sequence itself, and with the
conditional-GAN engine of the galaxy fields. `completeness` says how many it would find.
Names are loaded on first use.
"""

from typing import TYPE_CHECKING

from .._front_door import front_door

if TYPE_CHECKING:
    from .adi import ADISequence as ADISequence
    from .challenge import write_eidc as write_eidc
    from .detection import detect_companions as detect_companions
    from .detector import DetectorConfig as DetectorConfig
    from .injections import completeness as completeness
    from .results import CompanionDetections as CompanionDetections
    from .speckle import SpeckleGAN as SpeckleGAN
    from .speckle import SpeckleGANConfig as SpeckleGANConfig

_HOME = {
    "ADISequence": "adi",
    "CompanionDetections": "results",
    "DetectorConfig": "detector",
    "SpeckleGAN": "speckle",
    "SpeckleGANConfig": "speckle",
    "completeness": "injections",
    "detect_companions": "detection",
    "write_eidc": "challenge",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = front_door(__name__, _HOME)
