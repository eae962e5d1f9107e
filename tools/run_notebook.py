"""Runs docs/notebook.ipynb in a folder of its own, and writes its outputs into it: python tools/run_notebook.py"""

import os
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs/notebook.ipynb"


def run(notebook: Any, folder: Path, client: type[NotebookClient] = NotebookClient) -> None:
    """Run a notebook in `folder` with this checkout's cuchar; every cell gets its outputs.

    What a cell prints in several pieces one after the other becomes one output, as Jupyter shows it.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    resources = {"metadata": {"path": str(folder)}}
    client(notebook, timeout=120, resources=resources, record_timing=False).execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell, with the pieces of a stream that follow each other in one."""
    found = []
    for name, group in groupby(outputs, key=lambda output: output.get("name")):
        pieces = list(group)
        if name is None:
            found += pieces
        else:
            found.append(nbformat.v4.new_output("stream", name=name, text="".join(piece.text for piece in pieces)))
    return found


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(ROOT / "data")
        run(notebook, Path(folder))
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}  # nothing about the Python that ran it
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
