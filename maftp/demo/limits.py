"""How large an upload may be: bytes while they arrive, pixels before they are decoded."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
