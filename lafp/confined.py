"""Starts a process that decodes without rights: no keys, no network, no writing but in its folder.

python -m lafp.confined MODULE ARGUMENTS runs ``main`` of a module so, with TMPDIR as the folder.
With ``--gpu`` before MODULE it may also open the device files of NVIDIA's GPUs.

A video may take the decoder over. What is taken away here, the kernel does not give back:

- Landlock (Linux 5.13): the process writes in its own temporary folder only, and looks into the
  memory and environment of no other process.
- seccomp: it opens no socket, starts no program and no process, and signals nobody else.

Where the kernel lacks one of them, the process runs without it, and `doctor` says so. Where the
kernel has one and denies it, the process does not start, and the job ends with one line. Reading
files is not restricted, because a source may lie anywhere.
"""

import ctypes
import glob
import importlib
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from lafp.storage.temporary import TemporaryFolder

_ENVIRONMENT = {"PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV"}
_ENVIRONMENT_PREFIXES = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_")
_TRY = "try"  # in place of a module
WITH_GPU = "--gpu"
_GPU_FILES = "/dev/nvidia*"
_TRY_S = 60.0
_PR_SET_NO_NEW_PRIVS = 38
# The numbers of these calls are the same on all machines.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_GET_VERSION = 1
_EPERM, _ENOSYS = 1, 38
_libc = ctypes.CDLL(None, use_errno=True)


def confined_environment(folder: str) -> dict[str, str]:
    """Returns the variables of this process that decoding needs, none of which holds a key.

    Args:
        folder: Where the confined process may write.
    """
    needed = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    # Ray workers find the job's code by changing `sys.path`, which a new process would not inherit.
    path = os.pathsep.join(filter(None, sys.path))
    return needed | {"PYTHONPATH": path, "TMPDIR": folder}


def missing_protection() -> list[str]:
    """Lists what the kernel of this machine says it cannot take from a decoding process."""
    if platform.system() != "Linux":
        return ["writing and network (not Linux)"]
    missing = []
    if _landlock_version() < 1:
        missing.append("writing (no Landlock)")
    if not _has_seccomp():
        missing.append("network (no seccomp)")
    return missing


def missing_when_tried() -> list[str]:
    """Starts a confined process, which tries what it must not do, and lists what it still may.

    Raises:
        OSError: The process does not start. The message is its last line.
    """
    with (
        TemporaryFolder() as folder,
        TemporaryFolder() as outside,
    ):
        tried = subprocess.run(
            [sys.executable, "-m", "lafp.confined", _TRY, outside],
            env=confined_environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRY_S,
            check=False,
        )
    if tried.returncode:
        lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
        raise OSError(lines[-1])
    return tried.stdout.split()


def _try(outside: str) -> None:
    """Writes to stdout what this process may still do though it is confined."""
    for name, attack in (
        ("writing", lambda: os.mkdir(f"{outside}/made")),
        ("network", lambda: socket.socket().close()),
    ):
        try:
            attack()
        except OSError:
            continue
        sys.stdout.write(f"{name}\n")


def confine(folder: str, writable: Sequence[str] = ()) -> None:
    """Takes the rights of this process away, except for writing below ``folder``.

    Threads that run already would keep theirs, so this comes before other imports.

    Args:
        folder: Where files may be made.
        writable: Files, and folders of files, that may be opened for writing.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the video
    if platform.system() != "Linux":
        return
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities()
    if (version := _landlock_version()) >= 1:
        _restrict_writing(folder, version, writable)
    if _has_seccomp():
        _restrict_calls()


def _drop_capabilities() -> None:
    """Keeps of a root's capabilities only those to read files, which a source may need."""
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    data = ctypes.create_string_buffer(24)  # effective, permitted and inheritable, of 32 bits each
    _checked(_libc.capget(header, data))
    to_read = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    effective, permitted, *others = struct.unpack("=6I", data.raw)
    if not ((effective | permitted) & ~to_read or any(others)):
        return  # some container runtimes deny even a call that changes nothing
    left = struct.pack("=6I", effective & to_read, permitted & to_read, 0, 0, 0, 0)
    _checked(_libc.capset(header, left))


# ---------------------------------------------------------------------------------------------
# Landlock


def _landlock_version() -> int:
    return int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_GET_VERSION))


def _restrict_writing(folder: str, version: int, writable: Sequence[str]) -> None:
    write_file, truncate = 1 << 1, 1 << 14 if version >= 3 else 0
    # Removing and making files and folders of all kinds; from version 2 on, moving them.
    handled = write_file | truncate | sum(1 << bit for bit in range(4, 13))
    handled |= 1 << 13 if version >= 2 else 0
    # From version 4 on TCP, from 6 on signals and named sockets; older ones take a shorter struct.
    attributes = struct.pack("=QQQ", handled, 0b11, 0b11)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _checked(_libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0))
    files = [(path, write_file | truncate) for path in (os.devnull, *writable)]
    for path, rights in ((folder, handled), *files):
        place = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", rights, place)
        _checked(_libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0))
        os.close(place)
    _checked(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0))
    os.close(rules)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# ---------------------------------------------------------------------------------------------
# seccomp: a program of the classic Berkeley packet filter, run by the kernel at each system call

# Architecture as the kernel numbers it; then the numbers of the calls.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            "seccomp": 317,
            "clone": 56,
            "clone3": 435,
            "signals": (62, 234),  # kill, tgkill
            "prlimit64": 302,
            "denied": (
                # socket, connect, accept, bind, listen, accept4, io_uring_setup
                *(41, 42, 43, 49, 50, 288, 425),
                # fork, vfork, execve, execveat
                *(57, 58, 59, 322),
                # ptrace, process_vm_readv, process_vm_writev, pidfd_open, pidfd_getfd
                *(101, 310, 311, 434, 438),
                # tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
                *(200, 129, 297, 424),
                # bpf, perf_event_open, userfaultfd, add_key, request_key, keyctl
                *(321, 298, 323, 248, 249, 250),
                # mount, unshare, setns, open_by_handle_at
                *(165, 272, 308, 304),
                # truncate, which the Landlock of Linux before 6.2 does not know
                76,
            ),
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "seccomp": 277,
            "clone": 220,
            "clone3": 435,
            "signals": (129, 131),
            "prlimit64": 261,
            "denied": (
                *(198, 203, 202, 200, 201, 242, 425),
                *(221, 281),
                *(117, 270, 271, 434, 438),
                *(130, 138, 240, 424),
                *(280, 241, 282, 217, 218, 219),
                *(40, 97, 268, 265),
                45,
            ),
        },
    ),
}
_GET_ACTION_AVAIL, _SET_MODE_FILTER = 2, 1
# Without this flag, kernels before 5.16 slow the whole process down against Spectre.
_SPEC_ALLOW = 4
_ALLOW, _FAIL_WITH = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD, _X32_CALLS = 0x10000, 0x40000000


def _has_seccomp() -> bool:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    action = ctypes.c_uint32(_FAIL_WITH)
    number = machine[1]["seccomp"]
    return _libc.syscall(number, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0


def _restrict_calls() -> None:
    architecture, calls = _MACHINES[platform.machine()]
    program = _program(architecture, calls)
    code = ctypes.create_string_buffer(program, len(program))
    # A count of 16 bits, then a pointer at its own alignment.
    filter_ = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    # Kernels before 4.17 and gVisor do not know the flag.
    if _libc.syscall(calls["seccomp"], _SET_MODE_FILTER, _SPEC_ALLOW, filter_) < 0:
        _checked(_libc.syscall(calls["seccomp"], _SET_MODE_FILTER, 0, filter_))


def _program(architecture: int, calls: Mapping) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    fail = step(_RETURN, _FAIL_WITH | _EPERM)
    allow = step(_RETURN, _ALLOW)
    argument = step(_LOAD, _FIRST_ARGUMENT_AT)
    program = step(_LOAD, _ARCHITECTURE_AT) + step(_JUMP_EQUAL, architecture, 1) + fail
    program += step(_LOAD, _NUMBER_AT) + step(_JUMP_GREATER_EQUAL, _X32_CALLS, 0, 1) + fail
    for number in calls["denied"]:
        program += step(_JUMP_EQUAL, number, 0, 1) + fail
    # glibc then uses `clone`, whose flags can be looked at.
    program += step(_JUMP_EQUAL, calls["clone3"], 0, 1) + step(_RETURN, _FAIL_WITH | _ENOSYS)
    # Threads are allowed, processes are not.
    program += step(_JUMP_EQUAL, calls["clone"], 0, 4)
    program += argument + step(_JUMP_ANY_BIT, _CLONE_THREAD, 1, 0) + fail + allow
    # Signals to this process itself, as by `abort`.
    for number, target in [(n, os.getpid()) for n in calls["signals"]] + [(calls["prlimit64"], 0)]:
        program += step(_JUMP_EQUAL, number, 0, 4)
        program += argument + step(_JUMP_EQUAL, target, 1, 0) + fail + allow
    return program + allow


def main() -> None:
    """Confines this process, then runs the module that the command line names."""
    devices = []
    if sys.argv[1] == WITH_GPU:
        devices = glob.glob(_GPU_FILES)
        del sys.argv[1]
    try:
        confine(tempfile.gettempdir(), devices)
    except OSError as error:
        sys.exit(f"this machine cannot confine the process that decodes: {error}")
    _, module, *sys.argv[1:] = sys.argv
    if module == _TRY:
        _try(*sys.argv[1:])
        return
    # Imported late: threads that an import starts are confined, too.
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
