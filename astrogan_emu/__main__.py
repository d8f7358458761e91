"""Run the command line with ``python -m astrogan_emu``."""

import sys

from .cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
