"""Tensors that depend on sizes alone: made once, not in every layer of every image."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Made = TypeVar("Made")

_KEPT = 64
"""Results kept per function: batches of one data set, padded to multiples of 32 pixels, come in
some forty sizes (COCO-Stuff at 800 x 1333 has 36)."""


def constant(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Keep the latest results of a function of hashable arguments; results must not be changed.

    The function's `forget()` drops them. While a program is exported or compiled nothing is kept:
    its tensors are symbols.
    """
    kept = lru_cache(_KEPT)(torch.inference_mode(False)(function))

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        return kept(*args, **kwargs)

    call.forget = kept.cache_clear  # type: ignore[attr-defined]
    return call
