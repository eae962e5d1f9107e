"""`cuchar bench` from the command line, with contenders whose times are known (fake_contenders.py): no PyTorch needed."""

import json
import re
import sys

import pytest

from cuchar.bench import run
from cuchar.bench.tables import print_sweep
from cuchar.engines.cpu.library import thread_count

TINY = "--hidden 4 --layers 1 --window 3 --batch 2 --device cpu".split()
SAME = {"value": pytest.approx(1.5), "low": pytest.approx(1.5), "high": pytest.approx(1.5)}


def parsed(done):
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def test_figures(bench):
    result = parsed(bench("--json"))
    (entry,) = result["configurations"]
    assert entry["configuration"] == {"name": "own", "V": 84, "H": 4, "L": 1, "B": 2, "T": 3, "precision": "fp32"}
    ours, peer = entry["ours"], entry["peers"]["eager"]
    assert ours["ms"] == pytest.approx(2) and ours["chars_per_s"] == pytest.approx(3000)
    assert peer["ms"] == pytest.approx(3) and peer["chars_per_s"] == pytest.approx(2000) and peer["ratio"] == SAME
    assert len(ours["rounds"]) == len(peer["rounds"]) == 12 and ours["device_ms"] is None
    assert entry["flops"] == 3 * 6 * (8 * 4 * 4 + 2 * 4 * 84)
    assert entry["ceilings"]["flops_per_s"] > 1e8 and entry["ceilings"]["bytes_per_s"] > 1e8
    for contender in (ours, peer):
        assert 0 <= contender["host_bytes"] < 1 << 28 and 0.05 < contender["first_step_s"] < 30
    assert list(entry["absent"]) == ["graph", "stacked", "compile", "jax", "onnxruntime", "openvino"]
    assert entry["absent"]["graph"] == "needs a GPU"
    assert entry["absent"]["openvino"] == "does not train; --sampling and --scoring time it"
    assert entry["notes"] == {"cuchar": entry["notes"]["cuchar"], "eager": "a fake"} and entry["notes"]["cuchar"]
    assert result["versions"]["torch"] == "fake"
    assert result["threads"] == thread_count() and 0.02 < result["help_s"] < 10
    assert {"cuchar", "python", "numpy", "system"} <= set(result["versions"])


def test_table(bench):
    shown = bench("--sampling", "--scoring", "--profile").stdout.decode()
    rows = {
        re.split(r" *[│┃] *", line)[1]: re.split(r" *[│┃] *", line)[2:-1] for line in shown.splitlines() if "│" in line
    }
    assert rows["ms a step"] == ["2", "3"] and rows["time / cuchar's"] == ["", "1.50 (1.50-1.50)"]
    assert rows["characters a second"] == ["3,000", "2,000"]
    assert rows["4,096"][:2] == ["PyTorch eager", "4.096e+06"] and rows["1"][:3] == ["PyTorch eager", "1,000", "1,000"]
    assert rows["cuchar"] == ["2", "2,048,000", ""]
    assert rows["PyTorch eager"] == ["3", "1,365,333", "1.50 (1.50-1.50)"]
    assert set(rows) >= {"fold", "forward", "backward", "gradients", "Adam", "the rest"}
    for line in ("not there: torch.compile (only where asked for: --peer compile)", "PyTorch eager: a fake"):
        assert line in shown.splitlines()
    assert shown.splitlines()[-1].endswith("+00:00") and "numpy" in shown.splitlines()[-1]


def test_a_busy_machine_is_no_secret(bench, monkeypatch):
    monkeypatch.setattr(run, "load_average", lambda: 3.2)
    lines = bench("--peer", "none").stdout.decode().splitlines()
    assert lines[-1] == "others had work for 3.2 processors: not the figures of a quiet machine"


def test_no_peer(bench):
    (entry,) = parsed(bench("--json", "--peer", "none"))["configurations"]
    assert entry["peers"] == entry["absent"] == {}
    assert "time / cuchar's" not in bench("--peer", "none").stdout.decode()


@pytest.mark.parametrize(
    "wrong,reason",
    [
        ("absent", "not installed; pip install torch"),
        ("breaks", "RuntimeError: no kernel image for this GPU"),
        ("dies", "eager: expected its process to answer, found that it ended with 3"),
        ("other work", "does other work: expected losses"),
    ],
)
def test_a_peer_that_is_not_there(bench, fails, wrong, reason):
    (entry,) = parsed(bench("--json", wrong=wrong))["configurations"]
    assert entry["peers"] == {} and entry["absent"]["eager"].startswith(reason)
    assert f"--peer eager: expected it to run own, found: {reason}" in fails(1, "bench", *TINY, "--peer", "eager")


def test_a_peer_that_only_draws_and_scores(bench, fails):
    (entry,) = parsed(bench("--json", "--peer", "onnxruntime", "--scoring"))["configurations"]
    assert entry["peers"] == {} and "sampling" not in entry
    assert entry["scoring"]["characters"] == 4096 and entry["scoring"]["peers"]["onnxruntime"]["ratio"] == SAME
    expected = "--peer onnxruntime: expected it to run own, found: does not train; --sampling and --scoring time it"
    assert expected in fails(1, "bench", *TINY, "--peer", "onnxruntime")


def test_other_scores_are_other_work(bench):
    (entry,) = parsed(bench("--json", "--scoring", wrong="other scores"))["configurations"]
    assert entry["peers"] == {} and entry["absent"]["eager"].startswith("does other work: expected losses")
    (entry,) = parsed(bench("--json"))["configurations"]
    assert list(entry["peers"]) == ["eager"]


def test_sweep_finds_what_grows_faster(bench, capfdbinary):
    whole = parsed(bench("--hidden", 32, "--sweep", "hidden", "--json"))
    print_sweep(whole)
    shown = capfdbinary.readouterr().out.decode()
    assert "time grew faster than the arithmetic from 64 to 128, 128 to 256 (within 10%)" in shown.splitlines()
    result = whole["sweep"]
    assert [point["size"] for point in result["points"]] == [32, 64, 128, 256]
    assert [point["ours"]["ms"] for point in result["points"]] == pytest.approx([2, 2, 16, 128])
    assert [one["time"]["value"] for one in result["growth"]] == pytest.approx([1, 8, 8])
    assert [one["time_no_faster"] for one in result["growth"]] == [True, False, False]
    assert result["growth"][0]["flops"] == (8 * 64 * 64 + 2 * 64 * 84) / (8 * 32 * 32 + 2 * 32 * 84)
    assert result["points"][0]["peers"]["eager"]["ratio"] == SAME


def test_sweep_table(bench):
    lines = bench("--sweep", "layers").stdout.decode().splitlines()
    assert "time grew no faster than the arithmetic (within 10%)" in lines
    assert any(re.match(r"│ ms a step +│ 2 +│ 2 +│ 2 +│ 2 +│", line) for line in lines)


def test_files_and_comparison(bench, fails, tmp_path):
    assert list(tmp_path.iterdir()) == []
    done = bench("--out", tmp_path / "new", "--plot", tmp_path / "bars.png")
    (file,) = (tmp_path / "new").iterdir()
    assert done.status == 0 and f"wrote {file}" in done.stderr
    assert (tmp_path / "bars.png").read_bytes()[1:4] == b"PNG"
    before = file.read_bytes()
    again = bench("--compare", file, "--out", tmp_path / "new")
    assert again.status == 0 and "REGRESSED" not in again.stdout.decode()
    assert file.read_bytes() == before and (tmp_path / "new" / f"{file.stem}.2.json").exists()
    old = json.loads(file.read_text())
    old["configurations"][0]["peers"]["eager"]["ratio"] = {"value": 1.7, "low": 1.6, "high": 1.8}
    file.write_text(json.dumps(old))
    again = bench("--compare", file)
    assert again.status == 1 and re.search(r"PyTorch eager .* 1\.70 .* 1\.50 .* REGRESSED", again.stdout.decode())
    changes = json.loads(bench("--compare", file, "--json").stdout)["changes"]
    assert [change["regressed"] for change in changes] == [False, True]


def test_a_plot_on_standard_output_has_it_alone(bench):
    done = bench("--plot", "-")
    assert done.status == 0 and done.stdout[1:4] == b"PNG" and done.stdout.endswith(b"IEND\xaeB`\x82")
    assert "ms a step" in done.stderr
    assert json.loads(bench("--plot", "-", "--json").stderr.splitlines()[-1])["configurations"]


def test_comparison_times_again_what_the_old_file_has(bench, cli, tmp_path):
    file = write_two(bench, tmp_path)
    again = cli("bench", "--device", "cpu", "--json", "--compare", file)
    assert [entry["configuration"]["H"] for entry in json.loads(again.stdout)["configurations"]] == [4, 5]


def write_two(bench, folder):
    """A file with two configurations, the second of 5 units."""
    result = parsed(bench("--json"))
    second = json.loads(json.dumps(result["configurations"][0]))
    second["configuration"]["H"] = 5
    result["configurations"].append(second)
    (folder / "old.json").write_text(json.dumps(result))
    return folder / "old.json"


def test_mistakes(fails, tmp_path):
    for options, expected in (
        ("e", "NAME: expected a | b"),
        ("a --hidden 4", "NAME: expected it or --hidden, --layers, --window and --batch, found both"),
        ("--hidden 0", "--hidden: expected from 1 to 65536, found 0"),
        ("--layers 9", "--layers: expected from 1 to 8, found 9"),
        ("--precision fp8", "--precision: expected fp32 | tf32 | bf16 | fp16, found fp8"),
        (
            "--peer keras",
            "--peer: expected eager | graph | stacked | compile | jax | onnxruntime | openvino | all | none, found keras",
        ),
        ("--sweep width", "--sweep: expected hidden | batch | window | layers, found width"),
        ("a b --sweep batch", "--sweep: expected one NAME to begin with, found a b"),
        ("--sweep batch --scoring", "--sweep: expected it without --scoring, found both"),
        ("--sweep batch --profile", "--sweep: expected it without --profile, found both"),
        ("--plot bars.doc", "--plot: expected a file that ends with one of"),
    ):
        assert expected in fails(2, "bench", *options.split())
    assert "expected a result of cuchar bench, found: No such file" in fails(1, "bench", "--compare", tmp_path / "no")
    assert "expected a GPU's tensor cores" in fails(1, "bench", "c", "--device", "cpu")


def test_a_plot_needs_matplotlib(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert "pip install 'cuchar[plots]'" in fails(1, "bench", "--plot", "bars.png")
