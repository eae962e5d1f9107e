"""Makes a readable table of all results in a folder, whichever calls of `make gpu` they came from."""

import json
from pathlib import Path
from typing import Any

from tools.gpu_stages import LIMITS

VERSIONS = ("driver", "driver_cuda", "cuda_runtime", "nvrtc", "cupy", "numpy", "python")


def summary(folder: Path) -> str:
    lines: list[str] = []
    for stage in LIMITS:
        file = folder / f"{stage}.json"
        if file.is_file():
            lines += [*_stage(json.loads(file.read_text("utf-8"))), ""]
    return "\n".join(lines)


def _stage(values: dict[str, Any]) -> list[str]:
    machine = values["machine"]
    took = f", {values['seconds']} s" if "seconds" in values else ""
    dry = "  DRY RUN: no GPU was used, and nothing was timed" if values["dry_run"] else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS if name in machine)
    head = [
        f"== {values['stage']}: {values['status']}{took}{dry}",
        f"   {machine['device']}; {values['began']}; {versions}",
    ]
    results = values["results"]
    if values["stage"] == "tests":  # only tests that did not pass are listed; log.txt names the others
        results = [result for result in results if result["passed"] is not True]
        head.append(f"   {sum(result['passed'] is True for result in values['results'])} passed, {len(results)} not")
    lines = [line for result in results for line in _result(result)]
    return head + lines + ([f"   {values['error']}"] if "error" in values else [])


def _result(result: dict[str, Any]) -> list[str]:
    mark = {True: "ok", False: "FAIL", None: "--"}[result["passed"]]
    lines = [f"   {mark:4} {result['name']:44} {result.get('note', '')}".rstrip()]
    for name, value in result.get("times", {}).items():
        if isinstance(value, dict):
            lines.append(
                f"          {name:36} " + "  ".join(f"{key} {_short(number)}" for key, number in value.items())
            )
        else:
            lines.append(f"          {name:36} {_short(value)}")
    return lines


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
