"""Docker on a host of a Lan: a daemon of its own, with nothing of this machine's.

Place in the house: above rooms, under the tests of containers.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.hosts import DEADLINE_S, Host, Lan, VtepProcess, run, wait_until
from support.rooms import PATH, Room, image, program


def peers_option(n_hosts: int) -> str:
    """The hosts of a network."""
    return "-o vxcore.peers=" + ",".join(f"192.0.2.{n}" for n in range(1, n_hosts + 1))


PEERS = peers_option(2)
BLUE = f"network create -d vxcore --subnet 10.9.0.0/16 -o vxcore.vni=42 {PEERS} blue"
PROGRAMS = ("docker", "dockerd", "containerd", "runc", "busybox", "iptables")
CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class Docker:
    """Docker on `host`, with its files in `folder`; a context manager."""

    def __init__(self, host: Host, folder: Path, *options: str) -> None:
        self.host = host
        self.folder = folder
        self._options = options
        self._cgroup = f"vxt{os.getpid()}-{next(_numbers)}"
        for name in PROGRAMS:
            program(name)
        self._room: Room | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.vxcore: VtepProcess | None = None

    @property
    def enter(self) -> tuple[str, ...]:
        """Words that run a command where Docker is, when put before it."""
        assert self._room is not None
        return self._room.words

    def __enter__(self) -> Docker:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start_daemon()
        loaded = self.command(program("docker"), "import", "-", "busybox", stdin=image())
        assert loaded.returncode == 0, loaded.stderr

    def _here(self) -> Room:
        """Where Docker and vxcore run, from the first of them on."""
        self._room = self._room or Room(self.host)
        return self._room

    def start_daemon(self, *, wait: bool = True) -> None:
        """Start Docker, and wait until it answers."""
        words = (
            *("--storage-driver", "vfs", "--data-root", str(self.folder / "docker")),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self._cgroup}"),
            *("--live-restore", "--shutdown-timeout", "1", *self._options),
        )
        environment = {**os.environ, "PATH": PATH}
        log = (self.folder / "dockerd.log").open("ab")
        with log:
            self.daemon = self._here().start(
                program("dockerd"), *words, stdout=log, stderr=log, env=environment
            )
        if wait:
            self.wait_for_daemon()

    def wait_for_daemon(self) -> None:
        """Until Docker answers."""
        wait_until(self._answers, f"dockerd answers; see {self.folder}", 60)

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, (self.folder / "dockerd.log").read_text()[-2000:]
        return self.command(program("docker"), "version").returncode == 0

    def stop_daemon(self) -> None:
        """Stop Docker; containers run on (--live-restore)."""
        assert self.daemon is not None
        self.daemon.terminate()
        self.daemon.wait(DEADLINE_S)

    def command(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command where Docker is."""
        return self._here().command(*words, stdin=stdin)

    def __call__(self, line: str, *words: str) -> str:
        """What a command of docker's prints: ``docker("network ls")``. Fails if it does."""
        done = self.command(program("docker"), *shlex.split(line), *words)
        assert done.returncode == 0, f"docker {line} {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def refuses(self, line: str) -> str:
        """What a command of docker's says that fails."""
        done = self.command(program("docker"), *shlex.split(line))
        assert done.returncode, f"docker {line} did not fail: {done.stdout}"
        return done.stderr

    def inspect(self, kind: str, name: str) -> Any:
        """What Docker knows of a network or container."""
        return json.loads(self(f"{kind} inspect {name}"))[0]

    def sh(self, container: str, line: str) -> str:
        """Run a line of shell in a container."""
        return self(f"exec {container} sh -c", line)

    def ping(self, container: str, target: str, count: int = 1) -> None:
        """Ping, and require an answer to every request, late as it may be."""
        self(f"exec {container} ping -c {count} -i 0.1 -W 10 {target}")

    def pings(self, container: str, target: str) -> bool:
        """Whether one ping is answered within a second."""
        words = ("exec", container, "ping", "-c", "1", "-W", "1", target)
        return self.command(program("docker"), *words).returncode == 0

    def fetches(self, url: str) -> str:
        """What a web server says, asked from this host, as soon as it does."""
        words = (program("busybox"), "wget", "-qO-", url)
        return str(wait_until(lambda: self.command(*words).stdout, f"{url} answers"))

    def push(self, container: str, other: Docker, receiver: str, address: str, n_bytes: int) -> None:
        """Send random bytes by TCP to a container of another host, and require that all are there."""
        listening = f"sleep 60 | nc -l -p 5000 | head -c {n_bytes} | md5sum > /tmp/sum"
        other(f"exec -d {receiver} sh -c", listening)
        wait_until(lambda: ":5000" in other.sh(receiver, "netstat -tln"), "nc listens")
        making = f"head -c {n_bytes} /dev/urandom > /tmp/data; md5sum /tmp/data"
        (sent, _) = self.sh(container, f"{making}; nc -w 1 {address} 5000 < /tmp/data").split()
        wait_until(lambda: sent in other.sh(receiver, "cat /tmp/sum"), "all bytes are there, unchanged")

    def namespace_of(self, container: str) -> Host:
        """A name for a container's network namespace; whoever asks for it deletes that."""
        group = f"{self._cgroup}/{self.inspect('container', container)['Id']}/cgroup.procs"
        listed = next(path for top in (CGROUPS, *CGROUPS.iterdir()) if (path := top / group).exists())
        made = Host(f"{self.host.namespace}-{container}", self.host.number)
        run("ip", "netns", "attach", made.namespace, listed.read_text().split()[0])
        return made

    # vxcore

    def start_vxcore(self, *options: str, n_segments: int = 0) -> VtepProcess:
        """`vxcore docker` beside the daemon, until it serves; so many networks are to be back."""
        state = ("--state", str(self.folder / "networks.json"), "--control", str(self.folder / "c.sock"))
        words = (sys.executable, "-m", "vxcore", "docker", "--local", self.host.v4, *state, *options)
        self.vxcore = VtepProcess(_Place(self.host, self._here()), *words[3:], n_segments=n_segments)
        wait_until(
            lambda: self.command("test", "-S", "/run/docker/plugins/vxcore.sock").returncode == 0,
            "the driver has its socket",
            60,
        )
        return self.vxcore

    def networks(self) -> list[dict[str, Any]]:
        """What vxcore's file says."""
        return list(json.loads((self.folder / "networks.json").read_text())["networks"])

    def devices(self) -> set[str]:
        """Names of the devices of this host that vxcore has made."""
        links = json.loads(self.host.ip("-j", "link", "show").stdout)
        return {link["ifname"] for link in links if link["ifname"].startswith(("vxd", "vxe"))}

    def lose(self) -> None:
        """All that runs here ends at once, as when the power fails; files stay, but for those of /run."""
        if self._room is not None:
            self._room.close()
            self._room = None
        for process in (self.daemon, self.vxcore.process if self.vxcore else None):
            if process is not None:
                process.kill()
                process.communicate()
        self._forget_groups()

    def __exit__(self, *why: object) -> None:
        self.lose()

    def _forget_groups(self) -> None:
        """The control groups, which end when the last process has; not worth a failure."""
        deadline = time.monotonic() + DEADLINE_S
        tops = [path for path in (CGROUPS, *CGROUPS.iterdir()) if (path / self._cgroup).is_dir()]
        while tops and time.monotonic() < deadline:
            for top in tops:
                folders = [Path(where) for where, _, _ in os.walk(top / self._cgroup, topdown=False)]
                for folder in folders:
                    with suppress(OSError):
                        folder.rmdir()
            tops = [top for top in tops if (top / self._cgroup).is_dir()]
            time.sleep(0.02)


class _Place(Host):
    """A host whose processes are started beside its Docker."""

    def __init__(self, host: Host, room: Room) -> None:
        super().__init__(host.namespace, host.number)
        self._room = room

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        return self._room.start(
            *command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )


@contextmanager
def dockers(hosts: list[Host], folder: Path, *options: str) -> Iterator[list[Docker]]:
    """Docker on each of these hosts, started one after the other."""
    made: list[Docker] = []
    try:
        for host in hosts:
            made.append(Docker(host, folder / f"host{host.number}", *options))
            made[-1].__enter__()
        yield made
    finally:
        for each in made:
            each.__exit__()


@contextmanager
def docker_lan(lan: Lan, folder: Path) -> Iterator[list[Docker]]:
    """Docker and vxcore on each host of a Lan."""
    with lan, dockers(lan.hosts, folder) as made:
        for docker in made:
            docker.start_vxcore()
        yield made


@contextmanager
def nothing_left(made: list[Docker]) -> Iterator[None]:
    """At the end delete all containers and networks, after which vxcore has nothing either."""
    yield
    for docker in made:
        if names := docker("ps -aq").split():
            docker("rm -f", *names)
        if names := docker("network ls -q -f driver=vxcore").split():
            docker("network rm", *names)
        assert docker.devices() == set()
        assert docker.networks() == []


def blue(made: list[Docker], options: str = "") -> None:
    """The network blue on each host, and containers c1, 10.9.0.11, c2, 10.9.0.12, and so on, in it."""
    for docker in made:
        docker(BLUE.replace(PEERS, peers_option(len(made))))
        n = docker.host.number
        docker(f"run -d --name c{n} --network blue --ip 10.9.0.{10 + n} {options} busybox sleep infinity")
