"""Content credentials in PNG and JPEG, read back and verified by c2pa's own reader."""

from __future__ import annotations

import io
import json
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.marks.certificates import CERTIFICATE, KEY, ROOT, make_development
from rag_diffusion.marks.credentials import ContentCredentials, read_credentials
from rag_diffusion.sampling.provenance import Provenance, Source, read_provenance, save_picture, to_jpeg, to_png

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
FORMS = {"png": to_png, "jpeg": to_jpeg}


def origin(image: str = "") -> Provenance:
    sources = tuple(
        Source(
            pair_id=f"photos/{name}.png", caption=f"a {name}, naïve", source="photos", licence=licence,
            attribution=author, score=0.5, attention=0.3, image=image,
        )
        for name, licence, author in (("fox", "CC-BY-4.0", "Ada"), ("hare", "CC-BY-NC-4.0", "Bob"))
    )  # fmt: skip
    return Provenance(
        prompt="a fox and a hare", seed=3, corpus_hash="c", model_hash="m", neighbors=sources, null_attention=0.4,
        settings={"num_inference_steps": 20},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_development(tmp_path_factory.mktemp("certificate"))


@pytest.mark.parametrize("form", FORMS)
def test_a_signed_picture_tells_c2pa_what_made_it(form: str, folder: Path) -> None:
    plain = FORMS[form](PIXELS, origin())
    signed = ContentCredentials(folder)(plain, origin())
    with c2pa.Reader(f"image/{form}", io.BytesIO(signed)) as reader:
        assert reader.get_validation_state() == "Valid"
        manifest = reader.get_active_manifest()
    assert manifest["claim_generator_info"][0]["name"] == "rag-diffusion"
    assert manifest["title"] == "a fox and a hare"
    told = [(one["title"], one["relationship"], one["description"]) for one in manifest["ingredients"]]
    assert told == [
        ("a fox, naïve", "inputTo", "CC-BY-4.0; Ada"),
        ("a hare, naïve", "inputTo", "CC-BY-NC-4.0; Bob"),
    ]
    (action,) = manifest["assertions"][0]["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert len(action["parameters"]["ingredients"]) == 2
    assert "No commercial use: CC-BY-NC-4.0 (Bob)." in action["description"]
    assert action["description"].endswith("Credit: Ada (CC-BY-4.0); Bob (CC-BY-NC-4.0).")
    np.testing.assert_array_equal(Image.open(io.BytesIO(signed)), Image.open(io.BytesIO(plain)))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_trusted_by_whoever_trusts_the_root_alone(form: str, folder: Path, tmp_path: Path) -> None:
    signed = ContentCredentials(folder)(FORMS[form](PIXELS, origin()), origin())
    found = read_credentials(signed)
    assert found is not None
    assert (found.state, found.failures) == ("Valid", ("signingCredential.untrusted",))
    assert found.signer == "rag-diffusion development, trusted by nobody"
    assert found.provenance == origin()
    trusted = read_credentials(signed, [folder / ROOT])
    assert trusted is not None
    assert (trusted.state, trusted.failures) == ("Trusted", ())
    other = read_credentials(signed, [make_development(tmp_path / "other") / ROOT])
    assert other is not None
    assert other.state != "Trusted"


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_picture_is_invalid(form: str, folder: Path) -> None:
    signed = bytearray(ContentCredentials(folder)(FORMS[form](PIXELS, origin()), origin()))
    signed[-40] ^= 1
    found = read_credentials(bytes(signed))
    assert found is not None
    assert found.state == "Invalid"
    assert "assertion.dataHash.mismatch" in found.failures


@pytest.mark.parametrize("form", FORMS)
def test_provenance_still_stands_in_the_file(form: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"one.{form}"
    save_picture(path, PIXELS, origin(), ContentCredentials(folder))
    assert read_provenance(path) == origin()
    assert Provenance.from_dict(json.loads(path.with_suffix(".json").read_text())) == origin()
    assert read_credentials(path.read_bytes()) is not None
    assert read_credentials(FORMS[form](PIXELS, origin())) is None


def test_pictures_of_neighbors_are_not_signed_and_do_not_swell_a_jpeg(folder: Path) -> None:
    large = origin("A" * 60_000)
    signed = ContentCredentials(folder)(to_jpeg(PIXELS, large), large)
    assert len(signed) < len(to_jpeg(PIXELS, origin())) + 20_000
    found = read_credentials(signed)
    assert found is not None
    assert found.provenance == origin() == read_provenance(signed)


def test_the_development_certificate_is_kept_and_its_key_is_its_owners(folder: Path) -> None:
    before = (folder / CERTIFICATE).read_bytes()
    assert (make_development(folder) / CERTIFICATE).read_bytes() == before
    assert (folder / KEY).stat().st_mode & 0o077 == 0


def test_what_cannot_sign_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"to hold certificate.pem .* found no certificate.pem"):
        ContentCredentials(tmp_path)
    (tmp_path / CERTIFICATE).write_bytes((folder / CERTIFICATE).read_bytes())
    (tmp_path / KEY).write_text("no key")
    with pytest.raises(ConfigError, match="expected a private key in PEM"):
        ContentCredentials(tmp_path)
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / KEY).write_bytes(stranger)
    with pytest.raises(ConfigError, match="expected a certificate and its key that C2PA takes"):
        ContentCredentials(tmp_path)(to_png(PIXELS, origin()), origin())
    with pytest.raises(DataError, match="expected a PNG or JPEG"):
        read_credentials(b"GIF89a")
    assert ContentCredentials.of_project("", tmp_path) is None
