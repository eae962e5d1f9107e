"""kernels/cpu/thread_pool.hpp: every job of a task is done once, however late a thread comes."""

import re
import subprocess
from pathlib import Path

from cuchar.devices.host_compiler import compiler
from cuchar.devices.kernel_sources import kernel_folder

PROGRAM = Path(__file__).parent.parent / "support" / "thread_pool.cpp"


def test_threads_that_are_delayed_anywhere(tmp_path):
    source = (kernel_folder() / "cpu/thread_pool.hpp").read_text()
    # Before every statement in which threads may meet there is a delay, which is often none.
    before, start, rest = source.partition("    void start(")
    rest, delays = re.subn(r"^( {8,})(?=.*(?: = |\.store|\.fetch_).*;$)", r"\1delay(); ", rest, flags=re.MULTILINE)
    assert delays >= 8
    (tmp_path / "thread_pool.hpp").write_text(before + start + rest)
    program = tmp_path / "program"
    flags = ["-std=c++20", "-O1", "-pthread", f"-I{tmp_path}", f"-I{kernel_folder()}"]
    subprocess.run([*compiler(), *flags, PROGRAM, "-o", program], check=True)
    assert subprocess.run([program], timeout=60).returncode == 0
