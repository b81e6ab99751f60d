"""The shop for people: what a browser gets, and the command that serves it."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from fionalm.web.serving import Response, make_server, served
from fionalm.web.webshop import open_shop
from fionalm.web.webshop.pages import Page
from fionalm.web.webshop.site import ShopSite

SHOP = open_shop(n_products=100)


def get(url: str) -> tuple[str, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(), answer.geturl()


def test_a_person_sees_what_html_observations_hold() -> None:
    with served(ShopSite(SHOP, seed=0)) as address:
        body, url = get(f"{address}/")
        start = SHOP.start(int(url.rsplit("/", 1)[1]))
        assert body == SHOP.observe(start, "html")
        body, url = get(f"{address}{start.url}?search_query=USB+Cable")
        results = Page(start.session, "search_results", ("usb", "cable"))
        assert (body, urlsplit(url).path) == (SHOP.observe(results, "html"), results.url)
        item = Page(start.session, "item_page", ("usb", "cable"), 1, SHOP.results(results)[0].asin)
        assert get(address + item.url)[0] == SHOP.observe(item, "html")
        assert get(f"{address}/style.css")[0].startswith("body {")
        assert get(f"{address}/picture/{item.asin}.svg")[0].startswith("<svg ")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/99999", "no goal '99999'"),
        ("/1/2/3", "no page at"),
        ("/picture/B9.svg", "no product 'B9'"),
        ("/done/1/B/7", "options 7"),
    ],
)
def test_wrong_addresses_say_why(path: str, message: str) -> None:
    with served(ShopSite(SHOP)) as address:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(address + path)
        with caught.value as error:
            assert error.code == 404
            assert message in error.read().decode()


def test_other_hosts_and_large_forms_are_refused() -> None:
    with served(ShopSite(SHOP)) as address:
        place = urlsplit(address)
        connection = http.client.HTTPConnection(place.netloc, timeout=10)
        connection.request("GET", "/1", headers={"Host": "shop.example:80"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (403, b"this server answers its own machine alone")
        connection.request("POST", "/1", body=b"", headers={"Content-Length": str(1 << 21)})
        assert connection.getresponse().status == 413
        connection.close()
        with urllib.request.urlopen(f"{address}/1", timeout=10) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_forms_in_a_body_count() -> None:
    class Echo:
        def respond(self, path: str, query: object) -> Response:
            return Response(f"{path} {query}", "text/plain")

    with served(Echo()) as address, urllib.request.urlopen(f"{address}/a%2Fb?x=1", b"y=2&y=3", timeout=10) as answer:
        assert answer.read() == b"/a%2Fb {'x': '1', 'y': '3'}"


def test_closing_the_server_frees_its_port() -> None:
    place = socket.create_server(("127.0.0.1", 0))
    port = place.getsockname()[1]
    make_server(ShopSite(SHOP), place).server_close()
    socket.create_server(("127.0.0.1", port)).close()


def test_the_command_serves_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "fionalm.cli", "web", "serve", "webshop", "--products", "60", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("webshop (60 products, 240 goals) is served at http://127.0.0.1:"), process.stderr.read()
        address = line.split(" at ")[1].split("/,")[0]
        assert "Instruction:" in get(f"{address}/3")[0]
        port = urlsplit(address).port
        again = subprocess.run([*command[:-1], str(port)], capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr.strip()) == (
            2,
            f"fiona: port {port} is in use: expected a free one; --port 0 finds one",
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout.read() == "stopped\n"
