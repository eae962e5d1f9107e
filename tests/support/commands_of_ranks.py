"""Several command lines one after the other, in each of the processes that a launcher has started.

python tests/support/commands_of_ranks.py FOLDER COMMANDS      COMMANDS are JSON, a list of lists of words

FOLDER/NUMBER.RANK.out, .err and .status are what a rank has printed at a command, and with which status it has ended.
"""

import json
import os
import sys
from pathlib import Path

from cuchar.cli.main import main
from cuchar.files import prepare_streams
from cuchar.launch import launched

if __name__ == "__main__":
    folder, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
    prepare_streams()
    for number, words in enumerate(commands):
        name = f"{number}.{launched().rank}"
        for descriptor, suffix in ((1, "out"), (2, "err")):
            with open(folder / f"{name}.{suffix}", "wb") as file:
                os.dup2(file.fileno(), descriptor)
        sys.argv = ["cuchar", *words]
        try:
            main()
        except SystemExit as ended:
            (folder / f"{name}.status").write_text(f"{ended.code or 0}")
        sys.stdout.flush()
