"""The limit of bytes holds whatever a request says of itself."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from maftp.demo.limits import MAX_BYTES, UploadLimit

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
