"""Whether one of many signatures is by a trusted key, of this image and for its name."""

from __future__ import annotations

from udocker.errors import TrustError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from udocker.trust.keys import PublicKey
    from udocker.trust.statements import Signature


class Verdict:
    """Looks at signatures until one is good, and counts why the others are not."""

    def __init__(self, keys: Sequence[PublicKey], digests: Sequence[str]) -> None:
        """`digests` are those of the image: its manifest's, and the index's that names it."""
        self._keys = keys
        self._digests = frozenset(digests)
        self.reasons: dict[str, int] = {}

    def first(
        self, signatures: Iterable[Signature], accepts: Callable[[str], bool]
    ) -> tuple[Signature, PublicKey] | None:
        """Return the first good signature and its key; None: there is none."""
        for signature in signatures:
            key = self._maker(signature)
            if key is None:
                self._count(
                    "with a certificate and no key" if signature.keyless else "by no such key"
                )
            elif not self._digests.intersection(signature.digests):
                self._count("of another image")
            elif not accepts(signature.reference):
                self._count(f"for another name ({signature.reference[:200] or 'none'})")
            else:
                return signature, key
        return None

    def refusal(self, name: str, problems: Sequence[str]) -> TrustError:
        """Return the error that says why no signature is good."""
        counted = [f"{count} {reason}" for reason, count in self.reasons.items()]
        told = "; ".join((*counted, *problems[:5]))
        if not told:
            return TrustError(f"{name} is not signed: there is no signature beside it")
        hint = None
        if any("certificate" in reason for reason in self.reasons):
            hint = "signatures without a key (Fulcio, Rekor) are for cosign verify to check"
        return TrustError(f"{name} has no signature that counts: {told}", hint=hint)

    def _maker(self, signature: Signature) -> PublicKey | None:
        made = (key for key in self._keys if key.made(signature.signature, signature.message))
        return next(made, None)

    def _count(self, reason: str) -> None:
        if reason in self.reasons or len(self.reasons) < 8:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
