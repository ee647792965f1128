"""Move one file from its address to the disk: resumed, retried, past a confirmation page.

Some hosts (Google Drive) answer for a large file with a page that says it was not searched for
viruses; the form on that page leads to the file.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urljoin, urlsplit

import requests
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from maftp.data.catalog import Obtainable
from maftp.errors import DownloadError
from maftp.files import link_or_copy

logger = logging.getLogger(__name__)

_NETWORK_CHUNK = 1 << 16  # what is lost when a connection breaks
_PAGE_BYTES = 1 << 20
_TIMEOUT = (15, 60)
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _TryAgainError(Exception):
    """The connection broke, or the server is busy."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an address is tried again."""

    attempts: int = 6
    """Attempts in a row without one new byte."""
    longest_wait: float = 60.0
    """Seconds; the wait doubles from one."""


def transfer(url: str, part: Path, source: Obtainable, retries: RetryPolicy) -> None:
    """Bring what is at `url` to `part`; what is there of it already is not moved again.

    Raises:
        DownloadError: the address does not answer with the file, or the disk is too small.
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        take_local(Path(unquote(urlsplit(url).path)), part)
    elif scheme in ("http", "https"):
        _from_web(url, part, source, retries)
    else:
        raise DownloadError(f"{url}: cannot be fetched, use http, https or file")


def take_local(path: Path, part: Path) -> None:
    """Link or copy a file of this machine to `part`.

    Raises:
        DownloadError: there is no such file.
    """
    if not path.is_file():
        raise DownloadError(f"{path}: no such file")
    with full_disk_named(part):
        check_space(part.parent, 0, part.name)
        part.unlink(missing_ok=True)
        link_or_copy(path, part)


def tag_path(part: Path) -> Path:
    """Return where the server's name for the version of `part` is kept."""
    return part.with_name(f"{part.name}.etag")


def _from_web(url: str, part: Path, source: Obtainable, retries: RetryPolicy) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(_TryAgainError),
        stop=_without_progress(part, retries.attempts),
        wait=wait_random_exponential(multiplier=1, max=retries.longest_wait),
        before_sleep=_say_again,
        reraise=True,
    )
    try:
        retrying(_stream, url, part, source)
    except _TryAgainError as error:
        raise DownloadError(f"{url}: {error}") from None


def _without_progress(part: Path, attempts: int) -> Callable[[RetryCallState], bool]:
    """Stop after so many attempts in a row that added nothing to `part`."""
    idle = 0
    largest = _size(part)

    def stop(state: RetryCallState) -> bool:
        nonlocal idle, largest
        size = _size(part)
        idle = idle + 1 if size <= largest else 0
        largest = max(size, largest)
        return idle >= attempts

    return stop


def _say_again(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0.0
    logger.warning("%s; trying again in %.0f s", error, seconds)


def _stream(url: str, part: Path, source: Obtainable) -> None:
    """Append what is missing of `part`, by way of at most one confirmation page."""
    try:
        with requests.Session() as session:  # the page may set a cookie that the file asks for
            form = _request(session, url, {}, part, source)
            if form is not None:
                logger.info("%s: confirming that the file is wanted unscanned", url)
                again = _request(session, form.action, form.fields, part, source)
                if again is not None:
                    raise DownloadError(f"{url}: asks for confirmation again and again")
    except requests.RequestException as error:
        raise _TryAgainError(f"connection failed ({type(error).__name__})") from None


def _request(
    session: requests.Session, url: str, fields: dict[str, str], part: Path, source: Obtainable
) -> ConfirmationForm | None:
    """Receive the file, or return the form of the page that came in its place.

    Begins anew when the server's file is another one than the one `part` was begun with.
    """
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag_path(part).exists():
            headers["If-Range"] = tag_path(part).read_text()
    with session.get(
        url, params=fields, headers=headers, stream=True, timeout=_TIMEOUT
    ) as response:
        status = response.status_code
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return None  # all of it was there already
            part.unlink()
            raise _TryAgainError(f"{url}: what was there of {part.name} does not belong to it")
        if status in _TRANSIENT:
            raise _TryAgainError(f"answers {status} {response.reason}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise DownloadError(f"{url}: answers {status} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            return _confirmation(response, source)
        _append(response, part, have if status == HTTPStatus.PARTIAL_CONTENT else 0, source)
    return None


def _append(response: requests.Response, part: Path, have: int, source: Obtainable) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else source.bytes
    with full_disk_named(part):
        check_space(part.parent, (total or 0) - have, source.file)
        entity = response.headers.get("ETag", "")
        if entity and not entity.startswith("W/"):  # a weak tag cannot vouch for a range
            tag_path(part).write_text(entity)
        else:
            tag_path(part).unlink(missing_ok=True)
        with (
            open(part, "ab" if have else "wb") as file,
            Meter(source.file, total=total, done=have) as meter,
        ):
            try:
                for chunk in response.iter_content(_NETWORK_CHUNK):
                    file.write(chunk)
                    meter.add(len(chunk))
            except requests.RequestException:
                if total is None:  # nothing else tells that something is missing
                    raise
    if total is not None and _size(part) < total:
        raise _TryAgainError(f"connection closed after {_size(part)} of {total} bytes")


@dataclass(slots=True)
class ConfirmationForm:
    """A form that leads to the file: where it goes and its fields."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


def _confirmation(response: requests.Response, source: Obtainable) -> ConfirmationForm:
    """Find the form on a page that came in place of a file.

    Raises:
        DownloadError: it has none; names the page's title, which often tells why.
    """
    page = _Page()
    page.feed(response.raw.read(_PAGE_BYTES, decode_content=True).decode("utf-8", "replace"))
    for form in page.forms:
        action = urljoin(response.url, form.action)
        downgraded = urlsplit(response.url).scheme == "https" and not action.startswith("https:")
        if "confirm" in form.fields and urlsplit(action).scheme in ("http", "https"):
            if not downgraded:
                return ConfirmationForm(action, form.fields)
    title = " ".join(page.title.split())
    raise DownloadError(
        f"{response.url}: answers with a web page{f' ({title!r})' if title else ''} instead of"
        f" {source.file}"
    )


class _Page(HTMLParser):
    """Collects a page's title and its forms that are sent as a query."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.forms: list[ConfirmationForm] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and found.get("method", "get").lower() == "get":
            self.forms.append(ConfirmationForm(found.get("action", "")))
        if tag in ("form", "title"):
            self._inside = tag
        if tag == "input" and self._inside == "form" and self.forms and found.get("name"):
            self.forms[-1].fields[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


_SPARE_BYTES = 64 << 20


class FullDiskError(DownloadError):
    """There is no room, or it ran out."""


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes and a little more are free where `folder` lies.

    Raises:
        FullDiskError: they are not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise FullDiskError(
            f"{what}: needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; make"
            " room, or choose another folder with $DETECTRON2_DATASETS or data.root"
        )


@contextmanager
def full_disk_named(what: Path | str) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, into a sentence about `what`.

    Raises:
        FullDiskError: the disk became full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FullDiskError(
            f"{what}: the disk is full; make room and run this again, it goes on where it stopped"
        ) from None


_SECONDS_BETWEEN_LINES = 10.0
_WORTH_A_BAR = 32 << 20


class Meter:
    """Shows how many bytes of `total` are there; use it as a context manager.

    Args:
        description: what is transferred.
        total: bytes in all, None when unknown.
        done: bytes that were there before.
    """

    def __init__(self, description: str, *, total: int | None, done: int = 0) -> None:
        self.description = description
        self.total = total
        self.done = self._start_done = done
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty() and (self.total or _WORTH_A_BAR) >= _WORTH_A_BAR:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.description, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Count `count` more bytes."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        speed = (self.done - self._start_done) / (now - self._start)
        line = f"{self.description}: {decimal(self.done)}, {decimal(int(speed))}/s"
        if self.total and speed:
            line += f", {(self.total - self.done) / speed:.0f} s left of {decimal(self.total)}"
        return line
