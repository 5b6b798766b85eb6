"""Vectors in fewer bits: what comes back, from memory and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rag_diffusion.errors import DataError
from rag_diffusion.store import quantized, vectors
from rag_diffusion.store.quantized import SCALE, QuantizedRows, encoded
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.types import Precision

ROWS, WIDTH = 430, 12
LOSSY: tuple[Precision, ...] = ("float16", "int8")


@pytest.fixture
def exact(rng: np.random.Generator) -> Vectors:
    image, text = (rng.normal(size=(ROWS, WIDTH)) for _ in range(2))
    unit = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (image, text)]
    unit[0][7] = 0
    return Vectors(*unit)


def test_every_finite_half_comes_back_as_numpy_reads_it() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 2)
    decoded = QuantizedRows(halves)[:]
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded.view(np.int32), halves.astype(np.float32).view(np.int32))


def test_eight_bits_are_off_by_half_a_step_at_most(exact: Vectors) -> None:
    tensors = encoded("image", exact.image[:], "int8")
    steps = np.abs(exact.image[:]).max(axis=1) / 127
    assert np.abs(tensors["image"]).max(axis=1).tolist() == [127] * 7 + [0] + [127] * (ROWS - 8)
    decoded = QuantizedRows(tensors["image"], tensors["image" + SCALE])[:]
    assert (np.abs(decoded - exact.image[:]) <= steps[:, None] / 2 + 1e-7).all()
    assert not decoded[7].any()


@pytest.mark.parametrize("precision", LOSSY)
def test_what_was_read_and_is_written_again_is_the_same_bytes(
    exact: Vectors, precision: Precision, folder: Path
) -> None:
    exact.save(folder / "once", precision)
    Vectors.open(folder / "once", ROWS, remedy="").save(folder / "twice", precision)
    once, twice = (load_file(folder / name) for name in ("once", "twice"))
    for name in ("image", "text"):
        np.testing.assert_array_equal(once[name], twice[name])
    Vectors.open(folder / "once", ROWS, remedy="").save(folder / "float32")
    np.testing.assert_array_equal(
        load_file(folder / "float32")["text"], np.asarray(Vectors.open(folder / "once", ROWS, remedy="").text)
    )


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2), ("int8", 1 + 4 / WIDTH)])
def test_a_file_has_the_bytes_that_its_precision_needs(
    exact: Vectors, precision: Precision, size: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "DECODED", 100)  # several blocks
    again = exact.kept(folder / VECTORS_FILE, precision, remedy="")
    assert (again is exact, again.precision) == (precision == "float32", precision)
    if again is not exact:
        assert (folder / VECTORS_FILE).stat().st_size == pytest.approx(2 * ROWS * WIDTH * size, abs=400)
        for name in ("image", "text"):
            expected = encoded(name, getattr(exact, name)[:], precision)
            np.testing.assert_array_equal(load_file(folder / VECTORS_FILE)[name], expected[name])
            np.testing.assert_allclose(np.asarray(getattr(again, name)), getattr(exact, name), atol=0.005)


@pytest.mark.parametrize("precision", LOSSY)
def test_rows_are_float32_however_they_are_asked_for(exact: Vectors, precision: Precision, folder: Path) -> None:
    rows = exact.kept(folder / VECTORS_FILE, precision, remedy="").image
    whole = np.asarray(rows)
    assert (len(rows), rows.shape, whole.dtype) == (ROWS, (ROWS, WIDTH), np.float32)
    mask = np.arange(ROWS) % 3 == 0
    for asked in (slice(5, 50), np.array([3, 1, 3]), np.array([[3, 1], [0, 429]]), mask, [4, 2], 9):
        got = rows[asked]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, whole[asked])
    part = Vectors(rows, rows).stretch(10, 20)
    assert (len(part.image), part.precision) == (10, precision)
    np.testing.assert_array_equal(part.image[np.array([0, 9])], whole[[10, 19]])


@pytest.mark.parametrize("damage", ["no scales", "too few scales", "wide scales", "int32"])
def test_a_file_that_cannot_be_decoded_is_refused(exact: Vectors, damage: str, folder: Path) -> None:
    tensors = encoded("image", exact.image[:], "int8") | encoded("text", exact.text[:], "int8")
    scales = tensors.pop("image" + SCALE)
    if damage == "too few scales":
        tensors["image" + SCALE] = scales[:-1]
    if damage == "wide scales":
        tensors["image" + SCALE] = scales.astype(np.float64)
    if damage == "int32":
        tensors["image"] = tensors["image"].astype(np.int32)
    save_file(tensors, folder / VECTORS_FILE)
    with pytest.raises(DataError, match="expected image and text vectors.*make them again"):
        Vectors.open(folder / VECTORS_FILE, ROWS, remedy="make them again")


def test_no_more_than_a_block_is_decoded_at_a_time(
    exact: Vectors, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = exact.kept(folder / VECTORS_FILE, "float16", remedy="")
    sizes: list[int] = []
    decode = quantized._from_halves
    monkeypatch.setattr(vectors, "DECODED", 100)
    monkeypatch.setattr(quantized, "_from_halves", lambda codes: sizes.append(len(codes)) or decode(codes))
    rows.save(folder / "again")
    assert sizes == [100, 100] * 4 + [30, 30]
