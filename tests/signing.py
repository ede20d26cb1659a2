"""Signatures as cosign lays them out, made with `cryptography` and put into a real registry.

Source: cosign, specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md.
"""

from __future__ import annotations

import base64
import http.client
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from registries import KIND, digest

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
EMPTY = "application/vnd.oci.empty.v1+json"

KINDS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


class Signer:
    """A key pair; `pem` is what cosign calls cosign.pub."""

    def __init__(self, kind="p256", key=None):
        self._key = key or KINDS[kind]()
        self.pem = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, message, scheme=None):
        scheme = scheme or hashes.SHA256()
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(scheme))
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, padding.PKCS1v15(), scheme)
        return self._key.sign(message)

    def save(self, path):
        """Write the public key where every user can read it; return the path."""
        with open(path, "wb") as file:
            file.write(self.pem)
        return str(path)

    def simple(self, subject, reference, **changes):
        """Return a payload and its signature in base64."""
        message = payload(subject, reference, **changes)
        return message, base64.b64encode(self.sign(message)).decode()

    def bundle(self, subject, *, predicate=SIGN_PREDICATE, scheme=None):
        """Return a sigstore bundle that signs an image."""
        kind, text = subject.split(":")
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {kind: text}}],
            "predicateType": predicate,
            "predicate": {},
        }
        body = json.dumps(statement).encode()
        name = "application/vnd.in-toto+json"
        message = b"DSSEv1 %d %s %d %s" % (len(name), name.encode(), len(body), body)
        signature = base64.b64encode(self.sign(message, scheme)).decode()
        envelope = {
            "payload": base64.b64encode(body).decode(),
            "payloadType": name,
            "signatures": [{"sig": signature}],
        }
        material = {"publicKey": {"hint": "x"}, "tlogEntries": []}
        members = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
        return json.dumps(members).encode()


def payload(subject, reference, kind="cosign container image signature", **more):
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": subject},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None, **more}).encode()


class Repository:
    """A repository of a registry on loopback that anybody may write to, over plain HTTP."""

    def __init__(self, host, name):
        self.host, self.name = host, name

    def put(self, tag, document, media_type=f"{KIND}.manifest.v1+json"):
        """Put a manifest or index there; return its descriptor."""
        data = json.dumps(document).encode()
        status, _ = self._ask("PUT", f"manifests/{tag or digest(data)}", data, media_type)
        assert status == 201, status
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def blob(self, data, media_type, **more):
        """Put a blob there; return its descriptor."""
        status, where = self._ask("POST", "blobs/uploads/", b"")
        assert status == 202, status
        query = "&" if "?" in where else "?"
        path = where.partition(self.host)[2] + f"{query}digest={digest(data)}"
        status, _ = self._ask("PUT", path, data)
        assert status == 201, status
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def sign(self, subject, *signatures, tag=None):
        """Attach simple signatures (payload and base64) to an image, by cosign's tag."""
        return self.put(tag or subject.replace(":", "-") + ".sig", self.signatures(*signatures))

    def signatures(self, *signatures, **more):
        layers = [
            self.blob(message, SIMPLE, annotations={ANNOTATION: text} if text is not None else {})
            for message, text in signatures
        ]
        return self.manifest(layers, f"{KIND}.config.v1+json", b"{}", **more)

    def manifest(self, layers, config_type, config, **more):
        return {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": self.blob(config, config_type),
            "layers": layers,
            **more,
        }

    def refer(self, subject, data, artifact_type=BUNDLE, **annotations):
        """Put a bundle there and return its entry in a list of referrers."""
        document = self.manifest([self.blob(data, artifact_type)], EMPTY, b"{}")
        entry = self.put(None, {**document, "artifactType": artifact_type})
        return {**entry, "artifactType": artifact_type, "annotations": annotations}

    def list_referrers(self, subject, *entries):
        """Put a list of referrers under the tag that stands for the image."""
        self.put(subject.replace(":", "-"), index(entries), f"{KIND}.index.v1+json")

    def _ask(self, method, path, body, media_type="application/octet-stream"):
        connection = http.client.HTTPConnection(self.host, timeout=20)
        whole = path if path.startswith("/") else f"/v2/{self.name}/{path}"
        connection.request(method, whole, body, {"Content-Type": media_type})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers.get("Location", "")


def index(entries):
    return {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.index.v1+json",
        "manifests": list(entries),
    }
