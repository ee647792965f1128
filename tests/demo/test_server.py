"""The server as it is started by the command; no browser is needed."""

import urllib.error
import urllib.request

import pytest

from tests.demo.test_page import address  # noqa: F401
from tests.prediction.conftest import weights  # noqa: F401


@pytest.mark.slow
def test_a_request_of_many_bytes_is_ended(address):  # noqa: F811
    request = urllib.request.Request(address, data=bytes(33 << 20), method="POST")
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request, timeout=30)
