"""Where the CPU time of a pair of VTEPs goes while one TCP flow crosses them, by perf.

Place in the house: beside plan, above vteps and tcp; `python -m benchmarks.datapath.bounds vxcore wire` as
root prints a table. docs/bounds.md is written from such tables. Needs perf (Debian's linux-perf).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.datapath.tcp import serve
from benchmarks.datapath.topology import MODES, Stage
from benchmarks.datapath.vteps import kinds, pair

_HERTZ = 1997
# What is told of a share of the VTEPs' time, and the function under which it is spent; those further in
# are part of those further out.
ROWS = {
    "sending to the underlay (sendmmsg, sendto)": ("__sys_sendmmsg", "__sys_sendto"),
    "of it: what veth's other end does at once, in softirq": ("net_rx_action",),
    "of it: cutting a run into packets": ("skb_segment",),
    "receiving from the underlay (recvmmsg)": ("do_recvmmsg",),
    "reading the TAP": ("tun_chr_read_iter",),
    "writing to the TAP, and the host's stack behind it": ("tun_chr_write_iter",),
    "waiting (epoll_wait)": ("__x64_sys_epoll_wait",),
}
COPIES = (
    "_copy_from_iter",
    "_copy_to_iter",
    "__pi_memcpy",
    "skb_copy_bits",
    "_copy_to_user",
    "_copy_from_user",
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datapath.bounds", description=__doc__)
    parser.add_argument("kind", help="of both VTEPs, a table of variants.toml")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seconds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "perf.data")
        speed = record(given.kind, given.mode, given.seconds, data)
        inclusive, own = shares(data, "--children"), shares(data, "--no-children")
    print(f"{given.kind}, {given.mode} mode: {speed:.2f} Gb/s; of the CPU time of both VTEPs:")
    for text, names in ROWS.items():
        print(f"| {text} | {sum(inclusive.get(name, 0) for name in names):.0f}% |")
    print(f"| copying bytes, wherever | {sum(own.get(name, 0) for name in COPIES):.0f}% |")
    ours = sum(share for name, share in own.items() if name.startswith(("__pyx_", "vx_")))
    print(f"| vxcore's own code, checksums included | {ours:.0f}% |")
    return 0


def record(kind: str, mode: str, seconds: int, data: Path) -> float:
    """Let iperf3 send while perf looks at the VTEPs; Gb/s received."""
    with Stage() as stage:
        one = kinds()[kind]
        a, b, pids = pair(stage, one, one, mode)
        server = serve(b, one.target(b))
        looked_at = ("-p", ",".join(map(str, pids)), "-g", "-o", str(data))
        line = ("perf", "record", "-q", "-e", "cpu-clock", "-F", str(_HERTZ), *looked_at)
        perf = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        done = a.run("iperf3", "-c", one.target(b), "-J", "-t", str(seconds))
        perf.send_signal(signal.SIGINT)
        perf.wait()
        server.communicate(timeout=15)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def shares(data: Path, how: str) -> dict[str, float]:
    """Percent of all samples, by function."""
    line = ("perf", "report", "-i", str(data), how, "-g", "none", "--sort", "symbol", "--stdio")
    shown = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    rows = re.findall(r"^\s*([\d.]+)%.*?\[[.k]\] (\S+)", shown, re.MULTILINE)
    found: dict[str, float] = {}
    for share, name in rows:
        plain = name.split(".")[0]
        found[plain] = found.get(plain, 0.0) + float(share)
    return found


if __name__ == "__main__":
    sys.exit(main())
