"""Compiled libraries are kept, checked before they are loaded, and compiled anew where they cannot be kept."""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.process import environment

from cuchar.devices import host_compiler
from cuchar.errors import DeviceError

SOURCE = 'extern "C" int answer() { return 42; }'
STRANGER = 54321  # a user without a name or a home
KEPT = "the next run finds them compiled"
CHILD = f"""
import os, pwd
from contextlib import nullcontext
from cuchar.devices import host_compiler

def nobody(user):
    raise KeyError(user)

pwd.getpwuid = nobody
if os.getuid() == 0:
    os.setuid({STRANGER})
library = host_compiler.build({SOURCE!r}, ["-O0"], "test", notice=lambda kept: nullcontext(print(kept)))
assert host_compiler.load(library).answer() == 42
print(library, oct(library.parent.parent.stat().st_mode & 0o777))
"""


def build() -> tuple[Path, list[str]]:
    notices: list[str] = []
    library = host_compiler.build(SOURCE, ["-O0"], "test", notice=lambda kept: nullcontext(notices.append(kept)))
    assert host_compiler.load(library).answer() == 42
    return library, notices


@pytest.fixture
def open_folder():
    """A temporary folder that every user may look into, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def cached(open_folder, monkeypatch) -> Path:
    """The library, compiled into a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_folder))
    library, notices = build()
    assert notices == [KEPT] and library.parent == open_folder / "cuchar/test"
    assert {path.name for path in library.parent.iterdir()} == {library.name, f"{library.stem}.sha256"}
    assert library.stat().st_mode & 0o555 == 0o555
    assert build() == (library, [])
    return library


DAMAGE = {
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:20],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut at the end": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "of zeros": lambda content: bytes(len(content)),
    "of one other bit": lambda content: bytes([*content[:999], content[999] ^ 1, *content[1000:]]),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_library_is_made_again(how, cached):
    content = cached.read_bytes()
    cached.unlink()  # what this process has loaded stays as it is
    cached.write_bytes(DAMAGE[how](content))
    assert build() == (cached, [KEPT])
    assert cached.read_bytes() == content and build() == (cached, [])


@pytest.mark.parametrize("digest", [None, b"", b"\xff" * 64])
def test_a_library_without_its_digest_is_made_again(digest, cached):
    file = cached.with_suffix(".sha256")
    file.unlink() if digest is None else file.write_bytes(digest)
    assert build() == (cached, [KEPT])
    assert re.fullmatch("[0-9a-f]{64}", file.read_text())


@pytest.mark.parametrize("where", ["relative/path", ""])
def test_a_cache_that_is_named_by_no_absolute_path_is_not_used(where, tmp_path, monkeypatch):
    """The XDG Base Directory Specification asks for that."""
    monkeypatch.setenv("XDG_CACHE_HOME", where)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build()[0].parent == tmp_path / ".cache/cuchar/test"


def as_stranger(**variables: object) -> list[str]:
    """What CHILD prints as a user who has no home and no cache but those of these environment variables."""
    env = {name: value for name, value in environment().items() if name not in ("HOME", "XDG_CACHE_HOME")}
    env |= {name: str(value) for name, value in variables.items()}
    run = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def expect_own_folder(lines: list[str], trouble: str) -> None:
    notice, library = lines
    assert notice == f"every run will, since {trouble}: set XDG_CACHE_HOME"
    library, mode = library.split()
    assert mode == "0o700" and not Path(library).parent.parent.exists()  # it went with the process


def test_without_a_home_every_run_compiles():
    expect_own_folder(as_stranger(), "there is no home directory")


def test_where_the_cache_cannot_be_written_every_run_compiles(open_folder):
    (open_folder / "home").mkdir(mode=0o555)
    (open_folder / "file").write_text("")
    for home, error in (("home", "Permission denied"), ("file", "Not a directory")):
        place = open_folder / home / ".cache/cuchar/test"
        expect_own_folder(as_stranger(HOME=open_folder / home), f"{place} cannot be used ({error})")


def test_a_cache_that_can_only_be_read_is_read(cached, open_folder):
    cached.parent.chmod(0o555)
    assert as_stranger(XDG_CACHE_HOME=open_folder)[0].startswith(f"{cached} ")


def test_another_user_s_cache_is_not_used(cached, monkeypatch):
    if os.getuid() == 0:
        os.chown(cached.parent, STRANGER, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    library, notices = build()
    assert library.parent != cached.parent
    assert notices == [
        f"every run will, since {cached.parent} cannot be used (it is another user's): set XDG_CACHE_HOME"
    ]


def test_no_room_at_all_and_a_file_that_is_no_library_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no library")
    with pytest.raises(DeviceError, match=f"expected to load {tmp_path}/file, found: .*; set XDG_CACHE_HOME"):
        host_compiler.load(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(host_compiler, "_own_folder", lambda: tmp_path / "file")
    with pytest.raises(DeviceError, match=r"expected room for what is compiled, found: .*/file/test.*; set XDG"):
        build()
