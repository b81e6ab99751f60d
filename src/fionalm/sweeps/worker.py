"""Calls trial functions: in this process, in a Ray task, or as the long-lived worker of `LocalExecutor`.

As a worker (`python -m fionalm.sweeps.worker`) it reads trials as JSON lines from standard input and answers
each with one line. It never imports the user's script, so a script that starts a sweep needs no
`if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from fionalm.errors import UserError, nearest

THREAD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
"""Has to be in the environment before torch is imported: its thread pools are sized then.

Tokenizers keep their threads: one worker encodes the corpus while the others wait for it.
"""


Message = dict[str, Any]
"""How a trial ended: `status` ("finished", "crashed" or "user_error"), `result`, `error`, `seconds`."""


def execute(function: str, config: dict[str, Any], *, single_thread: bool = False) -> Message:
    """Call a trial function and say how it ended, as JSON values; only Ctrl-C gets out as an exception."""
    started = time.perf_counter()
    try:
        call = _resolve(function)
        if single_thread and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        started = time.perf_counter()
        result = call(config)
        seconds = time.perf_counter() - started
        if not isinstance(result, dict):
            raise TypeError(f"{function} returned a {type(result).__name__}, expected a dict of JSON values")
        return {
            "status": "finished",
            "result": json.loads(json.dumps(result)),
            "error": None,
            "seconds": seconds,
        }
    except UserError as error:
        status, text = "user_error", str(error)
    except (Exception, SystemExit):
        status, text = "crashed", traceback.format_exc()
    return {"status": status, "result": None, "error": text, "seconds": time.perf_counter() - started}


def local_environment() -> dict[str, str]:
    """Return what a process on this machine needs: one thread, and to import what this process can."""
    return {**THREAD_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}


def crash(error: str) -> Message:
    """Return the message of a trial whose process cannot send one."""
    return {"status": "crashed", "result": None, "error": error, "seconds": 0.0}


def main() -> None:
    """Serve trials until standard input ends, which it also does when the sweep's process is killed."""
    faulthandler.enable()
    # Where memory runs out, the kernel should take a worker, whose trial is then a crash, not the sweep.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a trial prints goes to the log, not between the answers
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        trial = json.loads(requests.get())
        answers.write(json.dumps(execute(trial["function"], trial["config"], single_thread=True)) + "\n")
        answers.flush()


def _read_requests(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    # A thread of its own notices the end in the middle of a trial; its children go with it.
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _resolve(function: str) -> Callable[[dict[str, Any]], Any]:
    module_name, _, name = function.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import the trial function {function!r}: {error}") from error
    call = getattr(module, name, None)
    if not callable(call):
        names = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(f"module {module_name!r} has no function {name!r}{nearest(name, names)}")
    return call


if __name__ == "__main__":
    main()
