"""The worker process of `ProgramVerifier`: runs one program at a time, each in a sandbox of its own.

    python -m fionalm.verifiers.program_worker

The next sandbox is started while this process is idle, so that a program finds its interpreter waiting.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from fionalm.errors import UserError
from fionalm.verifiers.pool import HEADER
from fionalm.verifiers.rpc import LONGEST_FRAME, dump, load
from fionalm.verifiers.sandbox import Limits, Sandbox, SandboxError, adopt_orphans, check_bubblewrap, prepare

LOOK_SECONDS = 0.01
"""How often the memory of a running program is summed up."""


@dataclass
class _Run:
    """One program's run, as far as it has come."""

    job: dict[str, Any]
    limits: Limits
    frames: list[bytes]
    """What the harness is still to be sent; a case's input follows the last case's end."""
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""))
    report: bytearray = field(default_factory=bytearray)
    output: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    result: tuple[str, str] | None = None
    case: int = 0
    case_start: int = 0


def run(sandbox: Sandbox, job: dict[str, Any], limits: Limits, parent: int) -> dict[str, Any]:
    """Run a job in a sandbox that is ready, and kill the sandbox.

    Raises:
        EOFError: the descriptor `parent` was closed meanwhile.
    """
    frames = [dump({"kind": job["kind"], "program": job["program"]})]
    if job["kind"] == "functions":
        frames.append(dump({name: job[name] for name in ("prelude", "sources", "entry_point")}))
    else:
        frames.append(dump(job["cases"][0]["input"]))
    state = _Run(job, limits, [], memoryview(b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)))
    started = time.monotonic()
    try:
        _watch(sandbox, state, started + limits.timeout, parent)
        seconds = time.monotonic() - started
    finally:
        sandbox.kill()
    for index in (0, 1):
        _drain(sandbox.output[index], state.output[index], limits.output_kb << 10)
    sandbox.close()
    outcome, detail = state.result or ("error", "the tests' process ended")
    texts = [bytes(data[: limits.output_kb << 10]).decode("utf-8", "backslashreplace") for data in state.output]
    return {"outcome": outcome, "detail": detail, "stdout": texts[0], "stderr": texts[1], "seconds": seconds}


def _watch(sandbox: Sandbox, state: _Run, deadline: float, parent: int) -> None:
    """Exchange messages until the job has a result, or broke a limit."""
    poll = select.poll()
    readable = {sandbox.report: 0, sandbox.output[0]: 1, sandbox.output[1]: 2, parent: 3}
    for descriptor in readable:
        poll.register(descriptor, select.POLLIN)
    writing, looked = False, time.monotonic()
    while state.result is None:
        if bool(state.outgoing) != writing:
            writing = bool(state.outgoing)
            (poll.register(sandbox.jobs, select.POLLOUT) if writing else poll.unregister(sandbox.jobs))
        for descriptor, events in poll.poll(LOOK_SECONDS * 1000):
            if descriptor == sandbox.jobs:
                state.outgoing = _send(descriptor, state.outgoing)
            elif descriptor == parent:
                if events & (select.POLLHUP | select.POLLERR) or not os.read(parent, 1):
                    raise EOFError
            elif descriptor == sandbox.report:
                data = os.read(descriptor, 1 << 16)
                state.report += data
                if not data:
                    state.result = ("error", "the tests' process ended")
                _messages(sandbox, state)
            else:
                which = readable[descriptor] - 1
                if not _drain(descriptor, state.output[which], state.limits.output_kb << 10):
                    poll.unregister(descriptor)
                if len(state.output[which]) > state.limits.output_kb << 10 and state.result is None:
                    state.result = ("output", f"over {state.limits.output_kb} KiB of output")
        now = time.monotonic()
        if state.result is None and now > deadline:
            state.result = ("timeout", f"over {state.limits.timeout:g} seconds")
        if state.result is None and now - looked >= LOOK_SECONDS:
            looked = now
            if sandbox.memory_mb() > state.limits.memory_mb:
                state.result = ("memory", f"over {state.limits.memory_mb} MiB")


def _messages(sandbox: Sandbox, state: _Run) -> None:
    """Act on the harness's whole messages."""
    while len(state.report) >= 4 and state.result is None:
        size = int.from_bytes(state.report[:4], "little")
        if size > LONGEST_FRAME or len(state.report) < 4 + size:
            return
        kind, outcome, detail = load(bytes(state.report[4 : 4 + size]))
        del state.report[: 4 + size]
        if kind == "end":
            state.result = (outcome, detail)
            return
        _drain(sandbox.output[0], state.output[0], state.limits.output_kb << 10)
        expected = state.job["cases"][state.case]["output"]
        printed = bytes(state.output[0][state.case_start :]).decode("utf-8", "backslashreplace")
        if outcome != "exit status 0":
            state.result = ("error", f"test {state.case}: {outcome}")
        elif expected is not None and not same_output(printed, expected):
            state.result = ("failed", f"test {state.case}: printed {printed[:200]!r}, expected {expected[:200]!r}")
        else:
            state.case += 1
            state.case_start = len(state.output[0])
            left = state.case < len(state.job["cases"])
            if not left:
                state.result = ("passed", f"{state.case} tests")
                return
            frame = dump(state.job["cases"][state.case]["input"])
            state.outgoing = memoryview(len(frame).to_bytes(4, "little") + frame)


def same_output(printed: str, expected: str) -> bool:
    """Compare outputs line by line without trailing spaces, and numbers with a decimal point to a relative 1e-6."""
    if printed.split() == expected.split():
        return [line.split() for line in printed.split("\n") if line.strip()] == [
            line.split() for line in expected.split("\n") if line.strip()
        ]
    ours, theirs = printed.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_token, ours, theirs))


def _same_token(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    try:
        one, other = float(printed), float(expected)
    except ValueError:
        return False
    return "." in expected and abs(one - other) <= 1e-6 * max(1.0, abs(other))


def _send(descriptor: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return memoryview(b"")


def _drain(descriptor: int, data: bytearray, limit: int) -> bool:
    """Read what is there, at most a little over the limit; return False at the end."""
    while len(data) <= limit:
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if not part:
            return False
        data += part
    return True


def serve(channel: socket.socket) -> None:
    """Run jobs until the other end closes."""

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        channel.sendall(HEADER.pack(len(data)) + data)

    def receive() -> dict[str, Any] | None:
        data = b""
        while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[0]:
            part = channel.recv(1 << 20)
            if not part:
                return None
            data += part
        return json.loads(data[HEADER.size :])

    isolated = json.loads(sys.argv[1])["isolated"]
    limits = Limits(**json.loads(sys.argv[1])["limits"])
    try:
        if isolated:
            check_bubblewrap()
            prepare()
        else:
            adopt_orphans()
        spare = Sandbox(limits, isolated=isolated)
        spare.wait_ready(limits)
    except (UserError, SandboxError, OSError) as error:
        send({"refused": str(error) if isinstance(error, UserError) else f"bubblewrap cannot start a sandbox: {error}"})
        return
    send({"ready": True})
    ready = True
    while (job := receive()) is not None:
        try:
            if not ready:
                spare.wait_ready(limits)
            ready = False
            result = run(spare, job, limits, channel.fileno())
        except EOFError:
            return
        except (SandboxError, OSError, ValueError) as error:
            result = {"outcome": "broken", "detail": f"{type(error).__name__}: {error}"}
        send(result)
        spare = Sandbox(limits, isolated=isolated)
    spare.kill()


def arguments(limits: Limits, *, isolated: bool) -> list[str]:
    """Return the command that starts a worker."""
    options = json.dumps({"isolated": isolated, "limits": asdict(limits)})
    return [sys.executable, "-m", "fionalm.verifiers.program_worker", options]


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()))
