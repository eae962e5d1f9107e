"""Prints results as tables, for a person."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, PEERS
from cuchar.bench.results import Change
from cuchar.bench.sweep import ALLOWANCE
from cuchar.bench.timing import LEAD_IN

BUSY = 0.5  # a load average above this is mentioned
# A contender is mentioned if it uses more than this share of a processor while others have their turn, which is more
# than the others' lead-in can make good.
SPINS = 1 / LEAD_IN


@contextmanager
def status() -> Iterator[Any]:
    """A context with a line on a terminal's standard error; the function that it yields sets the line's text."""
    with Console(stderr=True).status("") as shown:
        yield shown.update


def print_results(results: dict[str, Any]) -> None:
    console = Console()
    for entry in results["configurations"]:
        _print_training(console, entry)
        if "sampling" in entry:
            _print_sampling(console, entry["sampling"])
        if "scoring" in entry:
            _print_scoring(console, entry["scoring"])
        if "profile" in entry:
            _print_profile(console, entry)
    if "configurations" in results:
        _say(console, f"cuchar --help: {results['help_s']:.2f} s")
    _print_heading(console, results)


def _print_heading(console: Console, results: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    _say(console, f"{results['device']}, {results['threads']} threads; {versions}; {results['date']}")
    if results["load_before"] > BUSY:
        _say(
            console, f"others had work for {results['load_before']:.1f} processors: not the figures of a quiet machine"
        )


def _print_training(console: Console, entry: dict[str, Any]) -> None:
    """Print a table with a column for each contender."""
    sizes, ceilings, on_gpu = Configuration(**entry["configuration"]), entry["ceilings"], entry["ours"]["device_ms"]
    names, contenders = zip(*_contenders(entry), strict=True)
    table = Table("", *names, title=f"{sizes.name}: {sizes.sizes} {sizes.precision}")

    def row(what: str, shown: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(what, *map(shown, contenders))

    def of_limit(count: str, unit: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: (
            f"{entry[count] / one['ms'] / 1e6:,.1f} ({entry[count] / one['ms'] * 1e3 / ceilings[unit]:.0%})"
        )

    row("ms a step", lambda one: f"{one['ms']:.4g}")
    row("  quartiles", lambda one: f"{one['low']:.4g} to {one['high']:.4g}")
    if on_gpu:
        row("  by the GPU's clock", lambda one: f"{one['device_ms']:.4g}")
    row("characters a second", lambda one: f"{one['chars_per_s']:,.0f}")
    limits = {
        unit: f"{ceilings[unit] / 1e9:,.0f} that {ceilings['by']} reaches" for unit in ("flops_per_s", "bytes_per_s")
    }
    row(f"GFLOP/s, of {limits['flops_per_s']}", of_limit("flops", "flops_per_s"))
    row(f"GB/s, of {limits['bytes_per_s']}", of_limit("bytes", "bytes_per_s"))
    row("memory", lambda one: _mib(one["host_bytes"]))
    if on_gpu:
        row("  of the GPU", lambda one: _mib(one["device_bytes"]))
    row("first step done after", lambda one: f"{one['first_step_s']:.2f} s")
    if entry["peers"]:
        row("time / cuchar's", lambda one: _interval(one.get("ratio")))
    console.print(table)
    _say_who(console, entry)
    for name, found in _contenders(entry):
        if entry["peers"] and found["idle_cpu"] > SPINS:
            _say(console, f"{name} took {found['idle_cpu']:.0%} of a processor while others had their turn")


def _print_sampling(console: Console, drawings: list[dict[str, Any]]) -> None:
    table = Table("streams", "", "µs/character of each", "chars/s", "time / cuchar's", title="drawing")
    for drawing in drawings:
        for name, found in _contenders(drawing):
            table.add_row(
                f"{drawing['streams']:,}", name, f"{found['ms'] * 1e3:,.4g}", f"{found['chars_per_s']:,.0f}",
                _interval(found.get("ratio")),
            )  # fmt: skip
    console.print(table)


def _print_scoring(console: Console, scoring: dict[str, Any]) -> None:
    title = f"scoring {scoring['characters']:,} characters"
    table = Table("", "ms", "chars/s", "time / cuchar's", title=title)
    for name, found in _contenders(scoring):
        table.add_row(name, f"{found['ms']:,.4g}", f"{found['chars_per_s']:,.0f}", _interval(found.get("ratio")))
    console.print(table)


def _print_profile(console: Console, entry: dict[str, Any]) -> None:
    has_floor = any("flops" in found for found in entry["profile"].values())
    floor = ["floor, ms"] if has_floor else []  # at the rate of the machine's multiply-adds
    table = Table("part of a step", "times", "µs each", "ms", "of the step", *floor, title="profile")
    for part, found in entry["profile"].items():
        each = found.get("us")
        ms = None if each is None else found["launches"] * each / 1e3
        shown = ("", "", "") if ms is None else (f"{each:,.4g}", f"{ms:.4g}", f"{ms / entry['ours']['ms']:.0%}")
        at_least = f"{found['flops'] / entry['ceilings']['flops_per_s'] * 1e3:.4g}" if "flops" in found else ""
        table.add_row(part, str(found["launches"]), *shown, *([at_least] if has_floor else []))
    console.print(table)


def print_sweep(results: dict[str, Any]) -> None:
    console, sweep = Console(), results["sweep"]
    base = Configuration(**sweep["base"])
    points, growth = sweep["points"], sweep["growth"]
    table = Table(sweep["along"], *(str(point["size"]) for point in points))
    table.title = f"{base.name}: {base.sizes} {base.precision}, along {sweep['along']}"
    table.add_row("ms a step", *(f"{point['ours']['ms']:.4g}" for point in points))
    table.add_row("  grew by", "", *(f"{one['time']['value']:.2f}" for one in growth))
    table.add_row("  95 % interval", "", *(_bounds(one["time"]) for one in growth))
    table.add_row("arithmetic grew by", "", *(f"{one['flops']:.2f}" for one in growth))
    table.add_row("memory", *(_mib(point["memory"]) for point in points))
    table.add_row("  grew by", "", *(f"{one['memory']:.2f}" for one in growth))
    table.add_row("what it must hold grew by", "", *(f"{one['bytes_held']:.2f}" for one in growth))
    for peer in points[0]["peers"]:
        ratios = [point["peers"].get(peer, {}).get("ratio") for point in points]
        table.add_row(
            f"{PEERS[peer].title}: time / cuchar's", *("" if one is None else f"{one['value']:.2f}" for one in ratios)
        )
        table.add_row("  95 % interval", *("" if one is None else _bounds(one) for one in ratios))
    console.print(table)
    for what, name, measure in (
        ("time", "time_no_faster", "the arithmetic"),
        ("memory", "memory_no_faster", "what it must hold"),
    ):
        faster = [f"{one['from']} to {one['to']}" for one in growth if not one[name]]
        verdict = f"grew faster than {measure} from {', '.join(faster)}" if faster else f"grew no faster than {measure}"
        _say(console, f"{what} {verdict} (within {ALLOWANCE - 1:.0%})")
    _say_who(console, points[0])
    _print_heading(console, results)


def print_ranks(results: dict[str, Any]) -> None:
    """Print what ranks make of a training step, beside one process."""
    console, found = Console(), results["ranks"]
    sizes, ranks, timings = Configuration(**found["configuration"]), found["ranks"], found["timings"]
    table = Table("", "threads", "ms a step", title=f"{sizes.name}: {sizes.sizes} {sizes.precision}, {ranks} ranks")
    each = f"{ranks} x {found['threads_a_rank']}"
    for name, words, threads in (
        ("alone", "one process", str(results["threads"])),
        ("alone on a share", "one process on a rank's share", str(found["threads_a_rank"])),
        ("ranks", f"{ranks} ranks", each),
    ):
        table.add_row(words, threads, f"{timings[name]['ms']:.4g}")
    table.add_row("  of it adding up gradients", "", f"{found['summing_ms']:.4g}")
    console.print(table)
    _say(
        console, f"{ranks} ranks are {_interval(found['speedup'])} times as fast as one process on the same processors"
    )
    _say(console, f"scaling efficiency {_interval(found['efficiency'])}, against one process on a rank's share of them")
    _print_heading(console, results)


def print_load(results: dict[str, Any]) -> None:
    """Print what a training step takes while other processes keep processors busy."""
    console, found, threads = Console(), results["load"], str(results["threads"])
    sizes, timings, busy = Configuration(**found["configuration"]), found["timings"], found["busy"]
    others = f"{busy} busy process{'es' if busy > 1 else ''}"
    table = Table("", "threads", "ms a step", title=f"{sizes.name}: {sizes.sizes} {sizes.precision}, beside {others}")
    for name, words, own in (
        ("one thread", "one thread, nothing beside it", "1"),
        ("free", "all threads, nothing beside them", threads),
        ("under load", f"all threads, beside {others}", threads),
    ):
        table.add_row(words, own, f"{timings[name]['ms']:.4g}")
    console.print(table)
    _say(console, f"beside {others} a step takes {_interval(found['slowdown'])} times as long as on one free thread")
    _print_heading(console, results)


def print_changes(changes: Sequence[Change], since: str) -> None:
    console = Console()
    table = Table("", "", "ms before", "ms now", "time / cuchar's before", "now", "", title=f"since {since}")
    for change in changes:
        ratios = map(_interval, (change.old_ratio, change.new_ratio))
        name = OURS if change.peer is None else PEERS[change.peer].title
        times = f"{change.old_ms:.4g}", f"{change.new_ms:.4g}"
        table.add_row(change.configuration, name, *times, *ratios, "REGRESSED" if change.regressed else "")
    console.print(table)


def _contenders(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield OURS, entry["ours"]
    for peer, found in entry["peers"].items():
        yield PEERS[peer].title, found


def _say_who(console: Console, entry: dict[str, Any]) -> None:
    """Print the contenders' notes, and why peers that do not take part cannot."""
    for contender, note in entry["notes"].items():
        _say(console, f"{OURS if contender == OURS else PEERS[contender].title}: {note}")
    for peer, reason in entry["absent"].items():
        _say(console, f"not there: {PEERS[peer].title} ({reason})")


def _interval(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['value']:.2f} ({_bounds(ratio)})"


def _bounds(ratio: dict[str, float]) -> str:
    return f"{ratio['low']:.2f}-{ratio['high']:.2f}"


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f} MiB"
