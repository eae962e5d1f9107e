"""The event files of a run: written record by record, and cut where a resumed run does again what they tell of.

The folder has a file about the run as a whole, `...000000`, which every session of training replaces, and a file for
every session, numbered from 1, to which records are added. A record is handed to the operating system as it is made,
in the thread that trains: tensorboardX's own writer has a thread for it, which an error ends without a word, and then
training waits for it forever. So only tensorboardX's messages are used here. There is no buffer either: what could not
be written must not be tried again when the file is closed, perhaps after another session has cut it.

A resumed run does again what came after its last save. `RunFolder.roll_back` cuts the logs there, and these files are
cut there too: `kept_length` says where. A save's histograms are one record, which comes when the save is done, so it
tells what came before the save from what came after it, even where both are of the same step, as at a run's end. It is
not enough to ask for it by a record (a START with a step, tensorboardX's `purge_step`): of TensorBoard 2.21's two
loaders the usual one ignores that, and would go on to show the validation loss and the sample of an end that was not
the end. The record is there nevertheless, for a TensorBoard with the other loader that has read the files before.

A file is a sequence of records: the message's length (8 bytes, little-endian), the masked CRC-32C of these (4), the
message, and its masked CRC-32C (4). A killed process may leave a part of a record at the end; readers ignore it.
Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from cuchar.errors import OutputError
from cuchar.files import write_file

NAME = "events.out.tfevents."  # TensorBoard reads files that are so named, in the order of their names
HEADER = struct.Struct("<QI")
CHECK = struct.Struct("<I")
BARS = 30  # of a histogram; TensorBoard shows as many


class EventLog:
    """The open event files of a session of training.

    Args:
        folder: is made if it is not there.
        step: the training step after which the session begins; what the folder tells of later ones is cut.
        hyperparameters: numbers, texts and truth values, by name.
        one_chart: tags of scalars which are shown in one chart.
    Raises:
        OutputError: here and from all methods, a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        hyperparameters: Mapping[str, Any],
        graph: GraphDef,
        one_chart: Sequence[str],
    ):
        self._folder, self._recorded = folder, step > 0
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            if folder.is_symlink():
                raise OutputError(f"{folder}: expected a folder of the run, found a link")
            sessions = self._files()[1:]
            for file in sessions:
                _cut(file, step)
            number = int(sessions[-1].suffix[1:]) + 1 if sessions else 1
            chart = summary.custom_scalars({"loss": {" and ".join(one_chart): ["Multiline", list(one_chart)]}})
            _, begin, self._end = summary.hparams(dict(hyperparameters), {})
            about = [Event(graph_def=graph.SerializeToString()), Event(summary=chart), Event(summary=begin)]
            write_file(folder / f"{NAME}{0:06d}", b"".join(map(_record, [_version(), *about])))
            self._path = folder / f"{NAME}{number:06d}"
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115, it stays open until `close`
        self._write(_version())
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [summary.scalar(tag, value) for tag, value in values.items()])

    def text(self, step: int, tag: str, markdown: str) -> None:
        self._add(step, [summary.text(tag, markdown)])

    def histograms(self, step: int, tensors: Mapping[str, np.ndarray]) -> None:
        """Record all that is to be seen of a save; this is one record, which is there whole or not at all."""
        self._add(step, [summary.histogram(tag, tensor, BARS) for tag, tensor in tensors.items()])

    def close(self, step: int, finished: bool) -> None:
        """End the session; if nothing was recorded, as when the first step failed, its files are removed."""
        try:
            if finished:
                self._add(step, [self._end])
        finally:
            self._file.close()
            if not self._recorded:
                for file in self._files():
                    file.unlink()
                with suppress(OSError):  # something else is in it
                    self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(file for file in self._folder.glob(f"{NAME}{'[0-9]' * 6}") if file.is_file())

    def _add(self, step: int, summaries: Sequence[Summary]) -> None:
        values = [value for one in summaries for value in one.value]
        self._recorded = True
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        record = _record(event)
        with _writing(self._path):
            while record:  # without a buffer, less than all may be written
                record = record[self._file.write(record) :]


def kept_length(data: bytes, step: int) -> int:
    """How many bytes a file of events keeps when the run goes on after `step`.

    It keeps what comes before the first record of a later step, before the first one after the save of `step`, and
    before damage.
    """
    at, saved = 0, False
    while at + HEADER.size <= len(data):
        length, check = HEADER.unpack_from(data, at)
        message = data[at + HEADER.size : at + HEADER.size + length]
        end = at + HEADER.size + length + CHECK.size
        if check != masked_crc32c(data[at : at + 8]) or end > len(data):
            break
        try:
            event = Event.FromString(message)
        except DecodeError:
            break
        if event.step > step or saved:
            break
        saved = event.step == step and any(value.HasField("histo") for value in event.summary.value)
        at = end
    return at


def _cut(file: Path, step: int) -> None:
    """Cut what a run does again that goes on after `step`; a link is not followed."""
    with open(os.open(file, os.O_RDWR | os.O_NOFOLLOW), "r+b") as opened:
        opened.truncate(kept_length(opened.read(), step))


def _version() -> Event:
    return Event(file_version="brain.Event:2")


def _record(event: Event) -> bytes:
    event.wall_time = time()
    message: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(message))
    return HEADER.pack(len(message), masked_crc32c(length)) + message + CHECK.pack(masked_crc32c(message))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{error.filename or path}: expected to write events, found: {error.strerror}") from None
