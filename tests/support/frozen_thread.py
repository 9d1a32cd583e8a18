"""Stops one thread of a child process, as a deadlock would, while its others go on. Linux."""

import contextlib
import ctypes
import os
import pathlib

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000  # waits for threads too


def ptrace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_long(request), ctypes.c_long(thread), ctypes.c_void_p(), ctypes.c_void_p()]
    if libc.ptrace(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace({request:#x}): {os.strerror(error)}")


def busiest(pid: int) -> int:
    """The thread of the process that has used the most CPU time."""

    def ticks(task: pathlib.Path) -> int:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return int(max(pathlib.Path(f"/proc/{pid}/task").iterdir(), key=ticks).name)


@contextlib.contextmanager
def frozen(thread: int):
    """The thread makes no progress within the block; its process may be killed there."""
    ptrace(PTRACE_SEIZE, thread)
    try:
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        try:
            ptrace(PTRACE_DETACH, thread)
        except ProcessLookupError:
            # Killed meanwhile: until its tracer has seen that, the process cannot end.
            os.waitpid(thread, WALL)
