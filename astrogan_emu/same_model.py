"""The model that another process has, loaded here: the same file, or an error."""

from __future__ import annotations

import os
import socket
import threading

import torch

from .checkpoints import Model, load_model
from .errors import BatchError, CheckpointError, UnknownModelError

__all__ = ["same_model"]

_loading = threading.Lock()


def same_model(
    name_or_path: str | os.PathLike[str], sha256: str, device: str = "cpu"
) -> Model:
    """Load a model, once per process, and make sure that it is the one that is meant.

    Parameters
    ----------
    name_or_path
        Name, or absolute path.
    sha256
        Of its file.
    device
        ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Model
        The model.

    Raises
    ------
    CheckpointError
        If its file is missing here, or is another.
    BatchError
        If there is no such device here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BatchError(
            f"{socket.gethostname()} has no CUDA device that this process sees; "
            "start the workers with dask-cuda, or choose device='cpu'"
        )
    # A lock, as threads that start together would each read the file.
    with _loading:
        try:
            model = load_model(name_or_path, device)
        except (CheckpointError, UnknownModelError) as error:
            raise CheckpointError(
                f"cannot load the model on {socket.gethostname()}: {error}; every "
                "worker needs it at the same path"
            ) from error
    if model.sha256 != sha256:
        raise CheckpointError(
            f"the model {name_or_path} on {socket.gethostname()} is not the one the "
            f"batch was planned with: its sha256 begins with {model.sha256[:12]}, not "
            f"{sha256[:12]}; give every worker the same file and do not change it "
            "during a run"
        )
    return model
