"""Events go to JSON and come back as they were."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cooptim_lab.runs.events import (
    Beside,
    Calibrated,
    Costed,
    Counted,
    Ended,
    Event,
    Foretold,
    Gauged,
    Measured,
    Note,
    Output,
    Phase,
    Points,
    Progress,
    Raced,
    Resumed,
    Sampled,
    Spent,
    Stale,
    Started,
    Unfinished,
    decode,
    encode,
)

EVENTS = [
    Started(way="subnets", options={"subnets": 8, "fuse": "mean"}, workers=2),
    Points(rank=1, curve="training loss", x=(0.1, 0.2), y=(1 / 3, 1e-300)),
    Points(curve="nothing yet", x=(), y=()),
    Progress(rank=0, done=3, total=23),
    Phase(text="starting 2 MPI ranks"),
    Note(rank=0, text='zwei Zeilen\nand a quotation mark: "'),
    Output(rank=1, stream="stderr", text="Σ θ_i\n"),
    Unfinished(rank=0, stream="stderr", text=" 50%|#####     |"),
    Measured(row={"way": "sharded", "seconds": 0.25, "spread": [0.2, 0.3], "gain": None}),
    Beside(round=2, why="", seconds=1.5, others=0.02, stolen=None, throttled=0.0, throttled_seconds=0.0),
    Calibrated(links={"local": {"alpha": 1e-6, "beta": 1e9, "both": 1e9}, "between": None, "gamma": 1e-11, "cpus": 2}),
    Gauged(ceiling={"kind": "square", "name": "bf16", "size": 64, "value": None, "why": "refused"}),
    Counted(step={"name": "digits", "rows": 64, "layers": []}),
    Raced(row={"plan": "batch=256,fused", "state": "in", "gate": 0.3, "to_goal": None}),
    Sampled(figures={"batch": 64, "gradients": {"64": 0.1}}),
    Foretold(row={"way": "server", "workers": 2, "seconds": 0.1}),
    Costed(row={"way": "server", "workers": 2, "predicted": 0.1, "measured": 0.11}),
    Spent(rank=1, steps=40, compute=0.25, communication=0.1, waiting=0.02, sent=1024),
    Stale(rank=0, mean=1.25, most=3),
    Resumed(rank=0, step=115, epoch=2.5),
    Ended(state="done", summary={"metric": 0.97}),
    Ended(state="failed", message="rank 1 on here: died", traceback="Traceback ...\n"),
]


def test_every_class_of_event_is_here():
    assert {type(event).__name__ for event in EVENTS} == set(Event.kinds)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_round_trip(event):
    line = json.dumps(encode(event), allow_nan=False)
    assert "\n" not in line
    assert decode(json.loads(line)) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_what_has_happened_cannot_be_changed(event):
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.time = 0.0


def test_an_event_knows_when_and_is_the_kernels_unless_a_rank_is_named():
    one, other = Note(text="a"), Note(text="b", rank=3)
    assert 0 < one.time <= other.time
    assert (one.rank, other.rank) == (None, 3)


@pytest.mark.parametrize(
    "record",
    [
        {}, {"event": "Exploded"}, {"event": None}, {"event": "Note"}, {"event": "Note", "text": "a", "colour": "red"},
        {"event": "Points", "curve": "a"}, {"event": "Points", "curve": "a", "x": 1, "y": 2}, {"event": ["Note"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_event_is_refused(record):
    with pytest.raises(ValueError, match=r"."):
        decode(record)
