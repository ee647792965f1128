"""What the page answers to uploads, in NiceGUI's simulation of a visitor: no browser is needed."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from nicegui import ui
from nicegui.elements.upload_files import FileUpload, SmallFileUpload
from nicegui.testing import user_simulation
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from maftp.api import load
from maftp.apps.demo import Page, check_free, draw_examples
from maftp.apps.demo_answer import Engine
from maftp.apps.demo_upload import MAX_BYTES, UploadLimit, decode_upload
from maftp.apps.words import parse_words
from maftp.errors import MaftpError


@pytest.fixture(scope="module")
def engine(weights):
    return Engine(load(weights))


def png(width: int, height: int, mode: str = "1") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


async def until(found: Callable[[], Any]) -> Any:
    """Return what is found as soon as it is there; the simulation raises where there is none."""
    for _ in range(1200):
        with suppress(AssertionError):
            if answer := found():
                return answer
        await asyncio.sleep(0.05)
    raise AssertionError("the page did not answer")


def answer(engine: Engine, upload: FileUpload, words: str | None = None) -> list[str]:
    """Return what the page says to a file, or the classes that it shows for it and the words."""

    async def visit() -> list[str]:
        async with user_simulation() as user:

            def shown(kind: type[ui.element]) -> list[Any]:
                return list(user.find(kind).elements)

            def message() -> list[str]:
                alerts = [label for label in shown(ui.label) if "role" in label.props]
                return [alert.text for alert in alerts if alert.text]

            ui.page("/")(lambda: Page([engine], [], {}))
            await user.open("/")
            with user:
                await shown(ui.upload)[0].handle_uploads([upload])
                if words is None:
                    return await until(message)
                await until(lambda: shown(ui.interactive_image))
                shown(ui.textarea)[0].value = words
                user.find(kind=ui.button, content="Segment").click()
                rows = await until(lambda: shown(ui.table)[0].rows)
                return [row["class"] for row in rows]

    return asyncio.run(visit())


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(engine):
    bomb = png(12_000, 9_000)
    assert len(bomb) < 40_000
    said = "bomb.png: 12000 x 9000 pixels, at most 50 million are taken; shrink it"
    assert [said] == answer(engine, SmallFileUpload("bomb.png", "image/png", bomb))


def test_a_file_of_many_bytes_is_refused_before_it_is_read(engine):
    class Huge(SmallFileUpload):
        def size(self) -> int:
            return MAX_BYTES + 1

        async def read(self) -> bytes:
            raise AssertionError("must not be read")

    said = "a.png: pictures of at most 32 MB are taken; shrink it"
    assert [said] == answer(engine, Huge("a.png", "image/png", b""))


def test_a_large_picture_is_shrunk_and_a_thin_one_keeps_a_pixel():
    for size, shown in (
        ((4096, 1024), (512, 2048)),
        ((9000, 2), (1, 2048)),
        ((2048, 9), (9, 2048)),
    ):
        assert decode_upload(png(*size), "a.png").pixels.shape == (*shown, 3)


def test_an_upload_s_name_becomes_a_file_s_name():
    for name, stem in (("../a b.png", "a_b"), ("ünï.jpg", "ünï"), ("..png", "picture")):
        assert decode_upload(png(2, 2), name).name == stem


def test_markup_in_words_and_names_stays_text(engine):
    named = SmallFileUpload("<b>bold</b>.png", "image/png", b"no picture")
    (said,) = answer(engine, named)
    assert said.startswith("<b>bold</b>.png: not an image")
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    sound = SmallFileUpload("a.png", "image/png", buffer.getvalue())
    markup = "<img src=x onerror=alert(1)>"
    assert answer(engine, sound, markup) == [markup]


def test_examples_come_with_words_that_fit():
    examples = draw_examples(3)
    assert len(examples) == 3
    for example in examples:
        assert example.pixels.shape == (192, 256, 3)
        assert len(parse_words(example.words, where="example")) >= 2
    assert draw_examples(1)[0].words == examples[0].words


LIMIT = 1000


async def take(request: Request) -> PlainTextResponse:
    async with request.form() as form:
        data = await form["file"].read()
    return PlainTextResponse(str(len(data)))


def post(size, *, declared, chunk=100):
    """Send a form with a file of `size` bytes; return status, answer and how much was read."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head + bytes(size) + b"\r\n--x--\r\n"
    parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    read, answer = [], []

    async def receive():
        read.append(parts[len(read)])
        return {"type": "http.request", "body": read[-1], "more_body": len(read) < len(parts)}

    async def send(message):
        answer.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    if declared is not None:
        headers.append((b"content-length", str(declared).encode()))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    app = Starlette(routes=[Route("/", take, methods=["POST"])])
    app.add_middleware(UploadLimit, limit=LIMIT)
    asyncio.run(app(scope, receive, send))
    text = b"".join(message.get("body", b"") for message in answer).decode()
    return answer[0]["status"], text, sum(map(len, read))


@pytest.mark.parametrize("declared", [None, "", "x", "-1", 5])
def test_bytes_are_counted_while_they_arrive(declared):
    assert post(700, declared=declared)[:2] == (200, "700")
    status, text, read = post(100_000, declared=declared)
    assert status == 413 and "shrink it" in text
    assert read <= LIMIT + 100


def test_a_request_that_says_it_is_too_large_is_not_read():
    assert post(100_000, declared=100_000)[::2] == (413, 0)


def test_a_camera_s_picture_passes():
    assert MAX_BYTES > 20_000_000


def test_a_taken_port_ends_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(MaftpError, match=f"--port {port}: .*choose another"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_an_address_of_another_machine():
    with pytest.raises(MaftpError, match="cannot be listened on"):
        check_free("192.0.2.1", 8080)  # reserved for documentation
