"""Installs cuchar and the packages that it needs in an environment that has nothing else, and uses it.

    python tools/clean_install.py oldest   # from the wheel, each dependency at the lower bound of pyproject.toml
    python tools/clean_install.py newest   # from the sdist, each dependency at its version in constraints.txt

With the oldest, a part of the tests runs too: of what dependencies do for cuchar, that is the most in the least time.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
USES = """
--version
train fox.txt --hidden 8 --window 6 --batch 3 --max-steps 6 --save-every 3 --device cpu --out cpu
train fox.txt --hidden 8 --window 6 --batch 3 --max-steps 3 --device emulate --out emulated
train --resume cpu --max-steps 9
sample cpu --length 20 --seed 1
eval cpu fox.txt --device cpu
plot cpu
runs .
info cpu
export cpu fox.json
bench --device cpu --peer none --hidden 4 --layers 1 --window 3 --batch 2
"""
TESTS = [
    "tests/test_adam.py", "tests/test_corpus.py", "tests/test_sampling.py", "tests/test_old_run.py",
    "tests/test_checkpoint.py", "tests/cli/test_eval_command.py::test_eval_mistakes", "tests/cli/test_options.py",
    "tests/cli/test_entry.py::test_bare_command_is_help", "tests/cli/test_entry.py::test_short_help_and_version",
    "tests/test_training.py", "tests/cli/test_terminal.py",
    "tests/devices/test_signatures.py", "tests/export/test_pytorch_import.py",
]  # fmt: skip
NEED_MORE = "BF16 or every_command"  # the one writes its file by a newer safetensors, the other a model by onnx
TEST_PACKAGES = ["pytest", "hypothesis", "pexpect", "pyte"]


def lower_bounds(requirements: list[str]) -> list[str]:
    """What pip is to be held to, such as "numpy==2" for "numpy>=2"; every requirement must state a lower bound."""
    found = [re.match(r"([\w-]+)>=([\d.]+)(?=;|$)", requirement) for requirement in requirements]
    if None in found:
        raise SystemExit(f"{requirements}: expected each to be NAME>=VERSION, found one that is not")
    return [f"{bound[1]}=={bound[2]}" for bound in found if bound]


def run(*command: object, cwd: Path) -> None:
    print("+", *command, flush=True)  # what it prints is of interest only where it fails
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}expected status 0, found {done.returncode}")


def main(which: str, folder: Path) -> None:
    builder = [sys.executable, "-m", "hatchling", "build", "-d", folder / "dist", "-t"]
    run(*builder, "wheel" if which == "oldest" else "sdist", cwd=ROOT)
    (package,) = (folder / "dist").iterdir()
    newest = (ROOT / "constraints.txt").read_text().splitlines()
    pins = newest
    if which == "oldest":
        pins = lower_bounds(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins))
    venv.create(folder / "environment", with_pip=True)
    bin = folder / "environment/bin"
    install = [bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    run(*install, package, cwd=folder)
    run(bin / "python", "-m", "pip", "check", cwd=folder)
    (folder / "fox.txt").write_text(TEXT)
    for words in USES.strip().splitlines():
        run(bin / "cuchar", *words.split(), cwd=folder)
    if which == "oldest":
        run(*install, *(pin for pin in newest if pin.partition("==")[0] in TEST_PACKAGES), cwd=folder)
        run(bin / "pytest", "-q", "-W", "ignore", "-k", f"not ({NEED_MORE})", *TESTS, cwd=ROOT)


if __name__ == "__main__":
    if sys.argv[1:] not in (["oldest"], ["newest"]):
        sys.exit("expected oldest or newest, found: " + " ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], Path(folder))
