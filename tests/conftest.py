"""Fixtures for all tests.

Place in the house: names for `support.peers`, so that a test can ask for what it needs in its
signature; everything else a test imports from `support`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import docker, hosts, peers
from support.no_lookups import forbid_lookups

forbid_lookups()  # here, for test modules build packets while they are imported


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """``require_tool("tshark")`` gives the program's path, or skips (fails in CI)."""
    return peers.require_tool


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """``run("decap", "in", "out")`` in the test's own directory gives exit code and standard error."""
    from vxcore import cli

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        return code, capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """No network namespace outlives the test."""
    yield
    assert hosts.namespaces_of_this_process() == []


@pytest.fixture
def public_file() -> Iterator[Path]:
    """A settings file that any user may read, as those in /etc are."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder, "vx.toml")


@pytest.fixture(scope="session")
def root() -> None:
    """The test needs root, for namespaces and TAP devices."""
    peers.require_root()


@pytest.fixture(scope="module")
def docker_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[docker.Docker]]:
    """Two hosts with Docker and vxcore."""
    with docker.docker_lan(hosts.Lan(2), tmp_path_factory.mktemp("docker")) as made:
        yield made


@pytest.fixture
def no_docker_network_is_left(docker_hosts: list[docker.Docker]) -> Iterator[None]:
    """All containers and networks are deleted after the test, and vxcore has nothing of them."""
    with docker.nothing_left(docker_hosts):
        yield
