"""Pages of this room for a person's browser: a site answers requests, a server on this machine carries them.

    run_site(ShopSite(open_shop()), socket.create_server(("127.0.0.1", 8000)))

Pages may load nothing from other hosts, and requests that were meant for another host's name are refused.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from fionalm.errors import UserError

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'self'"
HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
LARGEST_BODY = 1 << 20


@dataclass(frozen=True)
class Response:
    """What a site answers."""

    body: str | bytes = ""
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def redirect(url: str) -> Response:
    """Return an answer that sends the browser to `url`."""
    return Response(status=303, headers={"Location": url})


class Site(Protocol):
    """Anything that answers requests; it is called by several threads."""

    def respond(self, path: str, query: Mapping[str, str]) -> Response:
        """Answer a request.

        Args:
            path: the URL's path, as sent (percent-encoded).
            query: the form's fields, from the URL or the body.

        Raises:
            ValueError: nothing is at this address.
            UserError: the same, with a sentence for the reader.
        """
        ...


def make_server(site: Site, place: socket.socket) -> ThreadingHTTPServer:
    """Return a server of `site` at a listening socket, not yet running; closing it closes the socket."""
    address = place.getsockname()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = place.family

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            self._answer(dict(_fields(urlsplit(self.path).query)))

        def do_HEAD(self) -> None:
            self._answer(dict(_fields(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal() or int(length) > LARGEST_BODY:
                self.close_connection = True
                self._send(Response("the form is too large", "text/plain", 413))
                return
            body = self.rfile.read(int(length)).decode("utf-8", "replace")
            self._answer({**_fields(urlsplit(self.path).query), **_fields(body)})

        def _answer(self, query: dict[str, str]) -> None:
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOSTS:
                self._send(Response("this server answers its own machine alone", "text/plain", 403))
                return
            try:
                response = site.respond(urlsplit(self.path).path, query)
            except (UserError, ValueError) as error:
                response = Response(f"{error}\n", "text/plain; charset=utf-8", 404)
            self._send(response)

        def _send(self, response: Response) -> None:
            body = response.body.encode() if isinstance(response.body, str) else response.body
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: a terminal full of requests hides the address."""

    server = Server(address, Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = place
    server.server_address = address
    server.server_name, server.server_port = str(address[0]), int(address[1])
    return server


def run_site(site: Site, place: socket.socket) -> None:
    """Serve `site` at a listening socket until Ctrl-C."""
    with make_server(site, place) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.1)


@contextlib.contextmanager
def served(site: Site) -> Iterator[str]:
    """Serve `site` at a free port of this machine while the block runs, and give its address."""
    place = socket.create_server(("127.0.0.1", 0))
    with make_server(site, place) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def json_response(value: Any) -> Response:
    """Return `value` as JSON."""
    return Response(json.dumps(value), "application/json")


def _fields(encoded: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(encoded, keep_blank_values=True).items()}
