"""`python -m tailsmith`, as torchrun needs it."""

import sys

from tailsmith.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
