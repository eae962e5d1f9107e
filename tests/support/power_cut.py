"""The disks that a power cut may leave.

What counts as being on disk after a power cut is what POSIX promises and no more: what a file held, and which names a
folder had, when the program last waited for that file or that folder by fsync. Of all that came later, each may be on
disk or not, in any combination, whatever came first:

- A write may be missing. It may be there in part: its first half alone; its length alone, with zeros in the data's place,
  as ext4 and XFS leave it if the length came to the disk first; or zeros and then the second half, if its blocks came in
  another order. If it is missing and a later one is not, zeros take its place.
- A truncation may be missing, also where a later write is there.
- A name that a folder was to lose may still be there, and a name that it was to gain may be missing or mean any of the
  files that it has meant since. Every name decides for itself. So a rename can leave both names, or neither where the
  new one was not there before, as on ext2, which has no journal and changes the two entries one after the other.

So the model is weaker than any one file system in use, most of which keep more of the order. It is the abstract
persistence model of Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), with its weakest choices: nothing
but fsync makes an order, and not even a rename is atomic. What it leaves out: damage to what was on disk before, disks
that answer an fsync too early, and permissions, which cuchar sets before a file gets its name.
"""

import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from support.file_recorder import Entry, File, Folder, Mark, Operation, Recorder, Sync, Tree, Write

# The most disks of one moment that are all tried. If more are possible, a selection is: what is wholly on disk or wholly
# missing, everything that differs from either in one thing, and a sample.
MOST_DISKS = 64
WAYS = 5  # in which a write may be on disk

Choose = Callable[[int], int]  # picks one of so many possibilities
Pick = Callable[[int, int], int]  # the same, and is told first how many choices were made before


class Pending:
    """What is on disk for certain after the operations so far, and what came later."""

    def __init__(self) -> None:
        self._safe: dict[File | Folder, Any] = {}
        self._later: dict[File | Folder, list[Any]] = {}

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Sync):
            self._safe[operation.node] = self._content(operation.node, lambda count: count - 1)
            self._later.pop(operation.node, None)
        elif not isinstance(operation, Mark):
            node = operation.folder if isinstance(operation, Entry) else operation.file
            self._later.setdefault(node, []).append(operation)

    def disk(self, root: Folder, choose: Choose) -> Tree:
        """One of the possible disks.

        `choose` picks one of so many possibilities. The last one is always that all of it is on disk.
        """
        return {
            name: self.disk(node, choose) if isinstance(node, Folder) else self._content(node, choose)
            for name, node in sorted(self._content(root, choose).items())
        }

    def _content(self, node: File | Folder, choose: Choose) -> Any:
        """The bytes of a file, or the entries of a folder."""
        later = self._later.get(node, [])
        if isinstance(node, Folder):
            entries = dict(self._safe.get(node, node.before))
            for name in dict.fromkeys(operation.name for operation in later):
                meant = [entries.get(name), *(operation.node for operation in later if operation.name == name)]
                entries[name] = meant[choose(len(meant))]
            return {name: entry for name, entry in entries.items() if entry is not None}
        data = bytearray(self._safe.get(node, node.before))
        for operation in later:
            if isinstance(operation, Write):
                _write(data, operation, choose(WAYS))
            elif choose(2):
                del data[operation.length :]
        return bytes(data)


def _write(data: bytearray, write: Write, way: int) -> None:
    whole, half = write.data, len(write.data) // 2
    written = (b"", whole[:half], bytes(len(whole)), bytes(half) + whole[half:], whole)[way]
    if written:
        data.extend(bytes(max(0, write.at - len(data))))
        data[write.at : write.at + len(written)] = written


def disks(recorder: Recorder, seed: int = 0, begin: int = 0, without: str = "") -> Iterator[tuple[Tree, Any]]:
    """Every disk that a power cut may leave, with the last mark before that moment, each once.

    Args:
        seed: of the samples where there are too many.
        begin: the number of operations that came before the first moment at which the power may be cut.
        without: the place of calls of fsync that are taken to do nothing.
    """
    pending, mark, seen, chance = Pending(), None, set(), Random(seed)
    for number, operation in enumerate([Mark(None), *recorder.operations]):
        if isinstance(operation, Mark):
            mark = operation.what
        elif not (isinstance(operation, Sync) and operation.place == without):
            pending.apply(operation)
        if number < begin:
            continue
        for tree in _some(lambda choose: pending.disk(recorder.folder, choose), chance):
            digest = hashlib.sha256(repr((tree, mark)).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield tree, mark


def _some(build: Callable[[Choose], Tree], chance: Random) -> list[Tree]:
    """All that `build` can make, if there are at most MOST_DISKS, else a selection."""
    found: list[Tree] = []
    choices: list[int] | None = []
    while choices is not None and len(found) <= MOST_DISKS:
        tree, counts = _built(build, _counted(choices))
        found.append(tree)
        choices = _next(choices, counts)
    if choices is None:
        return found
    found = []
    for extreme in (min, max):
        tree, counts = _built(build, _all_but_one(extreme))
        found.append(tree)
        for place, count in enumerate(counts):
            found += [_built(build, _all_but_one(extreme, place, choice))[0] for choice in range(count)]
    found += [_built(build, lambda number, count: chance.randrange(count))[0] for _ in range(MOST_DISKS)]
    return found


def _built(build: Callable[[Choose], Tree], pick: Pick) -> tuple[Tree, list[int]]:
    """What `build` makes of the choices that `pick` makes, and how many possibilities each choice had."""
    counts: list[int] = []

    def choose(count: int) -> int:
        counts.append(count)
        return pick(len(counts) - 1, count)

    return build(choose), counts


def _counted(choices: list[int]) -> Pick:
    """These choices, and after them always the first possibility."""
    return lambda number, count: choices[number] if number < len(choices) else 0


def _all_but_one(extreme: Callable[[int, int], int], place: int = -1, choice: int = 0) -> Pick:
    """Always the first possibility (`min`) or the last (`max`), and `choice` at one place, if there is such a one."""
    return lambda number, count: min(choice, count - 1) if number == place else extreme(0, count - 1)


def _next(choices: list[int], counts: list[int]) -> list[int] | None:
    """The choices that come after these in the order of counting; None after the last."""
    choices = choices + [0] * (len(counts) - len(choices))
    while choices and choices[-1] + 1 == counts[len(choices) - 1]:
        choices.pop()
    return [*choices[:-1], choices[-1] + 1] if choices else None
