"""The page itself, made with NiceGUI: picture, words, button, overlay and a table of regions.

NiceGUI serves its scripts, styles and fonts from its own package, so that the page needs no
network. One model serves all visitors, one picture at a time.
"""

from __future__ import annotations

import base64
import io
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nicegui import app, events, run, ui
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maftp.api import Loaded, Segmentation
from maftp.apps.pictures import decode_picture
from maftp.apps.predict import draw_overlay
from maftp.apps.words import parse_words
from maftp.errors import DataError, MaftpError
from maftp.miniworld.label_spaces import ade20k_150
from maftp.miniworld.scenes import Style
from maftp.miniworld.splits import Split, draw_split

_EXAMPLES = 3
_SHOWN_SIDE = 2048
_COLUMNS = [
    {"name": key, "label": label, "field": key, "align": align}
    for key, label, align in (
        ("class", "class", "left"),
        ("share", "share of the picture", "right"),
        ("score", "score", "right"),
    )
]


class Engine:
    """The model behind the page; safe to call from several threads."""

    def __init__(self, loaded: Loaded, *, short_side: int | None = None) -> None:
        """Keep a model; `short_side` as in `Predictor`."""
        self.loaded = loaded
        self._short_side = short_side
        self._lock = threading.Lock()

    def __call__(
        self, pixels: NDArray[np.uint8], words: str, *, panoptic: bool
    ) -> tuple[str, Segmentation]:
        """Segment an image; return the overlay as a data URL, and what was found.

        Raises:
            DataError: the words are not vocabulary.
        """
        names = parse_words(words, where="words")
        with self._lock:
            found = self.loaded.predictor(names, panoptic=panoptic, short_side=self._short_side)(
                pixels
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "overlay.png"
            draw_overlay(path, pixels, found, names)
            return _data_url(path.read_bytes()), found


@dataclass
class _Visit:
    """What one visitor has chosen, and the parts of the page that answer."""

    engine: Engine
    pixels: NDArray[np.uint8] | None = None
    parts: dict[str, ui.element] = field(default_factory=dict)

    async def upload(self, event: events.UploadEventArguments) -> None:
        """Take the dropped file."""
        try:
            if event.file.size() > MAX_BYTES:  # again, as nothing may be decoded that is larger
                raise DataError(f"{event.file.name}: {TOO_LARGE}")
            data = await event.file.read()
            self.choose(await run.io_bound(_decode, data, event.file.name))
        except MaftpError as error:
            self._say(str(error))
        self.parts["upload"].reset()

    def reject(self) -> None:
        """Answer a file that the browser does not even send."""
        self._say(TOO_LARGE)

    def choose(self, pixels: NDArray[np.uint8], words: str | None = None) -> None:
        """Show a picture, and words that fit it."""
        self.pixels = pixels
        if words is not None:
            self.parts["words"].value = words
        self.parts["picture"].set_source(Image.fromarray(pixels))
        self.parts["picture"].set_visibility(True)
        self.parts["overlay"].set_visibility(False)
        self.parts["table"].set_visibility(False)
        self._say("")

    async def segment(self) -> None:
        """Answer the button."""
        if self.pixels is None:
            self._say("drop a picture first, or choose an example")
            return
        self.parts["button"].disable()
        self.parts["spinner"].set_visibility(True)
        try:
            overlay, found = await run.io_bound(
                self.engine,
                self.pixels,
                self.parts["words"].value or "",
                panoptic=self.parts["panoptic"].value,
            )
            self._show(overlay, found)
        except MaftpError as error:
            self._say(str(error))
        finally:
            self.parts["spinner"].set_visibility(False)
            self.parts["button"].enable()

    def _show(self, overlay: str, found: Segmentation) -> None:
        self.parts["overlay"].set_source(overlay)
        self.parts["overlay"].set_visibility(True)
        self.parts["picture"].set_visibility(False)
        self.parts["table"].rows = [
            {
                "id": number,
                "class": region.name,
                "share": f"{region.area / found.labels.size:.1%}",
                "score": f"{region.score:.2f}",
            }
            for number, region in enumerate(found.regions)
        ]
        self.parts["table"].set_visibility(True)
        self._say("")

    def _say(self, text: str) -> None:
        self.parts["message"].set_text(text)


def serve(engine: Engine, *, host: str, port: int, show: bool) -> None:
    """Serve the page until interrupted.

    Args:
        engine: the model.
        host: address to listen on.
        port: of the address.
        show: open a browser.
    """
    examples = draw_examples(_EXAMPLES)
    app.add_middleware(UploadLimit)

    @ui.page("/")
    def page() -> None:
        _build(engine, examples)

    ui.run(
        host=host,
        port=port,
        title="maftp",
        favicon="🖼",
        show=show,
        reload=False,
        show_welcome_message=False,
    )


def _build(engine: Engine, examples: list[Example]) -> None:
    visit = _Visit(engine)
    parts = visit.parts
    with ui.column().classes("w-full max-w-5xl mx-auto p-4 gap-4"):
        ui.label("Segment a picture with your own words").classes("text-2xl")
        ui.label(f"Model: {engine.loaded.params.experiment}, {engine.loaded.weights}").classes(
            "text-sm text-gray-600"
        )
        with ui.row().classes("w-full gap-4 items-start"):
            parts["upload"] = ui.upload(
                label="Drop a picture here, or click +",
                auto_upload=True,
                max_file_size=MAX_BYTES,
                on_upload=visit.upload,
                on_rejected=visit.reject,
            ).props("accept=image/*")
            for number, example in enumerate(examples, start=1):
                button = ui.image(Image.fromarray(example.pixels)).classes("w-40 cursor-pointer")
                button.props(f'alt="example {number}"').mark(f"example{number}")
                button.on("click", lambda e=example: visit.choose(e.pixels, e.words))
        parts["words"] = ui.input(
            "Classes, separated by semicolons; synonyms by commas",
            value="sky; building, edifice; red car",
        ).classes("w-full")
        parts["words"].on("keydown.enter", visit.segment)
        with ui.row().classes("items-center gap-4"):
            parts["button"] = ui.button("Segment", on_click=visit.segment)
            parts["panoptic"] = ui.checkbox("separate segments")
            parts["spinner"] = ui.spinner(size="lg")
            parts["message"] = ui.label().classes("text-red-800").props('role="alert"')
        parts["picture"] = ui.image().classes("w-80").props('alt="picture"')
        parts["overlay"] = ui.image().classes("w-full").props('alt="overlay"')
        parts["table"] = ui.table(columns=_COLUMNS, rows=[], row_key="id")
        for name in ("spinner", "overlay", "table"):
            parts[name].set_visibility(False)


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an upload; a large picture is shrunk, for memory and for the way to the browser."""
    pixels = decode_picture(io.BytesIO(data), name=name, max_pixels=MAX_PIXELS)
    if max(pixels.shape) <= _SHOWN_SIDE:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return np.array(picture)


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


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


MAX_BYTES = 32 * 2**20
"""Of a file; a camera's JPEG has a third of it."""
MAX_PIXELS = 50_000_000
"""Of a picture; 150 MB decoded."""
_FORM_BYTES = 2**16  # what a browser sends around the file

TOO_LARGE = f"pictures of at most {MAX_BYTES >> 20} MB are taken; shrink it"


class UploadLimit:
    """ASGI middleware that ends a request as soon as its body is larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, *, limit: int = MAX_BYTES + _FORM_BYTES) -> None:
        """Wrap an application."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on; one that says, or shows, that it is too large is answered by 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit:
            await PlainTextResponse(TOO_LARGE, status_code=413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self._app(scope, counted, send)


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
