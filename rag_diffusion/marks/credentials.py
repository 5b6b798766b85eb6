"""Content credentials (C2PA): signed, inside a PNG or JPEG, what made it, from which pairs, under which licences.

The manifest says that a trained model made the picture (`c2pa.created`), has every neighbor as an ingredient
(`inputTo`) with its licence and author, and the whole provenance as the assertion `rag-diffusion.provenance`. Whoever
changes a pixel or a word afterwards breaks the signature.

Source: C2PA Technical Specification 2.4; IPTC's digital source types.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.extras import need
from rag_diffusion.marks.certificates import CERTIFICATE, DEVELOPMENT, KEY, check_folder, make_development
from rag_diffusion.sampling.credit import NO_LICENCE, credit
from rag_diffusion.sampling.provenance import Provenance

ASSERTION = "rag-diffusion.provenance"
_DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_QUIET: dict[str, dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False},
}


class ContentCredentials:
    """Signs pictures with a certificate.

    Args:
        folder: holds certificate.pem, the certificate and then its chain, and key.pem, its key in PKCS 8.

    Raises:
        ConfigError: a file is missing, or the key is of no kind that C2PA takes.
        MissingExtraError: the extra `marks` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        need("marks", "c2pa", "cryptography")
        check_folder(folder)
        self._certificate, self._key = (folder / CERTIFICATE).read_bytes(), (folder / KEY).read_bytes()
        self._algorithm = _algorithm(self._key, folder / KEY)

    @classmethod
    def of_project(cls, setting: str, root: Path) -> ContentCredentials | None:
        """What `marks.credentials` in params.yaml, or `--credentials`, says.

        Args:
            setting: a folder; `development` for a certificate that is made in the project; empty for none.
            root: of the project, which a relative folder is in.

        Raises:
            ConfigError, MissingExtraError: as the constructor.
        """
        if not setting:
            return None
        return cls(make_development(root / ".credentials") if setting == DEVELOPMENT else root / setting)

    def __call__(self, file: bytes, provenance: Provenance) -> bytes:
        """A signed picture.

        Args:
            file: a PNG or JPEG.
            provenance: what made it.

        Returns:
            The same file with the manifest inside.

        Raises:
            ConfigError: the certificate does not fit the key, or is none that C2PA takes.
        """
        import c2pa

        mime, signed = _mime(file), io.BytesIO()
        manifest = _manifest(provenance, mime)
        try:
            context = c2pa.Context.from_dict(_QUIET)
            info = c2pa.C2paSignerInfo(self._algorithm, self._certificate, self._key, None)
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(manifest, context) as builder:
                builder.sign(signer, mime, io.BytesIO(file), signed)
        except c2pa.C2paError as error:
            raise ConfigError(
                f"credentials: expected a certificate and its key that C2PA takes, got: {str(error)[:200]}"
            ) from None
        return signed.getvalue()


@dataclass(frozen=True, kw_only=True)
class ReadCredentials:
    """What the credentials inside a file say.

    Attributes:
        state: `Trusted`, `Valid` (well signed, by a certificate that nobody here trusts) or `Invalid`.
        failures: codes of what is wrong.
        manifest: the active one, as c2pa reads it.
    """

    state: str
    failures: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def signer(self) -> str:
        """Who signed it."""
        signature = self.manifest.get("signature_info", {})
        return str(signature.get("issuer") or signature.get("common_name") or "nobody that it names")

    @cached_property
    def provenance(self) -> Provenance | None:
        """What was signed of its making; None where another program signed it."""
        found = (one["data"] for one in self.manifest.get("assertions", ()) if one["label"] == ASSERTION)
        content = next(found, None)
        return None if content is None else Provenance.from_dict(content)


def read_credentials(file: bytes, trusted: Sequence[Path] = ()) -> ReadCredentials | None:
    """Read and verify the credentials inside a picture, with c2pa's own reader.

    Args:
        file: a PNG or JPEG.
        trusted: PEM files of roots whose signatures are trusted.

    Returns:
        None where the file has none.

    Raises:
        DataError: it is neither PNG nor JPEG, or its manifest cannot be read.
        MissingExtraError: the extra `marks` is not installed.
    """
    need("marks", "c2pa")
    import c2pa

    settings = dict(_QUIET)
    if trusted:
        settings["trust"] = {"trust_anchors": "\n".join(path.read_text(encoding="utf-8") for path in trusted)}
        settings["verify"] = {**_QUIET["verify"], "verify_trust": True}
    try:
        context = c2pa.Context.from_dict(settings)
        reader = c2pa.Reader.try_create(_mime(file), io.BytesIO(file), context=context)
        if reader is None:
            return None
        with reader:
            content = json.loads(reader.json())
    except c2pa.C2paError as error:
        raise DataError(f"credentials: expected a manifest that can be read, got: {str(error)[:200]}") from None
    failures = content.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    manifest = content.get("manifests", {}).get(content.get("active_manifest"), {})
    return ReadCredentials(
        state=str(content.get("validation_state", "Invalid")),
        failures=tuple(dict.fromkeys(str(one["code"]) for one in failures)),
        manifest=manifest,
    )


def _manifest(origin: Provenance, mime: str) -> dict[str, Any]:
    """What is signed; pixels of neighbors are left out of it."""
    bare = replace(origin, neighbors=tuple(replace(source, image="", mask="") for source in origin.neighbors))
    settings = {name: value for name, value in bare.settings.items() if name != "begin_image"}
    software = {"name": "rag-diffusion", "version": version("rag-diffusion")}
    names = {source.pair_id: f"{number}:{source.pair_id}" for number, source in enumerate(origin.neighbors)}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": _DRAWN,
        "softwareAgent": software,
        "description": " ".join([f"Drawn for “{origin.prompt}”.", *credit(origin.neighbors)]),
        "parameters": {"ingredientIds": list(names.values())} if names else {},
    }
    return {
        "claim_generator_info": [software],
        "title": origin.prompt,
        "format": mime,
        "ingredients": [
            {
                "title": source.caption,
                "format": "image/png",
                "instance_id": names[source.pair_id],
                "relationship": "inputTo",
                "description": f"{source.licence or NO_LICENCE}; {source.attribution or source.source}",
            }
            for source in origin.neighbors
        ],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": ASSERTION, "kind": "Json", "data": replace(bare, settings=settings).as_dict()},
        ],
    }


def _mime(file: bytes) -> str:
    for beginning, mime in ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg")):
        if file.startswith(beginning):
            return mime
    raise DataError(f"credentials: expected a PNG or JPEG, got a file that begins with {file[:8]!r}")


def _algorithm(key: bytes, path: Path) -> bytes:
    """What a key signs with, by C2PA's names."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected a private key in PEM without a password, got: {error}") from None
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return b"ps256"
    by_size = {256: b"es256", 384: b"es384", 521: b"es512"}
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.key_size in by_size:
        return by_size[loaded.curve.key_size]
    raise ConfigError(f"{path}: expected a key of P-256, P-384, P-521, RSA or Ed25519, got {type(loaded).__name__}")
