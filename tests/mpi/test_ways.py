"""The ways to train, from the plain call to the result, on real ranks and real digits."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from torch import nn

from cooptim_lab import InputError, RankPool, Task, digits, train, train_sharded, train_subnets
from cooptim_lab.data.datasets import digits_network, digits_rows
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Ended, Points, Progress, Started
from tests.support import PATIENCE_SECONDS, refused, run_python

pytestmark = pytest.mark.mpi

WAYS = {
    "baseline": (train, {}),
    "subnets": (train_subnets, {"workers": 2}),
    "server": (train_sharded, {"workers": 2, "aggregate": "server"}),
    "allreduce": (train_sharded, {"workers": 2, "aggregate": "allreduce"}),
}


def exact_network() -> nn.Module:
    """The digits' network in float64, where rounding does not blur a comparison."""
    return digits_network().double()


def outputs(result):
    rows = torch.from_numpy(digits_rows()[0]).to(next(result.network.parameters()).dtype)
    with torch.no_grad():
        return result.network(rows)


@pytest.mark.parametrize(("way", "options"), WAYS.values(), ids=WAYS)
class TestEveryWay:
    def test_digits_are_learnt_and_the_run_is_recorded(self, pool, way, options):
        run = way(pool=pool, epochs=8, **options)
        result = run.wait(PATIENCE_SECONDS)
        assert (result.state, result.workers, result.task) == ("done", options.get("workers", 1), "digits")
        assert result.metric > 0.9
        assert result.seconds > 0
        assert (outputs(result).argmax(1).numpy() == digits_rows()[1]).mean() > 0.9
        record = store.load(run.id)
        assert (record.state, record.kind) == ("done", result.way)
        assert list(record.events)[:-1] == run.log.since(0)[:-1]
        assert isinstance(record.events[0], Started)
        assert record.events[-1].summary == json.loads(json.dumps(result.summary()))
        done = [(event.rank, event.done, event.total) for event in record.events if isinstance(event, Progress)]
        assert done[-1][1] == done[-1][2] == result.steps

    def test_stopped_it_gives_what_was_trained_until_then(self, pool, hear, way, options):
        run = way(pool=pool, epochs=100_000, **options)
        hear(run, Points)
        run.stop()
        result = run.wait(PATIENCE_SECONDS)
        assert (run.state, result.state) == ("stopped", "stopped")
        assert outputs(result).isfinite().all()
        assert [event.state for event in run.log.since(0) if isinstance(event, Ended)] == ["stopped"]

    def test_a_loss_that_is_not_finite_is_an_input_error(self, pool, way, options):
        task = Task(model=digits_network, data=digits_rows, optimizer=lambda p: torch.optim.SGD(p, lr=1e30))
        run = way(task, pool=pool, epochs=3, **options)
        with refused("epoch 1", "learning rate"):
            run.wait(PATIENCE_SECONDS)
        assert run.state == "failed"

    def test_labels_that_do_not_fit_are_an_input_error(self, pool, way, options):
        with refused("5 outputs", "labels up to 9"):
            way(Task(model=lambda: nn.Linear(64, 5), data=digits_rows), pool=pool, **options).wait(PATIENCE_SECONDS)


def test_subnets_do_not_depend_on_the_number_of_workers(pool):
    task = Task(model=exact_network, data=digits_rows)
    one, two = (train_subnets(task, pool=pool, subnets=5, workers=w, epochs=3).wait(PATIENCE_SECONDS) for w in (1, 2))
    for (name, a), (other, b) in zip(one.network.named_parameters(), two.network.named_parameters(), strict=True):
        assert name == other
        assert (a - b).abs().max() < 1e-6
    assert one.subnet_scores == two.subnet_scores
    assert abs(one.loss - two.loss) < 1e-6


class Mixed(nn.Module):
    """A layer in two places, normalisation, and a way to its layers that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(16, 16)
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), layer, nn.Tanh(), layer, nn.Tanh())
        self.last = nn.Linear(16, 10)
        self.order = [self.body, self.last]

    def forward(self, x):
        for part in self.order:
            x = part(x)
        return x


def test_subnets_of_any_make_arrive_as_they_were_trained(pool):
    """From a rank of its own or from rank 0, the networks are the same, and none shares anything with another."""
    task = Task(model=lambda: Mixed().double(), subnet=lambda i: Mixed().double(), data=digits_rows)
    options = {"subnets": 4, "epochs": 2, "pool": pool, "fuse": "mean"}
    one, two = (train_subnets(task, workers=m, **options).wait(PATIENCE_SECONDS) for m in (1, 2))
    assert one.parameters == two.parameters == 4 * sum(p.numel() for p in Mixed().parameters())
    assert (outputs(one) - outputs(two)).abs().max() < 1e-6
    calls: list[int] = []
    for n, subnet in enumerate(two.subnets):
        subnet.last.register_forward_hook(lambda *given, n=n: calls.append(n))
    before = outputs(two)
    assert calls == [0, 1, 2, 3]
    with torch.no_grad():
        for parameter in two.subnets[0].parameters():
            parameter.zero_()
    x = torch.from_numpy(digits_rows()[0]).double()
    assert two.subnets[0](x).abs().max() == 0
    rest = sum(subnet(x) for subnet in two.subnets[1:])
    assert (outputs(two) - rest / 4).abs().max() < 1e-12
    assert (outputs(two) - before).abs().max() > 1e-3


def test_both_ways_to_aggregate_train_the_same_network(pool):
    task = Task(model=exact_network, data=digits_rows)
    server, allreduce = (
        train_sharded(task, pool=pool, workers=2, aggregate=name, epochs=3).wait(PATIENCE_SECONDS)
        for name in ("server", "allreduce")
    )
    assert (outputs(server) - outputs(allreduce)).abs().max() < 1e-8


def test_a_module_is_trained_from_the_weights_it_has_and_is_not_changed(pool):
    torch.manual_seed(5)
    model = digits_network()
    before = [p.clone() for p in model.parameters()]
    task = Task(model=model, data=digits_rows, optimizer=torch.optim.SGD(model.parameters(), lr=1e-12))
    result = train(task, pool=pool, epochs=1).wait(PATIENCE_SECONDS)
    for given, now, trained in zip(before, model.parameters(), result.network.parameters(), strict=True):
        assert torch.equal(given, now)
        assert torch.allclose(given, trained, atol=1e-6)


def test_an_option_out_of_bounds_starts_nothing():
    known = len(store.records())
    for call in (lambda: train(epochs=0), lambda: train_subnets(subnet=3), lambda: train_sharded(workers=0)):
        with pytest.raises(InputError):
            call()
    with refused("task is a str", "Task("):
        train("digits")
    assert len(store.records()) == known


def test_a_task_that_cannot_be_sent_is_refused_and_recorded_as_failed(pool):
    known = {record.id for record in store.records()}
    lock = threading.Lock()
    with refused("cannot be sent"):
        train(Task(model=digits_network, data=digits_rows, metric=lambda *_: lock), pool=pool)
    (record,) = [record for record in store.records() if record.id not in known]
    assert record.state == "failed"


def test_more_workers_than_subnets_are_refused_with_the_reason(pool):
    with refused("workers = 2", "1", "sub"):
        train_subnets(digits(), pool=pool, subnets=1, workers=2).wait(PATIENCE_SECONDS)


SCRIPT = """
import torch
from torch import nn
from cooptim_lab import Task, train, train_sharded, train_subnets

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return helper(self.linear(x))

def helper(x):
    return x * scale

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets) * weight

scale, weight = 2.0, 0.5
x = torch.randn(40, 4)
task = Task(model=Mine, data=(x, (x[:, 0] > 0).long()), loss=loss, subnet=lambda i: Mine())
networks = [way(task, epochs=2).wait(60).network for way in (train, train_sharded, train_subnets)]
print(*[type(network).__name__ for network in networks])
print(all(type(each) is Mine for each in (*networks[:2], *networks[2].subnets)))
"""


def test_what_a_script_defines_travels_by_value(tmp_path):
    done = run_python(SCRIPT, cwd=tmp_path)  # a script given by -c is __main__, like a notebook
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Mine Mine MeanFusion\nTrue\n"


def test_the_kernel_never_trains():
    done = run_python(
        "import sys\n"
        "from cooptim_lab import train, train_subnets\n"
        "run = train(epochs=1)\n"
        "print(run.wait(60).metric > 0)\n"
        "print(*[name for name in ('torch', 'mpi4py.MPI', 'mpi4py', 'sklearn') if name in sys.modules])\n"
        "run.result.network\n"
        "print('torch' in sys.modules)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["True", "", "True", ""]


def test_a_network_that_cannot_be_cut_leaves_the_ranks_as_they_were():
    """Each imports what finds units, which takes a while; the first complaint does not end the others meanwhile."""
    model, x = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)), torch.randn(40, 4)
    data = (x, (x[:, 0] > 0).long())
    model[0].weight.register_hook(lambda g: g)
    with RankPool(2) as pool:
        with refused("a hook on the gradient of 0.weight"):
            train_subnets(Task(model=model, data=data), pool=pool, workers=2, epochs=1).wait(PATIENCE_SECONDS)
        model[0].weight._backward_hooks.clear()
        run = train_subnets(Task(model=model, data=data), pool=pool, workers=2, epochs=1)
        assert run.wait(PATIENCE_SECONDS).state == "done"
