"""The shape of the package: its layers, its public names, its quick import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import astrogan_emu

PACKAGE = Path(astrogan_emu.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# One direction: a module imports, at its top level, only from modules before it.
LAYERS = [
    *("_front_door", "errors", "_optional", "_files", "torch_threads"),
    *("machine_memory", "kept_memory", "worker_processes"),
    *("_parameter_input", "parameters"),
    *("geometry", "sph", "stencils", "grids", "periodic"),
    *("noise", "matter_transfer", "linear_theory", "initial_conditions"),
    "particle_mesh",
    *("snapshot_files", "headers", "gadget_particles", "yt_particles", "snapshots"),
    *("gadget", "parameter_files", "suites"),
    *("linking", "halos", "bases"),
    "simulations",
    *("field_specs", "field_arithmetic", "fields"),
    *("statistics", "distributions", "bispectrum", "morphology", "similarity"),
    *("transforms", "training_data", "dataset"),
    *("targets", "run_parts", "preparation_plan", "preparation", "multifield"),
    *("conditioning", "convolutions", "networks", "trends", "generators"),
    *("losses", "mode_losses"),
    "adversarial",
    *("checkpoints", "batches", "scoring", "training_config", "training_log"),
    *("generator_losses", "training_start", "training_state", "warm_start"),
    "training",
    *("tiling", "box_memory"),
    *("derived_fields", "expected_errors"),
    *("generator_noise", "same_model", "spread_tiles"),
    *("_initial_conditions_input", "_model_input", "generated_fields"),
    *("emulator", "emulation", "differentiable"),
    *("catalogues", "lightcones"),
    *("sample_plan", "batch"),
    *("control_variates", "sample_store", "generation"),
    *("yt_bridge", "yt_import", "field_description", "field_files"),
    *("plotting", "scorecard", "metrics", "ensembles", "report"),
    *("training_checks", "validation"),
    *("companions.star", "companions.adi", "companions.pca", "companions.snr"),
    *("companions.templates", "companions.calibration", "companions.detector"),
    *("companions.speckle_checks", "companions.speckle"),
    *("companions.photometry", "companions.results", "companions.detection"),
    *("companions.injections", "companions.challenge"),
    *("companions.command", "companions"),
    *("training_commands", "cli", "__main__"),
]


def name_of(path: Path) -> str:
    """Name of a module inside the package, dotted; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {name_of(path): path for path in SOURCES if name_of(path)}


def modules() -> list[str]:
    """Every module except the package itself."""
    return list(PATHS)


def imported(node: ast.ImportFrom, name: str) -> str:
    """Which module of the package a relative import in another one names."""
    path = PATHS[name].relative_to(PACKAGE).parent
    above = path.parts[: len(path.parts) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def internal_imports(tree: ast.Module) -> list[ast.ImportFrom]:
    """The ``from .x import`` statements that run when the module is loaded."""
    return [
        node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_every_module_has_its_place():
    """A new module is put into the layer list, or this fails."""
    assert set(modules()) <= set(LAYERS)


@pytest.mark.parametrize("name", modules())
def test_modules_import_only_from_earlier_layers(name):
    """Dependencies run one way, so each module can be read after those above it."""
    tree = ast.parse(PATHS[name].read_text())
    used = {imported(node, name) for node in internal_imports(tree)}
    assert used <= set(LAYERS[: LAYERS.index(name)])


@pytest.mark.parametrize("name", modules())
def test_internal_imports_are_relative_and_by_name(name):
    """Only ``from .x import y``, the form that the layer test can see."""
    tree = ast.parse(PATHS[name].read_text())
    depth = len(PATHS[name].relative_to(PACKAGE).parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(a.name.startswith("astrogan_emu") for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("astrogan_emu")
            assert node.level == 0 or (node.level <= depth and node.module)


@pytest.mark.parametrize("name", [name for name in modules() if name != "__main__"])
def test_public_names_are_sorted_and_exist(name):
    """``__all__`` is there, in order, without repeats, and true."""
    module = importlib.import_module(f"astrogan_emu.{name}")
    assert module.__all__ == sorted(set(module.__all__))
    assert [n for n in module.__all__ if not hasattr(module, n)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_stay_readable(path):
    """No module is longer than 500 lines, and each says what it is for."""
    text = path.read_text()
    assert text.count("\n") <= 500
    assert ast.get_docstring(ast.parse(text))


def test_no_module_is_a_drawer_for_everything():
    """Modules are named after an idea."""
    assert not {"utils", "util", "helpers", "common", "misc"} & {
        name.rpartition(".")[2] for name in modules()
    }


def test_package_names_are_sorted_and_load():
    """Every name of the front door is found where its table says."""
    assert astrogan_emu.__all__ == sorted(set(astrogan_emu.__all__))
    for name in astrogan_emu.__all__:
        assert getattr(astrogan_emu, name) is not None
        assert name in dir(astrogan_emu)


def test_no_public_name_is_hidden_by_a_module():
    """Loading a module puts it on the package, over a function of the same name."""
    assert not set(astrogan_emu.__all__) & set(modules())


def test_package_names_are_known_to_type_checkers():
    """The names type checkers see are the names that load."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == astrogan_emu._HOME


def test_an_unknown_package_name_is_an_attribute_error():
    """``hasattr`` and typos behave as for any module."""
    with pytest.raises(AttributeError, match="no attribute 'emulate_galaxies'"):
        astrogan_emu.emulate_galaxies  # noqa: B018 - the access is the test


def test_importing_the_package_loads_nothing_heavy():
    """``import astrogan_emu`` is quick: no torch, yt, dask, astropy or even NumPy."""
    code = "import sys, astrogan_emu; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = "torch yt distributed dask astropy h5py scipy matplotlib numpy"
    assert not set(heavy.split()) & set(done.stdout.split())


def test_version_is_that_of_the_installed_package():
    """The version is written down once."""
    from importlib.metadata import version

    assert astrogan_emu.__version__ == version("astrogan-emu")
