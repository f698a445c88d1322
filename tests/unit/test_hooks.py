"""Hooks on gradients and on an optimizer's steps: what is trained has those that the user gave, or it is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from cooptim_lab import Task
from cooptim_lab.data.holding import draw_held_out, hold_out
from cooptim_lab.preparing.building import copied, packed, unpacked
from cooptim_lab.preparing.optimizers import is_elementwise
from cooptim_lab.programs import train_baseline, train_sharded, train_subnets
from cooptim_lab.ranks.parcel import Sender, unpack
from cooptim_lab.shards import shard as shards
from cooptim_lab.training.loop import batches
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.one_process import batches_over
from tests.plain import run
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS, BATCH, EXACT = 3, 16, 1e-12
X = torch.randn(61, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).argmax(1)
WAYS = {
    "baseline": (train_baseline, Baseline(epochs=EPOCHS, batch=BATCH)),
    **{way: (train_sharded, Sharded(epochs=EPOCHS, batch=BATCH, aggregate=way)) for way in ("server", "allreduce")},
}
OTHERS = {"local": (train_sharded, Sharded(epochs=EPOCHS, batch=BATCH, aggregate="local", sync_every=1))}
every_way = pytest.mark.parametrize(("program", "spec"), WAYS.values(), ids=WAYS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def sgd(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.9)


def task(model, **changed):
    return Task(**{"model": model, "data": (X, Y), "optimizer": sgd, "name": "test", **changed})


def in_parcel(value):
    """As it comes to a rank."""
    sender = Sender()
    try:
        return unpack(sender.pack(value))
    finally:
        sender.close()


def plain(model, spec=None, optimizer=sgd):
    """The loop that everybody writes first, on the same batches; with the very model, so that nothing can be lost."""
    if isinstance(spec, Sharded):
        steps = batches_over(spec, hold_out(len(X), 0.2, 0)[0], 1)
    else:
        trained, _ = draw_held_out(len(X), 0.2, 0)
        steps = [trained[rows] for epoch in range(EPOCHS) for rows in batches(len(trained), BATCH, 0, epoch)]
    made = optimizer(model.parameters())
    for rows in steps:
        made.zero_grad()
        F.cross_entropy(model(X[rows]), Y[rows]).backward()
        made.step()
    return model


def distance(one, other):
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# On gradients.


def clamp(p):
    p.register_hook(lambda g: g.clamp(-0.01, 0.01))


def clamp_what_is_there(p):
    def bounded(p):
        p.grad.clamp_(-0.01, 0.01)

    p.register_post_accumulate_grad_hook(bounded)


def put_another(p):
    def bounded(p):
        p.grad = p.grad.clamp(-0.01, 0.01)

    p.register_post_accumulate_grad_hook(bounded)


def take_it_away(p):
    def taken(p):
        if p.dim() == 1:
            p.grad = None

    p.register_post_accumulate_grad_hook(taken)


def by_its_parameter(p):
    p.register_hook(lambda g: g * (p.detach().abs() < 0.2))


HOOKS = [clamp, clamp_what_is_there, put_another, take_it_away, by_its_parameter]


def with_hooks(hook):
    made = network()
    for p in made.parameters():
        hook(p)
    return made


@every_way
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("how", ["ready", "made on the rank"])
def test_one_process_trains_as_the_users_own_hooks_have_it(program, spec, hook, how):
    model = with_hooks(hook) if how == "ready" else lambda: with_hooks(hook)
    result, _ = run(in_parcel(task(model)), program, spec)
    assert distance(result.network, plain(with_hooks(hook), spec)) < EXACT
    assert distance(result.network, plain(network(), spec)) > 1e-3


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("engine", ["stacked", "separate"])
def test_ones_own_sub_networks_keep_theirs(hook, engine):
    given = task(network, subnet=lambda i: with_hooks(hook))
    result, _ = run(in_parcel(given), train_subnets, Subnets(subnets=2, epochs=EPOCHS, batch=BATCH, engine=engine))
    assert result.engine == "separate"
    for subnet in result.subnets:
        assert distance(subnet, plain(with_hooks(hook))) < EXACT


def test_what_is_handed_over_has_them():
    for program, spec in WAYS.values():
        result, _ = run(task(with_hooks(clamp)), program, spec)
        F.cross_entropy(result.network(X), Y).backward()
        assert all(float(p.grad.abs().max()) <= 0.01 for p in result.network.parameters())


def test_breakage_a_deep_copy_leaves_them_behind():
    model = with_hooks(clamp)
    for made, is_bounded in ((copied("the model", model), True), (copy.deepcopy(model), False)):
        (100 * F.cross_entropy(made(X), Y)).backward()
        assert all(float(p.grad.abs().max()) <= 0.01 for p in made.parameters()) is is_bounded


def test_a_handle_that_comes_along_takes_its_hook_away():
    model = network()
    model.handle = model[0].weight.register_hook(torch.zeros_like)
    own = in_parcel(unpacked(packed("the model", model)))
    own.handle.remove()
    F.cross_entropy(own(X), Y).backward()
    assert bool(own[0].weight.grad.any())


def test_a_new_hook_does_not_take_the_place_of_one_that_came_along():
    model = with_hooks(clamp)
    (number,) = model[0].weight._backward_hooks
    torch.utils.hooks.RemovableHandle.next_id, before = number, torch.utils.hooks.RemovableHandle.next_id
    try:  # as in another process, which has counted on its own
        own = copied("the model", model)
        own[0].weight.register_hook(lambda g: None)
    finally:
        torch.utils.hooks.RemovableHandle.next_id = max(before, torch.utils.hooks.RemovableHandle.next_id)
    assert len(own[0].weight._backward_hooks) == 2


@pytest.mark.parametrize(
    ("program", "spec"),
    [
        (train_subnets, Subnets(subnets=2, epochs=1, split="replicas")),
        (train_subnets, Subnets(subnets=2, epochs=1, split="neurons")),
        (train_baseline, Baseline(epochs=1, parameters=100)),
    ],
    ids=["replicas", "neurons", "one smaller"],
)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_part_of_a_network_has_no_hook_of_the_whole(program, spec, hook):
    with refused("a hook on the gradient of 0.weight", "define subnet(i)"):
        run(task(with_hooks(hook)), program, spec)


def test_of_what_is_not_trained_nobody_asks():
    model = with_hooks(clamp)
    for p in model.parameters():
        p.requires_grad_(False)
    model.append(nn.Linear(3, 3).double())
    result, _ = run(in_parcel(task(model)), *WAYS["baseline"])
    assert result.network[0].weight._backward_hooks
    shards.refuse_hooks(result.network, shards.ON_A_RANK)


# On an optimizer's steps.


def clamped_before(parameters):
    def clamp(optimizer, given, named):
        for p in optimizer.param_groups[0]["params"]:
            p.grad.clamp_(-0.01, 0.01)

    made = sgd(parameters)
    made.register_step_pre_hook(clamp)
    return made


def given_others(parameters):
    def clamp(optimizer, given, named):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = p.grad.clamp(-0.01, 0.01)

    made = sgd(parameters)
    made.register_step_pre_hook(clamp)
    return made


def kept_small(parameters):
    def clamp(optimizer, given, named):
        for p in optimizer.param_groups[0]["params"]:
            p.data.clamp_(-0.1, 0.1)
        optimizer.zero_grad()

    made = sgd(parameters)
    made.register_step_post_hook(clamp)
    return made


def by_the_size_of_each(parameters):
    def normalise(optimizer, given, named):
        for p in optimizer.param_groups[0]["params"]:
            p.grad /= p.grad.norm() + 1e-3

    made = sgd(parameters)
    made.register_step_pre_hook(normalise)
    return made


def slower_and_slower(parameters):
    def slow(optimizer, given, named):
        optimizer.param_groups[0]["lr"] *= 0.8

    made = sgd(parameters)
    made.register_step_post_hook(slow)
    return made


def with_a_step_of_its_own(parameters):
    made = sgd(parameters)
    own = made.step

    def step(closure=None):
        for p in made.param_groups[0]["params"]:
            p.grad.clamp_(-0.01, 0.01)
        own()

    made.step = step
    return made


MAKERS = [
    clamped_before, given_others, kept_small, by_the_size_of_each, slower_and_slower, with_a_step_of_its_own,
]  # fmt: skip


@pytest.mark.parametrize(("program", "spec"), [*WAYS.values(), *OTHERS.values()], ids=[*WAYS, *OTHERS])
@pytest.mark.parametrize("make", MAKERS)
def test_an_optimizer_keeps_its_hooks(program, spec, make):
    result, _ = run(in_parcel(task(network(), optimizer=make)), program, spec)
    assert distance(result.network, plain(network(), spec, make)) < EXACT
    assert distance(result.network, plain(network(), spec)) > 1e-3


@pytest.mark.parametrize("make", MAKERS)
def test_sub_networks_have_its_hooks_too(make):
    given = in_parcel(task(network, optimizer=make, subnet=lambda i: network()))
    result, _ = run(given, train_subnets, Subnets(subnets=2, epochs=EPOCHS, batch=BATCH))
    for subnet in result.subnets:
        assert distance(subnet, plain(network(), None, make)) < EXACT


def test_breakage_an_optimizer_laid_flat_loses_them(monkeypatch):
    from cooptim_lab.shards.aggregate import replica

    monkeypatch.setattr(replica, "treats_numbers_alone", is_elementwise)
    program, spec = WAYS["server"]
    result, _ = run(task(network(), optimizer=kept_small), program, spec)
    assert distance(result.network, plain(network(), spec, kept_small)) > 1e-3


@every_way
def test_a_hook_that_exchanges_parameters(program, spec):
    def made(parameters):
        def exchange(optimizer, given, named):
            for p in optimizer.param_groups[0]["params"]:
                p.data = p.data.clamp(-0.1, 0.1)

        optimizer = sgd(parameters)
        optimizer.register_step_post_hook(exchange)
        return optimizer

    if program is train_baseline:
        result, _ = run(task(network(), optimizer=made), program, spec)
        assert max(float(p.detach().abs().max()) for p in result.network.parameters()) <= 0.1
    else:
        with refused("a hook, exchanges 0.weight", "in place"):
            run(task(network(), optimizer=made), program, spec)


def saved_otherwise(parameters):
    made = sgd(parameters)
    made.register_load_state_dict_post_hook(lambda optimizer: None)
    return made


@pytest.mark.parametrize("make", [*MAKERS, saved_otherwise])
@pytest.mark.parametrize(
    ("program", "spec"),
    [*WAYS.values(), (train_subnets, Subnets(subnets=2, epochs=1))],
    ids=[*WAYS, "subnets"],
)
def test_ready_made_with_hooks_it_is_refused(program, spec, make):
    model = network()
    given = Task(model=model, data=(X, Y), optimizer=make(model.parameters()))
    with refused("optimizer is ready-made and has hooks", "optimizer = lambda parameters"):
        run(in_parcel(given), program, spec)


def test_a_scheduler_of_it_is_no_hook():
    model = network()
    optimizer = sgd(model.parameters())
    optim.lr_scheduler.StepLR(optimizer, 100)
    result, _ = run(in_parcel(task(model, optimizer=optimizer)), *WAYS["baseline"])
    assert distance(result.network, plain(network())) < EXACT
