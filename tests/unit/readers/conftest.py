from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.readers.pictures import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(0))
    (folder / "sub" / "b.jpg").write_bytes(picture(1, "JPEG"))
    return folder
