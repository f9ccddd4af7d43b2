"""``python -m dimwise``: the same as the command."""

from __future__ import annotations

import sys

from dimwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
