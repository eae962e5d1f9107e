"""docs/notebook.ipynb runs, its outputs are the ones that are kept in it, and what it says of them is so."""

import re
from math import log

import nbformat
import pytest
from run_notebook import NOTEBOOK, run
from support.process import ROOT

# What differs between two runs: times and speeds.
VARYING = re.compile(r"[\d.,]+ (?=steps/s|chars/s)|\d+:\d\d:\d\d|(?<= )[\d.]+ s\b")


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, 4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, run anew in an empty folder that has the repository's data."""
    notebook, folder = nbformat.read(NOTEBOOK, 4), tmp_path_factory.mktemp("notebook")
    (folder / "data").symlink_to(ROOT / "data")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    run(notebook, folder)
    assert not (folder / "runs").exists()  # it writes to a folder of its own
    return notebook


def shown(cell) -> list[tuple[str, ...]]:
    """A code cell's outputs as texts without times; of a picture, only that it is there."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, VARYING.sub("", output.text)))
        else:
            texts = {kind: "" if kind == "image/png" else VARYING.sub("", data) for kind, data in output.data.items()}
            found.append((output.output_type, *sorted(texts.items())))
    return found


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_its_outputs_are_those_that_are_kept(kept, executed):
    assert len(code_cells(kept)) > 10
    assert [cell.execution_count for cell in code_cells(kept)] == [*range(1, len(code_cells(kept)) + 1)]
    for old, new in zip(code_cells(kept), code_cells(executed), strict=True):
        assert shown(old) == shown(new), "python tools/run_notebook.py writes the present outputs"
        assert all(output.get("name") != "stderr" for output in new.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in code_cells(executed) for output in cell.outputs) == 1


def test_what_it_says_is_so(executed):
    outputs = [output for cell in code_cells(executed) for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    nothing, frequencies, pairs = (float(nats) for nats in re.findall(r"knowing .* ([\d.]+) nats", printed))
    text = (ROOT / "data/shakespeare_10K.txt").read_text()
    shares = [text.count(character) / len(text) for character in set(text)]
    assert nothing == pytest.approx(log(len(shares)), abs=5e-4)
    assert frequencies == pytest.approx(-sum(share * log(share) for share in shares), abs=5e-4)
    losses = [float(loss) for loss in re.findall(r"^step +\d+  loss ([\d.]+)", printed, re.MULTILINE)]
    assert nothing > losses[0] > frequencies > pairs > losses[-2] > losses[-1]  # the last one is the resumed run's
    assert losses == sorted(losses, reverse=True)
    assert re.findall(r": (True|False)$", printed, re.MULTILINE) == ["True"] * 4
    html = next(output.data["text/html"] for output in outputs if "rgb(" in str(output))
    assert html.count("<span") == html.count("</span>") == len("CLEOPATRA.\nWhat shall the queen do? Qzx!")


def test_it_is_small_and_knows_nothing_of_the_machine_that_ran_it(kept):
    raw = NOTEBOOK.read_text()
    assert len(raw) < 300_000 and set(kept.metadata) == {"kernelspec"}
    assert not any(folder in raw for folder in ("/tmp", "/home", "/root", str(ROOT)))
