"""Certificates that content credentials are signed with: a user's own, or one that is made here for development."""

from __future__ import annotations

import datetime
from pathlib import Path

from rag_diffusion.errors import ConfigError
from rag_diffusion.extras import need
from rag_diffusion.files import atomic_write

CERTIFICATE, KEY, ROOT = "certificate.pem", "key.pem", "root.pem"
DEVELOPMENT = "development"
_DAYS = 365
_NAME = "rag-diffusion development, trusted by nobody"


def check_folder(folder: Path) -> None:
    """Refuse a folder that does not hold a certificate with its chain, and a key.

    Args:
        folder: of the user.

    Raises:
        ConfigError: one of the files is missing.
    """
    missing = [name for name in (CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"credentials: expected {folder} to hold {CERTIFICATE} (the certificate, then its chain) and {KEY}, found "
            f"no {missing[0]}; put it there, or say `{DEVELOPMENT}` for a certificate that nobody trusts"
        )


def make_development(folder: Path) -> Path:
    """Make a certificate for development, with a root of its own, where there is none or it has run out.

    Args:
        folder: gets certificate.pem, key.pem, which only its owner reads, and root.pem.

    Returns:
        `folder`.

    Raises:
        MissingExtraError: the extra `marks` is not installed.
    """
    need("marks", "cryptography")
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    if all((folder / name).is_file() for name in (CERTIFICATE, KEY, ROOT)):
        made = x509.load_pem_x509_certificates((folder / CERTIFICATE).read_bytes())[0]
        if made.not_valid_after_utc > now:
            return folder
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key, root = _made(now)
    (folder / KEY).touch(mode=0o600)
    atomic_write(folder / KEY, key)
    (folder / KEY).chmod(0o600)
    atomic_write(folder / ROOT, root)
    atomic_write(folder / CERTIFICATE, certificate + root)
    return folder


def _made(now: datetime.datetime) -> tuple[bytes, bytes, bytes]:
    """Certificate, key and root as PEM; C2PA wants a root above, and a use that signs documents or mails."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    above, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def named(role: str) -> x509.Name:
        attributes = [(NameOID.COMMON_NAME, f"{role} for development"), (NameOID.ORGANIZATION_NAME, _NAME)]
        return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])

    def signed(role: str, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(role))
            .issuer_name(named("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        )
        if not authority:
            use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(use, critical=False)
        return builder.sign(above, hashes.SHA256())

    pem = serialization.Encoding.PEM
    key_bytes = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    root, certificate = signed("root", above, authority=True), signed("certificate", own, authority=False)
    return certificate.public_bytes(pem), key_bytes, root.public_bytes(pem)
