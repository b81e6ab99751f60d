"""A socket that listens, for the commands that serve."""

from __future__ import annotations

import errno
import socket

from fionalm.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, before anything is loaded: a taken port is found at once.

    Raises:
        UserError: the port is in use or no port, or the address is not this machine's.
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: expected 1 to 65535, or 0 for a free one")
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
        place.listen(128)
        return place
    except OSError as error:
        place.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use: expected a free one; --port 0 finds one") from error
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error
