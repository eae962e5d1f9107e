"""What TensorBoard shows of a run is what the run's own files say, read by TensorBoard's reader and by its server."""

import html
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import urlencode

import numpy as np
import pytest
from google.protobuf import text_format
from support.divergence import diverging_step
from support.process import start
from support.run_records import interrupt_after, metrics, records_without_times
from support.small_runs import TEXT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugin_util import markdown_to_safe_html

from cuchar import TensorBoard
from cuchar.callbacks import Callback, Run
from cuchar.checkpoint import read_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.host import HostLearner
from cuchar.errors import OutputError
from cuchar.interrupts import Interrupted
from cuchar.parameters import parameter_shapes
from cuchar.runs import resume_run, start_run
from cuchar.tensorboard.callback import BEST, SCALARS, as_it_is
from cuchar.tensorboard.event_log import kept_length
from cuchar.tensorboard.graph import training_step
from cuchar.training import Trainer

CONFIG = TrainConfig(
    hidden=8, layers=2, window=7, batch=5, epochs=2, lr=0.01, log_every=6, sample_every=8, sample_length=40, save_every=10,
    carry_state=True, val_fraction=0.05, seed=3,
)  # fmt: skip
MARKUP = "<b>*`~&#_|</pre>\t  \n\n    \r\x1b[0m```~~~é"  # a model of a text with these writes them in any order
SAVES_TO_TELL = [10, 20, 30, 40]


class Gradients(Callback):
    """Notes the least and the greatest gradient of every parameter after each save."""

    def __init__(self):
        self.seen = {}

    def start(self, run):
        self.run = run

    def step(self, step, loss, chars):
        self.now = step

    def saved(self, checkpoint):
        gradients = self.run.gradients().items()
        weights = checkpoint.parameters.items()
        for kind, tensors in (("gradients", gradients), ("weights", weights)):
            for name, tensor in tensors:
                ends = (float(tensor.min()), float(tensor.max()))
                self.seen.setdefault(f"{kind}/{name}", {})[self.now] = ends


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "fox.txt").write_text(TEXT)
    (folder / "markup.txt").write_bytes((MARKUP * 60).encode())
    return folder


@pytest.fixture(scope="module")
def shown(texts, tmp_path_factory):
    """A folder of runs: `whole`, `markup`, and `resumed`, which crashed twice and was given more steps at its end."""
    runs = tmp_path_factory.mktemp("runs")
    noted = Gradients()
    start_run([texts / "fox.txt"], CONFIG, out=runs / "whole", callbacks=[TensorBoard(), noted])
    markup = replace(CONFIG, carry_state=False, layers=1, clip=1.0, schedule="cosine", lr=0.02)
    start_run([texts / "markup.txt"], markup, out=runs / "markup", callbacks=[TensorBoard()])
    short = replace(CONFIG, epochs=1, max_steps=27)
    for step in (17, 25):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
            interrupt_after(patch, step, RuntimeError("crash"))
            if step == 17:
                start_run([texts / "fox.txt"], short, out=runs / "resumed", callbacks=[TensorBoard()])
            else:
                resume_run(runs / "resumed", callbacks=[TensorBoard()])
    with (runs / "resumed/tensorboard/events.out.tfevents.000002").open("ab") as file:
        file.write(b"\x80\x00\x00\x00\x00\x00\x00\x00\x01\x02")  # a record that a killed process has begun
    resume_run(runs / "resumed", callbacks=[TensorBoard()])
    assert metrics(runs / "resumed")[-1].keys() >= {"val_loss"}  # of an end, step 27, that a longer run does not have
    more = {"epochs": 2, "max_steps": 1000}
    resume_run(runs / "resumed", options=more, callbacks=[TensorBoard()])
    return runs, noted.seen


@pytest.fixture(scope="module")
def ask(shown):
    """Ask a TensorBoard of its own for JSON, or for another kind of text."""
    program = "from tensorboard.main import run_main; run_main()"
    arguments = ["--logdir", shown[0], "--host", "127.0.0.1", "--port", "0", "--samples_per_plugin", "text=1000"]
    server = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        for line in server.stderr:
            found = re.search(r"at (http://127\.0\.0\.1:\d+)/", line)
            if found:
                break
        else:
            raise AssertionError("TensorBoard has ended before it served anything")

        def get(path, body=None, **query):
            data = None if body is None else json.dumps(body).encode()
            url = f"{found[1]}/data/{path}" + (f"?{urlencode(query)}" if query else "")
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                content = answer.read().decode()
            return json.loads(content) if answer.headers["Content-Type"].startswith("application/json") else content

        deadline = time.monotonic() + 30
        while len(get("runs")) < 3 or len(get("plugin/graphs/info")) < 3:
            assert time.monotonic() < deadline, "TensorBoard has not read the runs within 30 s"
            time.sleep(0.1)
        yield get
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with the process that reads the files for it
        server.wait(20)
        server.stderr.close()


def expected_scalars(run):
    """What metrics.jsonl says, by TensorBoard's tags: steps and values, which event files have in float32."""
    expected, best = {}, np.inf
    for line in metrics(run, times=True):
        values = {tag: line[name] for name, tag in SCALARS.items() if name in line}
        if "val_loss" in line:
            values[BEST] = best = min(best, line["val_loss"])
        for tag, value in values.items():
            expected.setdefault(tag, []).append((line["step"], float(np.float32(value))))
    return expected


def accumulated(run):
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "tensors": 0, "histograms": 0})
    return events.Reload()


def scalars_of(events):
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def blocks(run):
    """The samples of samples.txt with their steps, and with control characters escaped."""
    text = (run / "samples.txt").read_bytes().decode("utf-8", "backslashreplace")
    text = text.replace("\r", "\\r").replace("\x1b", "\\x1b")
    found = re.findall(r"--- step (\d+) ---\n.*?\n\n(?=--- step|\Z)", text, re.DOTALL)
    parts = re.split(r"(?=^--- step \d+ ---\n)", text, flags=re.MULTILINE)[1:]
    assert len(found) == len(parts)
    return [(int(step), part) for step, part in zip(found, parts, strict=True)]


class Rendered(HTMLParser):
    """A page's text and its elements."""

    def __init__(self, page):
        super().__init__()
        self.text, self.elements = "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)

    def handle_data(self, data):
        self.text += data


RUNS = ["whole", "markup", "resumed"]


@pytest.mark.parametrize("name", RUNS)
def test_the_readers_curves_are_those_of_metrics_jsonl(shown, ask, name):
    """A resumed run's are those of the whole run: nothing twice, and nothing that was cut from metrics.jsonl."""
    run = shown[0] / name
    expected = expected_scalars(run)
    assert expected.keys() == {*SCALARS.values(), BEST} and len(expected["loss/train"]) > 8
    assert scalars_of(accumulated(run)) == expected
    tags = ask("plugin/scalars/tags")[f"{name}/tensorboard"]
    assert tags.keys() == expected.keys()
    for tag, values in expected.items():
        answer = ask("plugin/scalars/scalars", run=f"{name}/tensorboard", tag=tag)
        assert [(step, value) for _, step, value in answer] == values
    (category,) = ask("plugin/custom_scalars/layout")["category"]
    assert category["chart"][0]["multiline"]["tag"] == ["loss/train", "loss/validation"]


@pytest.mark.parametrize("name", RUNS)
def test_the_servers_samples_are_those_of_samples_txt(shown, ask, name):
    answer = ask("plugin/text/text", run=f"{name}/tensorboard", tag="samples/text_summary")
    expected = blocks(shown[0] / name)
    assert [sample["step"] for sample in answer] == [step for step, _ in expected]
    for sample, (_, text) in zip(answer, expected, strict=True):
        rendered = Rendered(sample["text"])
        assert rendered.text.strip("\n") == text.strip("\n")
        assert rendered.elements == ["table", "tbody", "tr", "td", "pre"]


@pytest.mark.parametrize(
    "sample",
    [
        "</pre><script>alert(1)</script>", "```\n# no title\n```", "~~~\n<b>bold</b>\n~~~", "a\n\n\n\n    b\n\tc\td", "   \n \n",
        "&lt; &#96; &amp", "[link](javascript:alert(1)) ![](http://x/y.png)", "| a | b |\n|---|---|\n| c | d |", "<!-- ", "<?",
        "</PRE >x<pre>", "\u202eright to left", "\x02klzzwxh:0000\x03", "<![CDATA[", "]]>", "- a\n- b\n\n1. c\n\n***\n===", MARKUP,
    ],
)  # fmt: skip
def test_no_sample_is_markup(sample):
    escaped = "".join(repr(c)[1:-1] if (c < " " and c not in "\n\t") or c == "\u202e" else c for c in f"a\n{sample}\nz")
    rendered = Rendered(markdown_to_safe_html(as_it_is(f"a\n{sample}\nz".encode())))
    assert rendered.elements == ["pre"] and rendered.text.strip("\n") == escaped


def test_a_sample_that_is_not_utf_8_is_escaped():
    assert html.unescape(as_it_is(b"a\xff\xc3")) == "<pre>a\\xff\\xc3</pre>"


def test_histograms_are_of_every_parameter_and_of_the_gradients_that_come_next(shown, ask):
    noted, run = shown[1], "whole/tensorboard"
    sizes = {name: int(np.prod(shape)) for name, shape in parameter_shapes(ModelConfig(28, 8, 2)).items()}
    assert ask("plugin/histograms/tags")[run].keys() == noted.keys()
    assert len(noted) == 2 * len(sizes) and {*SAVES_TO_TELL} <= noted["weights/head.bias"].keys()
    for tag, ends in noted.items():
        answer = ask("plugin/histograms/histograms", run=run, tag=tag)
        assert [step for _, step, _ in answer] == list(ends)
        for _, step, bars in answer:
            assert (bars[0][0], bars[-1][1]) == ends[step]
            assert sum(count for _, _, count in bars) == sizes[tag.split("/")[1]]


def test_a_resumed_runs_histograms_are_those_of_its_saves(shown):
    """They are the whole run's, and one more of the save at step 27, which was the run's end at first."""
    events, saves = accumulated(shown[0] / "resumed"), shown[1]["weights/head.weight"]
    steps = [histogram.step for histogram in events.Histograms("weights/head.weight")]
    assert steps == sorted([*saves, 27]) and 27 not in saves


def test_hyperparameters_have_one_row_a_run_with_its_result(shown, ask):
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    assert {"hidden", "lr", "schedule", "vocabulary_size"} <= {info["name"] for info in experiment["hparamInfos"]}
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == {*SCALARS.values(), BEST}
    statuses = [f"STATUS_{status}" for status in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    answer = ask("plugin/hparams/session_groups", {"allowedStatuses": statuses, "startIndex": 0, "sliceSize": 9})
    rows = {group["name"]: group for group in answer["sessionGroups"]}
    assert rows.keys() == {f"{name}/tensorboard" for name in RUNS}
    for name in RUNS:
        row, stored = rows[f"{name}/tensorboard"], json.loads((shown[0] / name / "config.json").read_text())["train"]
        results = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        assert results == {tag: values[-1][1] for tag, values in expected_scalars(shown[0] / name).items()}
        assert row["hparams"]["epochs"] == stored["epochs"] == 2 and row["hparams"]["hidden"] == 8
        assert row["hparams"]["carry_state"] == stored["carry_state"] and row["hparams"]["stride"] == 7
        assert "log_every" not in row["hparams"]
        assert [session["status"] for session in row["sessions"]] == ["STATUS_SUCCESS"]
    assert rows["markup/tensorboard"]["hparams"]["decay"] == 0.1  # the cosine schedule's own


def test_the_graph_has_the_gates_and_the_loss_and_hangs_together(shown, ask):
    for name in RUNS:
        answer = ask(
            "plugin/graphs/graph", run=f"{name}/tensorboard", limit_attr_size=1024, large_attrs_key="_too_large"
        )
        graph = text_format.Parse(answer, GraphDef())
        nodes = {node.name: node for node in graph.node}
        assert len(nodes) == len(graph.node)
        assert all(source in nodes for node in graph.node for source in node.input)
        assert ("training/clip" in nodes) == (name == "markup") and "lstm/layer_0/dropout" not in nodes
        assert ("lstm/layer_1/h" in nodes) == (name != "markup")
    assert list(nodes["lstm/layer_1/from_input"].input) == ["lstm/layer_1/weight_ih", "lstm/layer_0/h"]
    assert {node.op for path, node in nodes.items() if path.startswith("lstm/layer_1/gates/")} == {
        "AddN", "Split", "Sigmoid", "Tanh",
    }  # fmt: skip
    assert "lstm/layer_1/h" in nodes["lstm/layer_1/state/h_before"].input  # the recurrence
    assert list(nodes["loss/cross_entropy"].input) == ["head/logits", "window/targets"]
    shapes = {path: [d.size for d in node.attr["_output_shapes"].list.shape[0].dim] for path, node in nodes.items()}
    assert shapes["window/inputs"] == [7, 5] and shapes["head/logits"] == [7, 5, 28]
    assert shapes["lstm/layer_0/weight_ih"] == [32, 28] and shapes["lstm/layer_1/weight_ih"] == [32, 8]
    # Everything leads from the window and the parameters to Adam, and the probabilities.
    read = {source for node in graph.node for source in node.input}
    assert nodes.keys() - read == {"training/adam", "head/softmax"}


def test_the_graph_has_dropout_where_training_has_it():
    nodes = {node.name: node for node in training_step(ModelConfig(28, 8, 1), replace(CONFIG, dropout=0.5)).node}
    assert list(nodes["head/product"].input) == ["head/weight", "lstm/layer_0/dropout"]
    assert "lstm/layer_0/weight_dropout" not in nodes
    nodes = {node.name: node for node in training_step(ModelConfig(28, 8, 1), replace(CONFIG, weight_dropout=0.5)).node}
    assert (
        "lstm/layer_0/weight_dropout" in nodes["lstm/layer_0/from_state"].input and "lstm/layer_0/dropout" not in nodes
    )
    assert list(nodes["lstm/layer_0/state/h_before"].input) == ["lstm/layer_0/state/h_first", "lstm/layer_0/h"]


def test_the_run_has_the_same_bits_without(texts, shown, tmp_path):
    plain = start_run([texts / "fox.txt"], CONFIG, out=tmp_path / "plain")
    for name in ("whole", "resumed"):
        found, expected = records_without_times(shown[0] / name), records_without_times(plain)
        for file in ("last.safetensors", "best.safetensors"):
            found[file][1]["train"].pop("max_steps"), expected[file][1]["train"].pop("max_steps")
        assert found == expected


def test_a_resumed_run_without_the_flag_writes_nothing_and_may_have_it_again(texts, tmp_path):
    run = start_run([texts / "fox.txt"], replace(CONFIG, max_steps=14), out=tmp_path / "run", callbacks=[TensorBoard()])
    before = scalars_of(accumulated(run))
    resume_run(run, options={"max_steps": 26})
    assert scalars_of(accumulated(run)) == before
    resume_run(run, options={"max_steps": 38}, callbacks=[TensorBoard()])
    steps = [step for step, _ in scalars_of(accumulated(run))["loss/train"]]
    assert steps == [6, 12, 14, 30, 36, 38]


def test_an_open_tensorboard_forgets_what_a_resumed_run_does_again(texts, tmp_path, monkeypatch):
    """This is the loader that heeds a purge; it has read a crashed session's records before they are cut."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        interrupt_after(patch, 19, RuntimeError("crash"))
        start_run([texts / "fox.txt"], CONFIG, out=run, callbacks=[TensorBoard()])
    events = accumulated(run)
    assert [step for step, _ in scalars_of(events)["loss/train"]] == [6, 12, 18]
    resume_run(run, callbacks=[TensorBoard()])
    assert scalars_of(events.Reload()) == expected_scalars(run)


def test_a_file_is_cut_between_records_wherever_it_ends(shown):
    data = (shown[0] / "whole/tensorboard/events.out.tfevents.000001").read_bytes()
    assert kept_length(data, 10**9) == len(data)
    beginning = data[:1500]
    kept = {length: kept_length(beginning[:length], 10**9) for length in range(len(beginning))}
    assert all(end <= length for length, end in kept.items())
    ends = sorted({*kept.values()})
    assert ends[0] == 0 and 4 < len(ends) < 20
    for end in ends[1:]:
        assert kept_length(data[:end], 10**9) == end
    for at in (ends[3], ends[-1]):  # a machine that lost its power may leave zeros
        assert kept_length(data[:at] + bytes(100), 10**9) == at
        assert kept_length(data[:at] + b"\xff" * 100, 10**9) == at


SMALL = (
    "--hidden 4 --layers 1 --window 8 --batch 4 --log-every 1 --save-every 1000 --sample-length 20".split()
)  # an epoch has some 200 steps


def test_a_full_disk_ends_training_after_a_save_with_one_line(cli, text, tmp_path):
    """A limit on file size stands in for the disk: it has no room for the histograms of the second epoch's end."""
    run, whole, before = tmp_path / "run", tmp_path / "whole", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        result = cli("train", text, *SMALL, "--tensorboard", "--out", run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file = run / "tensorboard/events.out.tfevents.000001"
    last_line = result.stderr.splitlines()[-1]
    assert (result.status, last_line) == (1, f"cuchar: {file}: expected to write events, found: File too large")
    step = metrics(run)[-1]["step"]
    assert step == 108 and read_checkpoint(run / "last.safetensors").run["position"]["step"] == step
    assert cli("train", "--resume", run, "--tensorboard").status == 0
    assert cli("train", text, *SMALL, "--out", whole).status == 0
    assert records_without_times(run) == records_without_times(whole)
    events = accumulated(run)
    assert scalars_of(events) == expected_scalars(run)
    assert [histogram.step for histogram in events.Histograms("weights/head.bias")] == [54, 162, 216]


def test_a_killed_process_has_written_its_events_and_the_run_goes_on(text, tmp_path):
    run = tmp_path / "run"
    process = start("train", text, *SMALL, "--epochs", "1000", "--tensorboard", "--out", run)
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_bytes().count(b"\n") < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=30)
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes().rpartition(b"\n")[0] + b"\n")  # Linux may end a killed write where a page ends
    found, expected = scalars_of(accumulated(run))["loss/train"], expected_scalars(run)["loss/train"]
    assert found in (expected, expected[:-1])  # the last line of metrics.jsonl comes before its event
    with log.open("ab") as opened:
        opened.write(b'{"step": 30, "epo')  # this time it certainly did
    resume_run(run, options={"max_steps": expected[-1][0] + 20}, callbacks=[TensorBoard()])
    assert scalars_of(accumulated(run)) == expected_scalars(run)


def test_an_interrupted_run_has_its_events_and_is_not_shown_as_finished(texts, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 20, Interrupted(signal.SIGINT))
        start_run([texts / "fox.txt"], CONFIG, out=run, callbacks=[TensorBoard()])
    events = accumulated(run)
    assert scalars_of(events) == expected_scalars(run)
    # The signal comes when step 20 was saved already; it is saved again, but shown once.
    assert [histogram.step for histogram in events.Histograms("weights/head.bias")] == [10, 20]
    assert events.summary_metadata.keys() & {"_hparams_/session_start_info", "_hparams_/session_end_info"} == {
        "_hparams_/session_start_info"
    }


def test_the_best_validation_loss_goes_on_from_the_runs(tmp_path):
    def session(step, best, losses):
        callback = TensorBoard()
        callback.start(Run(tmp_path, CONFIG, ModelConfig(28, 8, 2), step, 100, best, lambda: None))
        for at, loss in enumerate(losses, step + 1):
            callback.line(
                {"step": at, "epoch": 0, "loss": 3.0, "lr": 0.01, "grad_norm": 1.0, "chars_per_s": 1, "val_loss": loss}
            )
        callback.stop(finished=True)

    session(0, np.inf, [2.5, 1.5, 2.0])
    session(3, 1.5, [1.75, 1.25])
    assert scalars_of(accumulated(tmp_path))[BEST] == [(1, 2.5), (2, 1.5), (3, 1.5), (4, 1.5), (5, 1.25)]


@pytest.mark.parametrize("not_finite", ["loss", "validation"])
def test_a_run_that_goes_back_shows_nothing_that_it_has_undone(texts, tmp_path, monkeypatch, not_finite):
    """Where the run goes back, what came after is cut from the event files, also if it is resumed later."""
    if not_finite == "loss":
        monkeypatch.setattr(HostLearner, "_step", diverging_step({27: 0.006}))
    else:
        validate, calls = Trainer._validate, []

        def once_nan(self):
            calls.append(self.position.step)
            return (
                validate(self) if len(calls) != 2 else self._expect_finite(math.nan, "the validation loss", calls[-1])
            )

        monkeypatch.setattr(Trainer, "_validate", once_nan)
    run, config = tmp_path / "run", replace(CONFIG, on_nan="rollback", max_steps=60, epochs=9)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 52, Interrupted(signal.SIGINT))
        start_run([texts / "fox.txt"], config, out=run, callbacks=[TensorBoard()])
    assert scalars_of(accumulated(run)) == expected_scalars(run)
    resume_run(run, callbacks=[TensorBoard()])
    assert read_checkpoint(run / "last.safetensors").run["position"]["halvings"] == 1
    events = accumulated(run)
    assert scalars_of(events) == expected_scalars(run)
    steps = [histogram.step for histogram in events.Histograms("weights/head.bias")]
    assert steps == sorted(set(steps)) and {0, 10, 20, 30, 40, 50, 60} <= set(steps)


def test_without_tensorboardx_nothing_begins(text, tmp_path, fails, monkeypatch):
    monkeypatch.delitem(sys.modules, "cuchar.tensorboard.event_log")
    monkeypatch.delattr("cuchar.tensorboard.event_log")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    error = fails(1, "train", text, "--tensorboard", "--out", tmp_path / "run")
    assert error == "cuchar: TensorBoard: expected tensorboardX, found none; pip install 'cuchar[tensorboard]'\n"
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_no_folder(text, tmp_path):
    class Refuse(Callback):
        def start(self, run):
            assert (run.folder / "tensorboard").is_dir()
            raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        start_run([text], CONFIG, out=tmp_path / "run", callbacks=[TensorBoard(), Refuse()])
    assert not (tmp_path / "run").exists()


def test_a_new_run_replaces_the_remains_of_one_that_was_killed_at_once(texts, tmp_path, monkeypatch):
    """Beside config.json there are event files by then, of a session that has recorded nothing."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        interrupt_after(patch, 1, RuntimeError("crash"))
        patch.setattr("cuchar.tensorboard.event_log.EventLog.close", lambda *_, **__: None)
        start_run([texts / "fox.txt"], CONFIG, out=run, callbacks=[TensorBoard()])
    assert sorted(file.name for file in run.iterdir()) == ["config.json", "tensorboard"]
    start_run([texts / "fox.txt"], replace(CONFIG, max_steps=9), out=run, callbacks=[TensorBoard()])
    assert scalars_of(accumulated(run)) == expected_scalars(run)


@pytest.mark.parametrize("link", ["tensorboard", "tensorboard/events.out.tfevents.000001"])
def test_links_are_not_followed(texts, tmp_path, link):
    run = start_run([texts / "fox.txt"], replace(CONFIG, max_steps=9), out=tmp_path / "run", callbacks=[TensorBoard()])
    theirs = tmp_path / "theirs"
    (run / link).rename(theirs)
    (run / link).symlink_to(theirs)
    held = theirs.read_bytes() if theirs.is_file() else sorted(os.listdir(theirs))
    with pytest.raises(OutputError, match=r"found.* link"):
        resume_run(run, options={"max_steps": 15}, callbacks=[TensorBoard()])
    assert held == (theirs.read_bytes() if theirs.is_file() else sorted(os.listdir(theirs)))
    resume_run(run, options={"max_steps": 15})
