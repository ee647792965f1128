"""The server as it is started by the command; no browser is needed."""

import http.client
from urllib.parse import urlsplit

import pytest

from tests.apps.test_demo_page import address  # noqa: F401


@pytest.mark.slow
def test_a_request_of_many_bytes_is_answered_before_it_is_sent(address):  # noqa: F811
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(33 << 20))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.read()) == (
        413,
        b"pictures of at most 32 MB are taken; shrink it",
    )
