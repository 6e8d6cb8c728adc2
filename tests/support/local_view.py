"""A VTEP that says, a line of JSON each time it changes, what it would tell a control plane.

Place in the house: a program that tests start on a host. Its argument is the settings, as JSON; it ends when
its standard input does.
"""

from __future__ import annotations

import json
import sys

from vxcore import Vtep
from vxcore.planes.local import Local
from vxcore.told import as_words


def main(settings: str) -> None:
    with Vtep(json.loads(settings)) as vtep:
        local = Local(vtep, lambda: print(json.dumps(as_words(local.now())), flush=True))
        with local:
            sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
