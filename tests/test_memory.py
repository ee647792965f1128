"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEGABYTES = 50
"""By itself glibc learns to keep blocks of up to 32 MB at most."""
FAULTS = f"""
import resource
import torch
from maftp.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({MEGABYTES} * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
# An aligned block needs a little more than it left behind: the heap grows a few times at first.
print([faults() for _ in range(12)][-1] * resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_block_that_was_freed_is_used_again_without_new_pages():
    fresh = subprocess.check_output([sys.executable, "-c", FAULTS], text=True)
    assert int(fresh) < MEGABYTES * 2**20 / 10
