"""Objects on their way: equal when they arrive, large buffers once and apart, nothing left open."""

from __future__ import annotations

import resource
import signal
import socket
from pathlib import Path

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


# Arrays that map a file.


@pytest.fixture
def mapped(tmp_path):
    """A map of a file that begins with 100 bytes of something else, opened as asked."""
    path = tmp_path / "rows.bin"
    path.write_bytes(bytes(100) + ROWS.tobytes())
    return lambda mode="r", **options: np.memmap(path, "f8", mode, **{"offset": 100, "shape": ROWS.shape, **options})


VIEWS = {
    "all": lambda rows: rows,
    "a slice": lambda rows: rows[1000:60000],
    "a slice of a slice": lambda rows: rows[1000:][500:1500],
    "a row": lambda rows: rows[7],
    "other shape and dtype": lambda rows: rows[10:20].reshape(-1).view("i8"),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("offset", [100, 100 + 24 * 10000])  # the second not on the first page
def test_a_map_travels_as_its_path(sender, mapped, view, offset):
    value = view(mapped(offset=offset, shape=(60000 - (offset > 100) * 10000, 3)))
    parcel = sender.pack({"x": value})
    assert (len(parcel.data) < 2048, parcel.file) == (True, None)
    arrived = unpack(parcel)["x"]
    assert (type(arrived), arrived.mode, arrived.filename) == (np.memmap, "r", str(value.filename))
    assert (arrived.dtype, arrived.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(arrived, value)


def test_npy_files_are_mapped_too(sender, tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    value = np.load(tmp_path / "x.npy", mmap_mode="r")[5:]
    parcel = sender.pack(value)
    assert len(parcel.data) < 2048
    np.testing.assert_array_equal(unpack(parcel), ROWS[5:])


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_what_was_written_to_a_map_arrives(sender, mapped, mode):
    value = mapped(mode)
    value[:] = ROWS + 1
    parcel = sender.pack(value)
    assert len(parcel.data) < 2048
    arrived = unpack(parcel)
    np.testing.assert_array_equal(arrived, ROWS + 1)
    assert not arrived.flags.writeable


BY_VALUE = {
    "copy on write": lambda mapped: mapped("c"),
    "strided": lambda mapped: mapped()[::2],
    "transposed": lambda mapped: mapped().T,
    "backwards": lambda mapped: mapped()[::-1],
    "computed": lambda mapped: mapped() + 1,
    "copied": lambda mapped: mapped().copy(),
    "empty": lambda mapped: mapped()[:0],
}


@pytest.mark.parametrize("make", BY_VALUE.values(), ids=BY_VALUE)
def test_what_is_not_a_piece_of_a_file_travels_by_value(sender, mapped, make):
    value = make(mapped)
    if value.size and value.flags.writeable:
        value[0, 0] = 5
    parcel = sender.pack(value)
    assert len(parcel.data) + sum(length for _, length in parcel.places) >= value.nbytes
    np.testing.assert_array_equal(unpack(parcel), value)


def test_a_map_of_a_file_that_is_gone_travels_by_value(sender, mapped):
    value = mapped()
    Path(value.filename).unlink()
    np.testing.assert_array_equal(unpack(sender.pack(value)), ROWS)


@pytest.fixture
def on_its_way(sender, mapped):
    """A parcel with a map, and the file."""
    value = mapped()
    return sender.pack(value), Path(value.filename)


def test_a_host_without_the_file_says_so(on_its_way):
    parcel, path = on_its_way
    path.unlink()
    with refused(str(path), socket.gethostname(), "No such file", "every host must have the file"):
        unpack(parcel)


def test_a_host_where_the_file_is_too_short_says_so(on_its_way):
    parcel, path = on_its_way
    path.write_bytes(bytes(1000))
    needed = f"needs {100 + ROWS.nbytes}"
    with refused(str(path), socket.gethostname(), "has 1000 bytes", needed, "every host must have the file"):
        unpack(parcel)
