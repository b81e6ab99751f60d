"""One Chromium process, spoken to over its DevTools pipe: found, started without network, ended, cleaned up after.

The process reads commands from file descriptor 3 and writes replies to 4, as JSON ended by a zero byte. A pipe needs
no port, answers faster than a web socket, and ends the browser when this process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fionalm.errors import UserError

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROFILE = "fiona-browser-"
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-startup-window",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=Translate,MediaRouter,OptimizationHints,AutofillServerCommunication,PaintHolding,"
    "DestroyProfileOnBrowserClose,InterestFeedContentSuggestions,CalculateNativeWinOcclusion,AcceptCHFrame",
    "--disable-gpu",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-quic",
    "--disable-renderer-backgrounding",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--block-new-web-contents",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--hide-scrollbars",
    "--lang=en-US",
    "--metrics-recording-only",
    "--mute-audio",
    "--password-store=basic",
    "--use-mock-keychain",
    "--unsafely-disable-devtools-self-xss-warnings",
)
SANDBOX_REFUSED = re.compile(r"no usable sandbox|without --no-sandbox|namespace sandbox|setuid sandbox", re.IGNORECASE)


class BrowserError(RuntimeError):
    """The browser failed: it does not start, or an operation of its own was refused."""


class BrowserLostError(BrowserError):
    """The browser process is gone: killed, crashed or closed."""


def find_chromium() -> str:
    """Return the browser's path: `CHROMIUM`, one on PATH, or the one that Playwright downloaded.

    Raises:
        UserError: there is none; the sentence names the packages and the commands that bring one.
    """
    given = os.environ.get("CHROMIUM")
    if given:
        found = shutil.which(given)
        if found is None:
            raise UserError(f"CHROMIUM={given!r} is no executable file: expected the path of a Chromium browser")
        return found
    for name in EXECUTABLES:
        if found := shutil.which(name):
            return found
    places = [os.environ.get("PLAYWRIGHT_BROWSERS_PATH"), "~/.cache/ms-playwright", "~/Library/Caches/ms-playwright"]
    for place in filter(None, places):
        for pattern in ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/*.app/Contents/MacOS/Chromium"):
            if own := sorted(Path(place).expanduser().glob(pattern)):
                return str(own[-1])
    raise UserError(
        "no Chromium browser on PATH, in CHROMIUM or among Playwright's: install the package 'chromium' "
        "(apt-get install chromium), or run `playwright install chromium`"
    )


def network_flags(hosts: Sequence[str] = ()) -> list[str]:
    """Return the flags that map every host but `hosts` to nothing, name or address, and every proxy likewise."""
    excluded = "".join(f", EXCLUDE {host}" for host in hosts)
    flags = [f"--host-resolver-rules=MAP * ~NOTFOUND{excluded}"]
    if not hosts:
        # Whatever does not ask the resolver asks the proxy, which the rule above maps to nothing; and without
        # "<-loopback>" Chromium goes past a proxy to this machine.
        flags += ["--proxy-server=socks5://nowhere.invalid:9", "--proxy-bypass-list=<-loopback>"]
    return flags


class Chromium:
    """A running browser process and its pipe.

    Args:
        executable: path of the browser; found when not given.
        hosts: the only hosts that pages may reach, such as `127.0.0.1`.
        flags: more command-line flags.
        timeout: seconds that it may take to answer first.

    Raises:
        BrowserError: it does not start; its own last words are quoted.
    """

    def __init__(
        self, executable: str | None = None, hosts: Sequence[str] = (), flags: Sequence[str] = (), timeout: float = 30.0
    ) -> None:
        self.executable = executable or find_chromium()
        self.pid = 0
        self._lock = threading.Lock()
        self._buffer = bytearray()
        remove_stale_profiles()
        sandbox = os.geteuid() != 0
        arguments = [*FLAGS, *network_flags(hosts), *flags]
        if not ample_shared_memory():
            arguments.append("--disable-dev-shm-usage")
        try:
            self._start(arguments if sandbox else [*arguments, "--no-sandbox"], timeout)
        except BrowserError as error:
            # Containers often forbid the namespaces that the sandbox is made of; elsewhere it stays on.
            if not sandbox or not SANDBOX_REFUSED.search(str(error)):
                raise
            self._start([*arguments, "--no-sandbox"], timeout)

    def _start(self, flags: Sequence[str], timeout: float) -> None:
        self.profile = Path(tempfile.mkdtemp(prefix=f"{PROFILE}{os.getpid()}-"))
        ours: list[int] = []
        theirs: list[int] = []
        try:
            read_end, write_end = os.pipe()
            ours.append(write_end)
            # Above 9, so that the copies to 3 and 4 in the child overwrite neither.
            theirs.append(fcntl.fcntl(read_end, fcntl.F_DUPFD_CLOEXEC, 10))
            os.close(read_end)
            read_end, write_end = os.pipe()
            ours.append(read_end)
            theirs.append(fcntl.fcntl(write_end, fcntl.F_DUPFD_CLOEXEC, 10))
            os.close(write_end)
            log = self.profile / "stderr.log"
            create = os.O_WRONLY | os.O_CREAT
            actions: list[tuple[Any, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(log), create, 0o600),
                (os.POSIX_SPAWN_DUP2, theirs[0], 3),
                (os.POSIX_SPAWN_DUP2, theirs[1], 4),
            ]
            command = [self.executable, *flags, f"--user-data-dir={self.profile}"]
            environment = {**os.environ, "TZ": "UTC", "LANG": "en_US.UTF-8"}
            self.pid = os.posix_spawn(self.executable, command, environment, file_actions=actions, setpgroup=0)
        except OSError as error:
            for descriptor in ours:
                os.close(descriptor)
            shutil.rmtree(self.profile, ignore_errors=True)
            raise BrowserError(f"cannot start {self.executable}: {error.strerror or error}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._write, self._read = ours
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._buffer.clear()
        self._first_answer(log, timeout)

    def _first_answer(self, log: Path, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with contextlib.suppress(BrowserLostError):
            self.send({"id": 0, "method": "Browser.getVersion"})
            while time.monotonic() < deadline:
                if any(message.get("id") == 0 for message in self.receive(deadline - time.monotonic())):
                    return
        words = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        told = next((line for line in reversed(words) if SANDBOX_REFUSED.search(line)), words[-1] if words else "")
        self.close()
        raise BrowserError(f"{self.executable} did not answer within {timeout:g} s{': ' + told if told else ''}")

    @property
    def alive(self) -> bool:
        """Whether the process is there and its pipe open."""
        return self.pid > 0

    def send(self, *messages: dict[str, Any]) -> None:
        """Write commands, in this order, in one go.

        Raises:
            BrowserLostError: the process is gone.
        """
        data = b"".join(json.dumps(message, separators=(",", ":")).encode() + b"\0" for message in messages)
        with self._lock:
            if not self.alive:
                raise BrowserLostError("the browser is gone")
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self._write, view) :]
                except BlockingIOError:
                    # The browser reads on a thread of its own: this is a matter of milliseconds.
                    select.select([], [self._write], [], 1.0)
                except OSError as error:
                    raise BrowserLostError("the browser is gone: its pipe is closed") from error

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """Return the messages that come within `timeout` seconds: the first ones, as soon as they are there.

        Raises:
            BrowserLostError: the process is gone.
        """
        if not self.alive:
            raise BrowserLostError("the browser is gone")
        if not self._poll.poll(max(0.0, timeout) * 1000):
            return []
        while True:
            try:
                chunk = os.read(self._read, 1 << 20)
            except BlockingIOError:
                break
            except OSError as error:
                raise BrowserLostError("the browser is gone: its pipe is closed") from error
            if not chunk:
                raise BrowserLostError("the browser is gone: its process ended")
            self._buffer += chunk
            if chunk.endswith(b"\0"):
                break
        whole, separator, rest = self._buffer.rpartition(b"\0")
        if not separator:
            return []
        self._buffer = bytearray(rest)
        return [json.loads(part) for part in whole.split(b"\0")]

    def close(self) -> None:
        """End the process and its children, and remove its profile; again is allowed."""
        with self._lock:
            pid, self.pid = self.pid, 0
            if not pid:
                return
            os.close(self._write)
            os.close(self._read)
            # Not politely: closing takes a second, and nothing of the profile is kept.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            remove_profile(self.profile)


def remove_profile(profile: Path) -> None:
    """Delete a profile folder whose last processes may still be writing into it."""
    for _ in range(20):
        shutil.rmtree(profile, ignore_errors=True)
        if not profile.exists():
            return
        time.sleep(0.02)


def remove_stale_profiles() -> None:
    """Delete profile folders of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PROFILE}*-*"):
        owner = folder.name.removeprefix(PROFILE).split("-")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            remove_profile(folder)
        except (ValueError, OSError):
            continue


def ample_shared_memory() -> bool:
    """Whether /dev/shm can hold pages' bitmaps: containers give it 64 MB, and pages crash."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return True
    return room.f_bavail * room.f_frsize >= 256 << 20
