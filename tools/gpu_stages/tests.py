"""Runs tests/gpu, and reports every test's outcome as it comes; what pytest prints goes to the log."""

import os

import pytest

from tools.gpu_stages.device import ROOT
from tools.gpu_stages.report import Report


class Recorder:
    """A pytest plugin that reports every outcome. A test that is skipped counts as not passed."""

    def __init__(self, report: Report):
        self.report = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            facts = {} if report.passed else {"note": str(report.longrepr)[-1500:]}
            self.report.add(
                report.nodeid.removeprefix("tests/gpu/"), report.passed, {"seconds": report.duration}, **facts
            )


def run_stage(report: Report) -> None:
    os.chdir(ROOT)
    status = pytest.main(["-q", "--tb=short", "-p", "no:cacheprovider", "tests/gpu"], [Recorder(report)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"pytest: expected to run tests/gpu, found {status!r}")
