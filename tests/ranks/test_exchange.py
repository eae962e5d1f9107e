"""Messages and sums between three processes, over MPI and over the sockets that torchrun's ranks use."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socket import create_connection
from time import monotonic

import numpy as np
import pytest
from support.exchange_trial import LARGE, SIZES, numbers
from support.process import ROOT
from support.ranks import as_torchrun_says, ended, free_port, run, started

from cuchar.errors import DeviceError
from cuchar.launch import Launch
from cuchar.ranks import sockets

RANKS = 3
TRIAL = [sys.executable, ROOT / "tests/support/exchange_trial.py"]


def in_order(parts) -> np.ndarray:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


@pytest.mark.parametrize("through", ["MPI", "torchrun"])
def test_every_rank_gets_what_is_for_it_and_sums_in_the_order_of_the_ranks(through, tmp_path):
    assert run(through, RANKS, [*TRIAL, tmp_path]).statuses in ([0], [0] * RANKS)
    received = [np.load(tmp_path / f"{rank}.npz") for rank in range(RANKS)]
    for rank, found in enumerate(received):
        for dtype in ("f4", "f8"):
            for size in SIZES:
                parts = [numbers(other, size, dtype) for other in range(RANKS)]
                total = found[f"{dtype} {size}"]
                assert total.dtype == dtype and total.tobytes() == in_order(parts).tobytes(), (rank, dtype, size)
            assert total.tobytes() != in_order(parts[::-1]).tobytes()  # the order matters
            expected = in_order([numbers(other, 35, dtype) for other in range(RANKS)])
            assert np.array_equal(found[f"{dtype} matrix"], expected.reshape(5, 7))
        assert found["scattered"] == f"for {rank}"
        assert found["gathered"].tolist() == ([0, 1, 2] if rank == 0 else [])
        assert found["exchanged"].tolist() == [0, 10, 20]
        assert found["large"].tolist() == [rank] and found["large answers"].tolist() == ([0, 1, 2] if rank == 0 else [])
    assert LARGE * 8 > 20 << 20  # more than any buffer of the system


@pytest.mark.parametrize("moment", ["sum", "message"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("through", ["MPI", "torchrun"])
def test_a_rank_that_dies_ends_all(through, rank, moment):
    with started(through, RANKS, [*TRIAL, rank, moment]) as processes:
        found = ended(processes, 60)
    assert all(found.statuses) and "goes on" not in found.stdout
    if through == "torchrun":
        noticed = {0: [0], 1: [1, 0]}[rank]  # rank 0 hears of rank 1, and the others of rank 0
        assert all(
            f"DeviceError: rank {other}: expected it to go on, found it ended" in found.stderr for other in noticed
        )


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_torchruns_address_must_be_there(missing, monkeypatch):
    for name, value in as_torchrun_says(0, 2, 29500).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(DeviceError, match=r"2 processes: expected torchrun's MASTER_ADDR and MASTER_PORT .* found "):
        sockets.join_by_sockets(Launch(0, 2, "torchrun"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_not_waited_for_for_ever(rank, monkeypatch):
    port = free_port()
    for name, value in as_torchrun_says(rank, 2, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sockets, "PATIENCE_S", 0.3)
    began = monotonic()
    with pytest.raises(DeviceError, match=f"2 processes: expected to meet at 127.0.0.1 port {port + 1}, found: "):
        sockets.join_by_sockets(Launch(rank, 2, "torchrun"))
    assert monotonic() - began < 30


def test_no_port_has_a_number_above_65535(monkeypatch):
    for name, value in as_torchrun_says(0, 2, 65535).items():
        monkeypatch.setenv(name, value)
    for rank in (0, 1):
        with pytest.raises(DeviceError, match=r"2 processes: expected to meet at 127\.0\.0\.1 port 65536, found: "):
            sockets.join_by_sockets(Launch(rank, 2, "torchrun"))


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\5wrong" * 2])
def test_who_comes_by_mistake_is_sent_away(words, monkeypatch):
    port = free_port()
    for name, value in as_torchrun_says(0, 2, port).items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(1) as thread:
        leader = thread.submit(sockets.join_by_sockets, Launch(0, 2, "torchrun"))
        connected = False
        while not connected:
            with suppress(ConnectionRefusedError), create_connection(("127.0.0.1", port + 1)) as stranger:
                connected = True
                stranger.sendall(words)
        follower = sockets.join_by_sockets(Launch(1, 2, "torchrun"))
        leader.result().scatter([None, "for rank 1"])
        assert follower.scatter(None) == "for rank 1"
