"""Models on disk: what is written is read, and nothing else is."""

import json

import pytest
import torch
from safetensors.torch import save_file

from astrogan_emu.bases import BaseSettings
from astrogan_emu.checkpoints import (
    ModelCard,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)
from astrogan_emu.errors import CheckpointError
from astrogan_emu.generators import FieldGenerator, FieldHead, GeneratorConfig
from astrogan_emu.networks import NetworkConfig
from astrogan_emu.parameters import Parameter, ParameterSpace

SPACE = ParameterSpace(
    (Parameter("omega_m", 0.1, 0.5), Parameter("a_sn1", 0.25, 4.0, log=True))
)
CARD = ModelCard(
    name="toy",
    space=SPACE,
    redshifts=(0.0, 2.0),
    cell_size=0.78125,
    n_cells=16,
    base=BaseSettings(n_steps=3, mesh_factor=2, start_redshift=19.0),
    units={"matter": "", "temperature": "K"},
    training_set="ab" * 32,
    scores={"power": 0.0123, "shells": [0.1, 0.2]},
    provenance={"version": "0.1", "training": {"seed": 7}},
)


def toy():
    """Weights that are all different from those of a fresh network."""
    torch.manual_seed(5)
    heads = (
        FieldHead("matter", 0.2, conserved=True),
        FieldHead("temperature", 1e4, conserved=False, start=1.5),
    )
    network = NetworkConfig(2, 1, 2, 4, widths=(2, 3), critic_widths=(2,), style=3)
    generator = FieldGenerator(GeneratorConfig(network, heads, keep_scale=1.5))
    for weight in generator.parameters():
        torch.nn.init.normal_(weight)
    return generator


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, toy(), CARD)
    return path


def rewrite(path, change):
    """Let `change` edit the tensors and the metadata of a model in place."""
    tensors, metadata = read_tensors(path)
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)


def test_weights_come_back_bit_by_bit(model):
    """Every tensor equals what was written."""
    written, read = toy().state_dict(), read_model(model).generator.state_dict()
    assert written.keys() == read.keys()
    assert all(torch.equal(written[key], read[key]) for key in written)


def test_the_card_and_the_settings_come_back(model):
    """All that is needed to use a model lies in its file."""
    read = read_model(model)
    assert read.card == CARD
    assert read.generator.config == toy().config
    assert read.path == model
    assert len(read.sha256) == 64


def test_a_model_is_read_ready_to_use(model):
    """In evaluation mode and without gradients, it gives the same fields."""
    read = read_model(model).generator
    base, told = torch.rand(1, 1, 8, 8) + 0.5, torch.zeros(1, 4)
    assert not read.training
    assert not any(weight.requires_grad for weight in read.parameters())
    assert torch.equal(read(base, told, None), toy()(base, told, None).detach())


def test_a_file_that_is_not_there_is_named(tmp_path):
    """The message says which."""
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors does not exist"):
        read_model(tmp_path / "nowhere.safetensors")


def test_a_folder_is_not_a_model(tmp_path):
    """A folder is refused like a file that is not there."""
    with pytest.raises(CheckpointError, match="is not a file"):
        read_model(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(model, share):
    """Wherever the copy was cut off."""
    whole = model.read_bytes()
    model.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_model(model)


@pytest.mark.parametrize(
    "content",
    [b"", b"a model, honestly\n" * 20, b"\xff" * 100, bytes(100)],
    ids=["empty", "text", "ones", "zeros"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    """The message says what is expected."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_model(path)


class Bomb:
    """Unpickling it would fail the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_pickle_in_disguise_is_not_opened(tmp_path):
    """A torch file that runs code when loaded is refused unread."""
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.ones(2), "bomb": Bomb()}, path)
    with pytest.raises(CheckpointError, match="never as pickles"):
        read_model(path)


def test_tensors_without_metadata_are_no_model(tmp_path):
    """A safetensors file of something else is refused by its format."""
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a model of this package"):
        read_model(path)


@pytest.mark.parametrize("text", ["{not json", "9" * 5000, "[" * 100_000])
def test_metadata_that_is_not_json_is_refused(tmp_path, text):
    """Broken, absurdly long or absurdly deep."""
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"format": text})
    with pytest.raises(CheckpointError, match=r"metadata of .* is not JSON"):
        read_model(path)


def drop(tensors, metadata):
    del tensors["network.head"]


def add(tensors, metadata):
    tensors["network.tail"] = torch.ones(1)


def misshape(tensors, metadata):
    tensors["network.head"] = torch.ones(2, 2)


def poison(tensors, metadata):
    tensors["network.head"][0, 0] = float("nan")


def overflow(tensors, metadata):
    tensors["network.head"][0, 0] = float("inf")


def integers(tensors, metadata):
    tensors["network.head"] = tensors["network.head"].long()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "has no weight 'network.head'"),
        (add, "has an unknown weight 'network.tail'"),
        (misshape, r"'network.head' of .* has shape \(2, 2\); the settings say"),
        (poison, "'network.head' of .* is not finite numbers"),
        (overflow, "'network.head' of .* is not finite numbers"),
        (integers, "'network.head' of .* is not finite numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(model, change, message):
    """The message names the weight."""
    rewrite(model, change)
    with pytest.raises(CheckpointError, match=message):
        read_model(model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "another model", "format is 'another model'"),
        ("format", None, "format is None"),
        ("version", "99", "has model version '99'; this release reads version '1'"),
        ("generator", None, "settings of .* cannot be understood"),
        ("generator", [], "settings of .* cannot be understood"),
        ("card", "a card", "settings of .* cannot be understood"),
    ],
)
def test_other_formats_and_versions_are_refused(model, key, value, message):
    """The message says what was found and what is read."""
    rewrite(model, lambda tensors, metadata: metadata.update({key: value}))
    with pytest.raises(CheckpointError, match=message):
        read_model(model)


def test_settings_that_are_missing_are_refused(model):
    """A model without its card is not a model."""
    rewrite(model, lambda tensors, metadata: metadata.pop("card"))
    with pytest.raises(CheckpointError, match="cannot be understood: KeyError"):
        read_model(model)


HOSTILE = [
    ("generator.network.widths", [10**9, 10**9]),
    ("generator.network.widths", [2] * 1000),
    ("generator.network.widths", []),
    ("generator.network.widths", ["2", "3"]),
    ("generator.network.widths", [2.5, 3.5]),
    ("generator.network.widths", [-2, 3]),
    ("generator.network.in_channels", 10**18),
    ("generator.network.in_channels", None),
    ("generator.network.style", 10**12),
    ("generator.network.n_dim", 7),
    ("generator.network.n_conditions", 3),
    ("generator.network.surprise", 1),
    ("generator.heads", []),
    ("generator.heads", "matter"),
    ("generator.base_scale", "0.2"),
    ("generator.base_scale", float("nan")),
    ("generator.base_std", 0.0),
    ("generator.keep_scale", -1.0),
    ("card.space", {}),
    ("card.redshifts", [0.0]),
    ("card.redshifts", [2.0, 0.0]),
    ("card.redshifts", [0.0, 10**400]),
    ("card.redshifts", [0.0, float("inf")]),
    ("card.cell_size", -1.0),
    ("card.cell_size", "small"),
    ("card.n_cells", 0),
    ("card.base", {"n_steps": 0}),
    ("card.base", {"n_leaps": 3}),
    ("card.surprise", 1),
]


@pytest.mark.parametrize(("where", "value"), HOSTILE)
def test_hostile_settings_are_refused_before_they_cost_anything(model, where, value):
    """Absurd sizes, wrong kinds and unknown names are each one clear error."""

    def change(tensors, metadata):
        *path, last = where.split(".")
        for step in path:
            metadata = metadata[step]
        metadata[last] = value

    rewrite(model, change)
    with pytest.raises(CheckpointError, match=r"settings of .* cannot be understood"):
        read_model(model)


def test_metadata_is_plain_json(model):
    """Other programs can read what a model is."""
    from safetensors import safe_open

    with safe_open(model, framework="pt") as file:
        text = file.metadata()
    assert json.loads(text["card"])["name"] == "toy"


@pytest.mark.parametrize(
    "change", [{"n_steps": 0}, {"mesh_factor": 0}, {"start_redshift": 0.0}]
)
def test_impossible_base_settings_are_refused(change):
    """The message says what is allowed."""
    with pytest.raises(CheckpointError, match="must be at least 1"):
        BaseSettings(**change)
