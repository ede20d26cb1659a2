"""Signed images: cosign's layouts in a real registry, policies at a pull, and what is refused."""

import base64
import json
import os
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from images import HERE, add_image, add_index
from registries import KIND, DockerRegistry, Layout, Proxy, Reply, needs
from signing import ANNOTATION, KINDS, SIGNATURE, SIMPLE, Repository, Signer, index, payload
from tarballs import archive, file, folder

from udocker.errors import TrustError
from udocker.images.store import ImageStore
from udocker.oci import Digest
from udocker.settings import load
from udocker.transfer.signatures import find_signature
from udocker.trust import keys, statements
from udocker.trust.kept import KeptSignatures

BASE = archive(folder("etc"), file("etc/name", b"base\n"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "layout"))


class Case:
    """An image in a repository of its own, somebody who signs it, and a user who pulls it."""

    def __init__(self, user, registry, layout, name):
        self.user, self.layout, self.registry = user, layout, registry
        self.entry = add_image(layout, "img:1", [BASE])
        self.digest = self.entry["digest"]
        registry.push(layout, "img:1", f"{name}:1")
        self.repository = Repository(registry.host, name)
        self.full = f"{registry.host}/{name}"
        self.name = f"{self.full}:1"
        self.signer = Signer()
        self.key = self.signer.save(f"{user.home}/cosign.pub")

    def sign(self, reference=None, signer=None, **how):
        signer = signer or self.signer
        self.repository.sign(self.digest, signer.simple(self.digest, reference or self.full), **how)

    def policy(self, *requirements, default=({"type": "reject"},), scope=None):
        """Let this be the user's policy: `requirements` for the image, rejection of all others."""
        path = f"{self.user.home}/.config/containers/policy.json"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        transports = {"docker": {scope or self.full: list(requirements)}} if requirements else {}
        with open(path, "w") as out:
            json.dump({"default": list(default), "transports": transports}, out)
        return path

    def signed(self, identity="matchRepository", **more):
        """Return the requirement that the signer signed it."""
        how = {"signedIdentity": {"type": identity}, "keyPath": self.key}
        return {"type": "sigstoreSigned", **how, **more}

    def pull(self, name=None, **options):
        return self.user.udocker("pull", name or self.name, **options)

    def refused(self, *words, name=None):
        """The pull fails and says so, and nothing of the image gets a name."""
        done = self.pull(name, check=False)
        assert done.returncode == 1
        for word in ("does not let", *words):
            assert word in done.stderr
        assert self.user.udocker("images", "-q").stdout == ""
        assert os.listdir(f"{self.user.udocker_dir}/trees") == []
        return done


@pytest.fixture
def case(unprivileged, registry, layout, request):
    number = abs(hash(request.node.name)) % 10**9
    return Case(unprivileged, registry, layout, f"team/img{number}")


def test_content_trust_of_docker_is_not_known_here(case):
    assert case.user.udocker("pull", "--disable-content-trust", case.name).returncode == 0
    assert "note" not in case.user.udocker("pull", "--disable-content-trust=true", case.name).stderr
    for command in ("pull", "push"):
        done = case.user.udocker(command, "--disable-content-trust=false", case.name)
        assert "not known here" in done.stderr
    done = case.user.udocker("pull", "--disable-content-trust=perhaps", case.name, check=False)
    assert done.returncode == 2


# Policies


def test_a_policy_rejects_what_it_does_not_name(case):
    case.policy()
    case.refused("it rejects it", "policy.json")
    case.policy({"type": "insecureAcceptAnything"})
    case.pull()
    other = case.policy()
    done = case.pull(check=False)
    assert done.returncode == 1
    assert other in done.stderr
    assert case.user.udocker("run", "--dry-run", case.name, "x").returncode == 0


def test_an_option_and_a_variable_name_another_policy(case):
    case.policy({"type": "insecureAcceptAnything"})
    strict = f"{case.user.home}/strict.json"
    with open(strict, "w") as out:
        json.dump({"default": [{"type": "reject"}]}, out)
    environment = {"UDOCKER_POLICY": strict}
    assert "strict.json does not let" in case.pull(env=environment, check=False).stderr
    done = case.user.udocker("pull", "--signature-policy", strict, case.name, check=False)
    assert "strict.json does not let" in done.stderr
    lost = {"UDOCKER_POLICY": "/no/such"}
    assert "cannot read the policy" in case.pull(env=lost, check=False).stderr
    run = case.user.udocker("run", case.name, "x", env=environment, check=False)
    assert (run.returncode, "strict.json does not let" in run.stderr) == (125, True)


def test_a_broken_policy_lets_nothing_in(case):
    path = case.policy()
    with open(path, "w") as out:
        out.write('{"default": [{"type": "insecureAcceptAnything"}], "transport": {}}')
    done = case.pull(check=False)
    assert done.returncode == 1
    assert "'transport' is unknown" in done.stderr


def test_a_signed_image_comes_in_and_an_unsigned_one_does_not(case):
    case.policy(case.signed())
    case.refused("is not signed")
    case.sign()
    case.pull()
    listed = case.user.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    assert case.name in listed


def test_all_requirements_have_to_be_met(case):
    reviewer = Signer("ed25519")
    path = reviewer.save(f"{case.user.home}/reviewer.pub")
    case.policy(case.signed(), case.signed(keyPath=path))
    case.sign()
    case.refused("by no such key")
    first = case.signer.simple(case.digest, case.full)
    case.repository.sign(case.digest, first, reviewer.simple(case.digest, case.full))
    case.pull()


def test_one_of_several_keys_is_enough_and_keys_may_stand_in_the_policy(case):
    data = base64.b64encode(case.signer.pem).decode()
    other = base64.b64encode(Signer().pem).decode()
    several = {"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"}}
    case.policy({**several, "keyDatas": [other, data]})
    case.sign()
    case.pull()


@pytest.mark.parametrize(
    ("identity", "reference", "good"),
    [
        ("matchRepository", "{full}", True),
        ("matchRepository", "{full}-other", False),
        ("matchRepoDigestOrExact", "{full}", False),
        ("matchRepoDigestOrExact", "{full}:1", True),
        ("matchExact", "{full}:2", False),
    ],
)
def test_the_name_that_was_signed_has_to_be_the_images(case, identity, reference, good):
    case.policy(case.signed(identity))
    case.sign(reference.format(full=case.full))
    if good:
        case.pull()
    else:
        case.refused("for another name")


def test_a_signature_of_another_image_does_not_count(case):
    case.policy(case.signed())
    other = "sha256:" + "0" * 64
    case.repository.sign(case.digest, case.signer.simple(other, case.full))
    case.refused("1 of another image")


def found(case):
    """Return the signature by the case's key that the image has in its registry."""
    chosen = load({"directory": f"{case.user.home}/elsewhere"}, case.user.environment())
    trusted = [keys.load_file(case.key)]
    return find_signature(chosen, ImageStore("/no/such"), trusted, case.name)


def judged(case):
    """Return why it has none."""
    with pytest.raises(TrustError) as caught:
        found(case)
    return caught.value.message


def bad_signatures(case):
    good, text = case.signer.simple(case.digest, case.full)
    return {
        "another key": (Signer().simple(case.digest, case.full), "by no such key"),
        "changed": ((good + b" ", text), "by no such key"),
        "cut off": ((good, text[:-5]), "not base64"),
        "empty": ((good, ""), "is empty"),
        "missing": ((good, None), "annotation with the signature is missing"),
        "too long": ((good, "A" * 20000), "more than 16384 characters"),
        "no JSON": ((b"{", text), "not JSON"),
        "no image": ((b"[]", text), "not an object"),
        "atomic": (case.signer.simple(case.digest, case.full, kind="atomic"), "of type 'atomic'"),
        "too large": (case.signer.simple(case.digest, case.full, pad="x" * 70000), "is too large"),
    }


def test_what_is_no_good_signature_is_refused_with_the_reason(case):
    case.policy(case.signed())
    for signature, reason in bad_signatures(case).values():
        case.repository.sign(case.digest, signature)
        assert reason in judged(case)
    case.refused("is too large")
    signatures = [signature for signature, _ in bad_signatures(case).values()]
    good = case.signer.simple(case.digest, case.full)
    case.repository.sign(case.digest, *signatures, good)
    case.pull()


def test_ten_thousand_signatures_are_not_all_looked_at(case):
    case.policy(case.signed())
    message = payload(case.digest, case.full)
    other = Signer("ed25519")
    text = base64.b64encode(other.sign(message)).decode()
    document = case.repository.signatures((message, text))
    document["layers"] *= 10_000
    case.repository.put(case.digest.replace(":", "-") + ".sig", document)
    with Proxy(case.registry.host) as proxy:
        name = case.name.replace(case.registry.host, proxy.host)
        case.policy(case.signed(), scope=proxy.host)
        case.refused("only the first 256", name=name)
        assert len(proxy.asked) < 30


def test_what_udocker_cannot_check_is_refused(case):
    case.sign()
    gpg = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k.gpg"}
    case.policy(gpg)
    case.refused("GPG", f"skopeo copy docker://{case.name} ")
    case.policy(case.signed(rekorPublicKeyPath="/rekor.pub"))
    case.refused("entry of a log")
    fulcio = {"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"}
    keyless = case.signed(fulcio=fulcio, rekorPublicKeyPath="/rekor.pub")
    del keyless["keyPath"]
    case.policy(keyless)
    case.refused("certificate (fulcio)")
    case.policy(case.signed(keyPath="/no/such.pub"))
    assert "No such file" in case.pull(check=False).stderr


def test_without_cryptography_nothing_that_must_be_signed_comes_in(case):
    case.policy(case.signed())
    case.sign()
    program = "import sys; sys.modules['cryptography'] = None; from udocker.cli import main; main()"
    command = [case.user.python, "-c", program, "pull", case.name]
    done = case.user.run(command, check=False)
    assert done.returncode == 1
    assert "without the Python package cryptography" in done.stderr
    assert "udocker[trust]" in done.stderr
    assert case.user.udocker("images", "-q").stdout == ""


def test_a_signature_of_the_index_or_of_the_platforms_manifest_covers_an_image(case):
    needs("skopeo")
    add_index(case.layout, "multi:1", {HERE: [BASE], "s390x": [BASE]})
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"]
    target = f"docker://{case.full}:multi"
    subprocess.run([*copy, f"oci:{case.layout.directory}:multi:1", target], check=True)
    whole = case.layout.manifests[-1]
    part = json.loads(case.layout.read(whole))["manifests"][1]["digest"]
    other = json.loads(case.layout.read(whole))["manifests"][2]["digest"]
    case.policy(case.signed())
    case.repository.sign(other, case.signer.simple(other, case.full))
    case.refused("is not signed", name=f"{case.full}:multi")
    for signed in (whole["digest"], part):
        case.repository.sign(signed, case.signer.simple(signed, case.full))
        case.pull(f"{case.full}:multi")
        case.user.udocker("rmi", f"{case.full}:multi")
        case.repository.put(signed.replace(":", "-") + ".sig", case.repository.signatures())


def test_what_openssl_signs_with_its_own_key_is_good(case):
    needs("openssl")
    private, path, message = (f"{case.user.home}/{n}" for n in ("ssl.key", "ssl.pub", "payload"))
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private]
    subprocess.run(make, check=True)
    subprocess.run(
        ["openssl", "ec", "-in", private, "-pubout", "-out", path], check=True, capture_output=True
    )
    with open(message, "wb") as out:
        out.write(payload(case.digest, case.full))
    sign = ["openssl", "dgst", "-sha256", "-sign", private, message]
    made = subprocess.run(sign, check=True, capture_output=True).stdout
    case.user.own(case.user.home)
    case.repository.sign(
        case.digest, (payload(case.digest, case.full), base64.b64encode(made).decode())
    )
    case.policy(case.signed(keyPath=path))
    case.pull()


def test_policies_are_for_archives_and_layouts_too(case):
    needs("skopeo")
    whole = f"{case.user.home}/img.tar"
    source = f"oci:{case.layout.directory}:img:1"
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", source]
    subprocess.run([*copy, f"docker-archive:{whole}:img:1"], check=True)
    subprocess.run([*copy, f"oci-archive:{whole}.oci:img:1"], check=True)
    path = case.policy()

    def loads(file):
        done = case.user.udocker("load", "-i", file, check=False)
        assert done.returncode == 0 or "does not let" in done.stderr
        return done.returncode == 0

    def allow(**transports):
        with open(path, "w") as out:
            json.dump({"default": [{"type": "reject"}], "transports": transports}, out)

    accept = [{"type": "insecureAcceptAnything"}]
    subprocess.run(["cp", "-r", case.layout.directory, f"{case.user.home}/dir"], check=True)
    case.user.own(case.user.home)
    home = os.path.realpath(case.user.home)
    files = (whole, f"{whole}.oci", f"{case.user.home}/dir")
    assert [loads(file) for file in files] == [False, False, False]
    done = case.user.udocker("import", f"{case.user.home}/img.tar", "new:1", check=False)
    assert (done.returncode, "does not let" in done.stderr) == (1, True)
    assert os.listdir(f"{case.user.udocker_dir}/images/blobs/sha256") == []
    allow(oci={f"{home}/dir": accept})
    assert [loads(file) for file in files] == [False, False, True]
    allow(**{"docker-archive": {"": accept}, "oci-archive": {f"{home}/other": accept}})
    assert [loads(file) for file in files] == [True, False, False]
    allow(**{"oci-archive": {f"{home}/img.tar.oci:img:1": accept}})
    assert [loads(file) for file in files] == [False, True, False]


# verify --key


def verify(case, *words, **options):
    done = case.user.udocker("verify", *words, check=False, **options)
    assert "Traceback" not in done.stderr
    return done


def put_beside(case, message, text):
    """Let the layout list a signature beside the image, as `cosign save` does."""
    layout = case.layout
    layer = {**layout.blob(message, SIMPLE), "annotations": {ANNOTATION: text}}
    config = layout.blob(b"{}", f"{KIND}.config.v1+json")
    kind = f"{KIND}.manifest.v1+json"
    layout.add_document(
        case.digest.replace(":", "-") + ".sig",
        {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]},
    )
    shutil.copytree(layout.directory, f"{case.user.home}/held", dirs_exist_ok=True)
    case.user.own(f"{case.user.home}/held")


def test_signatures_in_a_layout_come_along_and_need_no_registry(case):
    other = "sha256:" + "0" * 64
    put_beside(case, *case.signer.simple(other, "site.example/team/img"))
    put_beside(case, *Signer().simple(case.digest, "site.example/team/img"))
    exact = {"type": "exactRepository", "dockerRepository": "site.example/team/img"}
    path = case.policy()
    with open(path, "w") as out:
        signed = {**case.signed(), "signedIdentity": exact}
        json.dump({"default": [{"type": "reject"}], "transports": {"oci": {"": [signed]}}}, out)
    held = f"{case.user.home}/held"
    load = ("load", "-q", "-i", held, "no.such.host.invalid/img:1")
    done = case.user.udocker(*load, check=False)
    assert (done.returncode, "by no such key" in done.stderr) == (1, True)
    put_beside(case, *case.signer.simple(case.digest, "site.example/team/img"))
    case.user.udocker(*load)
    check = ("verify", "--key", case.key, "no.such.host.invalid/img:1")
    done = case.user.udocker(*check)
    assert "signed with" in done.stdout
    put_beside(case, b"{", "x")
    case.user.udocker(*load)


def test_an_image_that_is_here_or_not_is_verified_with_a_key(case):
    assert verify(case, "--key", case.key, case.name).returncode == 1
    case.sign()
    done = verify(case, "--key", case.key, case.name)
    told = f"{case.name}: signed with {case.key} as {case.full}\n"
    assert (done.returncode, done.stdout) == (0, told)
    assert case.user.udocker("images", "-q").stdout == ""
    case.pull()
    for name in (case.name, f"{case.full}@{case.digest}"):
        done = verify(case, "-q", "--key", case.key, name)
        assert done.returncode == 0, done.stdout
    other = Signer().save(f"{case.user.home}/other.pub")
    wrong = verify(case, "--key", other, case.name)
    assert (wrong.returncode, "1 by no such key" in wrong.stdout) == (1, True)
    assert verify(case, "--key", other, "--key", case.key, case.name).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_every_kind_sign(case, kind):
    signer = Signer(kind)
    case.key = signer.save(f"{case.user.home}/{kind}.pub")
    case.sign(signer=Signer(kind))
    assert "1 by no such key" in judged(case)
    case.sign(signer=signer)
    assert found(case)[1].name == case.key


def test_a_signature_that_was_good_needs_no_network_the_next_time(unprivileged, layout, tmp_path):
    with DockerRegistry(tmp_path / "registry") as registry:
        case = Case(unprivileged, registry, layout, "team/img")
        case.policy(case.signed())
        case.sign()
        case.pull()
    assert verify(case, "--key", case.key, case.name).returncode == 0
    case.user.udocker("pull", f"{case.full}@{case.digest}")
    other = Signer().save(f"{case.user.home}/other.pub")
    assert verify(case, "--key", other, case.name).returncode == 1
    (kept,) = os.listdir(f"{case.user.udocker_dir}/signatures")
    path = f"{case.user.udocker_dir}/signatures/{kept}"
    for damage in ("[]", "{", '[{"payload": "e30=", "signature": "AAAA"}]'):
        with open(path, "w") as out:
            out.write(damage)
        assert verify(case, "--key", case.key, case.name).returncode == 1
    case.user.udocker("rmi", case.name)
    assert os.listdir(f"{case.user.udocker_dir}/signatures") == []


def referring(case, *entries):
    """Return a proxy whose registry knows the API of referrers, and answers with these entries."""
    proxy = Proxy(case.registry.host)
    answer = json.dumps(index(entries)).encode()
    headers = {"Content-Type": f"{KIND}.index.v1+json"}
    proxy.add("/referrers/", lambda *_: Reply(200, headers, answer), times=100)
    return proxy


def test_signatures_that_are_kept_leave_room_for_others(tmp_path):
    image = Digest.of(b"image")
    kept, signer = KeptSignatures(str(tmp_path)), Signer("ed25519")
    good = statements.bundle(signer.bundle(str(image)))
    kept.keep(image, good)
    for size in (1 << 20, 120 << 10):
        for number in range(12):
            padded = json.dumps({**json.loads(good.bundle), str(number): "x" * size}).encode()
            kept.keep(image, statements.bundle(padded))
    assert kept.of(image)[0] == good
    assert len(kept.of(image)) == 13


def test_bundles_and_signatures_are_found_through_referrers(case):
    bundle = case.repository.refer(case.digest, case.signer.bundle(case.digest))
    simple = case.signer.simple(case.digest, case.full)
    document = case.repository.signatures(simple, artifactType=SIGNATURE)
    manifest = {**case.repository.put(None, document), "artifactType": SIGNATURE}
    for entry in (bundle, manifest):
        with referring(case, entry) as proxy:
            name = case.name.replace(case.registry.host, proxy.host)
            assert verify(case, "--key", case.key, name).returncode == 0
    case.repository.list_referrers(case.digest, bundle)
    done = verify(case, "--key", case.key, case.name)
    assert done.returncode == 0, done.stdout


def test_lists_of_referrers_have_pages_and_may_be_broken(case):
    bundle = case.repository.refer(case.digest, case.signer.bundle(case.digest))
    other = {**bundle, "artifactType": "text/spam"}
    headers = {"Content-Type": f"{KIND}.index.v1+json"}
    more = {"Link": f'</v2/{case.repository.name}/referrers/{case.digest}?n=2>; rel="next"'}

    def page(*entries, **also):
        return lambda *_: Reply(200, {**headers, **also}, json.dumps(index(entries)).encode())

    with Proxy(case.registry.host) as proxy:
        name = case.name.replace(case.registry.host, proxy.host)
        proxy.add("/referrers/", page(other, **more))
        proxy.add("/referrers/", page(bundle))
        assert verify(case, "--key", case.key, name).returncode == 0
        for broken in (b"{}", b"[]", b'{"manifests": [1]}'):
            proxy.add("/referrers/", lambda *_, broken=broken: Reply(200, headers, broken))
            done = verify(case, "--key", Signer().save(case.key + "2"), name)
            assert "list of referrers is broken" in done.stdout
        proxy.add("/referrers/", page(**more), times=9)
        done = verify(case, "--key", case.key + "2", name)
        assert "list of referrers does not end" in done.stdout
        assert len(proxy.faults) == 7  # a page that has come before is not asked for again
        proxy.faults.clear()
        for number in range(4):
            link = {"Link": more["Link"].replace("n=2", f"n={number}")}
            proxy.add("/referrers/", page(*[other] * 6000, **link))
        done = verify(case, "--key", case.key + "2", name)
        assert "more than 16384 referrers" in done.stdout


def test_a_bundle_names_nobody_and_meets_no_policy(case):
    entry = case.repository.refer(case.digest, case.signer.bundle(case.digest))
    case.repository.list_referrers(case.digest, entry)
    case.policy(case.signed())
    case.refused("for another name (none)")


def bad_bundles(case):
    good = json.loads(case.signer.bundle(case.digest))
    envelope = good["dsseEnvelope"]
    signature = envelope["signatures"][0]
    certificate = {"certificate": {"rawBytes": "AAAA"}}
    foreign = json.loads(Signer().bundle(case.digest))
    return {
        "key": (foreign, "by no such key"),
        "keyless": ({**foreign, "verificationMaterial": certificate}, "with a certificate"),
        "image": (json.loads(case.signer.bundle("sha256:" + "1" * 64)), "of another image"),
        "attestation": (
            json.loads(case.signer.bundle(case.digest, predicate="https://slsa.dev/provenance/v1")),
            "an attestation",
        ),
        "file": ({**good, "messageSignature": {}}, "signs a file"),
        "type": ({**good, "dsseEnvelope": {**envelope, "payloadType": "text"}}, "holds 'text'"),
        "two": (
            {**good, "dsseEnvelope": {**envelope, "signatures": [signature] * 2}},
            "2 signatures",
        ),
        "kind": ({**good, "mediaType": "application/json"}, "is no bundle"),
        "list": ([], "not an object"),
    }


def test_what_is_no_good_bundle_is_refused_with_the_reason(case):
    bundles = bad_bundles(case)
    entries = [
        case.repository.refer(case.digest, json.dumps(bundle).encode())
        for bundle, _ in bundles.values()
    ]
    for entry, (_, reason) in zip(entries, bundles.values()):
        case.repository.list_referrers(case.digest, entry)
        assert reason in judged(case)
    annotated = {"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}
    good = case.repository.refer(case.digest, case.signer.bundle(case.digest))
    case.repository.list_referrers(case.digest, {**good, "annotations": annotated})
    assert "is not signed" in judged(case)
    case.repository.list_referrers(case.digest, *entries, good)
    assert verify(case, "--key", case.key, case.name).returncode == 0


def test_bundles_may_hash_with_what_suits_the_curve(case):
    signer = Signer("p384")
    key = signer.save(f"{case.user.home}/p384.pub")
    made = signer.bundle(case.digest, scheme=hashes.SHA384())
    case.repository.list_referrers(case.digest, case.repository.refer(case.digest, made))
    assert verify(case, "--key", key, case.name).returncode == 0


def test_keys_that_are_none_are_said_before_anything_is_asked(case):
    with open(f"{case.user.home}/two.pub", "wb") as out:
        out.write(Signer().pem * 2)
    keys = {
        "/no/such.pub": "No such file",
        "awskms:///alias/x": "keys of awskms are not asked for",
        f"{case.user.home}/two.pub": "more than one key",
        "/etc/passwd": "not a public key in PEM",
    }
    for key, reason in keys.items():
        done = verify(case, "--key", key, case.name)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr
    assert verify(case, "--key", case.key).returncode == 2


def test_weak_private_and_unknown_keys_are_refused():
    made = {
        "RSA of 1024 bits": Signer(key=rsa.generate_private_key(65537, 1024)),
        "not ECDSA on P-256": Signer(key=ec.generate_private_key(ec.SECP256K1())),
    }
    for reason, signer in made.items():
        with pytest.raises(TrustError, match=reason):
            keys.load(signer.pem, "k")
    for text in ("ENCRYPTED SIGSTORE PRIVATE KEY", "CERTIFICATE"):
        reason = "certificate" if text == "CERTIFICATE" else "private key"
        with pytest.raises(TrustError, match=reason):
            keys.load(f"-----BEGIN {text}-----\nAAAA\n-----END {text}-----\n".encode(), "k")


PAIRS = {kind: Signer(kind) for kind in KINDS}


@settings(deadline=None)
@given(st.sampled_from(sorted(PAIRS)), st.binary(max_size=600), st.binary(max_size=50))
def test_no_bytes_pass_for_a_signature(kind, signature, message):
    key = keys.load(PAIRS[kind].pem, "k")
    assert not key.made(signature, message)
    assert key.made(PAIRS[kind].sign(message), message)
    assert not key.made(PAIRS[kind].sign(message), message + b"x")


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_no_bytes_pass_for_a_key_or_a_claim(data):
    with pytest.raises(TrustError):
        keys.load(data, "k")
    with pytest.raises(statements.Unreadable):
        statements.bundle(data)
    with pytest.raises(statements.Unreadable):
        statements.simple(data, "AAAA", keyless=False)
