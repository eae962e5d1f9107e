"""Ranks that torchrun has started: TCP connections between rank 0 and every other rank carry their messages.

Where they meet is what torchrun says in MASTER_ADDR and MASTER_PORT: torchrun's own store listens at that port, cuchar at
the next one. As with torchrun's store, whoever can reach that port is trusted; the key keeps out what came by mistake.
"""

import os
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from time import monotonic, sleep
from typing import Any

import numpy as np

from cuchar.errors import DeviceError
from cuchar.launch import Launch
from cuchar.ranks.ranks import Ranks

PATIENCE_S = 60.0  # how long ranks wait for each other at the beginning
PAUSE_S = 0.05


def join_by_sockets(launch: Launch) -> "SocketRanks":
    """All processes that torchrun has started.

    Raises:
        DeviceError: the environment does not say where to meet, or a rank did not come.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        raise DeviceError(
            f"{launch.size} processes: expected torchrun's MASTER_ADDR and MASTER_PORT in the environment, "
            f"found {host!r} and {port!r}"
        )
    address, key = (host, int(port) + 1), f"cuchar {launch.size} {os.environ.get('TORCHELASTIC_RUN_ID', '')}".encode()
    try:
        found = _accept(launch, address, key) if launch.rank == 0 else {0: _connect(address, key, launch.rank)}
    except (OSError, OverflowError, EOFError, AuthenticationError) as error:  # OverflowError: no port has that number
        raise DeviceError(
            f"{launch.size} processes: expected to meet at {host} port {address[1]}, found: {error or type(error).__name__}"
        ) from None
    return SocketRanks(launch, found)


def _accept(launch: Launch, address: tuple[str, int], key: bytes) -> dict[int, Connection]:
    connections: dict[int, Connection] = {}
    until = monotonic() + PATIENCE_S
    with Listener(address, backlog=launch.size, authkey=key) as listener:
        listener._listener._socket.settimeout(PATIENCE_S)  # type: ignore[attr-defined]
        while len(connections) < launch.size - 1:
            try:
                connection = listener.accept()
                connections[connection.recv()] = connection
            except (OSError, EOFError, AuthenticationError):  # no rank, unless it was waited for too long
                if monotonic() > until:
                    raise
    return connections


def _connect(address: tuple[str, int], key: bytes, rank: int) -> Connection:
    until = monotonic() + PATIENCE_S
    while True:
        try:
            connection = Client(address, authkey=key)
            break
        except ConnectionRefusedError:  # rank 0 does not listen yet
            if monotonic() > until:
                raise
            sleep(PAUSE_S)
    connection.send(rank)
    return connection


class SocketRanks(Ranks):
    """`cuchar.ranks.ranks.Ranks` with rank 0 in the middle: it adds up everything. This is simple, and for few ranks."""

    def __init__(self, launch: Launch, connections: dict[int, Connection]):
        super().__init__(launch.rank, launch.size, "TCP, as torchrun says")
        self._connections = connections

    def scatter(self, messages: Sequence[Any] | None) -> Any:
        if messages is None:
            return self._receive(0)
        for rank in range(1, self.size):
            self._send(rank, messages[rank])
        return messages[0]

    def gather(self, answer: Any) -> list[Any] | None:
        if self.rank:
            self._send(0, answer)
            return None
        return [answer, *(self._receive(rank) for rank in range(1, self.size))]

    def add_up(self, array: np.ndarray) -> None:
        parts = self.gather(array)
        total = None
        if parts is not None:
            total = parts[0]
            for part in parts[1:]:
                total += part
        array[...] = self.scatter(None if total is None else [total] * self.size)

    def abandon(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _send(self, rank: int, message: Any) -> None:
        try:
            self._connections[rank].send(message)
        except OSError:
            raise DeviceError(f"rank {rank}: expected it to go on, found it ended") from None

    def _receive(self, rank: int) -> Any:
        try:
            return self._connections[rank].recv()
        except (OSError, EOFError):
            raise DeviceError(f"rank {rank}: expected it to go on, found it ended") from None
