"""Programs from Debian packages: which repositories, what is believed of them, what is unpacked."""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile

import debrepo
import pytest
from registries import needs

from udocker import settings
from udocker.errors import IntegrityError, UdockerError, UsageError
from udocker.host.probe import Host
from udocker.provision import catalogue, sources
from udocker.provision.deb import Package
from udocker.provision.install import Installer
from udocker.provision.repository import Access, open_all

DEB822 = """
# the usual
Types: deb deb-src
URIs: http://one.example/debian
Suites: stable stable-updates
Components: main contrib
Signed-By: /usr/share/keyrings/one.gpg

Types: deb
URIs: https://two.example/
Suites: stable
Components: main
Architectures: s390x

Enabled: no
Types: deb
URIs: http://three.example
Suites: stable
Components: main

Types: deb
URIs: http://four.example
Suites: stable
Components: main
Trusted: yes
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----
"""
ONE_LINE = """
# deb http://commented.example stable main
deb http://one.example/debian/ stable main contrib # the usual
deb-src http://one.example/debian stable main
deb [ arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.asc trusted=yes ] https://two.example stable main
deb [arch=s390x] http://three.example stable main
deb http://flat.example ./
deb cdrom:[disc]/ stable main
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    needs("gpg", "gpgv", "dpkg-deb", "gcc")
    home = tmp_path_factory.mktemp("keys")
    found = [debrepo.Keys(f"{home}/{name}") for name in ("ours", "strange")]
    yield found
    for key in found:
        key.close()


@pytest.fixture(scope="module")
def elves(tmp_path_factory):
    return debrepo.compiled(str(tmp_path_factory.mktemp("elves")))


@pytest.fixture
def repository(tmp_path, keys, elves):
    """A repository with proot 5.9-1, which needs a library of another package."""
    program, library = elves
    made = debrepo.Repository(f"{tmp_path}/repository", keys[0])
    place = f"usr/lib/{platform.machine()}-linux-gnu"
    made.add("proot", "5.9-1", {"usr/bin/proot": program}, "libc6, libudockertest3 (>= 1) | other")
    versioned = f"{place}/{debrepo.LIBRARY}.0.1"
    link = f"-> {debrepo.LIBRARY}.0.1"
    made.add("libudockertest3", "1.0", {versioned: library, f"{place}/{debrepo.LIBRARY}": link})
    made.publish()
    return made


@pytest.fixture
def store(tmp_path):
    return f"{tmp_path}/store"


def install(repository, store, names=("proot",), *, url=None, options=None, insecure=False):
    """Install from `repository`, by its file system or by `url`; return the outcomes."""
    options = f"signed-by={repository.keys.keyring}" if options is None else options
    path = f"{os.path.dirname(store)}/test.list"
    with open(path, "w") as file:
        file.write(f"deb [{options}] {url or 'file:' + repository.path} {debrepo.SUITE} main\n")
    in_force = settings.load({"quiet": True}, {"HOME": "/nowhere", "UDOCKER_DIR": store})
    installer = Installer(in_force, Host(), insecure=insecure)
    items = tuple(map(catalogue.item, names))
    return installer.from_repositories(items, force=False, sources_file=path)


def refused(outcomes):
    """Return why the only thing asked for could not be had."""
    assert [outcome.fresh for outcome in outcomes] == [False]
    fault = outcomes[0].fault
    return f"{fault.message} {fault.hint or ''}"


def left(store):
    """Return the files that lie in the store's directory of programs."""
    found = os.walk(f"{store}/engines")
    return [f"{directory}/{name}" for directory, _, names in found for name in names]


def test_deb822_sources_are_read_as_apt_reads_them():
    found = sources.parse(DEB822, "test.sources", "amd64")
    assert [(s.uri, s.suite) for s in found] == [
        ("http://one.example/debian", "stable"),
        ("http://one.example/debian", "stable-updates"),
        ("http://four.example", "stable"),
    ]
    assert found[0].signed_by == ("/usr/share/keyrings/one.gpg",)
    assert found[0].components == ("main", "contrib")
    assert (found[2].trusted, found[2].may_expire) == (True, False)
    assert found[2].signed_by[0].splitlines()[1:3] == ["", "abcd"]


def test_one_line_sources_are_read_as_apt_reads_them():
    found = sources.parse(ONE_LINE, "sources.list", "amd64")
    assert [s.uri for s in found] == ["http://one.example/debian", "https://two.example"]
    assert found[1].signed_by == ("/k/a.gpg", "/k/b.asc")
    assert found[1].trusted


@pytest.mark.parametrize("text", ["deb", "deb http://one.example", "rpm http://x y z"])
def test_a_line_that_is_no_source_is_an_error_with_its_place(text):
    with pytest.raises(UsageError, match=r"my\.list:2"):
        sources.parse(f"# mine\n{text}\n", "my.list", "amd64")


def test_the_files_of_a_machine_are_those_that_apt_reads(tmp_path):
    parts = tmp_path / "etc/apt/sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text("deb http://list.example s main\n")
    (parts / "a.sources").write_text(DEB822)
    (parts / "broken.list").write_text("what is this\n")
    (parts / "old.list.disabled").write_text("deb http://disabled.example s main\n")
    found = sources.configured(Host(str(tmp_path)), "amd64")
    assert [s.uri for s in found][0] == "http://list.example"
    assert not any("disabled" in s.uri for s in found)
    assert len(found) == 4


@pytest.mark.parametrize("by_hash", [False, True], ids=["name", "by-hash"])
@pytest.mark.parametrize("suffixes", [(".xz", ".gz"), (".gz",), ("",)], ids=["xz", "gz", "plain"])
def test_a_program_comes_with_the_libraries_that_this_host_lacks(
    repository, store, by_hash, suffixes
):
    repository.publish(by_hash=by_hash, suffixes=suffixes)
    with debrepo.Server(repository.path) as server:
        (outcome,) = install(repository, store, url=server.url)
    found = outcome.installed
    assert (outcome.fault, outcome.fresh, found.version) == (None, True, "5.9-1")
    assert found.origin == "Tests test (proot 5.9-1)"
    done = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "proot 5.9.0\n"
    record = json.loads(debrepo.read(f"{os.path.dirname(found.path)}/installed.json"))
    for path, checksum in record["files"].items():
        data = debrepo.read(f"{os.path.dirname(found.path)}/{path}")
        assert hashlib.sha256(data).hexdigest() == checksum
    assert f"lib/{debrepo.LIBRARY}" in record["files"]


def test_a_store_that_is_moved_still_finds_its_libraries(repository, store):
    (outcome,) = install(repository, store)
    os.rename(store, f"{store}.moved")
    moved = outcome.installed.path.replace(store, f"{store}.moved")
    subprocess.run([moved], check=True, capture_output=True)


def test_a_detached_signature_does_as_well(repository, store):
    repository.publish(clearsign=False)
    (outcome,) = install(repository, store)
    assert outcome.fault is None


@pytest.mark.parametrize("kind", ["keyring", "armored", "inline", "fingerprint", "trusted"])
def test_every_form_of_key_is_understood(repository, keys, kind, tmp_path):
    ours, strange = keys
    debrepo.write(f"{tmp_path}/key.gpg", debrepo.read(ours.keyring))
    debrepo.write(f"{tmp_path}/key.asc", ours.armored.encode())
    trusted = f"{tmp_path}/etc/apt/trusted.gpg.d/both.asc"
    debrepo.write(trusted, f"{strange.armored}\n{ours.armored}".encode())
    inline = "\n".join(f" {line or '.'}" for line in ours.armored.splitlines())
    values = {"keyring": " /key.gpg", "armored": " /key.asc", "inline": f"\n{inline}"}
    values["fingerprint"] = f" {ours.fingerprint()}"
    text = "Types: deb\nURIs: file:/repository\nSuites: test\nComponents: main\n"
    text += f"Signed-By:{values[kind]}\n" if kind in values else ""
    found = sources.parse(text, "x.sources", debrepo.ARCHITECTURE)
    access = Access(Host(str(tmp_path)), {}, insecure=False)
    (opened,) = open_all(found, debrepo.ARCHITECTURE, access)
    assert [stanza.version for stanza in opened.versions("proot")] == ["5.9-1"]


def test_another_key_than_the_one_of_that_fingerprint_does_not_count(repository, keys, tmp_path):
    trusted = f"{tmp_path}/etc/apt/trusted.gpg.d/both.asc"
    debrepo.write(trusted, f"{keys[0].armored}\n{keys[1].armored}".encode())
    line = f"deb [signed-by={keys[1].fingerprint()}] file:/repository test main"
    access = Access(Host(str(tmp_path)), {}, insecure=False)
    found = sources.parse(line, "x.list", debrepo.ARCHITECTURE)
    (opened,) = open_all(found, debrepo.ARCHITECTURE, access)
    with pytest.raises(IntegrityError):
        opened.versions("proot")


def damage(path, old, new):
    data = debrepo.read(path)
    assert old in data
    debrepo.write(path, data.replace(old, new, 1))


def _changed_index(repository):
    damage(f"{repository.path}/dists/test/InRelease", b"Origin: Tests", b"Origin: Teste")


def _unsigned_index(repository):
    path = f"{repository.path}/dists/test/InRelease"
    data = debrepo.read(path)
    text = data.partition(b"\n\n")[2].partition(b"-----BEGIN PGP SIG")[0]
    debrepo.write(path, text)


def _text_after_the_signature(repository):
    path = f"{repository.path}/dists/test/InRelease"
    data = debrepo.read(path)
    second = data.replace(b"Origin: Tests", b"Origin: Evil!")
    debrepo.write(path, data + second)


def _changed_list(repository):
    path = f"{repository.path}/dists/test/main/binary-{debrepo.ARCHITECTURE}/Packages.xz"
    debrepo.write(path, debrepo.read(path) + b"\0")


def _changed_package(repository):
    path = f"{repository.path}/pool/proot_5.9-1_{debrepo.ARCHITECTURE}.deb"
    data = bytearray(debrepo.read(path))
    data[-9] ^= 1
    debrepo.write(path, bytes(data))


def _short_package(repository):
    path = f"{repository.path}/pool/proot_5.9-1_{debrepo.ARCHITECTURE}.deb"
    debrepo.write(path, debrepo.read(path)[:-8])


def _missing_package(repository):
    os.unlink(f"{repository.path}/pool/proot_5.9-1_{debrepo.ARCHITECTURE}.deb")


def _missing_library(repository):
    os.unlink(f"{repository.path}/pool/libudockertest3_1.0_{debrepo.ARCHITECTURE}.deb")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_changed_index, "changed on its way"),
        (_unsigned_index, "no good signature"),
        (_text_after_the_signature, "signature"),
        (_changed_list, "checksum"),
        (_changed_package, "checksum"),
        (_short_package, "checksum"),
        (_missing_package, "404"),
        (_missing_library, "404"),
    ],
)
def test_what_was_changed_on_its_way_is_refused_and_leaves_nothing(repository, store, harm, reason):
    harm(repository)
    with debrepo.Server(repository.path) as server:
        assert reason in refused(install(repository, store, url=server.url))
    assert left(store) == []


def test_a_key_that_is_not_trusted_does_not_count(repository, store, keys):
    outcomes = install(repository, store, options=f"signed-by={keys[1].keyring}")
    assert "not trusted here" in refused(outcomes)
    assert "no key" in refused(install(repository, store, options="signed-by=/nowhere.gpg"))


def test_an_index_that_is_too_old_is_refused_unless_the_source_allows_it(repository, store):
    repository.publish(fields="Valid-Until: Sat, 01 Jan 2022 00:00:00 UTC\n")
    assert "valid until" in refused(install(repository, store))
    options = f"signed-by={repository.keys.keyring} check-valid-until=no"
    assert install(repository, store, options=options)[0].fault is None


def test_without_a_signature_only_trusted_or_insecure_sources_do(repository, store, capsys):
    _unsigned_index(repository)
    assert refused(install(repository, store))
    assert install(repository, store, insecure=True)[0].fault is None
    assert "believed because of --insecure" in capsys.readouterr().err
    assert install(repository, f"{store}2", options="trusted=yes")[0].fault is None


def test_insecure_still_holds_packages_to_their_checksums(repository, store):
    _changed_package(repository)
    assert "checksum" in refused(install(repository, store, insecure=True))


def test_a_list_that_names_files_elsewhere_is_refused(repository, store):
    fields = f"Package: crun\nVersion: 1\nArchitecture: {debrepo.ARCHITECTURE}\n"
    fields += f"Filename: ../../etc/passwd\nSize: 5\nSHA256: {'0' * 64}\n"
    repository._stanzas.append(fields)
    repository.publish()
    assert "makes no sense" in refused(install(repository, store, ("crun",)))


def test_the_newest_version_that_works_is_taken(repository, store):
    repository.add("proot", "1:0.1-1", {"usr/bin/proot": b"#!/bin/sh\nexit 0\n"})
    repository.add("proot", "6.0-1", {"usr/share/doc/proot/README": b"nothing"})
    repository.publish()
    (outcome,) = install(repository, store)
    assert outcome.installed.version == "5.9-1"


def test_a_program_that_does_not_work_leaves_nothing(tmp_path, keys, store):
    needs("gcc")
    debrepo.write(f"{tmp_path}/bad.c", b'#include <stdio.h>\nint main() { puts("sad"); return 3; }')
    subprocess.run(["gcc", "-o", f"{tmp_path}/bad", f"{tmp_path}/bad.c"], check=True)
    made = debrepo.Repository(f"{tmp_path}/repository", keys[0])
    made.add("proot", "1", {"usr/bin/proot": debrepo.read(f"{tmp_path}/bad")})
    made.publish()
    assert "does not work: sad" in refused(install(made, store))
    assert left(store) == []


def test_of_a_library_for_containers_every_version_comes(tmp_path, keys, store, elves):
    made = debrepo.Repository(f"{tmp_path}/repository", keys[0])
    place = f"usr/lib/{platform.machine()}-linux-gnu/fakechroot/libfakechroot.so"
    for version in ("2.19-3", "2.20-1"):
        made.add("libfakechroot", version, {place: elves[1]})
    made.publish()
    outcomes = install(made, store, ("libfakechroot",))
    assert [outcome.installed.version for outcome in outcomes] == ["2.19-3", "2.20-1"]
    assert os.readlink(f"{store}/engines/libfakechroot/current") == "2.20-1"


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_every_compression_of_packages_is_read(tmp_path, keys, compression):
    made = debrepo.Repository(f"{tmp_path}/repository", keys[0])
    try:
        path = made.add("x", "1", {"usr/bin/x": b"content"}, compression=compression)
    except subprocess.CalledProcessError:
        pytest.skip(f"this dpkg-deb cannot write {compression}")
    assert Package(debrepo.read(path), "x").file("usr/bin/x") == b"content"


def ar(*members):
    data = b"!<arch>\n"
    for name, content in members:
        data += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"644", len(content))
        data += content + b"\n" * (len(content) % 2)
    return data


def tar(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                archive.addfile(member)
    return stream.getvalue()


GOOD = ar((b"debian-binary", b"2.0\n"), (b"data.tar", tar(("./bin/x", tarfile.REGTYPE, b"1"))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        GOOD[:40],
        GOOD[:-600],
        ar((b"debian-binary", b"2.0\n")),
        ar((b"data.tar.xz", b"\xfd7zXZ\0 broken")),
        ar((b"data.tar", b"x" * 1024)),
        GOOD.replace(b"`\n", b"!\n"),
        b"!<arch>\n" + b"data.tar".ljust(48) + b"-5".ljust(10) + b"`\n",
        b"!<arch>\n" + b"data.tar".ljust(48) + b"9999999999" + b"`\n",
    ],
)
def test_a_broken_package_is_an_error_and_nothing_else(data):
    with pytest.raises(IntegrityError, match="not a sound package"):
        Package(data, "x")


def test_members_of_a_package_lead_nowhere_else():
    members = (
        ("../bin/up", tarfile.REGTYPE, b"1"),
        ("/bin/top", tarfile.REGTYPE, b"1"),
        ("./usr/bin/out", tarfile.SYMTYPE, "../../../../etc/passwd"),
        ("./usr/bin/loop", tarfile.SYMTYPE, "loop"),
        ("./usr/bin/hard", tarfile.LNKTYPE, "/etc/passwd"),
        ("./usr/bin/pipe", tarfile.FIFOTYPE, ""),
        ("./usr/bin/x", tarfile.SYMTYPE, "/usr/lib/../bin/y"),
        ("./usr/bin/y", tarfile.REGTYPE, b"good"),
    )
    package = Package(ar((b"data.tar", tar(*members))), "x")
    assert package.file("usr/bin/x") == b"good"
    for path in ("bin/up", "../bin/up", "bin/top", "/bin/top", "usr/bin/pipe", "usr/bin/hard"):
        assert package.file(path) is None
    assert package.file("usr/bin/out") is None
    assert package.file("usr/bin/loop") is None


@pytest.mark.parametrize("word", ["userns", "apptainer", "newuidmap", "emacs"])
def test_what_cannot_be_installed_is_told_with_what_can(word):
    with pytest.raises(UsageError) as error:
        catalogue.item(word)
    assert "proot" in error.value.hint
    assert catalogue.item("fakechroot").name == "libfakechroot"


def test_a_machine_without_repositories_is_told_what_else_there_is(tmp_path):
    in_force = settings.load({"quiet": True}, {"HOME": "/nowhere", "UDOCKER_DIR": str(tmp_path)})
    installer = Installer(in_force, Host(str(tmp_path)))
    items = (catalogue.item("proot"),)
    (outcome,) = installer.from_repositories(items, force=True, sources_file=None)
    assert "no Debian repository" in outcome.fault.message
    assert "--from FILE" in outcome.fault.hint
    assert isinstance(outcome.fault, UdockerError)
