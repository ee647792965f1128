"""The page itself, made with NiceGUI: a picture, words, and what one or two models find.

NiceGUI serves its scripts, styles and fonts from its own package, so that the page needs no
network. The models serve all visitors, one picture at a time.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nicegui import app, events, run, ui
from numpy.typing import NDArray
from PIL import Image

from maftp.apps.demo_answer import Engine, zip_answers
from maftp.apps.demo_panel import Panel, data_url
from maftp.apps.demo_upload import MAX_BYTES, TOO_LARGE, UploadLimit, decode_upload
from maftp.apps.pictures import Picture
from maftp.apps.words import parse_words
from maftp.errors import DataError, MaftpError
from maftp.miniworld.label_spaces import ade20k_150
from maftp.miniworld.scenes import Style
from maftp.miniworld.splits import Split, draw_split

_EXAMPLES = 3
_OPACITY = 0.6
_RECONNECT_SECONDS = 120.0
_STYLE = f"""
:root {{ --overlay: {_OPACITY}; }}
body {{ background: #f6f7f9; }}
.nicegui-content {{ padding: 0; }}
.overlay {{ position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none;
  opacity: var(--overlay); }}
.swatch {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .5em; }}
.q-uploader {{ border-style: dashed; }}
.q-uploader__header {{ flex: 1; display: flex; align-items: center; }}
.q-uploader__header-content {{ width: 100%; }}
.q-uploader__list, .q-uploader__subtitle {{ display: none; }}
.q-table td {{ white-space: normal; overflow-wrap: anywhere; }}
"""
_TO_RESULTS = """
const results = getHtmlElement({id});
if (results.getBoundingClientRect().top > 0.7 * innerHeight)
  results.scrollIntoView({{behavior: "smooth"}});
"""


class Page:
    """What one visitor has chosen, and the parts of the page that answer."""

    def __init__(
        self,
        engines: Sequence[Engine],
        examples: Sequence[Example],
        lists: Mapping[str, Sequence[str]],
    ) -> None:
        """Build it; `lists` are words to choose, by their names."""
        self._picture: Picture | None = None
        self._lists = lists
        ui.add_css(_STYLE)
        ui.colors(primary="#0b5fa5")  # the usual blue is too light for white letters
        width, columns = ("6xl", "lg:grid-cols-2") if len(engines) > 1 else ("4xl", "")
        with ui.column().classes(f"w-full max-w-{width} mx-auto p-3 sm:p-6 gap-4"):
            ui.label("Segment a picture with your own words").classes("text-2xl font-medium")
            with ui.card().classes("w-full gap-4 p-3 sm:p-4").props("flat bordered"):
                self._build_pictures(examples)
                self._build_words()
                self._build_actions()
            with ui.element("div").classes(
                f"grid grid-cols-1 {columns} w-full gap-4"
            ) as self._grid:
                self._panels = [Panel(engine, self._point) for engine in engines]
        self._grid.set_visibility(False)

    def _build_pictures(self, examples: Sequence[Example]) -> None:
        with ui.row().classes("w-full gap-4 items-stretch"):
            self._upload = ui.upload(
                label="Drop a picture, or click +",
                auto_upload=True,
                max_file_size=MAX_BYTES,
                on_upload=self._take,
                on_rejected=lambda: self._say(TOO_LARGE),
            )
            self._upload.props(
                "accept=image/* flat bordered color=white text-color=primary"
            ).classes("w-full sm:w-64")
            for number, example in enumerate(examples, start=1):
                button = ui.image(Image.fromarray(example.pixels))
                button.classes("flex-1 sm:flex-none sm:w-32 rounded cursor-pointer")
                button.props(f'alt="example {number}" role=button tabindex=0')
                for event in ("click", "keydown.enter"):
                    button.on(event, lambda e=example, n=number: self._choose_example(e, n))

    def _build_words(self) -> None:
        with ui.row().classes("w-full gap-4 items-start"):
            self._words = ui.textarea("Classes", value="sky; building, edifice; red car")
            self._words.props('autogrow input-style="max-height: 8rem"').classes("w-full sm:flex-1")
            self._words.props('hint="Semicolons between classes, commas between synonyms"')
            self._words.on("keydown.enter.prevent", self._segment)
            if self._lists:
                options = {name: f"{name} ({len(w)} classes)" for name, w in self._lists.items()}
                ui.select(options, label="Words from a list", on_change=self._fill).classes(
                    "w-full sm:w-56"
                )

    def _build_actions(self) -> None:
        with ui.row().classes("w-full items-center gap-4"):
            self._button = ui.button("Segment", on_click=self._segment)
            self._panoptic = ui.checkbox("separate segments")
            with ui.row().classes("items-center gap-3 no-wrap w-full sm:w-64"):
                ui.label("Opacity").classes("text-sm")
                slider = ui.slider(min=0, max=1, step=0.05, value=_OPACITY)
                slider.props('aria-label="opacity"').on(
                    "update:model-value",
                    js_handler="v => document.documentElement.style.setProperty('--overlay', v)",
                )
            self._download = ui.button("Download masks", icon="download", on_click=self._send)
            self._download.props("outline").set_enabled(False)
        self._message = ui.label().classes("text-red-800").props('role="alert"')
        self._message.set_visibility(False)

    async def _take(self, event: events.UploadEventArguments) -> None:
        """Take the dropped file."""
        try:
            if event.file.size() > MAX_BYTES:  # again, as nothing may be decoded that is larger
                raise DataError(f"{event.file.name}: {TOO_LARGE}")
            data = await event.file.read()
            self._choose(await run.io_bound(decode_upload, data, event.file.name))
        except MaftpError as error:
            self._say(str(error))
        self._upload.reset()

    def _choose_example(self, example: Example, number: int) -> None:
        self._words.value = example.words
        self._choose(Picture(f"example{number}", Path(f"example {number}"), example.pixels))

    def _choose(self, picture: Picture) -> None:
        self._picture = picture
        buffer = io.BytesIO()
        Image.fromarray(picture.pixels).save(buffer, format="JPEG", quality=92)
        for panel in self._panels:
            panel.show_picture(data_url(buffer.getvalue(), "jpeg"))
        self._grid.set_visibility(True)
        self._download.set_enabled(False)
        self._say("")

    def _fill(self, event: events.ValueChangeEventArguments) -> None:
        self._words.value = "; ".join(self._lists[event.value])
        self._say("")

    def _names(self) -> Sequence[str]:
        """Return the words; a benchmark's list as it is, although it may hold a word twice."""
        text = self._words.value or ""
        known = {"; ".join(names): names for names in self._lists.values()}
        return known.get(text) or parse_words(text, where="words")

    async def _segment(self) -> None:
        """Answer the button."""
        picture = self._picture
        if picture is None:
            self._say("drop a picture first, or choose an example")
            return
        self._button.props("loading").disable()
        try:
            names = self._names()
            for panel in self._panels:
                panel.clear("Segmenting …")
            for panel in self._panels:
                answer = await run.io_bound(
                    panel.engine, picture, names, panoptic=self._panoptic.value
                )
                if self._picture is picture:  # no other was chosen meanwhile
                    panel.show(answer)
            self._say("")
            ui.run_javascript(_TO_RESULTS.format(id=self._grid.id))  # on a phone they are below
        except MaftpError as error:
            self._say(str(error))
        finally:
            self._button.props(remove="loading").enable()
            self._download.set_enabled(all(panel.answer for panel in self._panels))

    def _point(self, event: events.GenericEventArguments) -> None:
        """Answer the pointer in all panels: they show the same picture."""
        kind, x, y = (event.args[key] for key in ("mouse_event_type", "image_x", "image_y"))
        for panel in self._panels:
            if kind == "mouseleave":
                panel.leave()
            elif kind == "click":
                panel.pick_at(x, y)
            else:
                panel.point_at(x, y)

    async def _send(self) -> None:
        """Hand out the files of all models."""
        answers = [panel.answer for panel in self._panels if panel.answer]
        try:
            content = await run.io_bound(zip_answers, answers)
            ui.download.content(content, f"{answers[0].picture.name}.masks.zip")
        except MaftpError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self._message.set_text(text)
        self._message.set_visibility(bool(text))


def serve(
    engines: Sequence[Engine],
    lists: Mapping[str, Sequence[str]],
    *,
    host: str,
    port: int,
    show: bool,
) -> None:
    """Serve the page until interrupted.

    Args:
        engines: a model, or two that are compared.
        lists: words to choose, by their names.
        host: address to listen on.
        port: of the address.
        show: open a browser.
    """
    examples = draw_examples(_EXAMPLES)
    app.add_middleware(UploadLimit)

    @ui.page("/")
    def page() -> None:
        Page(engines, examples, lists)

    ui.run(
        host=host,
        port=port,
        title="maftp",
        favicon="🖼",
        show=show,
        reload=False,
        # A machine that segments is busy: NiceGUI's 3 s would take the picture away from who waits.
        reconnect_timeout=_RECONNECT_SECONDS,
        show_welcome_message=False,
    )


_SEED = (2024,)
_SIZE = (192, 256)


@dataclass(frozen=True)
class Example:
    """A picture and words that fit it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    words: str


def draw_examples(count: int) -> list[Example]:
    """Draw `count` scenes and name what stands in them."""
    style = Style(things=(), stuff=(), count=(2, 3), size=(0.4, 0.6), middle=0.5)
    split = Split(space=ade20k_150(), style=style, sizes=(_SIZE,))
    examples = []
    for picture in draw_split(split, count=count, seed=_SEED):
        scene = picture.scene
        names = [*scene.stuff_names, *(instance.thing.names()[0] for instance in scene.instances)]
        examples.append(Example(scene.image, "; ".join(dict.fromkeys(names))))
    return examples


def check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        MaftpError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise MaftpError(
            f"--port {port}: {host} cannot be listened on ({error}); choose another with --port"
        ) from None
