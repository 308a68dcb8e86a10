"""`python -m mimbench`."""

import sys

from mimbench.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
