"""Models on disk: one safetensors file with all that is needed to use it.

The weights are tensors; everything else is JSON in the file's metadata. Nothing is
unpickled, so a file from anywhere can be opened: what does not fit is refused with a
`CheckpointError` that names the file and the reason.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._files import atomic_path, sha256_of
from .bases import BaseSettings
from .conditioning import condition_length
from .errors import AstroganError, CheckpointError, UnknownModelError
from .generators import FieldGenerator, FieldHead, GeneratorConfig, InputScale
from .networks import NetworkConfig
from .parameters import COSMOLOGICAL, ParameterSpace
from .trends import Level, Trend

if TYPE_CHECKING:
    from .preparation import PreparationConfig

__all__ = [
    "Model",
    "ModelCard",
    "check_weights",
    "load_model",
    "model_names",
    "model_path",
    "read_model",
    "read_tensors",
    "write_model",
    "write_tensors",
]

_FORMAT = "astrogan_emu model"
_VERSION = "1"

# Measured on the model `nbody`, which knows these parameters; see docs/hydro-model.md.
_BAND = 0.1


@dataclass(frozen=True)
class ModelCard:
    """What a model is, beside its weights.

    Parameters
    ----------
    name
        Of the model.
    space
        Parameters and their trained ranges.
    redshifts
        Lowest and highest trained redshift.
    cell_size
        Comoving side of a cell [Mpc/h].
    n_cells
        Cells per side of the training boxes.
    base
        How the base is made.
    units
        Unit of each field, as a string.
    training_set
        SHA-256 of the training set's content.
    scores
        Validation scores, by name.
    errors
        Errors by field, region, redshift and scale, measured by `validate`; see
        `expected_error`.
    provenance
        Anything else worth knowing: versions, configuration of the training.
    """

    name: str
    space: ParameterSpace
    redshifts: tuple[float, float]
    cell_size: float
    n_cells: int
    base: BaseSettings
    units: Mapping[str, str]
    training_set: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> dict[str, float]:
        """The value of each parameter that the suite held fixed."""
        return {p.name: p.low for p in self.space.parameters if p.low == p.high}

    @property
    def preparation(self) -> PreparationConfig:
        """How snapshots become a training set like that of the model.

        Of its fields those that are made from snapshots, on the base that the network
        expects.
        """
        # Not loaded with a model, as few users need it.
        from .preparation import PreparationConfig
        from .targets import TARGETS

        made = self.provenance.get("preparation") or {}
        halos = self.base.galaxies
        return replace(
            PreparationConfig.from_settings(made.get("settings") or {}),
            fields=tuple(name for name in self.units if name in TARGETS),
            n_cells=self.n_cells,
            base_steps=self.base.n_steps,
            base_mesh_factor=self.base.mesh_factor,
            base_start_redshift=self.base.start_redshift,
            base_linking_length=halos.linking_length if halos else 0.0,
            base_min_members=halos.min_members if halos else 1,
        )

    @property
    def allowed(self) -> ParameterSpace:
        """The ranges in which the model may be used without `extrapolate`.

        Those of `space`; but where the suite held a cosmological parameter fixed, the
        base alone hears of it, and a tenth on either side is allowed.
        """
        return ParameterSpace(
            tuple(
                replace(each, low=each.low * (1 - _BAND), high=each.high * (1 + _BAND))
                if each.name in self.fixed and each.name in COSMOLOGICAL
                else each
                for each in self.space.parameters
            )
        )


@dataclass(frozen=True)
class Model:
    """A generator, ready to use, and its card.

    Parameters
    ----------
    generator
        With its weights, in evaluation mode.
    card
        What it is.
    path, sha256
        Of the file it came from.
    """

    generator: FieldGenerator
    card: ModelCard
    path: Path
    sha256: str


def model_names() -> tuple[str, ...]:
    """Names of the models inside the package, sorted."""
    folder = resources.files("astrogan_emu") / "models"
    if not folder.is_dir():
        return ()
    files = [entry.name for entry in folder.iterdir()]
    ending = ".safetensors"
    return tuple(sorted(f.removesuffix(ending) for f in files if f.endswith(ending)))


def model_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Path of a model that is named or given as a file.

    Raises
    ------
    UnknownModelError
        If the package has no model of that name.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or path.is_file():
        return path
    if str(name_or_path) not in model_names():
        raise UnknownModelError(
            f"there is no model {str(name_or_path)!r}; choose one of "
            f"{', '.join(model_names())}, or give the path of a .safetensors file"
        )
    inside = resources.files("astrogan_emu") / "models" / f"{name_or_path}.safetensors"
    return Path(str(inside))


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, device: str) -> Model:
    model = read_model(path)
    model.generator.to(device)
    return model


def load_model(name_or_path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """Read a model once and keep it, until its file changes.

    Raises
    ------
    UnknownModelError
        If the package has no model of that name.
    CheckpointError
        If the file is not a whole model.
    """
    path = model_path(name_or_path)
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _loaded(path, changed, device)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Write tensors and JSON values to one safetensors file, atomically.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    tensors
        By name.
    metadata
        JSON-able values by name.
    """
    text = {key: json.dumps(value) for key, value in metadata.items()}
    ready = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    with atomic_path(path) as partial:
        save_file(ready, partial, metadata=text)
        # safetensors makes files private to the user; a model is to be shared.
        partial.chmod(0o644)


def read_tensors(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tensors, metadata
        By name.

    Raises
    ------
    CheckpointError
        If the file does not exist, is truncated, is of another format (a pickle in
        disguise, say), or its metadata is not JSON.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise CheckpointError(f"{name} does not exist or is not a file")
    try:
        with safe_open(name, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{name} is not a complete safetensors file ({error}); models are stored "
            "as safetensors only, never as pickles"
        ) from error
    try:
        return tensors, {key: json.loads(text) for key, text in metadata.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {name} is not JSON: {error}") from error


def write_model(
    path: str | os.PathLike[str], generator: FieldGenerator, card: ModelCard
) -> None:
    """Write a model.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    generator
        Its weights are stored as float32.
    card
        What it is.
    """
    described = {
        **{
            name: value
            for name, value in vars(card).items()
            if name not in ("space", "base")
        },
        "space": card.space.to_dict(),
        "base": card.base.to_dict(),
    }
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "generator": asdict(generator.config),
        "card": described,
    }
    write_tensors(path, generator.state_dict(), metadata)


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read a model.

    Parameters
    ----------
    path
        A file of `write_model`.

    Returns
    -------
    Model
        On the CPU, in evaluation mode.

    Raises
    ------
    CheckpointError
        If the file is not a whole model: see `read_tensors`; or a setting or weight
        is missing, superfluous, not finite or of another shape than the settings say.
    """
    name = os.fspath(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{name} is a safetensors file, but not a model of this package; its "
            f"format is {metadata.get('format')!r}, not {_FORMAT!r}"
        )
    if metadata.get("version") != _VERSION:
        raise CheckpointError(
            f"{name} has model version {metadata.get('version')!r}; this release reads "
            f"version {_VERSION!r}: use the release that wrote it"
        )
    try:
        config = _generator_config(metadata["generator"])
        card = _card(metadata["card"])
        if condition_length(card.space) != config.network.n_conditions:
            raise CheckpointError(
                f"the network is told {config.network.n_conditions} numbers, but "
                f"the parameters make {condition_length(card.space)}"
            )
        if len(card.base.channels) != config.network.in_channels:
            raise CheckpointError(
                f"the network takes {config.network.in_channels} channels, but the "
                f"base has {', '.join(card.base.channels)}"
            )
        with torch.device("meta"):
            expected = FieldGenerator(config).state_dict()
    except (
        *(KeyError, TypeError, AttributeError, AstroganError),
        *(ValueError, ArithmeticError, RuntimeError),
    ) as error:
        raise CheckpointError(
            f"the settings of {name} cannot be understood: {error!r}"
        ) from error
    check_weights(name, tensors, expected)
    generator = FieldGenerator(config)
    generator.load_state_dict(tensors)
    generator.eval().requires_grad_(False)
    return Model(generator, card, Path(path), sha256_of(path))


def check_weights(
    name: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse weights that do not fit a network.

    Parameters
    ----------
    name
        Of the file, for the message.
    tensors, expected
        What there is, and what there should be.

    Raises
    ------
    CheckpointError
        Naming the first weight that is missing, superfluous, misshapen or not finite.
    """
    if missing := sorted(set(expected) - set(tensors)):
        raise CheckpointError(
            f"{name} has no weight {missing[0]!r}; it is damaged or of another version "
            "of astrogan_emu: use that version, or train the model again"
        )
    if extra := sorted(set(tensors) - set(expected)):
        raise CheckpointError(f"{name} has an unknown weight {extra[0]!r}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"weight {key!r} of {name} has shape {tuple(tensor.shape)}; the "
                f"settings say {tuple(expected[key].shape)}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"weight {key!r} of {name} is not finite numbers")


def _generator_config(values: Mapping[str, Any]) -> GeneratorConfig:
    values = dict(values)
    network = dict(values.pop("network"))
    for key in ("widths", "critic_widths"):
        network[key] = tuple(network[key])
        if max(network[key]) > 4096 or len(network[key]) > 12:
            raise CheckpointError(f"{key} {network[key]} is beyond reason")
    for key in ("in_channels", "out_channels", "n_conditions", "style"):
        if network[key] > 4096:
            raise CheckpointError(f"{key} {network[key]} is beyond reason")
    heads = tuple(_head(head) for head in values.pop("heads"))
    more = tuple(InputScale(**each) for each in values.pop("more_inputs", ()))
    return GeneratorConfig(NetworkConfig(**network), heads, more_inputs=more, **values)


def _head(values: Mapping[str, Any]) -> FieldHead:
    values = dict(values)
    # Models from before there were trends and levels say nothing of them.
    trend, level = values.pop("trend", None), values.pop("level", None)
    if trend is not None:
        rows = tuple(map(tuple, trend["coefficients"]))
        trend = Trend(**{**trend, "coefficients": rows})
    if level is not None:
        level = Level(**{**level, "coefficients": tuple(level["coefficients"])})
    return FieldHead(trend=trend, level=level, **values)


def _card(values: Mapping[str, Any]) -> ModelCard:
    values = dict(values)
    space = ParameterSpace.from_dict(values.pop("space"))
    base = BaseSettings.from_dict(values.pop("base"))
    low, high = values.pop("redshifts")
    card = ModelCard(
        space=space, base=base, redshifts=(float(low), float(high)), **values
    )
    if not -1 < low <= high < math.inf:
        raise CheckpointError(f"redshifts {card.redshifts} are not a range")
    if not (0 < card.cell_size < math.inf and 0 < card.n_cells < math.inf):
        raise CheckpointError(
            f"cell_size {card.cell_size} and n_cells {card.n_cells} must be positive"
        )
    return card
