"""TLS trusts whom the files of docker and podman name, and shows the certificates found there."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from dataclasses import replace

import pytest
from images import add_image
from registries import DockerRegistry, Layout, Reply, Server, Tls
from tarballs import archive, file

from udocker.errors import RegistryError, UsageError
from udocker.registry.certificates import context, registry_directory
from udocker.registry.connection import Trust
from udocker.registry.faults import no_answer
from udocker.registry.patience import Patience
from udocker.registry.transport import Request, Transport


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return Tls.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def client_tls(tmp_path_factory):
    return Tls.make(tmp_path_factory.mktemp("client"))


def ask(host, environment, directory=""):
    transport = Transport(
        host,
        environment,
        lambda _: None,
        trust=Trust(directory=directory),
        patience=Patience(attempts=1, connect_timeout_s=5, read_timeout_s=5),
        base=f"https://{host}",
    )
    return transport.fetch(Request("GET", "/v2/", "", "it"), 99).body


def serve(tls):
    return Server(lambda asked: Reply(body=b"fine"), tls)


def put(directory, **files):
    """Fill a directory: `ca_crt=path` copies a file there as `ca.crt`."""
    os.makedirs(directory, exist_ok=True)
    for name, path in files.items():
        shutil.copy(path, f"{directory}/{name.replace('_', '.')}")
    return str(directory)


@pytest.mark.parametrize("place", [".config/containers/certs.d", ".docker/certs.d"])
def test_an_authority_in_the_registrys_directory_is_trusted(tls, tmp_path, place):
    with serve(tls) as server:
        environment = {"HOME": str(tmp_path)}
        with pytest.raises(RegistryError, match="not trusted"):
            ask(server.host, environment)
        put(tmp_path / place / "127.0.0.1", ca_crt=tls.certificate)
        with pytest.raises(RegistryError, match="not trusted"):
            ask(server.host, environment)  # of another port
        put(tmp_path / place / server.host, ca_crt=tls.certificate)
        assert ask(server.host, environment) == b"fine"


def test_a_directory_of_the_command_line_is_used_in_its_place(tls, tmp_path):
    with serve(tls) as server:
        given = put(tmp_path / "given", site_crt=tls.certificate)
        assert ask(server.host, {}, given) == b"fine"
        with pytest.raises(UsageError, match="No such file"):
            ask(server.host, {}, f"{given}/none")


def test_a_certificate_of_ours_is_shown_to_who_asks_for_it(tls, client_tls, tmp_path):
    with serve(replace(tls, clients=client_tls.certificate)) as server:
        given = put(tmp_path / "given", ca_crt=tls.certificate)
        with pytest.raises(RegistryError):
            ask(server.host, {}, given)
        put(given, me_cert=client_tls.certificate, me_key=client_tls.key)
        assert ask(server.host, {}, given) == b"fine"


@pytest.mark.parametrize("names", ["DNS:other.example", "IP:127.0.0.2", "DNS:127.0.0.1.nip"])
def test_a_certificate_for_another_name_is_refused(tmp_path, names):
    other = Tls.make(tmp_path, names)
    with serve(other) as server, pytest.raises(RegistryError, match="not trusted|not match"):
        ask(server.host, {"SSL_CERT_FILE": other.certificate})


def test_a_server_that_misses_a_certificate_is_understood():
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert "certs.d/quay.io/client.cert" in no_answer("https://quay.io/v2/", alert).hint


def test_a_key_that_cannot_be_used_is_named(tls, client_tls, tmp_path):
    other = put(tmp_path / "other", a_cert=tls.certificate, a_key=client_tls.key)
    with pytest.raises(UsageError, match="a.cert: the key beside it is another one's"):
        context("h", {}, directory=other)
    locked = put(tmp_path / "locked", a_cert=tls.certificate)
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:word", "-in", tls.key]
    subprocess.run([*command, "-out", f"{locked}/a.key"], check=True, capture_output=True)
    with pytest.raises(UsageError, match="a.cert: .* or has a password"):
        context("h", {}, directory=locked)


def test_half_a_pair_and_broken_files_are_named(tls, tmp_path):
    for name, problem in (("me_cert", "no key beside"), ("me_key", "no certificate beside")):
        with pytest.raises(UsageError, match=problem):
            context("h", {}, directory=put(tmp_path / name, **{name: tls.key}))
    broken = put(tmp_path / "broken", ca_crt=__file__)
    with pytest.raises(UsageError, match="ca.crt: not a certificate"):
        context("h", {}, directory=broken)
    swapped = put(tmp_path / "swapped", a_cert=tls.key, a_key=tls.certificate)
    with pytest.raises(UsageError, match="a.cert: not a certificate"):
        context("h", {}, directory=swapped)


def test_a_variable_replaces_the_systems_authorities(tls, tmp_path):
    assert len(context("h", {"SSL_CERT_FILE": tls.certificate}).get_ca_certs()) == 1
    with pytest.raises(UsageError, match="REQUESTS_CA_BUNDLE names /nowhere"):
        context("h", {"REQUESTS_CA_BUNDLE": "/nowhere"})


def test_the_users_directory_comes_first(tmp_path):
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "x")}
    assert registry_directory("quay.io", environment) == ""
    for place in (".docker/certs.d", "x/containers/certs.d"):
        os.makedirs(tmp_path / place / "quay.io")
        assert registry_directory("quay.io", environment) == str(tmp_path / place / "quay.io")


@pytest.mark.parametrize("name", ["docker.io", "registry-1.docker.io"])
def test_certificates_for_docker_hub_are_found_under_both_its_names(tmp_path, name):
    directory = tmp_path / ".docker/certs.d" / name
    os.makedirs(directory)
    environment = {"HOME": str(tmp_path)}
    assert registry_directory("registry-1.docker.io", environment) == str(directory)
    assert registry_directory("index.docker.io", environment) == ""


def test_certificates_are_checked_unless_insecure():
    assert context("quay.io", {}).verify_mode == ssl.CERT_REQUIRED
    assert context("quay.io", {}, insecure=True).verify_mode == ssl.CERT_NONE


# The command line, with real registries


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = Layout(str(tmp_path_factory.mktemp("layout")))
    add_image(layout, "app", [archive(file("etc/name", b"it\n"))])
    return layout


def test_a_registry_with_an_authority_of_its_own_is_pulled_from(
    unprivileged, tls, layout, tmp_path
):
    own = f"{unprivileged.home}/.config/containers/certs.d"
    with DockerRegistry(tmp_path, tls=tls) as registry:
        registry.push(layout, "app", "app:1")
        name = f"{registry.host}/app:1"
        done = unprivileged.udocker("pull", name, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"certs.d/{registry.host}/ca.crt" in done.stderr
        unprivileged.udocker("search", "--list-tags", "--tls-verify=false", name)
        given = put(f"{unprivileged.home}/given", ca_crt=tls.certificate)
        unprivileged.own(given)
        unprivileged.udocker("search", "--list-tags", "--cert-dir", given, name)
        put(f"{own}/{registry.host}", ca_crt=tls.certificate)
        unprivileged.own(f"{unprivileged.home}/.config")
        unprivileged.udocker("pull", name)


def test_a_registry_that_wants_certificates_of_its_users_gets_them(
    unprivileged, tls, client_tls, layout, tmp_path
):
    given = put(
        f"{unprivileged.home}/given", ca_crt=tls.certificate, me_cert=client_tls.certificate
    )
    put(given, me_key=client_tls.key)
    strict = replace(tls, clients=client_tls.certificate)
    with DockerRegistry(tmp_path, tls=strict) as registry:
        registry.push(layout, "app", "app:1", certificates=given)
        unprivileged.own(given)
        name = f"{registry.host}/app:1"
        assert unprivileged.udocker("pull", "--tls-verify=false", name, check=False).returncode == 1
        unprivileged.udocker("pull", "--cert-dir", given, name)
