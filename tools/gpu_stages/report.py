"""The results of a stage: a JSON file that is written again after every result, so that nothing is lost in a stop."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.gpu_stages.device import dry_run


def utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Report:
    """The file STAGE.json of a folder, which `begin` has made.

    A result's `passed` is True, False, or None for what could not be tried on this machine. A dry run keeps no times.
    """

    def __init__(self, folder: Path, stage: str):
        self.file = folder / f"{stage}.json"
        self.values: dict[str, Any] = json.loads(self.file.read_text("utf-8"))

    @classmethod
    def begin(cls, folder: Path, stage: str, machine: dict[str, str]) -> "Report":
        values = {"stage": stage, "dry_run": dry_run(), "machine": machine, "began": utc(), "status": "running"}
        _write(folder / f"{stage}.json", {**values, "results": []})
        return cls(folder, stage)

    def add(self, name: str, passed: bool | None, times: dict[str, Any] | None = None, **facts: Any) -> None:
        """Add a result, and write the file.

        Args:
            times: everything that was measured in seconds, or follows from such measurements.
            facts: further values of the result.
        """
        result = {
            "name": name, "passed": passed, "device": self.values["machine"]["device"], "dry_run": dry_run(),
            "date": utc(), **facts,
        }  # fmt: skip
        if times and not dry_run():
            result["times"] = times
        self.values["results"].append(result)
        self.write()
        print({True: "passed", False: "FAILED", None: "none"}[passed], name, flush=True)

    def fact(self, name: str, value: Any) -> None:
        self.values[name] = value
        self.write()

    def end(self, status: str, seconds: float) -> None:
        self.values["status"] = status
        if not dry_run():
            self.values["seconds"] = round(seconds, 1)
        self.write()

    @property
    def all_passed(self) -> bool:
        return all(result["passed"] is not False for result in self.values["results"])

    def write(self) -> None:
        _write(self.file, self.values)


def _write(file: Path, values: dict[str, Any]) -> None:
    """Write values to a JSON file, which is replaced whole or not at all."""
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    os.replace(unfinished, file)
