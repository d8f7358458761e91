"""Fast emulation of galaxy fields with a conditional GAN.

`emulate_galaxy_field` turns a cosmology, a redshift and a seed into a
`GalaxyField`; `Emulator` does the same for many fields with one loaded model.
`sample_galaxies` and `lightcone` make catalogues of galaxies.
To train on your own simulations, start from `read_snapshot`; `simulate` makes
toy ones. `detect_companions` looks for exoplanets in images.

Names are loaded on first use, so importing the package is quick.
"""

from typing import TYPE_CHECKING

from ._front_door import front_door

if TYPE_CHECKING:
    from .batch import FieldBatch as FieldBatch
    from .batch import emulate_batch as emulate_batch
    from .catalogues import sample_galaxies as sample_galaxies
    from .companions import ADISequence as ADISequence
    from .companions import detect_companions as detect_companions
    from .control_variates import carpool as carpool
    from .differentiable import differentiable_fields as differentiable_fields
    from .emulation import emulate_galaxy_field as emulate_galaxy_field
    from .emulator import Emulator as Emulator
    from .errors import AstroganError as AstroganError
    from .errors import AstroganWarning as AstroganWarning
    from .fields import GalaxyField as GalaxyField
    from .generation import generate as generate
    from .lightcones import lightcone as lightcone
    from .parameters import Parameter as Parameter
    from .parameters import ParameterSpace as ParameterSpace
    from .preparation import PreparationConfig as PreparationConfig
    from .preparation import prepare as prepare
    from .simulations import SimulationConfig as SimulationConfig
    from .simulations import simulate as simulate
    from .snapshots import read_snapshot as read_snapshot
    from .suites import camels_suite as camels_suite
    from .suites import quijote_suite as quijote_suite
    from .suites import read_suite as read_suite
    from .training import TrainingConfig as TrainingConfig
    from .training import train as train
    from .validation import validate as validate

__version__ = "0.1.0"

# Public name -> the module that defines it, which is loaded on first use. Type
# checkers read the imports above instead; a test keeps the two alike.
_HOME = {
    "ADISequence": "companions",
    "AstroganError": "errors",
    "AstroganWarning": "errors",
    "Emulator": "emulator",
    "FieldBatch": "batch",
    "GalaxyField": "fields",
    "Parameter": "parameters",
    "ParameterSpace": "parameters",
    "PreparationConfig": "preparation",
    "SimulationConfig": "simulations",
    "TrainingConfig": "training",
    "camels_suite": "suites",
    "carpool": "control_variates",
    "detect_companions": "companions",
    "differentiable_fields": "differentiable",
    "emulate_batch": "batch",
    "emulate_galaxy_field": "emulation",
    "generate": "generation",
    "lightcone": "lightcones",
    "prepare": "preparation",
    "quijote_suite": "suites",
    "read_snapshot": "snapshots",
    "read_suite": "suites",
    "sample_galaxies": "catalogues",
    "simulate": "simulations",
    "train": "training",
    "validate": "validation",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = front_door(__name__, _HOME)
