"""containers-policy.json: what is read, what is refused, and which rule is for which image."""

import base64
import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import Layout, needs

from udocker.errors import TrustError
from udocker.reference import Reference
from udocker.trust import identity, place, policy
from udocker.trust.policy import AcceptAnything, Reject, SigstoreSigned, Uncheckable

ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
KEY = {"keyPath": "/etc/keys/cosign.pub"}
DATA = base64.b64encode(b"PEM").decode()
SHA = f"sha256:{'a' * 64}"


def parsed(document):
    text = document if isinstance(document, str) else json.dumps(document)
    return policy.parse(text.encode(), "policy.json")


def signed(**members):
    return {"type": "sigstoreSigned", **(members or KEY)}


def only(requirement):
    return parsed({"default": [requirement]}).default[0]


GOOD = {
    "accept": (ACCEPT, AcceptAnything),
    "reject": (REJECT, Reject),
    "keyPath": (signed(), SigstoreSigned),
    "keyPaths": (signed(keyPaths=["/a", "/b"]), SigstoreSigned),
    "keyData": (signed(keyData=DATA), SigstoreSigned),
    "keyDatas": (signed(keyDatas=[DATA, DATA]), SigstoreSigned),
    "identity": (signed(**KEY, signedIdentity={"type": "matchRepository"}), SigstoreSigned),
    "rekor": (signed(**KEY, rekorPublicKeyPath="/rekor.pub"), Uncheckable),
    "fulcio": (
        signed(
            fulcio={"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"},
            rekorPublicKeyData=DATA,
        ),
        Uncheckable,
    ),
    "pki": (signed(pki={"caRootsPath": "/ca", "subjectEmail": "a@b"}), Uncheckable),
    "signedBy": (
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k.gpg"},
        Uncheckable,
    ),
    "signedBaseLayer": (
        {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}},
        Uncheckable,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_requirement_is_read(name):
    requirement, kind = GOOD[name]
    assert isinstance(only(requirement), kind)


BAD = {
    "no JSON": "{",
    "no object": "[]",
    "text behind": '{"default": [{"type": "reject"}]} x',
    "nothing": {},
    "default null": {"default": None},
    "default empty": {"default": []},
    "default no list": {"default": REJECT},
    "unknown member": {"default": [ACCEPT], "defaults": [REJECT]},
    "given twice": '{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}',
    "type twice": '{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}',
    "unknown type": {"default": [{"type": "accept"}]},
    "type in other case": {"default": [{"Type": "reject"}]},
    "type missing": {"default": [{}]},
    "more than a type": {"default": [{**ACCEPT, "keyPath": "/k"}]},
    "no key": {"default": [{"type": "sigstoreSigned"}]},
    "two keys": {"default": [signed(keyPath="/k", keyData=DATA)]},
    "empty key path": {"default": [signed(keyPath="")]},
    "relative key path": {"default": [signed(keyPath="cosign.pub")]},
    "key paths empty": {"default": [signed(keyPaths=[])]},
    "key paths no list": {"default": [signed(keyPaths="/k")]},
    "key data no base64": {"default": [signed(keyData="%%%")]},
    "key data empty": {"default": [signed(keyData="")]},
    "key null": {"default": [signed(keyPath=None)]},
    "fulcio without rekor": {
        "default": [signed(fulcio={"caPath": "/c", "oidcIssuer": "i", "subjectEmail": "a@b"})]
    },
    "two rekor keys": {
        "default": [signed(**KEY, rekorPublicKeyPath="/r", rekorPublicKeyData=DATA)]
    },
    "unknown identity": {"default": [signed(**KEY, signedIdentity={"type": "any"})]},
    "identity null": {"default": [signed(**KEY, signedIdentity=None)]},
    "identity with more": {
        "default": [signed(**KEY, signedIdentity={"type": "matchExact", "prefix": "x.y"})]
    },
    "exact reference without tag": {
        "default": [
            signed(**KEY, signedIdentity={"type": "exactReference", "dockerReference": "a.b/c"})
        ]
    },
    "exact repository no name": {
        "default": [
            signed(**KEY, signedIdentity={"type": "exactRepository", "dockerRepository": "A B"})
        ]
    },
    "prefix no host": {
        "default": [
            signed(
                **KEY,
                signedIdentity={"type": "remapIdentity", "prefix": "x", "signedPrefix": "a.b"},
            )
        ]
    },
    "unknown key type": {"default": [{"type": "signedBy", "keyType": "PGP", "keyPath": "/k"}]},
    "transports null": {"default": [ACCEPT], "transports": None},
    "scopes no object": {"default": [ACCEPT], "transports": {"docker": [ACCEPT]}},
    "scope empty": {"default": [ACCEPT], "transports": {"docker": {"": []}}},
    "relative directory": {"default": [ACCEPT], "transports": {"oci": {"a/b": [ACCEPT]}}},
    "root directory": {"default": [ACCEPT], "transports": {"dir": {"/": [ACCEPT]}}},
    "dots": {"default": [ACCEPT], "transports": {"oci": {"/a/../b": [ACCEPT]}}},
    "scope of archive": {"default": [ACCEPT], "transports": {"docker-archive": {"/a": [ACCEPT]}}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_slip_spoils_the_whole_policy(name):
    with pytest.raises(TrustError, match=r"policy\.json is broken"):
        parsed(BAD[name])


NEWER = ("keyPaths", "keyDatas", "pki", "key paths empty", "key paths no list", "rekor", "fulcio")
"""What skopeo 1.9 does not know yet, and so refuses."""
STRICTER = ("key null", "empty key path", "relative key path", "key data empty", "prefix no host")
"""What it lets pass here, and what can match nothing, or depends on the current directory."""


def test_skopeo_takes_and_refuses_the_same_policies(tmp_path):
    needs("skopeo")
    layout = Layout(str(tmp_path / "layout"))
    layout.add("img", [b""])
    path = tmp_path / "policy.json"
    command = ["skopeo", "--policy", str(path), "copy", f"oci:{layout.directory}:img"]
    documents = {name: {"default": [need]} for name, (need, _) in GOOD.items()}
    told = {}
    for name, document in {**BAD, **documents}.items():
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        done = subprocess.run([*command, f"dir:{tmp_path}/x"], capture_output=True, text=True)
        told[name] = "Error loading trust policy" not in done.stderr
    wrong = {name for name, taken in told.items() if taken != (name in GOOD)}
    assert wrong <= {*NEWER, *STRICTER}, wrong
    assert {name for name in BAD if told[name]} <= set(STRICTER)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
WORDS = st.sampled_from(
    ["default", "transports", "type", "keyPath", "docker", "reject", "insecureAcceptAnything", ""]
)
NEARLY = st.recursive(
    JSON | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(st.integers(0, 3), max_size=5)


@settings(deadline=None)
@given(JSON | NEARLY)
def test_what_is_not_a_policy_is_never_taken_for_one(value):
    try:
        found = parsed(value)
    except TrustError:
        return
    assert isinstance(value, dict)
    assert set(value) <= {"default", "transports"}
    for entry in value["default"]:
        assert entry in (ACCEPT, REJECT)
    assert len(found.default) == len(value["default"]) > 0


@settings(deadline=None)
@given(PATHS, JSON)
def test_a_change_anywhere_is_refused_or_read_as_what_it_says(path, put):
    document = {
        "default": [REJECT],
        "transports": {"docker": {"a.b": [signed(**KEY, signedIdentity={"type": "matchExact"})]}},
    }
    before = json.dumps(document)
    document = json.loads(before)
    replace(document, path, put)
    try:
        found = parsed(document)
    except TrustError:
        return
    if json.dumps(document) == before:
        assert found == parsed(before)
    scopes = place.in_registry(Reference.parse("a.b/c:1")).scopes
    for requirement in found.requirements("docker", scopes):
        assert requirement != AcceptAnything() or ACCEPT in document["default"]


def replace(document, path, put):
    """Put a value at the place that `path` leads to, as far as there are members."""
    here = document
    for step in path:
        keys = list(here) if isinstance(here, dict) else range(len(here))
        if not keys or not isinstance(here, (dict, list)):
            return
        key = list(keys)[step % len(keys)]
        if not isinstance(here[key], (dict, list)) or step == path[-1]:
            here[key] = put
            return
        here = here[key]


def test_the_most_specific_scope_decides_alone():
    scopes = ("reg.example.com:5000/a/b:1", "reg.example.com:5000/a", "*.com", "")
    for count in range(len(scopes)):
        transports = {"docker": {scope: [REJECT] for scope in scopes[count:]}}
        if count:
            transports["docker"][scopes[count - 1]] = [ACCEPT]
        found = parsed({"default": [REJECT, REJECT], "transports": transports})
        where = place.in_registry(Reference.parse("reg.example.com:5000/a/b:1"))
        wanted = AcceptAnything() if count else Reject()
        assert found.requirements("docker", where.scopes) == (wanted,)
    other = place.in_registry(Reference.parse("other.org/x"))
    assert len(parsed({"default": [REJECT, ACCEPT]}).requirements("docker", other.scopes)) == 2


def test_scopes_of_an_image_are_its_name_its_parents_and_wildcards_of_its_host():
    assert place.in_registry(Reference.parse("busybox")).scopes == (
        "docker.io/library/busybox:latest",
        "docker.io/library/busybox",
        "docker.io/library",
        "docker.io",
        "*.io",
    )
    assert place.in_registry(Reference.parse(f"a.b.c:5000/x:1@{SHA}")).scopes == (
        f"a.b.c:5000/x@{SHA}",
        "a.b.c:5000/x",
        "a.b.c:5000",
        "*.b.c",
        "*.c",
    )


def test_scopes_of_a_file_are_its_path_and_its_parents(tmp_path):
    path = str(tmp_path.resolve())
    found = place.in_file(place.OCI, path, "img").scopes
    assert found[:2] == (f"{path}:img", path)
    assert "/" not in found
    assert "" not in found
    assert place.in_file(place.DOCKER_ARCHIVE, path).scopes == ()


def identified(kind, **more):
    return identity.parse({"type": kind, **more}, "x")


MATCHES = [
    ("matchExact", {}, "a.b/c:1", "a.b/c:1", True),
    ("matchExact", {}, "a.b/c", "a.b/c:1", False),
    ("matchExact", {}, "a.b/c:2", "a.b/c:1", False),
    ("matchExact", {}, "a.b/c:1", f"a.b/c@{SHA}", False),
    ("matchRepoDigestOrExact", {}, "a.b/c:1", "a.b/c:1", True),
    ("matchRepoDigestOrExact", {}, "a.b/c:2", "a.b/c:1", False),
    ("matchRepoDigestOrExact", {}, "a.b/c", "a.b/c:1", False),
    ("matchRepoDigestOrExact", {}, "a.b/c:2", f"a.b/c@{SHA}", True),
    ("matchRepoDigestOrExact", {}, "a.b/c:2", f"a.b/c:1@{SHA}", True),
    ("matchRepoDigestOrExact", {}, "a.b/d:2", f"a.b/c@{SHA}", False),
    ("matchRepository", {}, "a.b/c", "a.b/c:1", True),
    ("matchRepository", {}, "a.b/c:9", "a.b/c:1", True),
    ("matchRepository", {}, "a.b/d", "a.b/c:1", False),
    ("matchRepository", {}, "index.docker.io/library/busybox", "busybox", True),
    ("matchRepository", {}, "docker://a.b/c", "a.b/c:1", False),
    ("matchRepository", {}, "", "a.b/c:1", False),
    ("matchRepository", {}, "a.b/c", None, False),
    ("exactReference", {"dockerReference": "a.b/c:1"}, "a.b/c:1", "x.y/z:9", True),
    ("exactReference", {"dockerReference": "a.b/c:1"}, "a.b/c:2", "a.b/c:2", False),
    ("exactRepository", {"dockerRepository": "a.b/c"}, "a.b/c:7", None, True),
    ("exactRepository", {"dockerRepository": "a.b/c"}, "a.b/cc:7", None, False),
    ("remapIdentity", {"prefix": "m.x", "signedPrefix": "a.b"}, "a.b/c:1", "m.x/c:1", True),
    ("remapIdentity", {"prefix": "m.x", "signedPrefix": "a.b"}, "m.x/c:1", "m.x/c:1", False),
    ("remapIdentity", {"prefix": "m.x/c", "signedPrefix": "a.b"}, "a.b/d:1", "m.x/c/d:1", True),
    ("remapIdentity", {"prefix": "m.x/c", "signedPrefix": "a.b"}, "m.x/cd:1", "m.x/cd:1", True),
]


@pytest.mark.parametrize(("kind", "more", "claimed", "wanted", "expected"), MATCHES)
def test_identities_match_as_podman_matches_them(kind, more, claimed, wanted, expected):
    reference = Reference.parse(wanted) if wanted else None
    assert identified(kind, **more).accepts(claimed, reference) == expected


def test_the_users_policy_goes_before_the_machines_and_none_is_none(tmp_path):
    machine, home = tmp_path / "machine.json", tmp_path / "home"
    assert policy.load("", str(home), str(machine)) is None
    machine.write_text(json.dumps({"default": [REJECT]}))
    assert policy.load("", str(home), str(machine)).default == (Reject(),)
    own = home / ".config/containers/policy.json"
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps({"default": [ACCEPT]}))
    assert policy.load("", str(home), str(machine)).default == (AcceptAnything(),)
    assert policy.load(str(machine), str(home), "/none").default == (Reject(),)
    own.unlink()
    own.symlink_to("nowhere")
    for arguments in (("", str(home), str(machine)), (str(tmp_path), "", ""), ("/none", "", "")):
        with pytest.raises(TrustError, match="cannot read the policy"):
            policy.load(*arguments)
