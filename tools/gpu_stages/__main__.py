"""Runs one stage, or with --describe describes the machine: python -m tools.gpu_stages STAGE FOLDER STARTER.

STARTER is the number of the process that starts the stage, and with which it ends.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from cuchar.bench.processes import die_with_the_starter
from cuchar.errors import DeviceError
from tools.gpu_stages.device import describe
from tools.gpu_stages.report import Report

if sys.argv[1:] == ["--describe"]:
    try:
        print(json.dumps(describe()))
    except DeviceError as error:
        sys.exit(str(error))
else:
    stage, folder, starter = sys.argv[1:]
    die_with_the_starter(int(starter))
    import_module(f"tools.gpu_stages.{stage}").run_stage(Report(Path(folder), stage))
