"""A sandbox: bubblewrap's namespaces around one interpreter, with limits, killed whole and waited for.

Used by `program_worker`, a process of one thread that holds nothing else, and so may change its mounts and fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import marshal
import os
import platform
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fionalm.errors import UserError
from fionalm.verifiers import seccomp
from fionalm.verifiers.rpc import dump

INSTALL = "bubblewrap (Debian and Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
READ_ONLY = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
ENVIRONMENT |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8:surrogateescape", "OMP_NUM_THREADS": "1"}
BOOT = """import marshal, posix
code, size = b"", {size}
while len(code) < size: code += posix.read({jobs}, size - len(code))
rpc, harness = marshal.loads(code)
theirs = dict(__name__="rpc")
exec(rpc, theirs)
space = dict({{name: value for name, value in theirs.items() if name[0] != "_"}}, __name__="harness")
exec(harness, space)
space["main"]({jobs}, {report})"""
START_SECONDS = 60.0
REACHABLE = "/dev/shm/python"
"""Where the interpreter is put for a sandbox's user."""
FIRST_USER = 2_000_000_000
"""User ids of sandboxes where this process is root: this plus the worker's process id, so that no two workers share."""
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18


class SandboxError(RuntimeError):
    """The sandbox itself failed: not the program's doing."""


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    timeout: float = 10.0
    """Seconds, by the clock, for the program and all its tests."""
    memory_mb: int = 512
    """Of all its processes together; what files in /tmp hold is limited by itself."""
    processes: int = 48
    """Processes and threads at one time."""
    file_mb: int = 32
    """Each file, and /tmp and /dev/shm as a whole."""
    output_kb: int = 1024
    """Standard output and standard error, each."""


class Sandbox:
    """A started interpreter that waits for its job. Use it once, then `kill` it.

    Attributes:
        jobs: descriptor to write the job to.
        report: descriptor of the harness's messages, which the program cannot reach.
        output: descriptors of standard output and standard error.
    """

    def __init__(self, limits: Limits, *, isolated: bool) -> None:
        self.isolated = isolated
        code = _harness()
        ours, theirs = _pipes()
        self.jobs, self.report, self._info, self.output = ours[0], ours[1], ours[2], ours[3:]
        boot = BOOT.format(size=len(code), jobs=theirs[0], report=theirs[1])
        python = [os.path.realpath(sys.executable), "-s", "-S", "-B", "-c", boot]
        filter_fd = _filter() if isolated else None
        passed = [theirs[0], theirs[1], *([theirs[2]] if isolated else []), *([] if filter_fd is None else [filter_fd])]
        user = _sandbox_user() if isolated and os.getuid() == 0 else None
        command = [*_bubblewrap(limits, info=theirs[2], filter_fd=filter_fd), *python] if isolated else python
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs[3],
                stderr=theirs[4],
                env=ENVIRONMENT,
                cwd="/" if isolated else None,
                pass_fds=passed,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                preexec_fn=lambda: _limit(limits, own_user=user is not None),
            )
        finally:
            for descriptor in (*theirs, *([] if filter_fd is None else [filter_fd])):
                os.close(descriptor)
        self.first: int | None = None
        self.pidfd = self.processes = -1
        self.folders: list[int] = []
        _write(self.jobs, code)

    def wait_ready(self, limits: Limits) -> None:
        """Wait until the harness waits for its job, then apply the limit on processes.

        Raises:
            SandboxError: it did not start; the message is what bubblewrap or the interpreter said.
        """
        deadline = time.monotonic() + START_SECONDS
        if self.isolated:
            self.first = json.loads(_read_until(self._info, b"}", deadline) or b"{}").get("child-pid")
        else:
            self.first = self.process.pid
        frame = len(dump("ready")) + 4
        ready = b""
        while (
            self.first is not None and len(ready) < frame and (part := _read(self.report, frame - len(ready), deadline))
        ):
            ready += part
        if len(ready) < frame or self.first is None:
            self.kill()
            said = _read(self.output[1], 4000, time.monotonic() + 0.1).decode(errors="replace").strip()
            self.close()
            raise SandboxError(said or "it ended without a word")
        self.pidfd = os.pidfd_open(self.first)
        if self.isolated:
            # The process list as the sandbox sees it, itself and nothing else; and where it can write.
            opened = (os.open(f"/proc/{self.first}/root/{name}", os.O_DIRECTORY) for name in ("proc", "tmp", "dev/shm"))
            self.processes, *self.folders = opened
        if os.getuid() != 0:
            # Now that the sandbox has a user namespace, newer kernels count its processes only.
            count = limits.processes + (0 if self.isolated and kernel_counts_by_namespace() else _own_processes())
            resource.prlimit(self.first, resource.RLIMIT_NPROC, (count, count))

    def memory_mb(self) -> float:
        """Return the memory that all processes in the sandbox hold together, in MiB."""
        total = 0
        for pid in self._pids():
            try:
                total += _held_kb(self.processes, pid)
            except (OSError, ValueError):  # it has ended meanwhile
                continue
        # The kernel keeps about as much for each file, however short, and sizes of file systems do not count it.
        counts = [os.fstatvfs(folder) for folder in self.folders]
        return (total + sum(count.f_files - count.f_ffree for count in counts)) / 1024

    def kill(self) -> None:
        """Kill every process in the sandbox, and wait until the last has ended."""
        if self.pidfd >= 0 and self.isolated:
            # Process 1's end is announced only after the kernel has killed and reaped the rest of its namespace.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            select.select([self.pidfd], [], [], START_SECONDS)
        elif self.isolated:
            _kill(-self.process.pid)
        else:
            _kill_descendants()
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            raise SandboxError("its processes did not end") from None

    def close(self) -> None:
        """Close the descriptors; after `kill`."""
        for descriptor in (self.jobs, self.report, self._info, *self.output, self.pidfd, self.processes, *self.folders):
            if descriptor >= 0:
                os.close(descriptor)

    def _pids(self) -> list[str]:
        if self.isolated:
            return [name for name in os.listdir(self.processes) if name.isdigit()]
        return [str(pid) for pid in _descendants()]


def check_bubblewrap() -> str:
    """Return bubblewrap's path.

    Raises:
        UserError: it is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise UserError(
            f"programs are run in a sandbox, which needs {INSTALL}; where every program is trusted, "
            "--unsafe-execution (unsafe_execution=True) runs them without one"
        )
    return path


@cache
def prepare() -> str:
    """Return where sandboxes find the interpreter's folder; call this once in the worker, before any sandbox.

    Where this process is root, that is a place in its own mounts only which the sandbox's user can reach: that user may
    not be able to pass the folders above the interpreter, such as /root.
    """
    prefix = os.path.realpath(sys.base_prefix)
    if os.getuid() != 0 or prefix == "/usr":
        return prefix
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    try:
        call("unshare", CLONE_NEWNS)
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        source = os.open(prefix, os.O_PATH | os.O_DIRECTORY)
        # Not over /tmp, where this package or the interpreter may be.
        call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"mode=755,size=64k")
        os.mkdir(REACHABLE)
        call("mount", b"/proc/self/fd/%d" % source, REACHABLE.encode(), None, MS_BIND, None)
        os.close(source)
    except OSError:
        return prefix  # without the right to mount: then bubblewrap says whether it can read the interpreter
    return REACHABLE


def _bubblewrap(limits: Limits, *, info: int, filter_fd: int | None) -> list[str]:
    prefix = os.path.realpath(sys.base_prefix)
    size = str(limits.file_mb << 20)
    command = [check_bubblewrap(), "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--info-fd", str(info)]
    if filter_fd is not None:
        command += ["--seccomp", str(filter_fd)]
    for path in READ_ONLY:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            command += ["--ro-bind", path, path]
    if prefix == "/usr":
        command += ["--ro-bind", "/usr/bin", "/usr/bin"]
    else:
        command += ["--ro-bind", prepare(), prefix]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    return [*command, "--size", size, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _limit(limits: Limits, *, own_user: bool) -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(limits.timeout) + 2),
        (resource.RLIMIT_DATA, limits.memory_mb << 20),
        (resource.RLIMIT_FSIZE, limits.file_mb << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        # As a user of the worker's own; beside the program there are bubblewrap and the next sandbox.
        *([(resource.RLIMIT_NPROC, limits.processes + 4)] if own_user else []),
    ):
        resource.setrlimit(kind, (value, value))


@cache
def _harness() -> bytes:
    """Return the compiled harness: `rpc.py` and `harness.py`, run in one namespace."""
    parts = []
    for name in ("rpc", "harness"):
        spec = importlib.util.find_spec(f"fionalm.verifiers.{name}")
        assert spec is not None and spec.origin is not None
        parts.append(compile(Path(spec.origin).read_text(encoding="utf-8"), f"<{name}>", "exec", optimize=2))
    return marshal.dumps(parts)


def _filter() -> int | None:
    program = seccomp.program()
    if program is None:
        return None
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, program)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _sandbox_user() -> int:
    """Return a user id of this worker's own, within those that this user namespace has."""
    user = FIRST_USER + os.getpid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= user < first + count:
            return user
    return 60_000 + os.getpid() % 5_000


def _own_processes() -> int:
    """Return how many processes and threads this user runs: without a sandbox they count, too."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == os.getuid():
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
            except OSError:
                continue
    return count


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own has ended: without a sandbox, how they are found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[int]:
    """Return this process's descendants."""
    pids = [os.getpid()]
    for known in pids:
        try:
            for task in os.listdir(f"/proc/{known}/task"):
                pids += [int(child) for child in Path(f"/proc/{known}/task/{task}/children").read_text().split()]
        except OSError:
            continue
    return pids[1:]


def _kill_descendants() -> None:
    deadline = time.monotonic() + START_SECONDS
    while (pids := _descendants()) and time.monotonic() < deadline:
        for pid in pids:
            _kill(pid)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        time.sleep(0.001)


def _held_kb(folder: int, pid: str) -> int:
    descriptor = os.open(f"{pid}/status" if folder >= 0 else f"/proc/{pid}/status", os.O_RDONLY, dir_fd=max(folder, 0))
    try:
        status = os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
    total = 0
    for name in (b"RssAnon:", b"RssShmem:", b"VmPTE:"):
        start = status.find(name)
        if start >= 0:
            total += int(status[start + len(name) : status.index(b"kB", start)])
    return total


def _pipes() -> tuple[list[int], list[int]]:
    """Return our and their ends of the pipes: jobs to them; report, info, output and errors from them."""
    ours, theirs = [], []
    for index in range(5):
        readable, writable = os.pipe()
        ours.append(readable if index else writable)
        theirs.append(writable if index else readable)
        os.set_blocking(ours[-1], False)
    return ours, theirs


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    if not size or not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        return b""
    return os.read(descriptor, size)


def _read_until(descriptor: int, end: bytes, deadline: float) -> bytes:
    data = b""
    while end not in data and (part := _read(descriptor, 4096, deadline)):
        data += part
    return data


def _write(descriptor: int, data: bytes) -> None:
    """Write what fits a pipe's buffer for certain: the harness is a few kilobytes."""
    os.write(descriptor, data)


def kernel_counts_by_namespace() -> bool:
    """Tell whether the limit on processes counts by user namespace (Linux 5.14 and later), not by user alone."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2])
    return (major, minor) >= (5, 14)
