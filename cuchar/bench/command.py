"""Does what `cuchar bench` was asked for: it checks the options, runs the benchmark and shows the results."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cuchar.bench.configurations import NAMED, Configuration, named
from cuchar.bench.contender import Choice
from cuchar.bench.load import bench_load
from cuchar.bench.plot import plot_results
from cuchar.bench.ranks import bench_ranks
from cuchar.bench.results import compare, configurations_of, make_folder, peers_of, read_results, write_results
from cuchar.bench.run import bench
from cuchar.bench.sweep import configurations_along, sweep
from cuchar.bench.tables import print_changes, print_load, print_ranks, print_results, print_sweep, status
from cuchar.config import PRECISIONS
from cuchar.errors import OptionError
from cuchar.files import STREAM, expect_output, say
from cuchar.plots.files import expect_drawable


@dataclass(frozen=True)
class Request:
    """The options of the command line. `sizes` has H, L, T and B if at least one of them was given, or else is None."""

    names: Sequence[str]
    sizes: dict[str, int] | None
    precision: str | None
    device: str
    peers: Sequence[str]
    sweep: str | None
    sampling: bool
    scoring: bool
    profile: bool
    json: bool
    out: Path | None
    plot: Path | None
    compare: Path | None
    ranks: int | None
    load: int | None

    def configurations(self) -> list[Configuration]:
        """The configurations that are to be timed.

        Raises:
            OptionError: a name is unknown, or a size or the precision is wrong.
        """
        if self.precision not in (None, *PRECISIONS):
            raise OptionError(f"--precision: expected {' | '.join(PRECISIONS)}, found {self.precision}")
        if self.sizes:
            found = [replace(NAMED["a"], name="own", precision=self.precision or "fp32", **self.sizes)]
        else:
            found = named(list(self.names) or ["a"], self.precision)
        for sizes in found if self.sweep is None else configurations_along(self.sweep, found[0]):
            sizes.train  # noqa: B018 - this checks the sizes
        return found

    def check(self) -> None:
        """Check what can be checked before anything is timed.

        Raises:
            CucharError: options contradict each other, or the plot cannot be made.
        """
        if self.names and self.sizes:
            raise OptionError("NAME: expected it or --hidden, --layers, --window and --batch, found both")
        if self.sweep is not None:
            if len(self.names) > 1:
                raise OptionError(f"--sweep: expected one NAME to begin with, found {' '.join(self.names)}")
            for option in ("sampling", "scoring", "profile", "plot", "compare"):
                if getattr(self, option):
                    raise OptionError(f"--sweep: expected it without --{option}, found both")
        for study in ("ranks", "load"):
            if getattr(self, study) is None:
                continue
            if len(self.names) > 1:
                raise OptionError(f"--{study}: expected one NAME, found {' '.join(self.names)}")
            for option in (
                "sweep",
                "sampling",
                "scoring",
                "profile",
                "plot",
                "compare",
                "peers",
                *{"ranks", "load"} - {study},
            ):
                if getattr(self, option):
                    raise OptionError(f"--{study}: expected it without --{option.removesuffix('s')}, found both")
        if self.plot is not None:
            expect_drawable("--plot", self.plot)
            expect_output("--plot", self.plot, [self.compare] if self.compare else [], binary=True)


def run_request(request: Request) -> int:
    """Run a benchmark, and show and write its results.

    Returns:
        the exit status: 1 if a ratio to a peer is worse than in the results of `request.compare`, otherwise 0.
    Raises:
        CucharError: the request has a mistake, or an engine fails.
    """
    request.check()
    configurations, choice = request.configurations(), Choice.of(request.peers)
    old = None if request.compare is None else read_results(request.compare)
    if request.out is not None:
        make_folder(request.out)
    if request.sweep is not None:
        with status() as notice:
            results = sweep(request.sweep, configurations[0], request.device, choice, notice)
        _show(request, results)
        return 0
    for study, count in ((bench_ranks, request.ranks), (bench_load, request.load)):
        if count is not None:
            with status() as notice:
                results = study(count, configurations[0], request.device, notice)
            _show(request, results)
            return 0
    if old is not None:
        if not request.names and not request.sizes:
            configurations = configurations_of(old)
        if not request.peers:
            choice = Choice(peers_of(old), must=True)
    with status() as notice:
        results = bench(
            configurations, request.device, choice,
            sampling=request.sampling, scoring=request.scoring, profile=request.profile, notice=notice,
        )  # fmt: skip
    changes = [] if old is None else compare(old, results)
    if request.json and changes:
        results["changes"] = [asdict(change) for change in changes]
    if request.plot is not None:
        plot_results(results, request.plot)
    with redirect_stdout(sys.stderr if request.plot == STREAM else sys.stdout):
        _show(request, results)
        if changes and not request.json:
            print_changes(changes, str(request.compare))
    return int(any(change.regressed for change in changes))


def _show(request: Request, results: dict[str, Any]) -> None:
    if request.out is not None:  # before anything is printed, so that the file is safe if standard output fails
        say(f"wrote {write_results(request.out, results)}")
    if request.json:
        print(json.dumps(results))
    elif "sweep" in results:
        print_sweep(results)
    elif "ranks" in results:
        print_ranks(results)
    elif "load" in results:
        print_load(results)
    else:
        print_results(results)
