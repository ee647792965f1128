import socket

import pytest

from maftp.demo.port import check_free
from maftp.errors import MaftpError


def test_a_taken_port_ends_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(MaftpError, match=f"--port {port}: .*choose another"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_an_address_of_another_machine():
    with pytest.raises(MaftpError, match="cannot be listened on"):
        check_free("192.0.2.1", 8080)  # reserved for documentation
