"""How large a picture may be that is sent to the demo; checked before it is read or decoded."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maftp.apps.pictures import Picture, decode_picture

MAX_BYTES = 32 * 2**20
"""Of a file; a camera's JPEG has a third of it."""
MAX_PIXELS = 50_000_000
"""Of a picture; 150 MB decoded."""
TOO_LARGE = f"pictures of at most {MAX_BYTES >> 20} MB are taken; shrink it"

_FORM_BYTES = 2**16  # what a browser sends around the file
_SHOWN_SIDE = 2048


def decode_upload(data: bytes, name: str) -> Picture:
    """Decode an upload; a large picture is shrunk, for memory and for the way to the browser.

    Raises:
        DataError: it is no picture, or has too many pixels.
    """
    pixels = decode_picture(io.BytesIO(data), name=name, max_pixels=MAX_PIXELS)
    if max(pixels.shape) > _SHOWN_SIDE:
        picture = Image.fromarray(pixels)
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        pixels = np.array(picture)
    stem = re.sub(r"[^\w-]+", "_", Path(name).stem)[:80].strip("_")
    return Picture(stem or "picture", Path(name), pixels)


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
