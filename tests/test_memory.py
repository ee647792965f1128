"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from maftp.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_block_that_was_freed_is_used_again_without_new_pages():
    keep_freed_memory()
    megabytes = 50  # by itself glibc learns to keep blocks of up to 32 MB at most

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(megabytes * 2**18)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    # An aligned block needs a little more than it left behind: the heap grows a few times at first.
    pages = megabytes * 2**20 / resource.getpagesize()
    assert [faults() for _ in range(12)][-1] < pages / 10
