"""Objects on their way: equal when they arrive, large buffers once and apart, nothing left open."""

from __future__ import annotations

import resource
import signal

import numpy as np
import psutil
import pytest
import torch

from cooptim_lab.ranks.parcel import LARGE, Sender, unpack
from tests.support import refused


@pytest.fixture
def sender():
    before = psutil.Process().num_fds()
    sender = Sender()
    yield sender
    sender.close()
    assert psutil.Process().num_fds() == before


ROWS = np.arange(3 * LARGE, dtype="f8").reshape(-1, 3)


@pytest.mark.parametrize(
    "value",
    [ROWS, ROWS[::2], np.asfortranarray(ROWS), ROWS[:0], ROWS[:5], np.array([{"a": 1}, None]), "text", 3, None],
    ids=["large", "strided", "fortran", "empty", "small", "objects", "text", "number", "none"],
)
def test_arrives_equal(sender, value):
    arrived = unpack(sender.pack(value))
    assert type(arrived) is type(value)
    np.testing.assert_array_equal(arrived, value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(2.0 * LARGE),
        torch.arange(2 * LARGE).view(-1, 4).T,
        torch.zeros(LARGE, dtype=torch.bfloat16),
        torch.zeros(LARGE, requires_grad=True),
        torch.zeros(3),
        torch.zeros(LARGE, dtype=torch.bool),
    ],
    ids=["large", "transposed", "bf16", "with gradient", "small", "bool"],
)
def test_tensors_arrive_equal(sender, tensor):
    arrived = unpack(sender.pack({"x": tensor}))["x"]
    assert torch.equal(arrived, tensor)
    assert (arrived.dtype, arrived.requires_grad) == (tensor.dtype, tensor.requires_grad)


def test_large_ones_travel_apart_and_small_ones_inside(sender):
    parcel = sender.pack((ROWS, torch.arange(2.0 * LARGE), np.zeros(8)))
    assert len(parcel.data) < 4096
    assert [length for _, length in parcel.places] == [ROWS.nbytes, 8 * LARGE]
    assert sender.pack(np.zeros(8)).file is None


def test_what_arrives_may_be_written_to_and_is_nobody_elses(sender):
    parcel = sender.pack(ROWS)
    one, other = unpack(parcel), unpack(parcel)
    one[0, 0] = -1
    assert other[0, 0] == ROWS[0, 0] == 0


def test_what_has_arrived_stays_when_the_sender_closes(sender):
    arrived = unpack(sender.pack(ROWS))
    sender.close()
    np.testing.assert_array_equal(arrived, ROWS)


def test_what_cannot_be_pickled_is_refused(sender):
    with refused("cannot be sent to the ranks", "TypeError"):
        sender.pack(i for i in range(3))


def test_no_room(sender):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE, limits[1]))
    try:
        with refused("no room for", "MiB"):
            sender.pack(ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
