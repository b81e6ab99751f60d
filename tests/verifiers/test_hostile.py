"""Programs that attack: each is contained, none passes, and nothing of it is left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fionalm.verifiers import ProgramResult, ProgramVerifier

GOOD = "def f(x):\n    return 2 * x\n"
BAD = "def f(x):\n    return 7\n"
TEST = "assert f(2) == 4"
MEMORY_MB = 200


@pytest.fixture(scope="module")
def verifier() -> Iterator[ProgramVerifier]:
    with ProgramVerifier(timeout=3.0, memory_mb=MEMORY_MB, workers=2) as opened:
        yield opened


def run(verifier: ProgramVerifier, program: str) -> ProgramResult:
    """Run a program, then see that the sandbox's processes are gone and that the next program is judged as ever."""
    started = time.monotonic()
    result = verifier.run([program], [TEST])[0]
    assert time.monotonic() - started < 30
    assert sandboxed_processes(verifier) <= 2 * 2  # bubblewrap and the interpreter of each worker's next sandbox
    after = verifier.run([GOOD, BAD], [TEST, TEST])
    assert [one.outcome for one in after] == ["passed", "failed"]
    return result


def sandboxed_processes(verifier: ProgramVerifier) -> int:
    pids = [worker.process.pid for worker in verifier._pool._all]
    workers = len(pids)
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pids += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return len(pids) - workers


NEVER_PASS = {
    "sys.exit(0) before the tests": (
        """
import sys
sys.exit(0)
""",
        "error",
    ),
    "os._exit(0) before the tests": (
        """
import os
os._exit(0)
""",
        "error",
    ),
    "sys.exit(0) in the function": (
        """
import sys
def f(x): sys.exit(0)
""",
        "error",
    ),
    "os._exit(0) in the function": (
        """
import os
def f(x): os._exit(0)
""",
        "error",
    ),
    "os._exit(0) at exit": (
        """
import atexit, os
atexit.register(os._exit, 0)
"""
        + BAD,
        "failed",
    ),
    "the pass marker printed": (
        """
import sys
for stream in (sys.stdout, sys.stderr):
    print('passed', 'end', '1 tests', 'OK', file=stream, flush=True)
"""
        + BAD,
        "failed",
    ),
    "an answer that equals everything": (
        """
class Lie:
    __eq__ = __lt__ = __le__ = __contains__ = lambda *_: True
    __sub__ = lambda *_: 0
def f(x): return Lie()
""",
        "failed",
    ),
    "an int that equals everything": (
        """
class Lie(int):
    def __eq__(self, other): return True
def f(x): return Lie(7)
""",
        "failed",
    ),
    "AssertionError replaced": (
        """
import builtins
builtins.AssertionError = type('E', (), {})
"""
        + BAD,
        "failed",
    ),
    "builtins replaced": (
        """
import builtins
for name in ('all', 'any', 'abs', 'len', 'isinstance', 'exec', 'compile'):
    setattr(builtins, name, lambda *_: True)
"""
        + BAD,
        "failed error",
    ),
    "unittest replaced": (
        """
import sys, unittest
unittest.TestCase.assertEqual = lambda *_: None
unittest.main = lambda *_: sys.exit(0)
"""
        + BAD,
        "failed",
    ),
    "the tests' names replaced": (
        """
check = candidate = abs = sorted = lambda *_: True
"""
        + BAD,
        "failed",
    ),
    "modules planted": (
        """
for name in ('math', 'os', 'posix', 're', 'fractions', 'sitecustomize'):
    open(f'/tmp/{name}.py', 'w').write('import posix; posix._exit(0)')
import sys
sys.modules.clear()
"""
        + BAD,
        "failed error",
    ),
    "every descriptor written to": (
        """
import os
def f(x):
    for fd in range(3, 256):
        for text in (b'passed', b'\\x15\\0\\0\\0t3;s3;ends6;passeds1;x'):
            try: os.write(fd, text)
            except OSError: pass
    return 7
""",
        "error",
    ),
    "every descriptor closed": (
        """
import os
os.closerange(0, 256)
"""
        + GOOD,
        "error",
    ),
    "every descriptor replaced": (
        """
import os
def f(x):
    for fd in range(3, 64):
        try: os.dup2(1, fd)
        except OSError: pass
    return 4
""",
        "error",
    ),
    "everything killed": (
        """
import os
os.kill(-1, 9)
"""
        + GOOD,
        "error",
    ),
    "stack overflow": (
        """
import sys
sys.setrecursionlimit(10**9)
def f(x): return f(x)
""",
        "error memory",
    ),
    "a crash of the interpreter": (
        """
import ctypes
def f(x): ctypes.string_at(0)
""",
        "error",
    ),
    "an answer nested too deeply": (
        """
def f(x):
    value = []
    for _ in range(100_000): value = [value]
    return value
""",
        "error",
    ),
    "sleep past the deadline": (
        """
import time
time.sleep(1000)
""",
        "timeout",
    ),
    "sleep with signals ignored": (
        """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(1000)
""",
        "timeout",
    ),
    "an endless loop in the function": (
        """
def f(x):
    while True: pass
""",
        "timeout",
    ),
    "a fork bomb": (
        """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
        "timeout",
    ),
    "a memory bomb": (
        """
held = []
while True: held.append(bytearray(1 << 20))
""",
        "error memory",
    ),
    "a memory bomb that carries on": (
        """
held = []
while True:
    try: held.append(bytearray(1 << 20))
    except MemoryError: pass
""",
        "memory",
    ),
    "a memory bomb of many processes": (
        """
import os, time
for _ in range(4): os.fork()
held = [bytearray(20 << 20)]
time.sleep(1000)
""",
        "memory",
    ),
    "a memory bomb in shared memory": (
        """
import mmap
held = []
while True:
    held.append(mmap.mmap(-1, 8 << 20))
    held[-1].write(b'x' * (8 << 20))
""",
        "memory",
    ),
    "millions of empty files": (
        """
import os
index = 0
while True:
    os.close(os.open(f"/tmp/{index}", os.O_CREAT))
    index += 1
""",
        "memory timeout",
    ),
    "a class with an endless name": (
        """
def f(x):
    raise type("x" * 5_000_000, (ValueError,), {})("y" * 5_000_000)
""",
        "error",
    ),
    "endless output": ("while True: print('x' * 1000)", "output"),
    "endless errors": (
        """
import os
while True: os.write(2, b'x' * 1000)
""",
        "output",
    ),
    "an endless answer": ("def f(x): return 'x' * (150 << 20)", "error"),
    "a program that is none": ("def f(x: return", "error"),
}
"""Programs, and what may become of each."""


@pytest.mark.parametrize("name", NEVER_PASS)
def test_never_passes(verifier, name: str) -> None:
    program, outcome = NEVER_PASS[name]
    result = run(verifier, program)
    assert result.outcome in outcome.split(), result
    assert len(result.stdout) <= 1 << 20
    assert len(result.stderr) <= 1 << 20


def test_standard_output_tests_cannot_be_forged_either(verifier) -> None:
    programs = [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "print('passed')",
        "import os\nos.write(4, b'passed')",
    ]
    for result in verifier.run(programs, [[{"input": "1", "output": "2"}]] * 4):
        assert result.outcome in ("failed", "error")


LATE = """
import os, time
if input() == "1" and os.fork() == 0:
    time.sleep(0.3)
    print("3")
else:
    time.sleep(0.6)
"""


def test_a_run_leaves_no_process_for_the_next(verifier) -> None:
    cases = [{"input": "1", "output": ""}, {"input": "2", "output": ""}]
    quick = LATE.replace("time.sleep(0.6)", "pass")
    assert [result.outcome for result in verifier.run([LATE, quick], [cases, cases])] == ["failed", "passed"]


SEES_NOTHING = {
    "files of the machine": """
import os
seen = [path for path in ('/etc/shadow', '/etc/passwd', '/home', '/work', '/var', '/sys', '/boot', {home!r},
    {project!r}) if os.path.exists(path)]
os.symlink('/etc/shadow', '/tmp/link')
seen += os.path.exists('/tmp/link') * ['link']
""",
    "writing outside of /tmp": """
import os, sys
seen = []
for path in ('/x', '/usr/lib/x', '/dev/x', '/etc/x', '/proc/sys/kernel/hostname', os.__file__,
        sys.executable, '/proc/sysrq-trigger'):
    try: open(path, 'a').write('x'); seen.append(path)
    except OSError: pass
""",
    "the environment": """
import os
seen = [name for name in os.environ if name not in ('PATH', 'HOME', 'TMPDIR', 'LANG', 'PYTHONHASHSEED',
    'PYTHONDONTWRITEBYTECODE', 'PYTHONIOENCODING', 'OMP_NUM_THREADS', 'PWD', 'LC_CTYPE')]
for pid in ('1', str(os.getppid())):
    try: seen.append(open(f'/proc/{{pid}}/environ').read())
    except OSError: pass
""",
    "other processes": """
import os
seen = [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())]
for name in ('mem', 'maps', 'fd', 'fdinfo', 'root', 'cwd', 'exe', 'stack', 'syscall', 'task/1/mem', 'map_files'):
    path = f'/proc/1/{{name}}'
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1)
        seen.append(path)
    except OSError: pass
""",
    "the network": """
import socket
seen = [line for line in open('/proc/net/dev').readlines()[2:] if 'lo:' not in line]
for address in (('1.1.1.1', 53), ('127.0.0.1', {port})):
    try: seen.append(socket.create_connection(address, 1))
    except OSError: pass
for family in (2, 10, 16, 17, 38, 40):
    try: seen.append(socket.socket(family, socket.SOCK_STREAM if family < 16 else socket.SOCK_RAW))
    except OSError: pass
""",
    "the tests": """
import gc, re, sys
wanted = b'assert f(' + b'2) == 4'
seen = []
def look():
    frame = sys._getframe()
    while frame:
        if 'tests' in frame.f_locals: seen.append('frame')
        frame = frame.f_back
    for line in open('/proc/self/maps'):
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        if 'r' not in line.split()[1] or end - start > 50 << 20: continue
        try:
            with open('/proc/self/mem', 'rb', 0) as file:
                file.seek(start)
                if wanted in file.read(end - start): seen.append(line)
        except (OSError, OverflowError, ValueError): pass
    gc.collect()
""",
    "system calls that are denied": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
seen = []
space = ctypes.create_string_buffer(64)
for name, *arguments in (('ptrace', 16, 1, 0, 0), ('unshare', 0x10000000), ('unshare', 0x20000), ('setns', 0, 0),
        ('mount', b'none', b'/tmp', b'tmpfs', 0, None), ('chroot', b'/tmp'), ('shmget', 0, 4096, 0o1600), ('setuid', 0),
        ('memfd_create', b'x', 0), ('process_vm_readv', 1, space, 1, space, 1, 0), ('personality', 0x40000)):
    if getattr(libc, name)(*arguments) != -1: seen.append(name)
for number in (425, 321, 298, 323, 438, 435): 
    if libc.syscall(number, 0, 0, 0, 0, 0) != -1: seen.append(number)
try: import resource; resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)); seen.append('prlimit')
except OSError: pass
try: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)); seen.append('setrlimit')
except (OSError, ValueError): pass
""",
}
"""Programs that collect in `seen` what they should not see, with places to fill in."""


@pytest.mark.parametrize("name", SEES_NOTHING)
def test_sees_nothing(verifier, name: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        source = SEES_NOTHING[name].format(
            home=str(Path.home()) + "/.bashrc", project=str(Path(__file__)), port=server.getsockname()[1]
        )
        look = "look()" if name == "the tests" else "pass"
        result = run(verifier, f"{source}\ndef f(x):\n    {look}\n    print(*seen, sep='\\n')\n    return 4\n")
    assert (result.outcome, result.stdout.strip()) == ("passed", ""), result


@pytest.mark.parametrize("target", ["os.getppid()", "1", "0"])
def test_killing_the_tests_process_does_nothing_or_ends_the_program(verifier, target: str) -> None:
    program = f"import os, signal\nfor number in (2, 15, 6, 14, 10, 19, 9):\n    os.kill({target}, number)\n" + GOOD
    assert run(verifier, program).outcome in ("passed", "error", "timeout")
    assert run(verifier, program.replace(GOOD, BAD)).outcome in ("failed", "error", "timeout")


def test_a_daemon_does_not_outlive_its_program(verifier) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    program += "        while True: time.sleep(1)\n    os._exit(0)\n" + GOOD
    assert run(verifier, program).passed


FORKS = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0: time.sleep(1000)
        count += 1
"""
THREADS = """
import threading, time
count = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        count += 1
"""


def test_processes_and_threads_are_limited(verifier) -> None:
    for program in (FORKS, THREADS):
        result = run(verifier, program + "except (OSError, RuntimeError): print(count, flush=True)\n" + GOOD)
        assert result.passed
        assert 8 <= int(result.stdout) <= 52


def test_files_are_limited_to_little_memory(verifier) -> None:
    program = "total = 0\nfor folder in ('/tmp', '/dev/shm'):\n    try:\n        for index in range(1000):\n"
    program += "            with open(f'{folder}/{index}', 'wb') as file: total += file.write(b'x' * (1 << 20))\n"
    program += "    except OSError: pass\nprint(total >> 20)\n" + GOOD
    result = run(verifier, program)
    assert result.passed
    assert 32 <= int(result.stdout) <= 64


def test_buffers_of_sockets_and_pipes_are_limited_to_little_memory(verifier) -> None:
    program = """
import os, socket
held = []
try:
    while True: held.append(socket.socketpair())
except OSError:
    print(len(held), flush=True)
for pair in held:
    for end in pair:
        end.setblocking(False)
        try:
            while True: end.send(b"x" * 65536)
        except OSError: pass
"""
    result = run(verifier, program + GOOD)
    assert result.passed
    assert int(result.stdout) <= 32


def test_asyncio_threads_and_subprocesses_of_its_own_work(verifier) -> None:
    program = """
import asyncio, concurrent.futures, multiprocessing
async def slow(x):
    await asyncio.sleep(0.01)
    return x
def f(x):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        one, = pool.map(int, [x])
    reader, writer = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=writer.send, args=(one,))
    process.start()
    other = reader.recv()
    process.join()
    return asyncio.run(slow(one)) + other
"""
    assert run(verifier, program).passed


def test_one_program_sees_nothing_of_another(verifier) -> None:
    program = "import os\nprint(os.path.exists('/tmp/mark'))\nopen('/tmp/mark', 'w')\n" + GOOD
    for result in verifier.run([program] * 6, [TEST] * 6):
        assert (result.passed, result.stdout) == (True, "False\n")


def test_the_machine_is_not_touched() -> None:
    assert not os.path.exists("/x")
    assert not os.path.exists("/usr/lib/x")
