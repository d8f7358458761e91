"""Companions of stars in images: exoplanets by direct imaging.

`detect_companions` looks for faint companions in an angular differential imaging
sequence, with a detector that learns its noise from the sequence itself, and with the
conditional-GAN engine of the galaxy fields. Names are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adi import ADISequence as ADISequence
    from .detection import detect_companions as detect_companions
    from .detector import DetectorConfig as DetectorConfig
    from .results import CompanionDetections as CompanionDetections
    from .speckle import SpeckleGAN as SpeckleGAN
    from .speckle import SpeckleGANConfig as SpeckleGANConfig

_HOME = {
    "ADISequence": "adi",
    "CompanionDetections": "results",
    "DetectorConfig": "detector",
    "SpeckleGAN": "speckle",
    "SpeckleGANConfig": "speckle",
    "detect_companions": "detection",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
