"""Whether an image may come in: what the policy of the user or of the machine says of it."""

from __future__ import annotations

from udocker.errors import StoreError, TrustError
from udocker.settings import home_directory
from udocker.trust import keys
from udocker.trust import policy as policies
from udocker.trust.attached import Attached
from udocker.trust.kept import KeptSignatures
from udocker.trust.place import DOCKER
from udocker.trust.policy import AcceptAnything, Reject, SigstoreSigned
from udocker.trust.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from udocker.oci import Digest
    from udocker.registry.client import Client
    from udocker.settings import Settings
    from udocker.trust.keys import PublicKey
    from udocker.trust.place import Place
    from udocker.trust.policy import Policy
    from udocker.trust.statements import Signature


class Evidence:
    """The signatures of an image under the digests that it has: here, then in its registry."""

    def __init__(
        self, kept: KeptSignatures, digests: Sequence[Digest], attached: Attached | None
    ) -> None:
        """`attached` is None where no registry is to be asked."""
        self.digests = tuple(dict.fromkeys(digests))
        self._kept = kept
        self._attached = attached

    @property
    def problems(self) -> Sequence[str]:
        """Why some of what was found is no signature."""
        return self._attached.problems if self._attached else ()

    def find(
        self, name: str, keys: Sequence[PublicKey], accepts: Callable[[str], bool]
    ) -> tuple[Signature, PublicKey]:
        """Return a signature by one of `keys` for a name that `accepts` takes, and its key.

        It is kept for the next time, beside the image. Raises TrustError when there is none.
        """
        verdict = Verdict(keys, tuple(map(str, self.digests)))
        local = Verdict(keys, tuple(map(str, self.digests)))
        found = local.first(self._here(), accepts) or verdict.first(self._there(), accepts)
        if found is None:
            raise (verdict if self._attached else local).refusal(name, self.problems)
        self._keep(found[0])
        return found

    def _keep(self, signature: Signature) -> None:
        for digest in self.digests:
            if str(digest) in signature.digests:
                try:
                    self._kept.keep(digest, signature)
                except StoreError:  # it is good all the same, and can be fetched again
                    return

    def _here(self) -> Iterator[Signature]:
        for digest in self.digests:
            yield from self._kept.of(digest)

    def _there(self) -> Iterator[Signature]:
        for digest in self.digests if self._attached else ():
            assert self._attached is not None
            yield from self._attached.of(digest)


class Admission:
    """The policy in force for images of one place; without a policy every image may come in."""

    def __init__(self, settings: Settings, place: Place, client: Client | None = None) -> None:
        """`client` asks the registry for signatures; None: the image comes from a file.

        Raises TrustError where the policy cannot be read or is broken.
        """
        home = home_directory(settings.environment)
        self._policy: Policy | None = policies.load(settings.policy, home)
        self._directory = settings.directory
        self._place = place
        self._client = client

    def check(self, name: str, digests: Sequence[Digest]) -> None:
        """Return if the image may come in; TrustError says why it may not.

        `digests` are the manifest's and that of the index which names it: a signature of one
        covers the content.
        """
        if self._policy is None:
            return
        place = self._place
        requirements = self._policy.requirements(place.transport, place.scopes)
        for requirement in requirements:
            if isinstance(requirement, Reject):
                raise self._refused(name, "it rejects it")
            if not isinstance(requirement, (AcceptAnything, SigstoreSigned)):
                raise self._refused(name, requirement.reason, self._elsewhere(name))
        attached = None
        if self._client is not None and place.reference is not None:
            attached = Attached(self._client, place.reference)
        evidence = Evidence(KeptSignatures(self._directory), digests, attached)
        for requirement in requirements:
            if isinstance(requirement, SigstoreSigned):
                self._check_signed(name, requirement, evidence)

    def _elsewhere(self, name: str) -> str | None:
        """Return who can check what is not checked here."""
        if self._place.transport != DOCKER:
            return None
        return f"skopeo copy docker://{name} oci-archive:FILE checks it; udocker load -i FILE"

    def _check_signed(self, name: str, requirement: SigstoreSigned, evidence: Evidence) -> None:
        trusted = [keys.load_file(path) for path in requirement.key_paths]
        trusted += [keys.load(data, "in the policy") for data in requirement.key_datas]
        identity, reference = requirement.identity, self._place.reference
        try:
            evidence.find(name, trusted, lambda signed: identity.accepts(signed, reference))
        except TrustError as error:
            raise self._refused(name, error.message, error.hint) from error

    def _refused(self, name: str, reason: str, hint: str | None = None) -> TrustError:
        path = self._policy.path if self._policy else ""
        return TrustError(f"the policy {path} does not let {name} in: {reason}", hint=hint)
