"""etcd with TLS, certificates of clients, and users: who may not is told why, and waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.etcd import Etcd, Site, end_vteps, keys_of
from support.hosts import Lan, run, wait_until

pytestmark = pytest.mark.usefixtures("root")
ADDRESS = "192.0.2.4"


class Authority:
    """Makes certificates, each with its key: ``name.pem``, ``name.key``.

    None has a CommonName: etcd's gateway refuses clients that have one when there are users.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("ca", "stranger"):
            self._new(name, "-x509", "-days", "2")

    def _new(self, name: str, *words: str, out: str = "pem") -> None:
        key, made = str(self.folder / f"{name}.key"), str(self.folder / f"{name}.{out}")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run("openssl", "req", *curve, "-keyout", key, "-out", made, "-subj", f"/O={name}", *words)

    def issue(self, name: str, address: str) -> None:
        self._new(name, out="csr")
        (self.folder / "names").write_text(f"subjectAltName=IP:{address}\n")
        ca = ("-CA", str(self.folder / "ca.pem"), "-CAkey", str(self.folder / "ca.key"), "-CAcreateserial")
        files = ("-in", str(self.folder / f"{name}.csr"), "-out", str(self.folder / f"{name}.pem"))
        run("openssl", "x509", "-req", "-days", "2", *ca, *files, "-extfile", str(self.folder / "names"))

    def __getitem__(self, file: str) -> str:
        return str(self.folder / file)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lan, Etcd, Authority]]:
    """Hosts; etcd on the last one, that wants certificates, and a user's password."""
    folder = tmp_path_factory.mktemp("etcd")
    ca = Authority(folder / "tls")
    for name, address in (("server", ADDRESS), ("client", "192.0.2.1")):
        ca.issue(name, address)
    words = ("--cert-file", ca["server.pem"], "--key-file", ca["server.key"], "--client-cert-auth")
    trusted = ("--trusted-ca-file", ca["ca.pem"])
    curl = ("--cacert", ca["ca.pem"], "--cert", ca["client.pem"], "--key", ca["client.key"])
    with Lan(4) as lan:
        member = Etcd(lan.hosts[3], folder, *words, *trusted, tls=True).trusting(*curl)
        with member:
            add_users(member)
            yield lan, member, ca


def add_users(member: Etcd) -> None:
    """root, vxcore with its keys, and nobody without any."""
    for name in ("root", "vxcore", "nobody"):
        member.ask("auth/user/add", {"name": name, "password": f"{name}'s"})
    for name in ("root", "vxcore"):
        member.ask("auth/role/add", {"name": name})
        member.ask("auth/user/grant", {"user": name, "role": name})
    member.grant("vxcore", "/vxcore/")
    member.ask("auth/enable", {})
    member.log_in("root", "root's")


@pytest.fixture
def lan(shared: tuple[Lan, Etcd, Authority]) -> Iterator[Lan]:
    yield shared[0]
    end_vteps(shared[0])


def access(ca: Authority, folder: Path, user: str = "vxcore", password: str = "") -> str:
    """Lines of ``[etcd]``."""
    file = folder / f"{user}.password"
    file.write_text(f"{password or user}'s\n")
    tls = f'ca = "{ca["ca.pem"]}"\ncert = "{ca["client.pem"]}"\nkey = "{ca["client.key"]}"\n'
    return f'{tls}user = "{user}"\npassword_file = "{file}"'


def test_hosts_find_each_other(lan: Lan, shared: tuple[Lan, Etcd, Authority], tmp_path: Path) -> None:
    _, etcd, ca = shared
    # bcrypt takes its time on a busy machine
    one, two = (Site(host, tmp_path, etcd, extra=access(ca, tmp_path), timeout=10) for host in lan.hosts[:2])
    one.hears_of(2)
    two.hears_of(1)
    one.host.ping("10.42.0.2")
    etcd.kill()  # tokens are forgotten with it
    one.becomes("stale")
    etcd.start()
    one.becomes("connected")
    two.becomes("connected")
    two.vtep.stop()
    one.hears_of()
    etcd.log_in("root", "root's")
    wait_until(lambda: etcd.there() == keys_of(1), "one is still there")


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("vxcore", "wrong", "authentication failed, invalid user ID or password"),
        ("nobody", "", "permission denied"),
    ],
)
def test_who_may_not_is_told_so(
    lan: Lan, shared: tuple[Lan, Etcd, Authority], tmp_path: Path, user: str, password: str, why: str
) -> None:
    _, etcd, ca = shared
    one = Site(lan.hosts[0], tmp_path, etcd, extra=access(ca, tmp_path, user, password), timeout=10)
    wait_until(lambda: why in one.plane["reason"], f"{why}")
    assert one.plane["state"] == "connecting"
    assert f"etcd: {etcd.url}: etcdserver: {why}; it is tried again" in one.vtep.stop()


def test_a_member_of_a_stranger_is_not_believed(
    lan: Lan, shared: tuple[Lan, Etcd, Authority], tmp_path: Path
) -> None:
    _, etcd, ca = shared
    extra = access(ca, tmp_path).replace("ca.pem", "stranger.pem")
    one = Site(lan.hosts[0], tmp_path, etcd, extra=extra)
    wait_until(lambda: "certificate verify failed" in one.plane["reason"], "it says so")


def test_files_that_cannot_be_used_are_named_at_the_start(
    lan: Lan, shared: tuple[Lan, Etcd, Authority], tmp_path: Path
) -> None:
    _, etcd, ca = shared
    right = access(ca, tmp_path)
    wrong = {
        right.replace("ca.pem", "ca.key"): "etcd.ca: ",
        right.replace("client.key", "server.key"): "etcd.cert: it cannot be used: KEY_VALUES_MISMATCH; PEM",
        right.replace("vxcore.password", "x"): f"etcd.password_file: {tmp_path}/x: No such file",
    }
    for extra, why in wrong.items():
        with pytest.raises(AssertionError) as raised:
            Site(lan.hosts[0], tmp_path, etcd, extra=extra)
        assert f"vxcore: error: {why}" in str(raised.value)
