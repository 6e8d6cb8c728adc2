"""A VTEP in a Python process of its own, and something that keeps a processor busy: `thread` or `process`.

Place in the house: a program that a test runs in a namespace, `busy_vtep.py thread|process LOCAL REMOTE`.
Both take as much of the machine; only the thread takes the interpreter lock too. Ends with its input.
"""

from __future__ import annotations

import subprocess
import sys
import threading

from vxcore import Vtep, config

SPIN = "while True:\n    pass"


def main(where: str, local: str, remote: str) -> None:
    settings = config.from_arguments({"vni": 42, "local": local, "remotes": [remote], "tap": "vx42"})
    spinning = None
    with Vtep(settings):
        if where == "thread":
            threading.Thread(target=exec, args=(SPIN,), daemon=True).start()
        else:
            spinning = subprocess.Popen([sys.executable, "-c", SPIN])
        print("ready", flush=True)
        sys.stdin.read()
    if spinning is not None:
        spinning.kill()
        spinning.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
