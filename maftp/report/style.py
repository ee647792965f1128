"""How all plots look: marks that differ in shape and lightness, so that colour is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = tuple("#000000 #E69F00 #0072B2 #CC79A7 #009E73 #56B4E9 #D55E00 #B0B0B0".split())
"""Okabe and Ito's, dark and light in turn; also told apart by people who see few colours."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = (
    *("-", "--", ":", "-."),
    *((0, (1, 4)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1))),
)
FILLS = tuple("#FFFFFF #F7D08A #9CCBE8 #EBCBDE #A9DCCB #D9D9D9 #F3C9B0 #F5EFB0".split())
"""Light ones for bars, whose hatches tell them apart."""
HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "oo", "++++")


def new_figure(*, width: float, height: float, rows: int = 1, columns: int = 1) -> Figure:
    """Return a figure of inches with a grid of axes, drawn without any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def short(names: Sequence[str], *, length: int = 18) -> list[str]:
    """Return the first synonym of each name, cut to `length` characters."""
    firsts = [name.split(",")[0].strip() for name in names]
    return [first if len(first) <= length else first[: length - 1] + "…" for first in firsts]
