"""How many of malloc's arenas threads fill."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from service.cores import available_cores

THREADS = """
import ctypes, sys, threading
from service.memory import bound_arenas
libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
if sys.argv[2] == "bounded":
    bound_arenas()
together = threading.Barrier({threads})
def take():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range({threads})]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


def arenas(file: Path, how: str) -> int:
    code = THREADS.format(threads=4 * available_cores())
    subprocess.run([sys.executable, "-c", code, str(file), how], check=True)
    return file.read_text().count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="this C library is not glibc")
def test_threads_share_as_many_arenas_as_there_are_cores(tmp_path: Path) -> None:
    assert arenas(tmp_path / "bounded", "bounded") <= available_cores()
    assert arenas(tmp_path / "by default", "by default") > available_cores()
