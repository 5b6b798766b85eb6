"""Marks that diffusers' own tests bear."""

from __future__ import annotations

import pytest

MARKS = ("lora", "ip_adapter", "training", "attention", "memory", "cpu_offload", "group_offload", "compile", "cache",
         "single_file", "quantization", "bitsandbytes", "quanto", "torchao", "gguf", "modelopt", "sdnq", "nightly",
         "context_parallel", "tensor_parallel", "big_accelerator", "autoround")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of diffusers' own tests")
