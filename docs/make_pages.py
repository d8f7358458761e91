"""Pages and figures of the documentation that come from the code itself."""

import argparse
import importlib
import io
import json
import re
import textwrap
from pathlib import Path

import astrogan_emu

# Public names by what one wants to do.
GROUPS = {
    "Emulate": [
        "emulate_galaxy_field",
        "Emulator",
        "GalaxyField",
        "sample_galaxies",
        "lightcone",
        "differentiable_fields",
    ],
    "Many fields": ["emulate_batch", "FieldBatch", "generate", "carpool"],
    "Parameters": ["Parameter", "ParameterSpace"],
    "Simulations": [
        "simulate",
        "SimulationConfig",
        "read_snapshot",
        "read_suite",
        "camels_suite",
        "quijote_suite",
    ],
    "Train and judge": [
        "prepare",
        "PreparationConfig",
        "train",
        "TrainingConfig",
        "validate",
    ],
    "Errors": ["AstroganError", "AstroganWarning"],
}


class ReadingOrder:
    """Order of the examples: the first steps first, those not named here last."""

    NAMES = (
        "one_field",
        "yt_pictures",
        "parameters_to_catalogue",
        "lightcone",
        "thousand_fields",
        "inference",
        "train_on_toy_boxes",
        "fine_tune",
    )

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, filename):
        """A key to sort by."""
        stem = Path(filename).stem
        known = stem in self.NAMES
        return (self.NAMES.index(stem) if known else len(self.NAMES), stem)

    def __repr__(self):
        return "ReadingOrder"


def write(path, text):
    """Write a page, unless it is there: Sphinx rebuilds what has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def modules():
    """Names of the public modules that have public names, sorted."""
    folder = Path(astrogan_emu.__file__).parent
    found = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    return [name for name in found if module_names(name)]


def module_names(name):
    """Public names of a module that it defines itself."""
    module = importlib.import_module(f"astrogan_emu.{name}")
    public = []
    for each in module.__all__:
        home = getattr(getattr(module, each), "__module__", module.__name__)
        if home == module.__name__:
            public.append(each)
    return public


def write_api(folder):
    """Lists of every public name: of the package by task, and of each module."""
    grouped = [name for names in GROUPS.values() for name in names]
    rest = sorted(set(astrogan_emu.__all__) - set(grouped))
    groups = dict(GROUPS) | ({"More": rest} if rest else {})
    lines = []
    for title, names in groups.items():
        lines += [title, "-" * len(title), "", ".. autosummary::"]
        lines += ["   :toctree: ../api", ""]
        lines += [f"   {name}" for name in names if name in astrogan_emu.__all__]
        lines += [""]
    page = [
        "API",
        "===",
        "",
        "What users need most is in the package itself; the modules hold the rest:",
        ":doc:`modules`.",
        "",
        ".. currentmodule:: astrogan_emu",
        "",
        *lines,
        ".. toctree::",
        "   :hidden:",
        "",
        "   modules",
        "",
    ]
    write(folder / "api.rst", "\n".join(page))
    titles = []
    for name in modules():
        full = f"astrogan_emu.{name}"
        doc = importlib.import_module(full).__doc__ or ""
        home = [n for n in module_names(name) if astrogan_emu._HOME.get(n) == name]
        here = [n for n in module_names(name) if n not in home]
        text = [full, "=" * len(full), "", doc.strip(), ""]
        if home:
            links = ", ".join(f":py:obj:`astrogan_emu.{each}`" for each in home)
            text += [f"In the package's own list: {links}.", ""]
        if here:
            text += [f".. currentmodule:: {full}", ""]
        for each in here:
            value = getattr(importlib.import_module(full), each)
            if isinstance(value, type):
                text += [f".. autoclass:: {each}", "   :members:", ""]
            elif callable(value) and hasattr(value, "__code__"):
                text += [f".. autofunction:: {each}", ""]
            else:
                text += [f".. autodata:: {each}", "   :no-value:", ""]
        write(folder / "modules" / f"{name}.rst", "\n".join(text))
        titles.append(f"   modules/{name}")
    page = ["Modules", "=======", ""]
    page += ["Every public name, by module. None of these names is needed to emulate."]
    page += ["", ".. toctree::", "   :maxdepth: 1", "", *titles, ""]
    write(folder / "modules.rst", "\n".join(page))


def write_command_line(folder):
    """The help of every command, as ``--help`` prints it in a wide terminal."""
    from astrogan_emu.cli import _parser

    parser = _parser()
    text = ["# Command line", ""]
    text += ["Each command is one call of the package, and prints this with `--help`."]
    text += ["", "```text", _help(parser), "```", ""]
    (commands,) = (
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, each in commands.choices.items():
        text += [f"## {name}", "", "```text", _help(each), "```", ""]
    write(folder / "command-line.md", "\n".join(text))


def _help(parser):
    """Help text of a parser, the same at any width of the terminal."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(
        prog, max_help_position=30, width=88
    )
    stream = io.StringIO()
    parser.print_help(stream)
    # Colours, where a terminal is thought to have them.
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).strip()


def write_speed(source, folder):
    """Tables of the last run on a processor alone; False if there is no history."""
    if not source.is_file():
        return False
    history = json.loads(source.read_text())
    last = next(run for run in reversed(history) if not run["machine"]["gpu"])
    text = []
    for group, values in last.items():
        if not isinstance(values, dict):
            text += [f"- {group.replace('_', ' ')}: {values}"]
    for group, values in last.items():
        if isinstance(values, dict):
            text += ["", f"## {group.replace('_', ' ')}", "", "| what | value |"]
            text += ["|---|---|"]
            for name, value in values.items():
                said = f"{value:.4g}" if isinstance(value, float) else value
                text += [f"| {name.replace('_', ' ')} | {said} |"]
    write(folder / "speed.inc.md", "\n".join([*text, ""]))
    return True


def make_figures(folder):
    """Figures of the page on how it works, where they are not there yet."""
    import figures

    version = figures.identity()
    stamp = folder / "figures.txt"
    there = all((folder / name).is_file() for name in figures.NAMES)
    if there and stamp.is_file() and stamp.read_text() == version:
        return
    folder.mkdir(parents=True, exist_ok=True)
    figures.draw(folder)
    write(stamp, version)


def resolve_short_name(app, env, node, contnode):
    """Target of a name without its module, if only one object ends in it."""
    if node.get("refdomain") != "py":
        return None
    wanted = node["reftarget"].removeprefix("~").removeprefix(".")
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith(f".{wanted}")]
    top = [name for name in found if name == f"astrogan_emu.{wanted}"]
    if len(found) != 1 and len(top) != 1:
        return None
    name = (top or found)[0]
    entry = domain.objects[name]
    from sphinx.util.nodes import make_refnode

    document = node.get("refdoc", entry.docname)
    return make_refnode(
        app.builder, document, entry.docname, entry.node_id, contnode, name
    )


def drop_missing_pages(app, docname, source):
    """Leave out entries of a list of pages, such as ``dask*``, that match none.

    Sphinx would warn of them, and its warning has no type that could be suppressed.
    """
    found = app.env.found_docs

    def kept(line):
        entry = re.fullmatch(r"([a-z-]+)\*", line)
        return not entry or any(name.startswith(entry[1]) for name in found)

    if ":glob:" in source[0]:
        source[0] = "\n".join(filter(kept, source[0].split("\n")))


def literal_doctest_options(app, what, name, obj, options, lines):
    """Leave out the comments that only doctest reads."""
    lines[:] = [re.sub(r"\s*# doctest: .*", "", line) for line in lines]


if __name__ == "__main__":
    print(textwrap.dedent(__doc__))
