"""Optional imports that say what to install when they are missing.

Only dependencies that come with an extra go through here; core dependencies are
imported the ordinary way.
"""

import importlib
from types import ModuleType

from .errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Parameters
    ----------
    module
        Dotted name of the module.
    extra
        The extra of this package that installs it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingDependencyError
        The module is not installed. A module that is installed but fails on one
        of its own imports raises that error unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the absence of the module itself, or of a package it lives in, is
        # ours to explain.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingDependencyError(
            f"{module} is needed here and is not installed; "
            f'run: python -m pip install "astrogan-emu[{extra}]"',
            name=module,
        ) from error
