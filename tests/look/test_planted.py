"""A model that is trained on a text in which something was planted has a cell for it, and that cell is found."""

import json
import re

from support.planted import brackets, quotes_in_lines

import cuchar


def cells_of(folder, planted, count, **options):
    """The names of what the page's first cells track, with the scores, on a text of that kind that is new."""
    (folder / "seen.txt").write_text(planted(60_000))
    model = cuchar.train(
        folder / "seen.txt", out=folder / "run", layers=1, window=64, lr=0.01, carry_state=True, sample_every=0,
        epochs=count, max_steps=count, device="cpu", **options,
    )  # fmt: skip
    model.look(planted(20_000, seed=1), folder / "page.html")
    data = json.loads(re.search(r'id="data">(.*?)</script>', (folder / "page.html").read_text(), re.DOTALL)[1])
    tracked = [cell["tracks"][0][:2] for cell in data["cells"] if cell["tracks"]]
    return [(data["properties"][at].get("name"), abs(score)) for at, score in tracked]


def test_brackets_come_first(tmp_path):
    found = cells_of(tmp_path, brackets, 300, hidden=16)
    assert found[0][0] == "inside ( )" and found[0][1] > 0.9


def test_a_quote_cell_and_a_line_cell(tmp_path):
    found = dict(reversed(cells_of(tmp_path, quotes_in_lines, 1000, hidden=24)))
    assert found["inside quotes"] > 0.8 and found["position in the line"] > 0.8
