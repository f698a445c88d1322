"""Checkpoints: all or nothing on disk, the one before as a reserve, and nothing of a run's state forgotten."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.runs.events import Note, Resumed
from cooptim_lab.shards import checkpoint
from cooptim_lab.shards.keeping import FRESH, MUST, Keeping
from cooptim_lab.shards.program import train_sharded
from cooptim_lab.training.spec import Sharded
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = np.random.default_rng(0).normal(size=(60, 6))
Y = (X[:, 0] > X[:, 1]).astype("int64")


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 2)).double()


def other():
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def run(path, *, resume=False, model=network, steps=None, **options):
    """The weights after a run (cut short after some steps), and its events."""
    events, count = [], [0]

    def stopping():
        count[0] += 1
        return steps is not None and count[0] > steps

    spec = Sharded(**{"epochs": 4, "batch": 16, "save_every": 1, **options})
    context = Context(SoloComm(), lambda *new: events.extend(new), stopping)
    result = train_sharded(context, Task(model=model, data=(X, Y)), spec, Keeping(str(path), MUST if resume else FRESH))
    return torch.cat([value.double().flatten() for value in result.network.state_dict().values()]), events


class TestFile:
    def test_the_newest_and_the_one_before(self, tmp_path):
        path = tmp_path / "a.checkpoint"
        for number in (1, 2, 3):
            checkpoint.write(path, {"number": number})
        assert checkpoint.read(path) == ({"format": checkpoint.FORMAT, "number": 3}, "")
        path.write_bytes(path.read_bytes()[:-20])
        state, said = checkpoint.read(path)
        assert state["number"] == 2
        assert "cannot be read" in said
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.checkpoint", "a.checkpoint.before"]

    @pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04 cut"])
    def test_no_sound_one_is_told_of(self, tmp_path, damage):
        path = tmp_path / "a.checkpoint"
        with refused("no checkpoint", "--save-every"):
            checkpoint.read(path)
        path.write_bytes(damage)
        with refused("damaged"):
            checkpoint.read(path)

    def test_a_write_that_fails_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = tmp_path / "a.checkpoint"
        checkpoint.write(path, {"number": 1})

        def no_room(*arguments):
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device\nand a stack")

        monkeypatch.setattr(torch, "save", no_room)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.write(path, {"number": 2})
        assert checkpoint.read(path)[0]["number"] == 1
        assert [each.name for each in tmp_path.iterdir()] == ["a.checkpoint"]

    def test_it_cannot_run_anything(self, tmp_path):
        path = tmp_path / "a.checkpoint"
        torch.save({"format": 1, "x": print}, path)
        with refused("damaged"):
            checkpoint.read(path)


def test_every_generator_goes_on_from_where_it_was(tmp_path):
    def draw():
        return float(torch.rand(())), np.random.normal(), random.random()

    np.random.normal()  # the second of a pair is kept by the generator
    checkpoint.write(tmp_path / "a", checkpoint.random_state())
    expected = draw()
    assert draw() != expected
    checkpoint.set_random_state(checkpoint.read(tmp_path / "a")[0])
    assert draw() == expected


@pytest.mark.parametrize("way", ["ordered", "server", "allreduce", "local", "diloco", "async"])
@pytest.mark.parametrize("steps", [1, 3, 7, 11])
def test_a_resumed_run_is_an_unbroken_one_bit_for_bit(tmp_path, way, steps):
    options = {"aggregate": way, **({"sync_every": 2} if way in ("local", "diloco") else {})}
    whole, _ = run(tmp_path / "whole", **options)
    cut, _ = run(tmp_path / "cut", steps=steps, **options)
    assert not torch.equal(cut, whole)
    again, events = run(tmp_path / "cut", resume=True, **options)
    assert torch.equal(again, whole)
    assert [event.step for event in events if isinstance(event, Resumed)]


@pytest.mark.parametrize("compress", ["bf16", "topk:0.2", "powersgd:1"])
def test_what_compression_remembers_is_kept(tmp_path, compress):
    options = {"aggregate": "allreduce", "compress": compress}
    whole, _ = run(tmp_path / "whole", **options)
    run(tmp_path / "cut", steps=5, **options)
    assert torch.equal(run(tmp_path / "cut", resume=True, **options)[0], whole)


def test_breakage_without_the_random_state_it_is_another(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole")
    run(tmp_path / "cut", steps=5)
    monkeypatch.setattr(checkpoint, "set_random_state", lambda state: None)
    assert not torch.equal(run(tmp_path / "cut", resume=True)[0], whole)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path / "a", steps=2)
    with refused("another model", "0.weight (8, 6)", "0.weight (7, 6)"):
        run(tmp_path / "a", resume=True, model=other)


def test_a_disk_that_is_full_is_told_of_and_the_run_goes_on(tmp_path):
    whole, _ = run(tmp_path / "whole")
    (tmp_path / "file").write_text("")
    weights, events = run(tmp_path / "file" / "a")
    assert torch.equal(weights, whole)
    said = [event.text for event in events if isinstance(event, Note)]
    assert said
    assert all("no checkpoint after step" in text for text in said)
