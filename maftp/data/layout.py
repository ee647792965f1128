"""Where things lie below the datasets root."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maftp.errors import DataError


def datasets_root(configured: str | None) -> Path:
    """Return the absolute root: the configured one, $DETECTRON2_DATASETS, or ./datasets."""
    chosen = configured or os.environ.get("DETECTRON2_DATASETS") or "datasets"
    return Path(chosen).expanduser().resolve()


def archives_dir(root: Path) -> Path:
    """Return the folder of downloaded files."""
    return root / "archives"


def obtained_path(root: Path, name: str) -> Path:
    """Return the file that says that the archive of a source, or released weights, are there."""
    return archives_dir(root) / f"{name}.obtained.json"


def stamp_path(root: Path, source: str) -> Path:
    """Return the file that says that a source is in place."""
    return archives_dir(root) / f"{source}.unpacked.json"


def vocabulary_path(root: Path, stem: str) -> Path:
    """Return the file of class names."""
    return root / "vocabularies" / f"{stem}_with_prompt_eng.txt"


def manifest_path(root: Path, dataset: str) -> Path:
    """Return the file that says what a conversion made; written last."""
    return root / "manifests" / f"{dataset}.json"


def index_path(root: Path, dataset: str, split: str) -> Path:
    """Return the table of a split's images: stem, width, height, trainable, label's SHA-256."""
    return root / "manifests" / f"{dataset}_{split}.csv"


def read_note(path: Path, *keys: str, mend: str) -> dict[str, Any]:
    """Read a manifest, or another note that a step has left.

    Args:
        path: the JSON file.
        keys: what it must hold.
        mend: what to do when it is damaged.

    Raises:
        DataError: it is damaged; ends with `mend`.
    """
    try:
        content = json.loads(path.read_bytes())
        lacking = [key for key in keys if key not in content]
        if not isinstance(content, dict) or lacking:
            raise ValueError(f"no {lacking[0]!r} in it" if lacking else "no keys in it")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: damaged ({reason}); {mend}") from None
    return content
