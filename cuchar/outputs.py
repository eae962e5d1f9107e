"""Where results may go: never over what they are made from, nor over a file that a run keeps."""

import os
from collections.abc import Iterable
from pathlib import Path

from cuchar.checkpoint import checkpoint_file
from cuchar.files import expect_output
from cuchar.run_folder import FILES


def expect_new_output(
    option: str, output: Path, checkpoint: Path | None, inputs: Iterable[Path] = (), binary: bool = False
) -> None:
    """Check that `output` is a place for a result.

    Args:
        option: what messages call the option or argument that named `output`.
        checkpoint: a checkpoint file or run folder that is read for the result, if one is.
        inputs: other files that are read for it.
        binary: whether the result is bytes, which are not for a terminal.
    Raises:
        CheckpointError: there is no such checkpoint.
        OutputError: it would replace an input, the checkpoint, or a file of the checkpoint's run or of another run; or
            it is no place for a file, as `files.expect_output` says.
    """
    read = [] if checkpoint is None else [checkpoint_file(checkpoint)]
    parents = {file.parent for file in read} | {Path(os.path.realpath(output)).parent}
    kept = [folder / name for folder in parents if (folder / "config.json").is_file() for name in FILES]
    expect_output(option, output, [*inputs, *read, *kept], binary)
