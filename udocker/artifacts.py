"""What else registries hold beside container images, in words, and what reads it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_KNOWN = (
    ("application/vnd.cncf.helm.", "a Helm chart", "helm pull oci://NAME brings it"),
    (
        "application/vnd.dev.cosign.simplesigning.",
        "a cosign signature",
        "udocker verify --key KEY IMAGE checks it, of the image that it signs",
    ),
    (
        "application/vnd.dev.sigstore.bundle",
        "a sigstore signature or attestation",
        "udocker verify --key KEY IMAGE checks signatures, of the image that they sign",
    ),
    ("application/vnd.cncf.notary.", "a Notary signature", "notation verify IMAGE checks it"),
    ("application/vnd.in-toto", "an attestation of how an image was built", "cosign shows it"),
    ("application/vnd.dsse.envelope", "an attestation", "cosign shows it"),
    ("application/vnd.buildkit.cacheconfig.", "a build cache of BuildKit", "docker build reads it"),
    (
        "application/vnd.sylabs.sif.",
        "a SIF image of Apptainer or Singularity",
        "apptainer pull oras://NAME brings it; udocker runs images of docker and OCI",
    ),
    ("application/vnd.docker.plugin.", "a plugin of docker", "docker plugin install takes it"),
    ("application/vnd.docker.compose.", "a project of docker compose", None),
    ("application/vnd.docker.ai.", "a language model", "docker model pull NAME brings it"),
    ("application/vnd.cncf.model.", "a model (ModelPack)", "modctl or oras pull NAME brings it"),
    ("application/vnd.ollama.", "a language model of Ollama", "ollama pull NAME brings it"),
    ("application/vnd.wasm.", "a WebAssembly module", "oras pull NAME brings it"),
    ("application/vnd.module.wasm.", "a WebAssembly module", "oras pull NAME brings it"),
    ("application/vnd.devcontainers", "a feature or template of dev containers", None),
    ("application/vnd.cncf.flux.", "a source of Flux", "flux pull artifact brings it"),
    ("application/vnd.oras.", "files put there with ORAS", "oras pull NAME brings them"),
    ("application/spdx", "a list of software (SPDX)", "oras pull NAME brings it"),
    ("text/spdx", "a list of software (SPDX)", "oras pull NAME brings it"),
    ("application/vnd.cyclonedx", "a list of software (CycloneDX)", "oras pull NAME brings it"),
    ("application/vnd.syft", "a list of software (Syft)", "oras pull NAME brings it"),
    ("application/vnd.unknown.artifact.", "files put there with ORAS", "oras pull NAME gets them"),
    ("application/vnd.unknown.config.", "files put there with ORAS", "oras pull NAME gets them"),
)
"""Beginning of a media type, what has it, and the way to have that."""


def describe(media_types: Iterable[str]) -> tuple[str, str | None] | None:
    """Return what something of these media types is, and a hint; None for what is not known."""
    for media_type in media_types:
        for beginning, what, hint in _KNOWN:
            if media_type.lower().startswith(beginning):
                return what, hint
    return None
