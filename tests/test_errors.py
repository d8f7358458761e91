"""The exception tree: one base, natural builtins, drawn as it is."""

import builtins
import re

import pytest

from astrogan_emu import errors
from astrogan_emu._optional import require

CLASSES = [getattr(errors, name) for name in errors.__all__]
EXCEPTIONS = [c for c in CLASSES if not issubclass(c, Warning)]
WARNINGS = [c for c in CLASSES if issubclass(c, Warning)]


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_every_error_is_caught_as_ours(error):
    """`except AstroganError` catches each error of the package."""
    assert issubclass(error, errors.AstroganError)


@pytest.mark.parametrize("warning", WARNINGS)
def test_every_warning_is_filtered_as_ours(warning):
    """One filter on `AstroganWarning` reaches each warning of the package."""
    assert issubclass(warning, errors.AstroganWarning)
    assert issubclass(warning, UserWarning)


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_errors_keep_their_message(error):
    """The sentence given is the sentence shown, whatever builtin is inherited."""
    assert str(error("n_cells must be at least 2, got 1")) == (
        "n_cells must be at least 2, got 1"
    )


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_errors_of_dask_workers_arrive_as_they_are(error):
    """Their class survives the way that dask sends them."""
    core = pytest.importorskip("distributed.core")
    try:
        raise error("n_cells must be at least 2, got 1")
    except errors.AstroganError as raised:
        message = core.error_message(raised)
    _, arrived, _ = core.clean_exception(message["exception"].data)
    assert type(arrived) is error
    assert str(arrived) == "n_cells must be at least 2, got 1"


def test_the_drawn_tree_is_the_real_one():
    """The tree in the docstring names every class, its parent and its builtin."""
    drawn = {}
    parents: list[str] = []
    pattern = re.compile(r"^    ([│├└─ ]*)(\w+)(?: \((\w+)\))?$")
    for line in errors.__doc__.splitlines():
        match = pattern.match(line)
        if not match:
            continue
        indent, name, builtin = match.groups()
        depth = len(indent) // 4
        parents[depth:] = [name]
        bases = [parents[depth - 1]] if depth else []
        drawn[name] = {*bases, *([builtin] if builtin else [])}
    real = {c.__name__: {base.__name__ for base in c.__bases__} for c in CLASSES}
    assert drawn == real
    known = {*real, *dir(builtins)}
    assert all(bases <= known for bases in drawn.values())


def test_require_gives_the_module_when_it_is_there():
    """An installed optional module comes back as itself."""
    import json

    assert require("json", "camels") is json


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module"])
def test_require_says_what_to_install(module):
    """A missing optional module is answered with the pip line that brings it."""
    with pytest.raises(
        errors.MissingDependencyError,
        match=rf'{module} .* python -m pip install "astrogan-emu\[camels\]"',
    ) as caught:
        require(module, "camels")
    assert caught.value.name == module


def test_require_does_not_hide_a_broken_module(tmp_path, monkeypatch):
    """A module that is installed but lacks something itself fails as it is."""
    (tmp_path / "half_installed.py").write_text("import no_such_module_either\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either") as caught:
        require("half_installed", "camels")
    assert not isinstance(caught.value, errors.MissingDependencyError)
