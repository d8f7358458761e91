"""What the documentation says to type works, and examples in docstrings are true."""

import doctest
import importlib
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

import astrogan_emu

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page):
    """Python code of a page, in a small box, and few samples."""
    code = "\n".join(BLOCK.findall(page.read_text()))
    code = code.replace("n_cells=64", "n_cells=16").replace("depth=12.5", "depth=3")
    code = code.replace("n_realizations=100", "n_realizations=2, n_cells=16")
    return code.replace("10 * u.Mpc", "3 * u.Mpc")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page one after the other, as one would type them.

    Blocks marked `py` instead of `python` need files of the reader's and are not run.
    """
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        exec(compile(blocks(page), str(page), "exec"), {"__name__": "page"})
    finally:
        plt.close("all")
        matplotlib.use(backend)


def modules_with_examples():
    """Modules whose docstrings hold examples."""
    folder = Path(astrogan_emu.__file__).parent
    return [path.stem for path in folder.glob("*.py") if ">>> " in path.read_text()]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name):
    """Doctest finds nothing to complain about."""
    module = importlib.import_module(f"astrogan_emu.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_links_between_pages_lead_somewhere():
    """Files that pages of the repository point to are there."""
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", page.read_text()):
            made = target.startswith("_made/")
            if not made and not (page.parent / target).is_file():
                lost.append(f"{page.name}: {target}")
    assert lost == []
