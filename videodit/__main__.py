"""``python -m videodit``: the command, for where its script is not on the path."""

import sys

from videodit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
