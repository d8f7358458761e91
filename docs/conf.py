"""How Sphinx builds the documentation: ``sphinx-build -W docs docs/_build/html``.

Pages that are made here, and figures, go to ``docs/_made``, which git ignores:
the command line from the parser's own help, the lists of public names, and the tables
of ``benchmarks.json``.
"""

import os
import sys
import urllib.request
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("MPLBACKEND", "agg")

import make_pages  # noqa: E402

import astrogan_emu  # noqa: E402

project = "astrogan_emu"
author = "The astrogan_emu developers"
copyright = f"{date.today().year}, {author}"
version = release = astrogan_emu.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**.inc.md", "scorecard-*.txt"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = False

# -- Pages made at build -------------------------------------------------------------

MADE = HERE / "_made"
make_pages.write_command_line(MADE)
make_pages.write_api(MADE)
if make_pages.write_speed(HERE / "benchmarks.json", MADE):
    tags.add("benchmarks")  # noqa: F821 - Sphinx puts it here
else:
    # Without measurements there is no page about speed.
    exclude_patterns.append("speed.md")
make_pages.make_figures(MADE)

# -- Markdown ------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# CHANGELOG and CONTRIBUTING have links for the code's site; a page may be missing.
suppress_warnings = ["myst.xref_missing", "config.cache"]

# -- Docstrings ----------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

# -- Links to other projects ---------------------------------------------------------

intersphinx_timeout = 5
_INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "astropy": "https://docs.astropy.org/en/stable/",
    "yt": "https://yt-project.org/doc/",
    "dask": "https://docs.dask.org/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


def _reached(url):
    """Whether a project's list of names can be read from here and now."""
    try:
        with urllib.request.urlopen(f"{url}objects.inv", timeout=5) as answer:
            return answer.read(1) == b"#"
    except (OSError, ValueError):
        return False


# Without network, names of other projects are shown without a link: that is no error.
# The first that is out of reach stands for all, so that an offline build does not wait.
intersphinx_mapping = {}
if os.environ.get("ASTROGAN_DOCS_OFFLINE") != "1" and _reached(_INVENTORIES["python"]):
    intersphinx_mapping = {
        name: (url, None) for name, url in _INVENTORIES.items() if _reached(url)
    }

# -- Examples ------------------------------------------------------------------------

# `ASTROGAN_DOCS_RUN=1` runs the examples at full size and shows their pictures.
run_examples = os.environ.get("ASTROGAN_DOCS_RUN") == "1"
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py" if run_examples else r"(?!)",
    "plot_gallery": run_examples,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 1e9,
    "within_subsection_order": "make_pages.ReadingOrder",
}

# -- Looks ---------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "astrogan_emu"
html_static_path = ["_static"]
html_css_files = ["astrogan.css"]
if not run_examples:
    # The same empty picture beside every example says nothing.
    html_css_files.append("no-thumbnails.css")
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "header_links_before_dropdown": 6,
    # Pages with wide tables need the room.
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "accuracy": [],
        "default-model": [],
        "train-your-own": [],
    },
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}


def setup(app):
    """Link short names in docstrings to what they can only mean."""
    app.connect("missing-reference", make_pages.resolve_short_name)
    app.connect("source-read", make_pages.drop_missing_pages)
    app.connect("autodoc-process-docstring", make_pages.literal_doctest_options)
