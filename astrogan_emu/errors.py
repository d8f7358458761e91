"""The exceptions and warnings of the package; nothing here checks anything.

Catch `AstroganError` for anything the package refuses, or the natural builtin
(`ValueError`, `LookupError`, `OSError`, `RuntimeError`, `MemoryError`, `ImportError`)
that each leaf inherits as well::

    AstroganError (Exception)
    ├── ParameterError (ValueError)
    │   ├── MissingParameterError
    │   ├── UnknownParameterError
    │   └── ParameterRangeError
    ├── GridError (ValueError)
    ├── SequenceError (ValueError)
    ├── UnknownFieldError (LookupError)
    ├── UnknownModelError (LookupError)
    ├── FileError (OSError)
    │   ├── SnapshotError
    │   │   └── SnapshotUnitsError
    │   ├── SuiteError
    │   ├── DatasetError
    │   ├── CheckpointError
    │   └── FieldFileError
    ├── NotEnoughMemoryError (MemoryError)
    ├── SimulationError (RuntimeError)
    ├── BatchError (RuntimeError)
    ├── TrainingError (RuntimeError)
    │   └── TrainingDivergedError
    └── MissingDependencyError (ImportError)

    AstroganWarning (UserWarning)
    ├── CornerWarning
    └── ExtrapolationWarning
"""

__all__ = [
    "AstroganError",
    "AstroganWarning",
    "BatchError",
    "CheckpointError",
    "CornerWarning",
    "DatasetError",
    "ExtrapolationWarning",
    "FieldFileError",
    "FileError",
    "GridError",
    "MissingDependencyError",
    "MissingParameterError",
    "NotEnoughMemoryError",
    "ParameterError",
    "ParameterRangeError",
    "SequenceError",
    "SimulationError",
    "SnapshotError",
    "SnapshotUnitsError",
    "SuiteError",
    "TrainingDivergedError",
    "TrainingError",
    "UnknownFieldError",
    "UnknownModelError",
    "UnknownParameterError",
]


class AstroganError(Exception):
    """Anything the package refuses to do; the base of every error below."""


class ParameterError(AstroganError, ValueError):
    """A parameter that cannot be used as given."""


class MissingParameterError(ParameterError):
    """A parameter that is needed was not given and has no default."""


class UnknownParameterError(ParameterError):
    """A parameter that nothing here knows by that name."""


class ParameterRangeError(ParameterError):
    """A parameter outside its allowed or trained range."""


class GridError(AstroganError, ValueError):
    """A grid, or positions on it, that make no sense."""


class SequenceError(AstroganError, ValueError):
    """A sequence of images in which companions cannot be looked for."""


class UnknownFieldError(AstroganError, LookupError):
    """A field that is not in the registry, or that a model does not make."""


class UnknownModelError(AstroganError, LookupError):
    """A model name that is neither shipped nor a file."""


class FileError(AstroganError, OSError):
    """A file that cannot be read or written as asked."""


class SnapshotError(FileError):
    """A simulation snapshot that is missing, damaged or incomplete."""


class SnapshotUnitsError(SnapshotError):
    """A snapshot whose units are unknown, or disagree with its header."""


class SuiteError(FileError):
    """A suite table, or a folder of simulations, that is not as documented."""


class DatasetError(FileError):
    """A training set that is damaged, incomplete or of another kind."""


class CheckpointError(FileError):
    """A model file that is damaged, of another kind, or unsafe to open."""


class FieldFileError(FileError):
    """A file of emulated fields that is damaged or of another kind."""


# The builtin first: Python makes objects of MemoryError in a way of its own, and what
# carries errors between processes could not make it again in the other order.
class NotEnoughMemoryError(MemoryError, AstroganError):
    """A box that does not fit into the memory that there is."""


class SimulationError(AstroganError, RuntimeError):
    """A particle-mesh run that cannot start or went wrong."""


class BatchError(AstroganError, RuntimeError):
    """A batch whose workers cannot be reached or were lost."""


class TrainingError(AstroganError, RuntimeError):
    """A training run that cannot start, go on or resume."""


class TrainingDivergedError(TrainingError):
    """A training run stopped because its numbers left the reasonable."""


class MissingDependencyError(AstroganError, ImportError):
    """An optional dependency is not installed; the message says how to get it."""


class AstroganWarning(UserWarning):
    """The base of every warning of the package."""


class CornerWarning(AstroganWarning):
    """So many parameters are at the edges of their ranges that few tests tell."""


class ExtrapolationWarning(AstroganWarning):
    """A parameter outside the trained range was used because the user asked."""
