"""What runs inside a sandbox: the tests in its first process, the program in another that they talk to over pipes.

The first process (process 1 of the sandbox, which nothing inside can kill) reads the program, forks, and only then
reads the tests. So the program never holds the tests, their expected values, or the pipe that reports their outcome;
nor can it look into the first process, which is not dumpable. What the tests call is a stand-in that sends arguments
as plain data and gets plain data back: comparing and asserting happen where the program cannot reach. `rpc.py` is that
part. The kernel's word for "not dumpable": no ptrace, no /proc/1/mem, no /proc/1/fd for others.

This file and `rpc.py` are compiled once, sent over a pipe, and run by an interpreter that has imported nothing: a
module more would cost each program milliseconds, hence `posix` for `os`.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes as long as starting the interpreter
    from typing import Any

    from fionalm.verifiers.rpc import GoneError, Peer, dump, load, read_frame, write_frame

PR_SET_DUMPABLE = 4
SIGKILL = 9
PROGRAM = "program"


def main(jobs: int, report: int) -> None:
    """Serve one job: read from the descriptor `jobs`, report to the descriptor `report`."""
    # Nothing may be imported from where the program can write.
    sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
    _be_killed_first()
    _hide()
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # which the first process of a sandbox never gets from inside
    write_frame(report, dump("ready"))
    job = load(read_frame(jobs))
    if job["kind"] == "functions":
        outcome = _functions(job["program"], jobs, report)
    else:
        outcome = _scripts(job["program"], jobs, report)
    _flush()
    write_frame(report, dump(("end", *outcome)))
    posix._exit(0)


def _functions(program: str, jobs: int, report: int) -> tuple[str, str]:
    """Run tests that call the program's functions; return the outcome and why."""
    to_program, from_program = posix.pipe(), posix.pipe()
    child = posix.fork()
    if child == 0:
        for descriptor in (jobs, report, to_program[1], from_program[0]):
            posix.close(descriptor)
        _serve_program(to_program[0], from_program[1])
    posix.close(to_program[0])
    posix.close(from_program[1])
    peer = Peer(from_program[0], to_program[1])
    tests = load(read_frame(jobs))
    try:
        peer.request("load", program)
    except GoneError as error:
        return "error", f"the program ended before the tests ran: {_end_of(child, error)}"
    except BaseException as error:
        return "error", _describe(error)
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        if tests["prelude"]:
            exec(compile(tests["prelude"], "<prompt>", "exec"), namespace)
        codes = [compile(source, f"<test {index}>", "exec") for index, source in enumerate(tests["sources"])]
        if tests["entry_point"] and any("check" in code.co_names for code in codes):
            codes.append(compile("check(candidate)", "<test check>", "exec"))
    except BaseException as error:
        return "broken_tests", _describe(error)
    for number, code in enumerate(codes):
        try:
            _bind(code, namespace, peer)
            if tests["entry_point"] and "candidate" not in namespace:
                namespace["candidate"] = peer.request("resolve", tests["entry_point"])
            exec(code, namespace)
        except GoneError as error:
            return "error", f"the program ended during the tests: {_end_of(child, error)}"
        except AssertionError as error:
            return "failed", f"test {number}: {_describe(error)}, {_where(error)}"
        except BaseException as error:
            return (
                "error" if peer.raised is error else "failed"
            ), f"test {number}: {_describe(error)}, {_where(error)}"
    return "passed", f"{len(codes)} tests"


def _bind(code: Any, namespace: dict[str, Any], peer: Peer) -> None:
    """Give the tests the program's names that they use. Builtins, and what tests define, stay what they are."""
    builtins = sys.modules["builtins"].__dict__
    for name in sorted(_names(code)):
        if name in namespace or name in builtins or name.startswith("__"):
            continue
        kind, value = peer.request("describe", name)
        if kind == "module" and value.split(".")[0] in sys.stdlib_module_names:
            __import__(value)
            namespace[name] = sys.modules[value]
        elif kind == "exception":
            namespace[name] = peer.exception_class(value)
        elif kind == "value":
            namespace[name] = value


def _names(code: Any) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= _names(constant)
    return names


def _serve_program(incoming: int, outgoing: int) -> None:
    """In the program's process: answer the tests' calls. Nothing in here decides anything."""
    namespace = _module(PROGRAM)
    try:
        Peer(incoming, outgoing, namespace, settle=_flush).serve()
    except GoneError:
        pass
    finally:
        _flush()
        posix._exit(1)


def _scripts(program: str, jobs: int, report: int) -> tuple[str, str]:
    """Run the program once for each standard input; the outputs are judged outside."""
    cases = 0
    while True:
        case = load(read_frame(jobs))
        if case is None:
            return "ran", f"{cases} runs"
        readable, writable = posix.pipe()
        child = posix.fork()
        if child == 0:
            for descriptor in (jobs, report, writable):
                posix.close(descriptor)
            posix.dup2(readable, 0)
            posix.close(readable)
            _run_script(program)
        posix.close(readable)
        feeder = posix.fork()  # the program may print before it reads: neither may wait for the other
        if feeder == 0:
            _feed(writable, case.encode("utf-8", "surrogatepass"))
        posix.close(writable)
        status = posix.waitpid(child, 0)[1]
        _clear(feeder)
        cases += 1
        write_frame(report, dump(("case", _status(status), "")))


def _run_script(program: str) -> None:
    code = 0
    try:
        exec(compile(program, "<program>", "exec"), _module("__main__"))
    except SystemExit as error:
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        _flush()
    finally:
        posix._exit(code & 0xFF)


def _module(name: str) -> dict[str, Any]:
    """Return the namespace of a new module in `sys.modules`, with what `site` would have added to the builtins."""

    def leave(code: Any = None) -> None:
        raise SystemExit(code)

    module = type(sys)(name)
    sys.modules[name] = module
    sys.modules["builtins"].__dict__.update(exit=leave, quit=leave)
    return module.__dict__


def _feed(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[posix.write(descriptor, data) :]
    finally:
        posix._exit(0)


def _clear(feeder: int) -> None:
    """Kill what a run left behind, so that it cannot meddle with the next."""
    posix.kill(-1 if posix.getpid() == 1 else feeder, SIGKILL)
    try:
        while True:
            posix.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _hide() -> None:
    """Make this process one that others of the same user cannot look into.

    Raises:
        OSError: the kernel refuses.
    """
    import _ctypes  # what the ctypes package is built on, without the ten milliseconds of importing that

    itself = _ctypes.dlopen(None, 0)  # pyright: ignore[reportArgumentType]
    prctl = _ctypes.dlsym(itself, "prctl")
    if _ctypes.call_function(prctl, (PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


def _be_killed_first() -> None:
    try:
        descriptor = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
        posix.write(descriptor, b"1000")
        posix.close(descriptor)
    except OSError:
        pass


def _end_of(child: int, error: BaseException) -> str:
    # If its process lives on, it has closed the pipe or spoilt it, which counts the same.
    pid, status = posix.waitpid(child, posix.WNOHANG)
    return _status(status) if pid else str(error)


def _status(status: int) -> str:
    return f"signal {status & 0x7F}" if status & 0x7F else f"exit status {status >> 8}"


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__[:100]}: {text[:500]}" if text else type(error).__name__[:100]


def _where(error: BaseException) -> str:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<test "):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # the program may have put anything in its place, and closed it
            continue
