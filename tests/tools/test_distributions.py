"""Wheel and sdist: what they hold, that their bytes repeat, and that an installed wheel works and has types."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
from support.process import ROOT
from support.small_runs import TEXT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
# Each `type: ignore` hides a mistake. Strict mypy complains about one that hides nothing, as all would if the package
# had no types for the program to be held against.
PROGRAM = """
from pathlib import Path

import cuchar


class Notes(cuchar.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def step(self, step: int, loss: float, chars: int) -> None:
        self.losses.append(loss)


def use(text: Path) -> float:
    model: cuchar.Model = cuchar.train(text, callbacks=[Notes()], hidden=8, max_steps=2)
    written: str = model.sample(30, prime="a", seed=1)
    number: int = model.sample(30)  # type: ignore[assignment]
    cuchar.load(3)  # type: ignore[arg-type]
    score: cuchar.Score = model.score(written)
    return score.bits_per_char + number
"""


def build(source: Path, out: Path, umask: int, **environment: str) -> tuple[Path, Path]:
    """Make sdist and wheel of the tree in `source`."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", out, "-t", "sdist", "-t", "wheel"]
    subprocess.run(command, cwd=source, umask=umask, check=True, capture_output=True, env={**os.environ, **environment})
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The checkout's sdist and wheel."""
    out = tmp_path_factory.mktemp("made")
    sdist, wheel = build(ROOT, out, 0o022, SOURCE_DATE_EPOCH="1700000000", TZ="UTC")
    return SimpleNamespace(sdist=sdist, wheel=wheel)


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    """An environment with the wheel, and with this environment's packages beside it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, made.wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not followed
    return SimpleNamespace(python=python, cuchar=folder / "bin/cuchar", packages=packages)


def run(*command: object, cwd: Path) -> str:
    """The output of a command that must succeed, and that does not find the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_wheel_holds_the_package_and_nothing_else(made):
    with ZipFile(made.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    package = {f"cuchar/{name}" for name in files(ROOT / "cuchar")}
    kernels = {f"cuchar/kernels/{name}" for name in files(ROOT / "kernels")}
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert names == package | kernels | {f"cuchar-{VERSION}.dist-info/{name}" for name in about}
    assert {"cuchar/py.typed", "cuchar/kernels/resident/lstm_resident.cu", "cuchar/export/sampler.html"} <= names


def test_sdist_holds_what_git_keeps(made):
    with tarfile.open(made.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    listed = set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    assert {name.partition("/")[0] for name in names} == listed | {".gitignore", "PKG-INFO"}
    assert {"data/shakespeare.txt", "tests/conftest.py", "cuchar/py.typed", ".ci/run"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_same_bytes_in_another_folder_under_another_umask(made, tmp_path):
    """And from an sdist that was unpacked, so that whoever has the sdist can check the wheel."""
    with tarfile.open(made.sdist) as sdist:
        sdist.extractall(tmp_path, filter="tar")
    source = tmp_path / f"cuchar-{VERSION}"
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & 0o700)  # what another umask leaves
            os.utime(path, (2_000_000_000, 2_000_000_000))
    sdist, wheel = build(source, tmp_path / "out", 0o077, SOURCE_DATE_EPOCH="1700000000", TZ="Pacific/Auckland")
    assert wheel.name == made.wheel.name and wheel.read_bytes() == made.wheel.read_bytes()
    assert sdist.name == made.sdist.name and sdist.read_bytes() == made.sdist.read_bytes()


def test_an_installed_wheel_trains_with_its_own_kernels(installed, tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT)
    assert run(installed.cuchar, "--version", cwd=tmp_path) == f"cuchar {VERSION}\n"
    code = "import cuchar, cuchar.devices.kernel_sources as sources; print(cuchar.__file__, sources.kernel_folder())"
    places = run(installed.python, "-c", code, cwd=tmp_path).split()
    assert places == [str(installed.packages / "cuchar" / name) for name in ("__init__.py", "kernels")]
    for device in ("cpu", "emulate"):
        options = f"--hidden 8 --window 6 --batch 3 --max-steps 3 --device {device} --out {device}".split()
        run(installed.cuchar, "train", "fox.txt", *options, cwd=tmp_path)
        assert (tmp_path / device / "last.safetensors").exists()


def test_a_program_is_held_against_the_types_of_an_installed_wheel(installed, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--python-executable"]
    run(*mypy, installed.python, "program.py", cwd=tmp_path)


def test_the_citation_names_this_version():
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
