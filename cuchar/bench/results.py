"""Writes results to files, reads them, and compares them with older ones."""

import json
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.run import FORMAT
from cuchar.errors import OutputError, ResultError
from cuchar.files import write_file


def make_folder(folder: Path) -> None:
    """Make the folder for results, if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {folder}: expected to make a folder, found: {error.strerror}") from None


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write results to <device>-<date>.json in `folder`, or to <device>-<date>.2.json and so on if that is taken.

    Returns:
        the file's path.
    Raises:
        OutputError: it cannot be written.
    """
    device = re.sub(r"[^a-z0-9]+", "-", results["device"].lower()).strip("-")
    studies = {
        "sweep": f"-{results['sweep']['along']}" if "sweep" in results else "",
        "ranks": "-ranks",
        "load": "-load",
    }
    what = next((part for study, part in studies.items() if study in results), "")
    name = f"{device}-{results['date'][:10]}{what}"
    files = (folder / f"{name}{'' if number == 1 else f'.{number}'}.json" for number in count(1))
    file = next(file for file in files if not file.exists())
    write_file(file, (json.dumps(results, indent=1) + "\n").encode())
    return file


def read_results(file: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        ResultError: the file is not one that this version can compare with.
    """
    try:
        results: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON"
        raise ResultError(f"{file}: expected a result of cuchar bench, found: {reason}") from None
    found = results.get("format") if isinstance(results, dict) else None
    if found != FORMAT or "configurations" not in results:
        raise ResultError(
            f"{file}: expected configurations that cuchar bench has timed, in format {FORMAT}, found "
            f"{'a sweep, ranks or load' if found == FORMAT else f'format {found}'}"
        )
    return results


def configurations_of(results: dict[str, Any]) -> list[Configuration]:
    return [Configuration(**entry["configuration"]) for entry in results["configurations"]]


def peers_of(results: dict[str, Any]) -> tuple[str, ...]:
    """The peers that took part in every configuration."""
    each = [entry["peers"] for entry in results["configurations"]]
    return tuple(peer for peer in each[0] if all(peer in peers for peers in each)) if each else ()


@dataclass(frozen=True)
class Change:
    """What became of one contender's time for a configuration's training step."""

    configuration: str
    peer: str | None  # None for cuchar itself
    old_ms: float
    new_ms: float
    old_ratio: dict[str, float] | None = None  # the peer's time over cuchar's, as timing.Ratio
    new_ratio: dict[str, float] | None = None
    regressed: bool = False


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Compare what both results have: for each configuration cuchar's time, then each peer's.

    A ratio of a peer's time to cuchar's has regressed if its whole interval lies below the old one. Times by themselves
    never count as regressed, since the machine may have been slower, but the peer took turns with cuchar on the same
    machine.

    Raises:
        ResultError: the results are of different machines, or have no configuration in common.
    """
    if (old["device"], old["threads"]) != (new["device"], new["threads"]):
        there, here = (f"{results['device']}, {results['threads']} threads" for results in (old, new))
        raise ResultError(f"--compare: expected results of this machine ({here}), found {there}")
    before = {_key(entry): entry for entry in old["configurations"]}
    changes = []
    for entry in new["configurations"]:
        if _key(entry) not in before:
            continue
        past, name = before[_key(entry)], entry["configuration"]["name"]
        changes.append(Change(name, None, past["ours"]["ms"], entry["ours"]["ms"]))
        for peer in entry["peers"]:
            if peer in past["peers"]:
                was, now = past["peers"][peer], entry["peers"][peer]
                worse = now["ratio"]["high"] < was["ratio"]["low"]
                changes.append(Change(name, peer, was["ms"], now["ms"], was["ratio"], now["ratio"], worse))
    if not changes:
        raise ResultError("--compare: expected a configuration that the old results have too, found none")
    return changes


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for name, value in entry["configuration"].items() if name != "name")
