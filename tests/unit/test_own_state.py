"""What is tried before the clock uses nothing up: every way begins with what the user handed over, as a loop does."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from cooptim_lab import InputError, Task
from cooptim_lab.comm.context import Context
from cooptim_lab.costs import calibration
from cooptim_lab.preparing.building import build_optimizer, copied, packed
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.preparing.sharing import refuse_to_move
from cooptim_lab.programs import train_baseline, train_sharded, train_subnets
from cooptim_lab.ranks.parcel import Sender, dumps, unpack
from cooptim_lab.shards.aggregate import make_aggregator
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 6
X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, 0] > 0).long()
WHOLE = {"epochs": EPOCHS, "batch": len(X)}
"""A step an epoch, of all rows: their order is nothing to it."""
every_way = pytest.mark.parametrize(
    ("program", "spec"),
    [(train_baseline, Baseline(**WHOLE)), (train_sharded, Sharded(**WHOLE, aggregate="allreduce"))],
    ids=["baseline", "sharded"],
)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def falling(optimizer, steps):
    return optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / (steps + 1))


def sgd(parameters):
    return optim.SGD(parameters, lr=0.1)


def loop(task, model, make=sgd):
    """A plain loop over all rows that are trained on, as often as there are epochs."""
    rows, optimizer, loss = prepare(Task(model=network(), data=(X, Y))), make(model.parameters()), task.loss
    scheduler = task.scheduler(optimizer, EPOCHS) if task.scheduler else None
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        (loss or F.cross_entropy)(model(rows.x), rows.y).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return model


def trained(program, spec, task):
    torch.set_num_threads(2)  # so that numbers of threads are tried, too
    return program(Context(SoloComm(), lambda *_: None, lambda: False), task, spec).network


def is_same(one, other):
    return all((a - b).abs().max() < 1e-13 for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_way
@pytest.mark.parametrize("is_ready", [True, False], ids=["ready-made", "a function"])
def test_a_rate_that_is_a_tensor_is_the_optimizers_own(program, spec, is_ready):
    def make_of(rate):
        return lambda parameters: optim.SGD(parameters, lr=rate)

    model, rate = network(), torch.tensor(0.1, dtype=torch.float64)
    given = make_of(rate)(model.parameters()) if is_ready else make_of(rate)
    task = Task(model=model, data=(X, Y), optimizer=given, scheduler=falling)
    got = trained(program, spec, task)
    assert rate == 0.1
    assert is_same(got, loop(task, network(), make_of(rate.clone())))
    assert not is_same(got, loop(task, network(), make_of(rate / 2)))


@every_way
def test_a_function_may_return_one_and_the_same_network(program, spec):
    model = network()
    task = Task(model=lambda: model, data=(X, Y), optimizer=sgd)
    got = trained(program, spec, task)
    assert is_same(model, network())
    assert is_same(got, loop(task, network()))
    assert not is_same(got, loop(task, loop(task, network())))


def tied_by_data():
    made = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    made[2].weight.data = made[0].weight.data.t()
    return made


class Prototypes(nn.Module):
    """A buffer that is the weight, without its gradient."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 2).double()
        self.register_buffer("proto", self.out.weight.detach())

    def forward(self, x):
        return self.out(x) + x @ self.proto.t()


APART = {
    "a transposed weight": (tied_by_data, ("0.weight and 2.weight",)),
    "a detached weight": (Prototypes, ("out.weight and proto",)),
}


@pytest.mark.parametrize(("make", "said"), APART.values(), ids=APART)
def test_two_tensors_over_one_memory_are_refused_wherever_they_would_come_apart(make, said):
    said = (*said, "one memory", "one Parameter")
    network = make()
    with refused(*said):
        copied("the model", network)
    with refused(*said):
        dumps({"a cell's": lambda: network})
    with refused(*said):
        Sender().pack(Task(model=network, data=(X, Y)))
    for program, spec in ((train_baseline, Baseline()), (train_sharded, Sharded())):
        with refused(*said):
            trained(program, spec, Task(model=make, data=(X, Y)))


def test_one_parameter_in_two_layers_and_views_beside_each_other_stay_as_they_are():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    tied[2].weight = tied[0].weight
    assert copied("the model", tied)[2].weight is not tied[0].weight
    one = copied("the model", tied)
    assert one[2].weight is one[0].weight
    memory = torch.arange(32.0, dtype=torch.float64).view(4, 8)
    beside = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    beside[0].weight.data, beside[1].weight.data = memory[:, :4], memory[:, 4:]
    beside.register_buffer("mask", torch.ones(4))
    beside.register_buffer("part", beside.mask[:2])  # neither is trained
    assert is_same(copied("the model", beside), beside)
    beside[1].weight.data = memory[:, 3:7]
    with refused("0.weight and 1.weight", "one memory"):
        copied("the model", beside)


class Looking(nn.Module):
    """It counts in one buffer, and reads what it has counted in two others over the same memory, one of them large."""

    def __init__(self, size=4):
        super().__init__()
        self.out = nn.Linear(4, 2).double()
        self.register_buffer("counted", torch.zeros(3, size, dtype=torch.float64))
        self.register_buffer("seen", self.counted[1])
        self.register_buffer("turned", self.counted.t(), persistent=False)
        self.still = nn.Parameter(self.counted[0], requires_grad=False)

    def forward(self, x):
        if self.training:
            self.counted += 1
        return self.out(x) * (1 + self.seen[2] + self.turned[1, 0] + self.still[1])


@pytest.mark.parametrize("size", [4, 5000])  # in the stream, and apart from it
@pytest.mark.parametrize("way", ["a copy", "a parcel", "what is kept"])
def test_buffers_over_one_memory_stay_so(way, size):
    ways = {"a copy": lambda model: copied("the model", model), "what is kept": lambda m: pickle.loads(dumps(m))}
    with closing(Sender()) as sender:
        made = {**ways, "a parcel": lambda model: unpack(sender.pack(model))}[way](Looking(size))
    made(X[:2])
    assert int(made.seen[2]) == int(made.turned[1, 0]) == int(made.still[1]) == int(made.counted[0, 0]) == 1
    assert isinstance(made.still, nn.Parameter)
    assert sorted(made.state_dict()) == sorted(Looking().state_dict())
    assert made.turned.stride() == (1, size)


def test_to_a_gpu_they_do_not_go():
    with refused("still and counted are two tensors over one memory", "give device = cpu"):
        refuse_to_move(Looking())
    refuse_to_move(network())


def train_replicas(context, task, spec):
    result = train_subnets(context, task, spec)
    first, second = result.subnets
    assert is_same(first, second)
    return replace(result, network_bytes=packed("it", first))


@pytest.mark.parametrize(
    ("program", "spec"),
    [
        (train_baseline, Baseline(**WHOLE)),
        (train_sharded, Sharded(**WHOLE, aggregate="allreduce")),
        (train_replicas, Subnets(**WHOLE, subnets=2, engine="stacked")),
        (train_replicas, Subnets(**WHOLE, subnets=2, engine="separate")),
    ],
    ids=["baseline", "sharded", "stacked", "separate"],
)
def test_buffers_over_one_memory_are_trained_with_as_they_are(program, spec):
    def make(i=0):
        torch.manual_seed(3)
        return Looking()

    task = Task(model=make(), data=(X, Y), optimizer=sgd, subnet=make if isinstance(spec, Subnets) else None)
    got = trained(program, spec, task)
    assert is_same(got, loop(task, make()))
    assert int(got.counted[0, 0]) == EPOCHS
    got.train()(X[:2])
    assert int(got.seen[0]) == EPOCHS + 1


@every_way
def test_tied_layers_are_trained_as_one(program, spec):
    def make():
        torch.manual_seed(3)
        made = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
        made[2].weight = made[0].weight
        return made

    task = Task(model=make(), data=(X, Y), optimizer=sgd)
    assert is_same(trained(program, spec, task), loop(task, make()))


class Annealed(nn.Module):
    """A loss of which a part grows with its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, outputs, y):
        self.calls += 1
        return F.cross_entropy(outputs, y) + self.calls / 2000 * outputs.pow(2).mean()


class Rising:
    """A rate that goes by its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        return self.calls / EPOCHS


def rising():
    rate = Rising()
    return {"scheduler": lambda optimizer, steps: optim.lr_scheduler.LambdaLR(optimizer, rate)}


STATES = {"a loss that counts": lambda: {"loss": Annealed()}, "a rate that counts": rising}


@every_way
@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_what_counts_its_calls_begins_as_it_was_handed_over(program, spec, make):
    def task():
        return Task(model=network(), data=(X, Y), optimizer=sgd, **make())

    used = task()
    got = trained(program, spec, task())
    assert is_same(got, loop(used, network()))
    assert not is_same(got, loop(used, network()))  # which has been counting


@pytest.mark.parametrize(
    ("kind", "settings", "remembers"),
    [
        (optim.Adam, {}, True),
        (optim.Adagrad, {}, True),
        (optim.SGD, {"momentum": 0.9}, True),
        (optim.SGD, {}, False),
    ],
    ids=["Adam", "Adagrad", "momentum", "plain SGD"],
)
def test_what_a_ready_made_optimizer_remembers_is_not_dropped_without_a_word(kind, settings, remembers):
    model = nn.Linear(2, 2)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    task = Task(model=model, data=(torch.randn(20, 2), torch.arange(20) % 2), optimizer=optimizer)
    assert isinstance(build_optimizer(task, list(model.parameters())), kind)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    if not remembers:
        assert isinstance(build_optimizer(task, list(model.parameters())), kind)
        return
    with pytest.raises(InputError, match="has taken steps"):
        build_optimizer(task, list(model.parameters()))


class Counting:
    """A loss, or what makes an optimizer."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *given):
        self.calls += 1
        return F.cross_entropy(*given) if len(given) > 1 else sgd(*given)


def test_what_steps_cost_is_measured_with_copies(monkeypatch):
    loss, optimizer = Counting(), Counting()
    monkeypatch.setattr(calibration, "ROUND_SECONDS", 0.001)
    monkeypatch.setattr(calibration, "meet", lambda comm: None)
    monkeypatch.setattr(calibration, "make_aggregator", lambda way, *given: make_aggregator("allreduce", *given))
    context = Context(SoloComm(), lambda *_: None, lambda: False)
    task = Task(model=network, data=(X, Y), loss=loss, optimizer=optimizer)
    assert calibration.time_ways(context, task, batch=16, sync_every=1, repeats=1, seed=0)
    assert (loss.calls, optimizer.calls) == (0, 0)
