"""Finds the ids of a large text in a cache, and encodes the text into it first if they are not there."""

from cuchar.errors import OutputError
from cuchar.messages import Messages
from cuchar.tally import Tally, count
from cuchar.text_cache import Found, TextCache, seen
from cuchar.text_source import Source, Stamp
from cuchar.unfinished import Unfinished


def cached(source: Source, stamps: list[Stamp], size: int, cache: TextCache, messages: Messages) -> Found:
    """A text's ids from the cache, into which they are written first if they are not there.

    Args:
        stamps, size: how the text's files look from outside, and how many bytes they have.
    Raises:
        TextError: the text cannot be read or encoded, or changes meanwhile.
        OutputError: the cache cannot be written to.
    """
    look = source.look(stamps)
    found = cache.find(look)
    if found is None and cache.is_read_only:
        found = _find_by_content(source, stamps, size, cache, messages)
    if found is None:
        with cache.locked():
            found = cache.find(look)  # another process may have encoded it while this one waited
            if found is None:
                _encode(source, stamps, size, look, cache, messages)
                found = cache.find(look)
    if found is None:
        raise OutputError(f"{cache.folder}: expected the ids that were just written, found none")
    return found


def _find_by_content(
    source: Source, stamps: list[Stamp], size: int, cache: TextCache, messages: Messages
) -> Found | None:
    """What `TextCache.find` returns, for a text whose files look different; it is counted, and nothing is written."""
    tally = Tally()
    with messages.counted("counting", size) as advance:
        count(tally, source.files, source.reading, source.skip_unreadable, advance)
    vocabulary = source.vocabulary_for(tally)
    key = source.key(tally)
    found = cache.open(key)
    source.expect_unchanged(stamps)
    return (source.known(key, tally, vocabulary), *found) if found else None


def _encode(source: Source, stamps: list[Stamp], size: int, look: str, cache: TextCache, messages: Messages) -> None:
    """Encode a text into the cache, which is locked; what a killed process has done of it is gone on with."""
    unfinished = Unfinished(cache.folder, look, messages)
    try:
        tally = _count(source, size, unfinished, messages)
        vocabulary = source.vocabulary_for(tally)
        key = source.key(tally)
        if cache.open(key) is None:
            cache.remove_unused()
            with unfinished.writing() as writer, messages.counted("encoding", size) as advance:
                advance(sum(file.size for file in tally.files[: writer.file]) + writer.offset)
                done = writer.size // vocabulary.dtype.itemsize
                for file, block in source.blocks(tally, writer.file, writer.offset, done):
                    writer.write(vocabulary.ids_of_known(block.codes), file, block.end)
                    advance(len(block.raw))
                written = seen(writer.sha256, writer.status())
            source.expect_unchanged(stamps)
            facts = {"vocabulary": vocabulary.to_json(), "sha256": tally.sha256, "characters": tally.characters}
            cache.keep(unfinished.ids, {"key": key, **facts, "ids": written})
            messages.note(f"encoded {size:,} bytes of text into {cache.folder}, where the next run finds them")
        cache.remember(look, source.known(key, tally, vocabulary))
        unfinished.remove()
    except OSError:
        unfinished.remove()  # a full disk gets back what was taken
        raise


def _count(source: Source, size: int, unfinished: Unfinished, messages: Messages) -> Tally:
    with messages.counted("counting", size) as advance:
        tally = Tally() if unfinished.tally is None else Tally.from_json(unfinished.tally, source.files, advance)
        count(
            tally, source.files, source.reading, source.skip_unreadable,
            advance, lambda: unfinished.save_tally(tally),
        )  # fmt: skip
    unfinished.save_tally(tally, at_once=True)
    return tally
