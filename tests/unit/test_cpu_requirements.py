"""`make demo TORCH=cpu`: the lock without PyTorch and CUDA, and PyTorch of the same version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def entries(text: str) -> dict[str, int]:
    """Name of every distribution -> how many hashes it has."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {re.split(r"[\[=]", part)[0]: part.count("--hash=") for part in parts if re.match("[A-Za-z0-9]", part)}


def test_only_torch_and_cuda_are_left_out(project_root: Path) -> None:
    whole = entries((project_root / "requirements.lock").read_text())
    done = subprocess.run([project_root / ".ci/cpu-requirements"], capture_output=True, text=True, check=True)
    kept = entries(done.stdout)

    gone = whole.keys() - kept.keys()
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit", "cuda-bindings"} <= gone
    assert all(name.startswith(("nvidia-", "cuda-")) for name in gone - {"torch", "torchvision", "triton"})
    assert kept == {name: hashes for name, hashes in whole.items() if name not in gone}
    assert all(kept.values())


def test_another_kind_of_torch_is_refused(project_root: Path, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch(mode=0o755)
    for name in (".ci/install", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((project_root / name).read_bytes())
    command = ["bash", str(tmp_path / ".ci/install")]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "TORCH": "rocm"}, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == "error: expected TORCH=cpu or none, found TORCH=rocm\n"
