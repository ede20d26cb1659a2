"""The same behaviours through every engine, in every system, by a user without privileges."""

import os
import subprocess

import pytest
from behaviours.subject import Subject
from behaviours.systems import NAMES, install_libraries, layout_of
from behaviours.table import BEHAVIOURS, REFUSALS
from registries import needs
from unprivileged import Unprivileged

from udocker.containers import features
from udocker.registry.loopback import LoopbackRegistry

MODES = ("N2", "N1", "runc-R1", "crun-R1", "B1", "P1", "F3")
VARIANTS = ("P2", "F1", "F2", "F4", "runc-R2", "runc-R3")
SUBJECTS = (
    *(f"{name}-{mode}" for mode in MODES for name in NAMES),
    *(f"{name}-{mode}" for mode in VARIANTS for name in ("bookworm", "musl")),
)
ONE_WORKER_EACH = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SUBJECTS]
"""Every engine in every system; its other modes in one of each kind."""
REFUSED_BY_SOME_HOSTS = {"crun-R1": "cgroup"}
"""crun wants the unified cgroup hierarchy; where there is another one it says so."""
PACKAGE = """Package: greeter
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: greets
"""
pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture(scope="module")
def user(account):
    user = Unprivileged(account)
    make_package(user)
    install_libraries(user)
    yield user
    user.close()


def make_package(user):
    """Make packages/greeter.deb in the user's home."""
    needs("dpkg-deb")
    tree = f"{user.home}/packages/greeter"
    os.makedirs(f"{tree}/DEBIAN")
    os.makedirs(f"{tree}/usr/bin")
    with open(f"{tree}/DEBIAN/control", "w") as file:
        file.write(PACKAGE)
    with open(f"{tree}/usr/bin/greeter", "w") as file:
        file.write("#!/bin/sh\necho greetings\n")
    os.chmod(f"{tree}/usr/bin/greeter", 0o755)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree], check=True, capture_output=True
    )
    user.own(f"{user.home}/packages")


@pytest.fixture(scope="module", params=ONE_WORKER_EACH)
def subject(request, user, layouts):
    """A container of a system that one engine runs."""
    system, _, mode = request.param.partition("-")
    with LoopbackRegistry(layout_of(system, layouts)) as host:
        image = f"{host}/library/{system}:1"
        user.udocker("pull", image)
        subject = Subject(user, system, mode, image)
        user.udocker("create", f"--name={subject.name}", image)
        yield subject
        subject.close()
        user.udocker("rm", "-f", subject.name)
        user.udocker("rmi", "-f", image)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda function: function.__name__)
def test_behaviour(subject, behaviour):
    if behaviour.only and subject.system not in behaviour.only:
        return
    reason = impossible(subject)
    if reason:
        subject.refused("true", says=reason)
    elif behaviour.needs and not subject.can(behaviour.needs):
        said = subject.refused("true", options=REFUSALS[behaviour.needs])
        assert "engines that can: " in said
    else:
        behaviour(subject)


def impossible(subject):
    """Return the word by which an engine refuses a whole system; None: it runs it."""
    word = REFUSED_BY_SOME_HOSTS.get(subject.mode)
    if word and subject.code("true") == 125:
        return word
    if subject.is_musl and not subject.can(features.MUSL):
        return "musl"
    return None
