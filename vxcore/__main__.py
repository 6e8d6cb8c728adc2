"""``python -m vxcore``: the same as the ``vxcore`` command.

Place in the house: beside cli, which does the work.
"""

from __future__ import annotations

import sys

from vxcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
