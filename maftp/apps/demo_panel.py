"""One model's part of the page: the picture under its regions, and a list of them."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable

from nicegui import events, ui

from maftp.apps.demo_answer import Answer, Engine, describe
from maftp.data.vocabulary import class_color
from maftp.regions import Region

_HINT = "Point at a region to see its class; click to keep it."
_ROWS = 8
_COLUMNS = [
    {"name": key, "label": label, "field": key, "align": align}
    for key, label, align in (
        ("class", "class", "left"),
        ("share", "share", "right"),
        ("score", "score", "right"),
    )
]


class Panel:
    """One model's answer: the picture, its regions, and a list of them."""

    def __init__(
        self, engine: Engine, point: Callable[[events.GenericEventArguments], None]
    ) -> None:
        """Build it.

        Args:
            engine: the model.
            point: called with every movement and click on the picture.
        """
        self.engine = engine
        self.answer: Answer | None = None
        self._picked: Region | None = None
        with ui.card().classes("w-full min-w-0 gap-2 p-3 sm:p-4").props("flat bordered"):
            loaded = engine.loaded
            name = f"{loaded.params.experiment} · {loaded.params.model.name}"
            ui.label(name).classes("text-base font-medium")
            ui.label(str(loaded.weights)).classes("text-xs text-gray-600 break-all")
            self._view = ui.interactive_image(events=["mousemove", "mouseleave", "click"])
            self._view.classes("w-full rounded overflow-hidden cursor-crosshair")
            self._view.props('role=img aria-label="picture with the regions found"')
            # Movements may be dropped on their way, clicks may not.
            click = "e.mouse_event_type === 'click'"
            self._view.on("mouse", point, throttle=0.05, js_handler=f"e => {click} || emit(e)")
            self._view.on("mouse", point, js_handler=f"e => {click} && emit(e)")
            with self._view:
                self._overlay = ui.element("img").classes("overlay").props('alt="overlay"')
            self._marks = self._view.add_layer()
            self._caption = ui.label().classes("text-sm min-h-5").props('aria-live="polite"')
            self._table = ui.table(
                columns=_COLUMNS, rows=[], row_key="id", selection="single", pagination=_ROWS,
                on_select=self._select,
            )  # fmt: skip
            self._table.props('flat dense hide-selected-banner :rows-per-page-options="[]"')
            self._table.classes("w-full")
            self._table.add_slot("body-cell-class", _CLASS_CELL)

    def show_picture(self, source: str) -> None:
        """Show a picture, given as a data URL, without regions."""
        self._view.set_source(source)
        self.clear()

    def clear(self, caption: str = "") -> None:
        """Take the regions away."""
        self.answer = None
        self._overlay.set_visibility(False)
        self._table.set_visibility(False)
        self._pick(None)
        self._caption.set_text(caption)

    def show(self, answer: Answer) -> None:
        """Show the regions of the picture."""
        self.answer = answer
        self._overlay.props["src"] = data_url(answer.overlay(), "png")
        self._overlay.set_visibility(True)
        self._table.rows = [
            {
                "id": region.id,
                "class": region.name,
                "colour": "rgb({}, {}, {})".format(*class_color(region.class_index)),
                "share": f"{region.area / answer.ids.size:.1%}",
                "score": f"{region.score:.2f}",
            }
            for region in answer.found.regions
        ]
        self._table.props["hide-pagination"] = len(self._table.rows) <= _ROWS
        self._table.set_visibility(True)
        self._pick(None)

    def point_at(self, x: float, y: float) -> None:
        """Name the region under a point, beside it and below the picture."""
        if self.answer is not None:
            self._mark(self.answer.region_at(x, y), (x, y))

    def pick_at(self, x: float, y: float) -> None:
        """Keep the region under a point; give it back when it is kept already."""
        if self.answer is not None:
            region = self.answer.region_at(x, y)
            self._pick(None if region == self._picked else region)

    def leave(self) -> None:
        """Show what is kept, as the pointer is gone."""
        self._mark()

    def _select(self, event: events.TableSelectionEventArguments) -> None:
        ids = [row["id"] for row in event.selection]
        regions = self.answer.found.regions if self.answer else []
        self._pick(next((region for region in regions if region.id in ids), None))

    def _pick(self, region: Region | None) -> None:
        self._picked = region
        rows = self._table.rows if region else []
        self._table.selected = [row for row in rows if region and row["id"] == region.id]
        self._mark()

    def _mark(self, region: Region | None = None, place: tuple[float, float] = (0, 0)) -> None:
        """Outline the kept region; name `region`, or else the kept one."""
        if self.answer is None:
            self._marks.set_content("")
            self._caption.set_text("")
            return
        drawn = _outline(self.answer, self._picked) if self._picked else ""
        if region:
            drawn += _tag(f"{region.name} {region.score:.2f}", place, self.answer.ids.shape)
        self._marks.set_content(drawn)
        named = region or self._picked
        self._caption.set_text(describe(named, self.answer) if named else _HINT)


_CLASS_CELL = """
<q-td :props="props"><span class="swatch" :style="{background: props.row.colour}"></span>{{
props.value }}</q-td>
"""


def _outline(answer: Answer, region: Region) -> str:
    """Draw the border of a region, white on black, so that it shows on any picture."""
    path, width = answer.outline(region), max(answer.ids.shape) / 200
    return "".join(
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide:.2f}"/>'
        for colour, wide in (("black", 2 * width), ("white", width))
    )


def _tag(text: str, place: tuple[float, float], size: tuple[int, ...]) -> str:
    """Write a word beside the pointer, on the side where there is room."""
    (x, y), (height, width) = place, size
    letter = max(height, width) / 24
    anchor, side = ("start", 0.6) if x < width / 2 else ("end", -0.6)
    below = 1.4 if y < 2 * letter else -0.5
    return (
        f'<text x="{x + side * letter:.1f}" y="{y + below * letter:.1f}" text-anchor="{anchor}"'
        f' font-size="{letter:.1f}" font-family="sans-serif" font-weight="600" fill="white"'
        f' stroke="black" stroke-width="{letter / 5:.1f}" stroke-linejoin="round"'
        f' paint-order="stroke">{html.escape(text)}</text>'
    )


def data_url(content: bytes, kind: str) -> str:
    """Return an image as the address of itself."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
