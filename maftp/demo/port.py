"""Whether the page can be served where it is wanted."""

from __future__ import annotations

import socket

from maftp.errors import MaftpError


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
