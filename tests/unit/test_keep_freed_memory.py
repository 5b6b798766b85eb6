"""Freed blocks are there for the next ones, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from rag_diffusion.device import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def step():
    blocks = [np.ones(20 * 2**20, dtype=np.uint8) for _ in range(4)]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives so much back")
def test_freed_blocks_are_not_cleared_anew() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout)
        for how in ("keep", "give back")
    }
    assert faults["keep"] * 10 < faults["give back"]
