"""``python -m tfft`` is the command ``tfft``."""

import sys

from tfft.cli import main

if __name__ == "__main__":
    sys.exit(main())
