"""Looks at the lines of a text: how long they are, and how they end. A line ends with LF, and a file's last one with the file."""

from collections import Counter

import numpy as np

from cuchar.corpus_report.spans import Place, Seen, Span
from cuchar.reading import LINE_END

CR, BLANKS = ord("\r"), [ord(" "), ord("\t")]


class Lines:
    """What was found about lines.

    lengths: how many lines there are of each length, in characters without the line end. All lines together are as long
        as the text, so that n characters have at most the square root of 2n distinct lengths.
    longest: the length of the longest line, and where it begins.
    lf, crlf, cr: line ends of each kind. A CR without LF does not end a line here.
    blank: lines that end with spaces or tabs.
    """

    def __init__(self) -> None:
        self.lengths: Counter[int] = Counter()
        self.longest: tuple[int, Place | None] = (0, None)
        self.lf, self.crlf, self.cr, self.blank = Seen(), Seen(), Seen(), Seen()
        self._last: Span | None = None

    def add(self, span: Span) -> None:
        text, ends = span.with_before, span.line_ends
        has_cr = text[ends + 1] == CR
        self.lf.add(span, ends[~has_cr])
        self.crlf.add(span, ends[has_cr] - 1)
        self.cr.add(span, np.flatnonzero((text[1:-1] == CR) & (text[2:] != LINE_END)) - 1)
        self._end(span, span.begins[:-1], ends - has_cr)
        self._last = span

    def end_file(self) -> None:
        """The file of the spans before has ended; its last line may have no line end."""
        if self._last is None:
            return
        span, begin, end = self._last, self._last.begins[-1:], np.array([len(self._last.codes)])
        self._last = None
        if span.with_before[-1] == CR:
            end -= 1
            self.cr.add(span, end)
        if end > begin:
            self._end(span, begin, end)

    def _end(self, span: Span, begins: np.ndarray, ends: np.ndarray) -> None:
        """Take lines from index `begins` to before `ends`."""
        lengths = ends - begins
        if len(lengths) and lengths.max() > self.longest[0]:
            self.longest = int(lengths.max()), span.place(int(begins[lengths.argmax()]))
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            self.lengths[int(length)] += int(count)
        self.blank.add(span, (ends - 1)[np.isin(span.with_before[ends + 1], BLANKS)])

    @property
    def count(self) -> int:
        return self.lengths.total()

    @property
    def median(self) -> int:
        """The length that half of all lines have at most; 0 if there is no line."""
        below = 0
        for length in sorted(self.lengths):
            below += self.lengths[length]
            if 2 * below >= self.count:
                return length
        return 0
