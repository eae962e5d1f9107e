"""Looks for text that was damaged by a wrong encoding, and for characters that are not in Unicode's composed form."""

import numpy as np

from cuchar.corpus_report.spans import Place, Seen, Span

# UTF-8 that was read as Latin-1 or Windows-1252: the first byte of é, ©, а or “ has become one of these characters ...
LEADS = np.array([ord(character) for character in "ÃÂÐÑâ"])
# ... and the second one, 0x80 to 0xBF, one of these. Windows-1252 has other characters for most bytes below 0xA0.
WINDOWS = [ord(bytes([byte]).decode("cp1252", "ignore") or "\x80") for byte in range(0x80, 0xA0)]
FOLLOWERS = np.array([*range(0x80, 0xC0), *WINDOWS])
DASHES_AND_QUOTES = [0x80, ord("€")]  # what follows â: other pairs with it are words of some languages


class Mojibake:
    """Pairs of characters that UTF-8 becomes if it is read as another encoding, such as Ã©, Â© and â€."""

    def __init__(self) -> None:
        self.seen = Seen()

    def add(self, span: Span) -> None:
        if span.codes.max(initial=0) < 0x80:
            return
        text = span.with_before[1:]  # a pair may have begun in the block before
        at = np.flatnonzero(np.isin(text[:-1], LEADS))
        follows = np.where(
            text[at] == ord("â"), np.isin(text[at + 1], DASHES_AND_QUOTES), np.isin(text[at + 1], FOLLOWERS)
        )
        self.seen.add(span, at[follows] - 1)


class Decomposed:
    """How many characters composed form (NFC) takes away (it rarely adds any), and the first place that it changes."""

    def __init__(self) -> None:
        self.lost = 0
        self.first: Place | None = None

    def add(self, span: Span) -> None:
        codes, composed = span.codes, span.composed
        if codes is composed or np.array_equal(codes, composed):
            return
        self.lost += len(codes) - len(composed)
        if self.first is None:
            both = min(len(codes), len(composed))
            differs = np.append(codes[:both] != composed[:both], True)
            self.first = span.place(int(differs.argmax()))
