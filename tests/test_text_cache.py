"""Large texts are encoded once: into what a small text gives in memory, whatever happens in between."""

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.process import environment

import cuchar
from cuchar import corpus as corpus_module
from cuchar.config import TrainConfig
from cuchar.corpus import load_corpus
from cuchar.errors import OutputError, RunError, TextError
from cuchar.mapped import drop_pages
from cuchar.messages import Messages
from cuchar.reading import Reading
from cuchar.tally import count
from cuchar.text_cache import write_signed
from cuchar.training import total_steps
from cuchar.vocabulary import Vocabulary

CONTENTS = {"1": "\ufeff" + "the quick brown ☃\n" * 40, "2": "", "3": "🦊 jümps e\u0301\n" * 30, "4": "over" * 50}


class Heard(Messages):
    """What a user is told."""

    def __init__(self):
        self.notes, self.done = [], []
        super().__init__(self.notes.append, lambda *values: self.done.append(values))

    def kinds(self):
        return list(dict.fromkeys(what for what, _, _ in self.done))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder with texts that count as large, and are read in many blocks."""
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 10)
    monkeypatch.setattr("cuchar.reading.BLOCK", 100)
    monkeypatch.setattr("cuchar.unfinished.SAVED_S", 0)
    (tmp_path / "texts").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "texts" / name).write_text(content)
    return tmp_path / "texts"


def load(texts, cache, heard=None, **options):
    return load_corpus([texts], cache=cache, messages=heard or Messages(), **options)


def expect_same(found, expected):
    assert found.ids.dtype == expected.ids.dtype and np.array_equal(found.ids, expected.ids)
    assert found.vocabulary == expected.vocabulary and found.sha256 == expected.sha256
    assert (found.files, found.left_out, found.notes) == (expected.files, expected.left_out, expected.notes)


def ids_file(cache):
    (file,) = cache.glob("*.ids")
    return file


@pytest.mark.parametrize(
    "reading,options",
    [
        (Reading(), {}),
        (Reading(normalize="nfc"), {"max_vocab": 9}),
        (Reading(encoding="latin-1"), {}),
        (Reading(as_bytes=True), {}),
        (Reading(), {"vocabulary": Vocabulary(np.array([*range(0xD800), ord("🦊")], np.uint32))}),
    ],
)
def test_a_cached_text_is_the_one_in_memory(texts, tmp_path, reading, options):
    expected = load(texts, None, reading=reading, **options)
    for kinds in (["counting", "encoding"], []):
        heard = Heard()
        found = load(texts, tmp_path / "cache", heard, reading=reading, **options)
        expect_same(found, expected)
        assert heard.kinds() == kinds
        assert not found.ids.flags.writeable
    assert (tmp_path / "cache").is_dir() and not list((tmp_path / "cache").glob("unfinished*"))


def test_other_options_and_other_contents_are_other_texts(texts, tmp_path):
    cache = tmp_path / "cache"
    for options in ({}, {"max_vocab": 5}, {"max_vocab": 6}, {"reading": Reading(normalize="nfc")}):
        expect_same(load(texts, cache, **options), load(texts, None, **options))
    (texts / "4").write_text("othr" * 50)
    expect_same(load(texts, cache), load(texts, None))
    assert len(list(cache.glob("*.ids"))) == 5


def test_files_that_only_look_changed_are_counted_and_their_ids_found(texts, tmp_path):
    load(texts, tmp_path / "cache")
    os.utime(texts / "1")
    (texts / "4").rename(texts / "5")
    heard = Heard()
    found = load(texts, tmp_path / "cache", heard)
    assert heard.kinds() == ["counting"] and [file.name for file in found.files] == ["1", "2", "3", "5"]


def look_of(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def forbid_to_write(folder, monkeypatch):
    """Have the system say that a folder may not be written to; root may all the same."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder or not mode & os.W_OK)


def test_a_cache_that_may_not_be_written_to_gives_the_ids_that_it_has(texts, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    cache = tmp_path / "cache"
    load(texts, cache)
    before = look_of(cache)
    os.utime(texts / "1")
    forbid_to_write(cache, monkeypatch)
    for name in ("pathlib.Path.write_bytes", "os.replace", "os.utime"):  # what root may do all the same
        monkeypatch.setattr(name, refuse)
    for _ in range(2):
        heard = Heard()
        expect_same(load(texts, cache, heard), load(texts, None))
        assert heard.kinds() == ["counting"] and not heard.notes
    with pytest.raises(
        OutputError, match=r"cache: expected a folder that may be written to, .*: Read-only file system"
    ):
        load(texts, cache, max_vocab=9)
    assert look_of(cache) == before


def test_a_text_that_such_a_cache_does_not_have_is_counted_once(texts, tmp_path, monkeypatch):
    cache, heard = tmp_path / "cache", Heard()
    load(texts, cache)
    forbid_to_write(cache, monkeypatch)
    with pytest.raises(OutputError) as raised:
        load(texts, cache, heard, max_vocab=9)
    line = "expected a folder that may be written to, for the ids of a text, found: Permission denied"
    assert str(raised.value) == f"{cache}: {line}; cache names another folder"
    assert [what for what, done, total in heard.done if done == total] == ["counting"]


def test_damage_in_such_a_cache_is_an_error(texts, tmp_path, monkeypatch):
    cache, heard = tmp_path / "cache", Heard()
    load(texts, cache)
    flip(ids_file(cache))
    forbid_to_write(cache, monkeypatch)
    with pytest.raises(OutputError) as raised:
        load(texts, cache, heard)
    line = "expected the ids of a text, found damage, in a folder that may not be written to"
    assert str(raised.value) == f"{ids_file(cache)}: {line}; cache names another folder"
    assert heard.kinds() == ["checking"] and not heard.notes


def test_left_out_files_are_as_in_memory(texts, tmp_path):
    (texts / "2").write_bytes(b"fine as far as here, " * 20 + b"\xff")
    (texts / "gone").symlink_to("nowhere")
    expected = load(texts, None, skip_unreadable=True)
    read = b"".join((texts / name).read_bytes() for name in ("1", "3", "4"))
    assert len(expected.left_out) == 2 and expected.sha256 == hashlib.sha256(read).hexdigest()
    assert {chr(code) for code in expected.vocabulary.codes} == set("".join(CONTENTS.values()).replace("\ufeff", ""))
    for _ in range(2):
        expect_same(load(texts, tmp_path / "cache", skip_unreadable=True), expected)
    with pytest.raises(TextError, match=r"2:1:421: expected UTF-8.*; skip_unreadable=True leaves such files out$"):
        load(texts, tmp_path / "cache")


def test_the_user_hears_of_marks_and_of_what_was_replaced(texts):
    (texts / "2").write_text("\ufeff")
    counts = Counter("".join(CONTENTS.values()).removeprefix("\ufeff"))
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:19]
    found = load(texts, None, max_vocab=20)
    assert found.vocabulary.characters() == sorted([*kept, "\ufffd"])
    replaced = [counts[character] for character in counts if character not in kept]
    assert found.notes == (
        f"left out the byte order mark of {texts / '1'} and of 1 more",
        f"{sum(replaced)} of the text's {sum(counts.values()):,} characters, {len(replaced)} distinct ones, became U+FFFD, "
        "the unknown symbol",
    )
    assert load(texts, None, max_vocab=len(counts)).vocabulary.has_unknown is False


def test_an_unknown_character_of_a_validation_text_is_named_with_its_place(texts, tmp_path):
    vocabulary = Vocabulary.of(np.array([ord(c) for c in CONTENTS["1"] + "jümps "]))
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(TextError) as raised:
            load(texts, cache, vocabulary=vocabulary)
        assert str(raised.value) == (
            f"val: {texts / '3'}:1:1: character '🦊' (U+1F98A) is not among the model's {len(vocabulary)}; "
            "the vocabulary is the training text's"
        )


def age(files, days):
    for file in files:
        os.utime(file, times=(0, file.stat().st_mtime - days * 24 * 3600))


def test_what_nobody_has_used_for_30_days_is_removed_when_a_text_is_encoded(texts, tmp_path):
    """So is what killed processes have left, and nothing else in the folder."""
    cache, expected = tmp_path / "cache", {}
    for number in (5, 6, 7):
        expected[number] = load(texts, cache, max_vocab=number)
    others = {
        cache / name
        for name in ("mine.ids", "mine.known", "0" * 63 + ".ids", "f" * 64, "f" * 64 + ".ids2", ".mine.1.tmp")
    }
    left = {cache / f".{name}.123.tmp" for name in ("0" * 64 + ".known", "0" * 64 + ".json", "unfinished.json")}
    for file in others | left:  # the latter are what a kill leaves
        file.touch()

    def kept():
        return Counter(file.suffix for file in {*cache.iterdir()} - others - left if file.name != "CACHEDIR.TAG")

    age(cache.iterdir(), 31)
    load(texts, cache, max_vocab=6)  # is used as it is
    os.utime(texts / "1")
    load(texts, cache, max_vocab=7)  # is used by files that look different
    assert kept() == {".known": 4, ".json": 3, ".ids": 3}
    heard = Heard()
    load(texts, cache, heard, max_vocab=8)
    assert f"removed from {cache} the ids of texts that nobody has used for 30 days: 1" in heard.notes
    assert kept() == {".known": 3, ".json": 3, ".ids": 3}
    assert all(file.exists() for file in others) and not any(file.exists() for file in left)
    expect_same(expected[5], load(texts, None, max_vocab=5))  # whoever has the ids, keeps them
    heard = Heard()
    expect_same(load(texts, cache, heard, max_vocab=7), expected[7])
    assert not heard.done
    age(cache.iterdir(), 29)
    load(texts, cache, max_vocab=9)
    assert kept() == {".known": 4, ".json": 4, ".ids": 4}


# --- what goes wrong


class Enough(BaseException):
    pass


def test_a_text_goes_on_from_where_it_was_interrupted(texts, tmp_path):
    """It is interrupted after every single block, and each time all but the last blocks are not read again to be encoded."""
    expected, cache, interruptions, began = load(texts, None), tmp_path / "cache", 0, []
    while True:
        heard = Heard()

        def progress(what, done, total, heard=heard):
            heard.done.append((what, done, total))
            if what != "checking" and done < total and sum(kind == what for kind, _, _ in heard.done) > 4:
                raise Enough

        try:
            found = load(texts, cache, Messages(progress=progress))
            break
        except Enough:
            interruptions += 1
            began += [done for what, done, _ in heard.done if what == "encoding"][:1]
        assert interruptions < 40
    expect_same(found, expected)
    assert interruptions > 5 and began == sorted(began) and began[-1] > began[0]


KILLED = """
import os, sys
from pathlib import Path
from cuchar import corpus, reading, unfinished
from cuchar.messages import Messages
corpus.IN_MEMORY, reading.BLOCK, unfinished.SAVED_S = 10, 100, 0
texts, cache = map(Path, sys.argv[1:])
kills = 0
for last in range(1, 100):
    child = os.fork()
    if not child:
        calls = 0
        def progress(*_):
            global calls
            calls += 1
            if calls == last:
                os._exit(9)
        corpus.load_corpus([texts], cache=cache, messages=Messages(progress=progress))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
print(kills)
"""


def test_a_text_survives_kills(texts, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, texts, tmp_path / "cache"]
    kills = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout
    assert 5 < int(kills) < 50
    heard = Heard()
    expect_same(load(texts, tmp_path / "cache", heard), load(texts, None))
    assert not heard.done


def test_what_is_unfinished_of_another_text_is_not_used(texts, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/unfinished.ids").write_bytes(bytes(10_000))
    expect_same(load(texts, tmp_path / "cache"), load(texts, None))


@pytest.mark.parametrize("name", ["unfinished.ids", "unfinished.json"])
def test_damage_to_what_is_unfinished_is_noticed(texts, tmp_path, name):
    def progress(what, done, total):
        if what == "encoding" and total > done > 700:
            raise Enough

    with pytest.raises(Enough):
        load(texts, tmp_path / "cache", Messages(progress=progress))
    file = tmp_path / "cache" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    expect_same(load(texts, tmp_path / "cache"), load(texts, None))


def test_ids_are_trusted_until_their_file_or_the_boot_is_another(texts, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    load(texts, cache)
    monkeypatch.setattr("cuchar.text_files.AT_ONCE", 300)
    (tmp_path / "boot").write_text("another boot\n")
    monkeypatch.setattr("cuchar.text_cache.BOOT", tmp_path / "boot")
    os.utime(ids_file(cache))
    for kinds in (["checking"], []):
        heard = Heard()
        expect_same(load(texts, cache, heard), load(texts, None))
        assert heard.kinds() == kinds
    monkeypatch.setattr("cuchar.text_cache.BOOT", tmp_path / "none")  # as on a system that does not tell
    for _ in range(2):
        heard = Heard()
        load(texts, cache, heard)
        assert heard.kinds() == ["checking"]


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: flip(ids_file(cache)),
        lambda cache: ids_file(cache).write_bytes(ids_file(cache).read_bytes()[:-1]),
        lambda cache: ids_file(cache).unlink(),
        lambda cache: flip(ids_file(cache).with_suffix(".json")),
        lambda cache: ids_file(cache).with_suffix(".json").write_bytes(b"{}"),
        lambda cache: flip(next(cache.glob("*.known"))),
    ],
)
def test_damage_is_noticed_and_the_text_is_encoded_again(texts, tmp_path, damage):
    cache = tmp_path / "cache"
    load(texts, cache)
    damage(cache)
    heard = Heard()
    expect_same(load(texts, cache, heard), load(texts, None))
    assert "counting" in heard.kinds() and sum("found damage" in note for note in heard.notes) <= 1


def test_ids_outside_the_vocabulary_are_never_used(texts, tmp_path):
    """Someone has made a cache whose digests are right, and whose ids are not."""
    cache, expected = tmp_path / "cache", load(texts, None)
    load(texts, cache)
    file = ids_file(cache)
    facts = json.loads(file.with_suffix(".json").read_bytes().split(b"\n", 1)[1])
    forged = np.where(np.arange(len(expected.ids)) == 7, len(expected.vocabulary), expected.ids).astype(np.uint8)
    file.write_bytes(forged.tobytes())
    facts["ids"]["sha256"] = hashlib.sha256(forged).hexdigest()
    write_signed(file.with_suffix(".json"), facts)
    heard = Heard()
    expect_same(load(texts, cache, heard), expected)
    assert "found damage; it is encoded again" in heard.notes[0]


def test_a_small_text_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_text("the quick brown fox")

    def count_and_change(*arguments):
        count(*arguments)
        text.write_text("the quick brown dog")  # of as many bytes and characters, of which one has no id

    monkeypatch.setattr(corpus_module, "count", count_and_change)
    with pytest.raises(TextError, match="expected a text that stays as it is while it is read, found it changed"):
        load(text, None)


def test_a_text_that_changes_while_it_is_read_is_an_error(texts, tmp_path):
    def progress(what, done, total):
        if what == "encoding":
            (texts / "1").write_text("\ufeff" + "the quick brown ☂\n" * 40)  # of as many bytes and characters

    with pytest.raises(TextError, match="expected a text that stays as it is while it is read, found it changed"):
        load(texts, tmp_path / "cache", Messages(progress=progress))
    assert not list((tmp_path / "cache").glob("*.known"))
    expect_same(load(texts, tmp_path / "cache"), load(texts, None))


@pytest.mark.parametrize(
    "where", ["unfinished.SecondThread.begin", "unfinished.write_signed", "text_cache.write_signed"]
)
def test_a_full_disk_is_one_line_and_gets_back_what_was_taken(texts, tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(f"cuchar.{where}", full)
        with pytest.raises(OutputError) as raised:
            load(texts, tmp_path / "cache")
    assert str(raised.value) == (
        f"{tmp_path / 'cache'}: expected room for the ids of a text, found: No space left on device; "
        "cache names another folder"
    )
    assert not list((tmp_path / "cache").glob("*unfinished*"))
    expect_same(load(texts, tmp_path / "cache"), load(texts, None))


@pytest.mark.parametrize(
    "number,line",
    [
        (errno.EDQUOT, "room for the ids of a text, found: Disk quota exceeded"),
        (errno.EACCES, "a folder that may be written to, for the ids of a text, found: Permission denied"),
        (errno.EIO, "to write the ids of a text, found: Input/output error"),
    ],
)
def test_what_keeps_ids_from_being_written_is_named(texts, tmp_path, monkeypatch, number, line):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("cuchar.unfinished.SecondThread.begin", fail)
    with pytest.raises(OutputError) as raised:
        load(texts, tmp_path / "cache")
    assert str(raised.value) == f"{tmp_path / 'cache'}: expected {line}; cache names another folder"


@pytest.mark.parametrize("name,found", [("file", "File exists"), ("x" * 300, "File name too long")])
def test_a_cache_that_can_be_no_folder_is_named(texts, tmp_path, name, found):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as raised:
        load(texts, tmp_path / name)
    line = f"expected to write the ids of a text, found: {found}; cache names another folder"
    assert str(raised.value) == f"{tmp_path / name}: {line}"


def test_what_another_process_removes_meanwhile_is_no_error(texts, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    load(texts, cache)

    def listed(folder):
        yield cache / ("0" * 64 + ".json")
        yield from map(Path, sorted(os.scandir(folder), key=lambda entry: entry.name))

    monkeypatch.setattr(Path, "iterdir", listed)
    expect_same(load(texts, cache, max_vocab=9), load(texts, None, max_vocab=9))


def test_a_text_that_another_process_encodes_is_waited_for(texts, tmp_path):
    cache, heard, found = tmp_path / "cache", Heard(), []
    cache.mkdir()
    holder = os.open(cache, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    waiting = threading.Thread(target=lambda: found.append(load(texts, cache, heard)))
    waiting.start()
    while not heard.notes:
        assert waiting.is_alive()
    assert heard.notes == [f"waiting for another process, which encodes a text in {cache}"] and not heard.done
    os.close(holder)
    waiting.join()
    expect_same(found[0], load(texts, None))


def test_a_run_that_is_there_is_found_before_the_text_is_encoded(texts, tmp_path):
    folder = tmp_path / "runs/run"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    with pytest.raises(RunError, match="run: expected a new run folder, found a run in it"):
        cuchar.train(texts, out=folder, batch=1, window=5)
    assert not (tmp_path / "runs/.texts").exists()


# --- memory


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 0)
    (tmp_path / "text").write_bytes("the quick brown fox ☃\n".encode() * 2_000_000)  # 48 MB
    tracemalloc.start()
    try:
        ids = load(tmp_path / "text", tmp_path / "cache").ids
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(ids) == 44_000_000 and peak < 32e6

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    assert ids.max() > 0 and resident() - before > 40e6
    drop_pages(ids[5:][None])
    assert resident() - before < 4e6 and ids[-1] == 0


def test_memory_does_not_grow_with_a_file_that_is_left_out(tmp_path):
    (tmp_path / "sound").write_text("the quick brown fox")
    (tmp_path / "damaged").write_bytes(b"over the lazy dog" * 2_000_000 + b"\xff")  # 34 MB
    tracemalloc.start()
    try:
        found = load(tmp_path, None, skip_unreadable=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.left_out) == 1 and len(found.ids) == 19
    assert peak < 32e6


def test_the_number_of_steps_takes_no_memory():
    tracemalloc.start()
    steps = total_steps(10**11, TrainConfig(epochs=1))
    assert steps == (10**11 // 32 - 1) // 32 and tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


STREAMS = {"val_fraction": 0.2, "val_split": "streams"}


@pytest.mark.parametrize("options", [STREAMS, {"val": "text"}, {**STREAMS, "batch": 1}])
def test_a_run_on_a_cached_text_is_the_run_on_it_in_memory(tmp_path, monkeypatch, options):
    monkeypatch.setattr(
        "cuchar.training.LONG_TEXT", 200
    )  # a single stream of more characters is validated on in chunks
    monkeypatch.setattr("cuchar.evaluation.WARM_UP", 2)  # so that the loss says whether it was
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog. ☃\n" * 60)
    monkeypatch.chdir(tmp_path)
    made = []
    for name in ("memory", "cached"):
        sizes = {"hidden": 5, "layers": 1, "window": 7, "batch": 3, "epochs": 1, "sample_every": 0, "log_every": 10}
        cuchar.train("text", out=f"{name}/run", device="cpu", **sizes | options)
        lines = [json.loads(line) for line in Path(f"{name}/run/metrics.jsonl").read_text().splitlines()]
        made.append([(line["loss"], line["grad_norm"], line.get("val_loss")) for line in lines])
        assert Path(name, ".texts").exists() == (name == "cached")
        monkeypatch.setattr(corpus_module, "IN_MEMORY", 0)
        monkeypatch.setattr("cuchar.batches.LARGE", 0)
    assert made[0] == made[1] and made[0][-1][-1] is not None
    stored = json.loads(Path("cached/run/config.json").read_text())
    assert stored["texts"] == [str(tmp_path / "text")] and stored["characters"] == 47 * 60
    assert cuchar.resume("cached/run", epochs=2, device="cpu") is not None
    Path("cached/run/config.json").write_text(json.dumps({**stored, "characters": 2821}))
    with pytest.raises(
        RunError, match="expected the 2,821 characters that the run began with, found 2,820 in the same"
    ):
        cuchar.resume("cached/run", epochs=3, device="cpu")
