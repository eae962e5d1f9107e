"""Hashes and writes in a second thread, while the first one goes on: neither needs the interpreter."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class SecondThread:
    """Does one thing after another, in the order in which they were begun."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._begun: Future[Any] | None = None

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin to call `function`, once what was begun before has ended; the errors are those of `wait`."""
        self.wait()
        self._begun = self._thread.submit(function, *arguments)

    def wait(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: what the function has raised.
        """
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()
