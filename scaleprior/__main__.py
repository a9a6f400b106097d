"""``python -m scaleprior``: the same as the ``scaleprior`` command."""

import sys

from scaleprior.cli import main

if __name__ == "__main__":
    sys.exit(main())
