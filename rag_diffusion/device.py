"""Where tensors live, and how precisely networks compute."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from rag_diffusion.errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt


def choose_device(name: str) -> torch.device:
    """The torch device of a `name`: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a CUDA GPU, found none; set `device: cpu` or `device: auto` in params.yaml")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_precision(name: str) -> None:
    """Refuse a `name` that is none of `PRECISIONS`.

    Raises:
        ConfigError: it is none.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, float16 or None (float32); `auto` takes bfloat16 where the hardware is fast at it.

    Args:
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: where the network lives.
    """
    if precision == "fp32":
        return None
    if precision == "fp16":
        return torch.float16
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if fast or precision == "bf16" else None


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context in which a network computes: `precision` on `device`, as `autocast_dtype` says."""
    dtype = autocast_dtype(precision, device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def keep_freed_memory() -> None:
    """Have this process keep up to 512 MiB that it has freed, which the next denoising step asks for again.

    Else glibc gives blocks of many megabytes back, and the system clears them anew each time: drawing on a CPU takes
    some tenth longer. Other C libraries are left as they are.

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, 2**29)
        library.mallopt(_MMAP_THRESHOLD, 2**25)
