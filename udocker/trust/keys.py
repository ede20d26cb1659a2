"""The gate to `cryptography`: public keys, and whether they made a signature.

Source: cosign, specs/SIGNATURE_SPEC.md, "Signature Schemes"; sigstore, pkg/signature.
"""

from __future__ import annotations

from udocker.errors import TrustError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_KEY_BYTES = 64 << 10
MAX_SIGNATURE_BYTES = 16 << 10
_LEAST_RSA_BITS = 2048
_ELSEWHERE = ("awskms", "azurekms", "gcpkms", "hashivault", "k8s", "env", "pkcs11", "gitlab")


class PublicKey:
    """A public key and where it came from."""

    def __init__(self, key: Any, name: str) -> None:
        self._key = key
        self.name = name

    def made(self, signature: bytes, message: bytes) -> bool:
        """Tell whether the key made the signature of `message`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        for scheme in _schemes(self._key):
            try:
                if isinstance(self._key, ed25519.Ed25519PublicKey):
                    self._key.verify(signature, message)
                elif isinstance(self._key, ec.EllipticCurvePublicKey):
                    self._key.verify(signature, message, ec.ECDSA(scheme))
                else:
                    self._key.verify(signature, message, _padding(), scheme)
            except InvalidSignature:
                continue
            return True
        return False


def load_file(path: str) -> PublicKey:
    """Return the public key that a PEM file holds. Raises TrustError."""
    scheme, separator, _ = path.partition("://")
    if separator and scheme in _ELSEWHERE:
        hint = "save its public part to a file: cosign public-key --key ..."
        raise TrustError(f"key {path}: keys of {scheme} are not asked for, files are", hint=hint)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise TrustError(f"key {path}: {error.strerror}") from error
    return load(data, path)


def load(data: bytes, name: str) -> PublicKey:
    """Return the public key in `data`: PEM, ECDSA on P-256, P-384 or P-521, RSA, or Ed25519.

    Raises TrustError for anything else, and where `cryptography` is not installed.
    """
    _check_text(data, name)
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise TrustError(
            "signatures cannot be checked without the Python package cryptography",
            hint="pip install 'udocker[trust]', or sh utils/bootstrap.sh --with trust",
        ) from error
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"key {name}: not a public key in PEM that can be read") from error
    if not _schemes(key):
        raise TrustError(f"key {name}: not ECDSA on P-256, P-384 or P-521, nor RSA, nor Ed25519")
    _check_strength(key, name)
    return PublicKey(key, name)


def _check_text(data: bytes, name: str) -> None:
    if len(data) > MAX_KEY_BYTES:
        raise TrustError(f"key {name}: more than {MAX_KEY_BYTES} bytes")
    if data.count(b"-----BEGIN ") > 1:
        raise TrustError(f"key {name}: more than one key", hint="give --key once for each")
    if b"PRIVATE KEY-----" in data:
        raise TrustError(f"key {name}: a private key", hint="the public one is cosign.pub, mostly")
    if b"BEGIN CERTIFICATE-----" in data:
        hint = "openssl x509 -pubkey -noout takes the key out of it, if it is to be trusted forever"
        raise TrustError(f"key {name}: a certificate, not a public key", hint=hint)


def _check_strength(key: Any, name: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise TrustError(f"key {name}: RSA of {key.key_size} bits, fewer than {_LEAST_RSA_BITS}")


def _schemes(key: Any) -> tuple[Any, ...]:
    """Return the hashes that signatures with such a key may use; none: no such key is known.

    The first formats of cosign hash with SHA-256 whatever the key, bundles with what suits it.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PublicKey):
        return (None,)
    if isinstance(key, rsa.RSAPublicKey):
        return (hashes.SHA256(),)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return ()
    suiting = {"secp256r1": None, "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
    if key.curve.name not in suiting:
        return ()
    return tuple(filter(None, (hashes.SHA256(), suiting[key.curve.name])))


def _padding() -> Any:
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PKCS1v15()
