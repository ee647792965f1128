"""MAFT+: open-vocabulary segmentation by fine-tuning CLIP and adapting its text to the image.

`load_model` and `segment` are the Python interface; importing the package loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maftp.api import Segmentation, load_model, segment

__version__ = "0.1.0"
__all__ = ["Segmentation", "__version__", "load_model", "segment"]


def __getattr__(name: str) -> Any:
    """Import the interface, and PyTorch with it, when it is first used."""
    if name in ("Segmentation", "load_model", "segment"):
        from maftp import api

        return getattr(api, name)
    raise AttributeError(f"module 'maftp' has no attribute {name!r}")
