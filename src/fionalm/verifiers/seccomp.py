"""The system calls that a sandboxed program may not make, as a filter that the kernel runs (seccomp BPF).

Namespaces and limits do the containing; the filter takes away what they leave: memory outside every limit (memfd,
System V), looking into other processes, new namespaces, sockets that no network namespace holds back, and the parts of
the kernel that have been broken into most often.
"""

from __future__ import annotations

import platform
import struct
from typing import NamedTuple


class Architecture(NamedTuple):
    """Numbers of one kind of machine."""

    audit: int
    denied: tuple[int, ...]
    clone: int
    clone3: int
    socket: int
    prlimit: int


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


# ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise | bpf perf_event_open userfaultfd
# io_uring_* | add_key request_key keyctl | memfd_create memfd_secret shmget shmat shmctl msgget semget |
# unshare setns pivot_root chroot mount umount2 open_tree..fspick mount_setattr | swapon swapoff reboot kexec_*
# *_module | name_to_handle_at open_by_handle_at quotactl acct syslog fanotify_init | move_pages migrate_pages mbind
# personality
_COMMON = (438, 440, 425, 426, 427, 447, 428, 429, 430, 431, 432, 433, 442)
ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        (
            101,
            310,
            311,
            312,
            321,
            298,
            323,
            248,
            249,
            250,
            319,
            29,
            30,
            31,
            68,
            64,
            272,
            308,
            155,
            161,
            165,
            166,
            167,
            168,
            169,
            246,
            320,
            175,
            176,
            313,
            303,
            304,
            179,
            163,
            103,
            300,
            279,
            256,
            237,
            135,
        ),
        56,
        435,
        41,
        302,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        (
            117,
            270,
            271,
            272,
            280,
            241,
            282,
            217,
            218,
            219,
            279,
            194,
            195,
            196,
            186,
            190,
            97,
            268,
            41,
            51,
            40,
            39,
            224,
            225,
            142,
            104,
            294,
            105,
            106,
            273,
            264,
            265,
            60,
            89,
            116,
            262,
            239,
            238,
            235,
            92,
        ),
        220,
        435,
        198,
        261,
    ),
}
NEW_NAMESPACES = 0x7E020000
"""clone's flags: CLONE_NEWUSER, PID, NET, IPC, UTS, CGROUP and NS."""
SOCKET_FAMILIES = (1,)
"""Unix alone, which asyncio needs. There is no network to reach with others, but memory to hold in their buffers; and
AF_VSOCK reaches a virtual machine's host past every network namespace."""
LOAD, EQUAL, SET, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050061
NUMBER, ARCHITECTURE, ARGUMENT_0 = 0, 4, 16


def program(machine: str | None = None) -> bytes | None:
    """Return the filter for a kind of machine, as bubblewrap's `--seccomp` reads it; None where there is none."""
    numbers = ARCHITECTURES.get(machine or platform.machine())
    if numbers is None:
        return None
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, numbers.audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if numbers is ARCHITECTURES["x86_64"]:
        lines += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, ENOSYS)]  # the x32 interface has numbers of its own
    for number in (*numbers.denied, *_COMMON):
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    # clone3 hides its flags in memory; told that there is none, C libraries take clone.
    lines += [(EQUAL, 0, 1, numbers.clone3), (RETURN, 0, 0, ENOSYS)]
    lines += [
        (EQUAL, 0, 4, numbers.clone),
        (LOAD, 0, 0, ARGUMENT_0),
        (SET, 0, 1, NEW_NAMESPACES),
        (RETURN, 0, 0, EPERM),
    ]
    lines += [(RETURN, 0, 0, ALLOW)]
    # prlimit of another process than the caller.
    lines += [(EQUAL, 0, 4, numbers.prlimit), (LOAD, 0, 0, ARGUMENT_0), (EQUAL, 1, 0, 0), (RETURN, 0, 0, EPERM)]
    lines += [(RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 0, 2 + len(SOCKET_FAMILIES), numbers.socket), (LOAD, 0, 0, ARGUMENT_0)]
    lines += [(EQUAL, len(SOCKET_FAMILIES) - index, 0, family) for index, family in enumerate(SOCKET_FAMILIES)]
    lines += [(RETURN, 0, 0, EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
