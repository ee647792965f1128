"""Tables as CSV that any program can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from maftp.files import atomic_path

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that a spreadsheet computes (OWASP, CSV injection)."""


def write_csv(table: pd.DataFrame, path: Path, *, decimals: int | None = 4) -> None:
    """Write a table in one go; text that a spreadsheet would run is quoted with an apostrophe."""
    form = None if decimals is None else f"%.{decimals}f"
    safe = table.rename(columns=_as_text).map(_as_text)
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, index=False, float_format=form, lineterminator="\n")


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
