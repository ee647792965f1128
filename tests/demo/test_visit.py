"""What the page answers to uploads, in NiceGUI's simulation of a visitor: no browser is needed."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
from nicegui import ui
from nicegui.elements.upload_files import FileUpload, SmallFileUpload
from nicegui.testing import user_simulation
from PIL import Image

from maftp.api import load
from maftp.demo.limits import MAX_BYTES
from maftp.demo.page import Engine, _build, _decode


@pytest.fixture(scope="module")
def engine(weights):
    return Engine(load(weights))


def png(width: int, height: int, mode: str = "1") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def answer(engine: Engine, *steps: str | FileUpload) -> list[str]:
    """Upload files and type words, segment, and return all texts of the page."""

    async def visit() -> list[str]:
        async with user_simulation() as user:
            ui.page("/")(lambda: _build(engine, []))
            await user.open("/")
            with user:
                upload = next(iter(user.find(ui.upload).elements))
                for step in steps:
                    if isinstance(step, FileUpload):
                        await upload.handle_uploads([step])
                        await asyncio.sleep(0.5)
                    else:
                        next(iter(user.find(ui.input).elements)).value = step
                        user.find(ui.button).click()
                        await asyncio.sleep(3)
                labels = [label.text for label in user.find(ui.label).elements]
                table = next(iter(user.find(ui.table).elements), None) if len(steps) > 1 else None
                return labels + [row["class"] for row in (table.rows if table else [])]

    return asyncio.run(visit())


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(engine):
    bomb = png(12_000, 9_000)
    assert len(bomb) < 40_000
    said = "bomb.png: 12000 x 9000 pixels, at most 50 million are taken; shrink it"
    assert said in answer(engine, SmallFileUpload("bomb.png", "image/png", bomb))


def test_a_file_of_many_bytes_is_refused_before_it_is_read(engine):
    class Huge(SmallFileUpload):
        def size(self) -> int:
            return MAX_BYTES + 1

        async def read(self) -> bytes:
            raise AssertionError("must not be read")

    said = "a.png: pictures of at most 32 MB are taken; shrink it"
    assert said in answer(engine, Huge("a.png", "image/png", b""))


def test_a_large_picture_is_shrunk_and_a_thin_one_keeps_a_pixel():
    for size, shown in (
        ((4096, 1024), (512, 2048)),
        ((9000, 2), (1, 2048)),
        ((2048, 9), (9, 2048)),
    ):
        assert _decode(png(*size), "a.png").shape == (*shown, 3)


def test_markup_in_words_and_names_stays_text(engine):
    named = SmallFileUpload("<b>bold</b>.png", "image/png", b"no picture")
    assert any(text.startswith("<b>bold</b>.png: not an image") for text in answer(engine, named))
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    sound = SmallFileUpload("a.png", "image/png", buffer.getvalue())
    markup = "<img src=x onerror=alert(1)>"
    assert answer(engine, sound, markup)[-1] == markup
