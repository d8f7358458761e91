"""Check a built sdist and wheel: ``python .ci/check_wheel.py dist``.

The wheel must hold the weights, the mark of a typed package and the licence, must be
smaller than 25 MB, and the sdist must hold what tests and documentation need.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

LARGEST = 25e6
IN_WHEEL = ["astrogan_emu/py.typed", "astrogan_emu/models/nbody.safetensors"]
IN_SDIST = ["docs/conf.py", "examples/one_field.py", "tests/conftest.py", "LICENSE"]


def main(folder):
    """Print the sizes; exit with what is missing."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    missing = [name for name in IN_WHEEL if name not in inside]
    if not any(name.endswith("licenses/LICENSE") for name in inside):
        missing.append("LICENSE in the wheel")
    with tarfile.open(sdist) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    missing += [name for name in IN_SDIST if name not in inside]
    for path in (wheel, sdist):
        size = path.stat().st_size
        print(f"{path.name}: {size / 1e6:.2f} MB")
        if size > LARGEST:
            missing.append(f"{path.name} is larger than {LARGEST / 1e6:g} MB")
    return "missing: " + ", ".join(missing) if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
