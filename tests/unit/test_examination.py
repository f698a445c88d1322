"""What is seen of a task before the clock: right, or one line. Small inputs of users' networks, by their reasons."""

from __future__ import annotations

import copy
import dataclasses
import random
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.data.values import LONGEST, told_of_drawing
from cooptim_lab.preparing.building import copied
from cooptim_lab.preparing.examination import undisturbed
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.preparing.reduction import MEAN, MOST_LABELS, SUM, WEIGHTED, find_reduction
from cooptim_lab.preparing.scoring import CLASSES, HALF, NOTHING, SIGN, read_meaning
from cooptim_lab.programs import train_baseline, train_sharded, train_subnets
from cooptim_lab.ranks.parcel import Sender
from cooptim_lab.runs.events import Note
from cooptim_lab.task import misspelt
from cooptim_lab.training.loop import batches
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
WAYS = {
    "baseline": (train_baseline, Baseline(epochs=4)),
    "sharded": (train_sharded, Sharded(epochs=4, aggregate="allreduce")),
}
every_way = pytest.mark.parametrize(("program", "spec"), WAYS.values(), ids=WAYS)


def run(program, spec, task):
    """The result, and what was noted."""
    events = []
    result = program(Context(SoloComm(), lambda *new: events.extend(new), lambda: False), task, spec)
    return result, [event.text for event in events if isinstance(event, Note)]


def mlp(classes=2):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, classes))


class Made(nn.Module):
    """A model of a function of a small perceptron and x."""

    def __init__(self, function, inputs=4, outputs=2):
        super().__init__()
        self.net, self.function = nn.Linear(inputs, outputs), function

    def forward(self, x):
        return self.function(self, x)


# A. What outputs mean.

CLASSES_3 = torch.arange(12) % 3
BINARY = torch.arange(12) % 2
TOKENS = torch.randint(0, 7, (8, 5), generator=torch.Generator().manual_seed(1))


def flat_ce(outputs, y):
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten())


MEANT = {
    "classes": (F.cross_entropy, (12, 3), CLASSES_3, (CLASSES, 1)),
    "log probabilities": (lambda o, y: F.nll_loss(o.log_softmax(1), y), (12, 3), CLASSES_3, (CLASSES, 1)),
    "one column of logits": (
        lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.float()), (12, 1), BINARY, (SIGN, 1)),
    "no column at all": (lambda o, y: F.binary_cross_entropy_with_logits(o, y.float()), (12,), BINARY, (SIGN, 1)),
    "a hinge": (lambda o, y: (1 - (2 * y - 1) * o.squeeze(1)).clamp(min=0).mean(), (12, 1), BINARY, (SIGN, 1)),
    "squared error on 0 and 1": (lambda o, y: F.mse_loss(o.squeeze(1), y.float()), (12, 1), BINARY, (HALF, 1)),
    "several labels": (
        lambda o, y: F.binary_cross_entropy_with_logits(o, y.float()), (12, 3), BINARY[:, None].expand(12, 3), (SIGN, 1)
    ),
    "counts": (lambda o, y: F.poisson_nll_loss(o.squeeze(1), y.float()), (12, 1), torch.arange(12) % 5, (NOTHING, 1)),
    "counts of 0 and 1": (lambda o, y: F.poisson_nll_loss(o.squeeze(1), y.float()), (12, 1), BINARY, (NOTHING, 1)),
    "tokens": (flat_ce, (8, 5, 7), TOKENS, (CLASSES, 2)),
    "tokens, as many as words": (flat_ce, (8, 5, 5), TOKENS % 5, (CLASSES, 2)),
    "tokens, as torch has them": (F.cross_entropy, (8, 7, 5), TOKENS, (CLASSES, 1)),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "shape", "y", "meant"), MEANT.values(), ids=MEANT)
def test_what_outputs_mean_is_read_from_the_loss(loss, shape, y, meant):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = read_meaning(loss, outputs, y, y.unique())
    assert (found.kind, found.axis) == meant


@every_way
def test_a_column_of_logits_is_scored_by_its_sign(program, spec):
    task = Task(
        model=nn.Linear(4, 1), data=(X, Y), optimizer=lambda p: optim.Adam(p, lr=0.05),
        loss=lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.float()),
    )  # fmt: skip
    result, _ = run(program, spec, task)
    assert result.metric_name == "accuracy"
    assert result.metric > 0.8
    held = prepare(task)
    assert result.metric == float(((result.network(held.held_x)[:, 0] > 0).long() == held.held_y).double().mean())


@every_way
def test_labels_that_the_loss_ignores_are_left_out(program, spec):
    y = Y.clone()
    y[torch.arange(400) % 5 > 0] = -100
    task = Task(model=nn.Linear(4, 2), data=(X, y), optimizer=lambda p: optim.Adam(p, lr=0.1))
    result, _ = run(program, spec, task)
    held = prepare(task)
    counts = held.held_y >= 0
    right = (result.network(held.held_x).argmax(1) == held.held_y)[counts]
    assert result.metric == float(right.double().mean()) > 0.8


@every_way
def test_counts_are_scored_by_their_loss(program, spec):
    task = Task(
        model=nn.Linear(4, 1), data=(X, (X[:, 0].exp() * 2).long()),
        loss=lambda o, y: F.poisson_nll_loss(o.squeeze(1), y.float()),
    )  # fmt: skip
    assert run(program, spec, task)[0].metric_name == "loss"


@every_way
def test_tokens_are_scored_along_their_axis(program, spec):
    task = Task(
        model=lambda: nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 7)), data=(TOKENS.repeat(9, 1),) * 2, loss=flat_ce,
        optimizer=lambda p: optim.Adam(p, lr=0.1),
    )  # fmt: skip
    result, _ = run(program, spec, task)
    assert (result.metric_name, result.metric > 0.5) == ("accuracy", True)


def test_a_vote_needs_classes():
    task = Task(
        model=mlp(1), data=(X, Y), loss=lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.float())
    )
    with refused("vote", "classes"):
        run(train_subnets, Subnets(subnets=2, epochs=1, fuse="vote"), task)


# B. What the loss assumes.

WEIGHT = torch.tensor([10.0, 1.0, 3.0])
DIVIDED = {
    "a mean": (F.cross_entropy, (12, 3), CLASSES_3, (MEAN, None)),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), (12, 3), CLASSES_3, (WEIGHTED, [10, 1, 3])),
    "of its own": (
        lambda o, y: F.cross_entropy(o, y, weight=WEIGHT.to(o)), (12, 3), CLASSES_3, (WEIGHTED, [1, 0.1, 0.3])
    ),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), (12, 3), CLASSES_3, (SUM, None)),
    "a sum of its own": (lambda o, y: (o[:, 0] - y).square().sum(), (12, 1), CLASSES_3, (SUM, None)),
    "tokens": (flat_ce, (8, 5, 7), torch.where(TOKENS > 3, -100, TOKENS), (WEIGHTED, [0, 1, 1, 1, 1])),
    "squared errors": (nn.MSELoss(), (12, 2), torch.randn(12, 2), (MEAN, None)),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "shape", "y", "divided"), DIVIDED.values(), ids=DIVIDED)
def test_what_a_loss_divides_by_is_found(loss, shape, y, divided):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = find_reduction(loss, outputs, y, y.flatten().unique())
    kind, weights = divided
    assert found.kind == kind
    assert weights is None or found.weights.tolist() == pytest.approx(weights, rel=1e-6)
    if kind != SUM:  # the identity that it is for
        parts = [slice(0, 3), slice(3, 8), slice(8, 12)]
        counts = [found.weight(y[part]) for part in parts]
        joined = sum(w * float(loss(outputs[p], y[p])) for w, p in zip(counts, parts, strict=True) if w) / sum(counts)
        assert joined == pytest.approx(float(loss(outputs, y)), rel=1e-5)


def test_what_a_loss_divides_by_is_found_where_the_rows_at_hand_have_no_label_that_counts():
    y = torch.full((12,), -100)
    found = find_reduction(
        lambda o, y: F.cross_entropy(o, y, ignore_index=-100), torch.randn(12, 3), y, torch.tensor([-100, 0, 1, 2])
    )
    assert (found.kind, found.weights.tolist()) == (WEIGHTED, [0, 1, 1, 1])


def test_padding_among_many_tokens_is_found_by_asking():
    """Of more labels than are asked for one by one, in rows with different numbers of tokens that count."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(1, 1000, (400, 6), generator=generator)
    y[torch.arange(6) >= torch.randint(1, 7, (400, 1), generator=generator)] = 0
    outputs = torch.randn(16, 6, 1000, generator=generator)
    every = y.unique()
    found = find_reduction(lambda o, t: F.cross_entropy(o.transpose(1, 2), t, ignore_index=0), outputs, y[:16], every)
    assert len(every) > MOST_LABELS
    assert found.kind == WEIGHTED
    assert torch.equal(found.weights, (every != 0).double())


@every_way
@pytest.mark.parametrize("loss", [nn.MSELoss(), lambda o, y: ((o - y) ** 2).mean()])
def test_a_loss_that_broadcasts_is_refused(program, spec, loss):
    with pytest.warns(UserWarning, match="target size") if isinstance(loss, nn.Module) else refused("every row"):
        if isinstance(loss, nn.Module):
            with refused("compares every row with every other", "y.reshape(-1, 1)"):
                run(program, spec, Task(model=nn.Linear(4, 1), data=(X, X[:, 0]), loss=loss))
        else:
            run(program, spec, Task(model=nn.Linear(4, 1), data=(X, X[:, 0]), loss=loss))


@every_way
def test_a_loss_that_mixes_rows_is_refused(program, spec):
    with refused("mixes the rows"):
        run(program, spec, Task(model=mlp(), data=(X, Y), loss=lambda o, y: F.cross_entropy(o @ o.T, y * 0)))


def test_a_loss_that_reaches_the_model_is_refused():
    model = mlp()

    def penalised(outputs, y):
        return F.cross_entropy(outputs, y) + 1e-3 * sum(p.square().sum() for p in model.parameters())

    with refused("depends on 4 tensors besides", "weight_decay"):
        prepare(Task(model=model, data=(X, Y), loss=penalised))


def test_a_loss_with_parameters_is_refused():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, y):
            return F.cross_entropy(outputs * self.scale, y)

    with refused("loss has 1 parameters of its own"):
        prepare(Task(model=mlp(), data=(X, Y), loss=Learned()))


def test_a_model_that_returns_two_things_in_training_is_refused():
    both = Made(lambda self, x: (self.net(x), x) if self.training else self.net(x))
    with refused("in training mode, the model returns a tuple"):
        prepare(Task(model=both, data=(X, Y)))


def test_a_batch_of_one_row_that_loses_its_axis_is_refused():
    task = Task(
        model=Made(lambda self, x: self.net(x).squeeze(), outputs=1), data=(X[:101], Y[:101]),
        loss=lambda o, y: F.binary_cross_entropy_with_logits(o, y.float()),
    )  # fmt: skip
    with refused("cannot train on 1 row", "squeeze"):
        prepare(task, batch=16)  # 81 rows to train on
    prepare(task, batch=27)


@every_way
@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_mode_of_ones_own_may_return_nothing(program, spec, name):
    class Mute(nn.Linear):
        pass

    def put(self, *mode):
        getattr(nn.Linear, name)(self, *mode)

    setattr(Mute, name, put)
    result, _ = run(program, spec, Task(model=Mute(4, 2), data=(X, Y)))
    assert result.network(X).shape == (400, 2)


# C. What trains is a copy.


@every_way
def test_an_optimizer_of_other_parameters_is_refused(program, spec):
    m = nn.Linear(4, 2)
    with refused("holds 0 of the 2 parameters that it is given and 2 others", "named"):
        run(program, spec, Task(model=m, data=(X, Y), optimizer=lambda p: optim.Adam(m.parameters(), lr=0.1)))


class ByClosure(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.f = lambda x: self.net(x)  # noqa: PLW0108 - the closure is what matters

    def forward(self, x):
        return self.f(x)


@every_way
def test_a_closure_over_the_model_comes_along(program, spec):
    model = ByClosure()
    before = copy.deepcopy(model.state_dict())
    result, _ = run(program, spec, Task(model=model, data=(X, Y), optimizer=lambda p: optim.Adam(p, lr=0.05)))
    assert result.metric > 0.85
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_breakage_a_deep_copy_does_not_carry_it():
    model = ByClosure()
    for made, is_own in ((copied("the model", model), True), (copy.deepcopy(model), False)):
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()
        assert bool((made(X) == 0).all()) is is_own


@every_way
@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_what_cannot_be_handed_over_is_said_before_the_start(program, spec, wrap):
    def model():
        return nn.Sequential(wrap(nn.Linear(4, 8)), nn.Linear(8, 2))

    with refused("layer 0 computes its weight by a parametrization", "remove_parametrizations(layer, 'weight')"):
        run(program, spec, Task(model=model, data=(X, Y)))


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: torch.jit.script(mlp()), "the network"),
        (lambda: torch.jit.trace(mlp(), X[:2]), "the network"),
        (lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 2))), "layer 1"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_jit_has_made_is_named_wherever_it_would_be_copied(make, layer):
    said = (f"{layer} was made by torch.jit", "give the plain nn.Module")
    with refused(*said):
        prepare(Task(model=make, data=(X, Y)))
    with closing(Sender()) as sender, refused(*said):
        sender.pack(Task(model=make(), data=(X, Y)))


def test_a_parametrization_is_named_before_it_is_sent():
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 2)))
    with closing(Sender()) as sender, refused("layer 0 computes its weight by a parametrization"):
        sender.pack(Task(model=model, data=(X, Y)))


def derivative_by_x(outputs, y):
    (slope,) = torch.autograd.grad(outputs.sum(), X, create_graph=True)
    return slope.square().mean()


@every_way
def test_a_loss_that_asks_for_derivatives_by_the_inputs_is_told_where_to_have_them(program, spec):
    with refused("loss asks for a derivative", "the model's forward"):
        run(program, spec, Task(model=mlp(), data=(X, Y), loss=derivative_by_x))


class Sloped(nn.Module):
    """Gives its derivative by x beside its value, as that line says."""

    def __init__(self):
        super().__init__()
        self.value = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.value(x)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return torch.cat([value, slope], 1)


def test_derivatives_that_forward_returns_are_trained_by():
    wanted = torch.cat([X.sum(1, keepdim=True), torch.ones(len(X), 4)], 1)
    task = Task(model=Sloped(), data=(X, wanted), loss=F.mse_loss, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    context = Context(SoloComm(), lambda *_: None, lambda: False, threads=1)
    assert train_baseline(context, task, Baseline(epochs=8, batch=16)).loss < 0.2


class Annealed:
    """A penalty whose weight changes by its calls."""

    def __init__(self, weight):
        self.calls, self.weight = 0, weight

    def __call__(self, outputs, y):
        self.calls += 1
        return F.cross_entropy(outputs, y, weight=WEIGHT.to(outputs)) * self.weight(self.calls)


@pytest.mark.parametrize("weight", [lambda n: 0.5**n, lambda n: 0.9995**n, lambda n: 0.5 ** (n // 5), lambda n: n])
def test_a_loss_that_counts_its_calls_is_asked_as_it_is(weight):
    outputs, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(2)), torch.arange(12) % 3
    found = find_reduction(Annealed(weight), outputs, y, y.unique())
    assert found.kind == WEIGHTED
    assert found.weights.tolist() == pytest.approx([1, 0.1, 0.3], rel=1e-6)


def test_a_loss_that_mixes_rows_is_told_so_after_all():
    outputs, y = torch.randn(12, 3), torch.arange(12) % 3
    with refused("mixes the rows"):
        find_reduction(lambda o, t: F.cross_entropy(o, t) ** 2, outputs, y, y.unique())


def drawing_itself():
    drawn = np.random.default_rng(0)
    return lambda outputs, y: F.cross_entropy(outputs, y) * drawn.uniform()


@pytest.mark.parametrize("loss", [lambda o, y: F.cross_entropy(o, y) * torch.rand(()), drawing_itself()])
def test_a_loss_that_draws_is_not_taken_for_one_that_counts(loss):
    outputs, y = torch.randn(12, 3), torch.arange(12) % 3
    with refused("two values", "draw nothing at random"):
        find_reduction(loss, outputs, y, y)


def test_a_lock_that_is_made_in_forward_is_said_before_the_start():
    def forward(self, x):
        self.lock = threading.Lock()
        return self.net(x)

    with refused("cannot be copied"):
        prepare(Task(model=Made(forward), data=(X, Y)))


@every_way
def test_a_result_that_is_kept_does_no_harm(program, spec):
    def forward(self, x):
        self.h = self.net(x)
        return self.h

    def model():
        made = Made(forward)
        made(X[:2])
        return made

    assert run(program, spec, Task(model=model, data=(X, Y)))[0].network(X).shape == (400, 2)


@pytest.mark.parametrize("rate", [0, 0.0])
def test_a_rate_of_nothing_is_refused(rate):
    with refused("lr = 0", "nothing would be trained"):
        prepare(Task(model=mlp(), data=(X, Y), optimizer=lambda p: optim.SGD(p, lr=rate)))


@pytest.mark.parametrize("rate", [-1, "0.1"])
def test_a_rate_that_is_none_is_said_in_one_line(rate):
    with refused("optimizer cannot be made"):
        prepare(Task(model=mlp(), data=(X, Y), optimizer=lambda p: optim.Adam(p, lr=rate)))


def test_an_optimizer_that_does_not_suit_is_said_in_one_line():
    with refused("optimizer cannot be made", "2D"):
        prepare(Task(model=mlp(), data=(X, Y), optimizer=lambda p: optim.Muon(p, lr=0.1)))


def test_usual_names_that_are_not_used_get_a_line():
    criterion = nn.CrossEntropyLoss()
    names = {"model": mlp(), "data": (X, Y), "criterion": criterion, "epochs": 3, "batch_size": 8}
    assert [line.split()[0] for line in misspelt(names)] == ["criterion", "epochs", "batch_size"]
    assert not misspelt({"model": mlp(), "data": (X, Y), "criterion": criterion, "loss": criterion})


def test_a_model_that_gets_no_gradient_is_refused():
    with refused("no parameter gets a gradient"):
        prepare(Task(model=Made(lambda self, x: self.net(x).detach() + 0 * x[:, :2].requires_grad_()), data=(X, Y)))


def test_what_gets_no_gradient_is_told():
    def model():
        made = Made(lambda self, x: self.net(x))
        made.spare = nn.Linear(4, 2)
        return made

    found = prepare(Task(model=model, data=(X, Y))).findings
    assert any("spare.weight, spare.bias got no gradient" in line for line in found)


# D. The very network.


class Fourier(nn.Module):
    """What it draws is an attribute, of numpy's generator or of Python's."""

    def __init__(self):
        super().__init__()
        self.B = torch.tensor(np.random.randn(4, 32)).float()
        self.C = torch.tensor([random.random() for _ in range(32)])
        self.register_buffer("D", torch.randn(32), persistent=False)
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(torch.sin(x @ self.B + self.C + self.D))


@pytest.mark.parametrize(
    ("program", "spec"), [*WAYS.values(), (train_subnets, Subnets(subnets=2, epochs=4))], ids=[*WAYS, "subnets"]
)
def test_what_was_scored_is_what_is_handed_over(program, spec):
    given = {"subnet": lambda i: Fourier()} if program is train_subnets else {}
    task = Task(model=Fourier, data=(X, Y), optimizer=lambda p: optim.Adam(p, lr=0.05), **given)
    result, _ = run(program, spec, task)
    prepared = prepare(task)
    assert prepared.score(prepared.outputs(result.network)).loss == result.loss


@every_way
def test_a_buffer_that_is_filled_later(program, spec):
    def model():
        def forward(self, x):
            self.last = x.mean(0)
            return self.net(x)

        made = Made(forward)
        made.register_buffer("last", None)
        return made

    if program is train_baseline:
        assert run(program, spec, Task(model=model, data=(X, Y)))[0].network.last.shape == (4,)
    else:
        with refused("another shape", "last"):
            run(program, spec, Task(model=model, data=(X, Y)))


# E. Parameters laid flat.


class Clamped(nn.Linear):
    def forward(self, x):
        self.weight.data = self.weight.data.clamp(-1, 1)
        return super().forward(x)


def test_parameters_that_are_exchanged():
    task = Task(model=Clamped(4, 2), data=(X, Y), optimizer=lambda p: optim.Adam(p, lr=0.05))
    assert run(*WAYS["baseline"], task)[0].metric > 0.85
    with refused("sharded keeps parameters where they are", "weight", "clamp_"):
        run(*WAYS["sharded"], task)


def test_sparse_gradients():
    task = Task(
        model=nn.Sequential(nn.Embedding(50, 3, sparse=True), nn.Flatten(), nn.Linear(12, 2)),
        data=((X.abs() * 10).long(), Y), optimizer=lambda p: optim.SGD(p, lr=0.1),
    )  # fmt: skip
    assert run(*WAYS["baseline"], task)[0].state == "done"
    with refused("sharded adds up whole gradients", "0.weight", "sparse=True"):
        run(*WAYS["sharded"], task)


# I. What comes in.


class Augmenting(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return X[i] + torch.randn(4), int(Y[i])


class Seldom(Dataset):
    """Draws for some rows only, X or y; `pause` seconds a row."""

    def __init__(self, what, pause=0.0):
        self.what, self.pause = what, pause
        self.read = 0

    def __len__(self):
        return 400

    def __getitem__(self, i):
        time.sleep(self.pause)
        self.read += 1
        x, y = X[i].clone(), int(Y[i])
        if i % 10 == 5 and self.what == "X":  # of one class of ten, not of row 0's
            x += torch.randn(4)
        if self.what == "y" and random.random() < 0.1:
            y = 1 - y
        return x, y


class Stream(IterableDataset):
    def __len__(self):
        return 40

    def __iter__(self):
        return iter([(X[i], int(Y[i])) for i in range(40)])


DATA = {
    "complex": (lambda: (torch.complex(X, X), Y), ("complex64", "view_as_real")),
    "complex of numpy": (lambda: (X.numpy() * 1j, Y), ("complex64",)),
    "a sparse tensor": (lambda: (X.to_sparse(), Y), ("X is a sparse tensor", "to_dense()")),
    "a single number": (lambda: (torch.tensor(1.0), Y), ("X is a Tensor", "give an array")),
    "a stream": (Stream, ("IterableDataset", "no rows")),
}


@pytest.mark.parametrize(("data", "said"), DATA.values(), ids=DATA)
def test_data_that_cannot_be_used_is_said_in_one_line(data, said):
    with refused(*said):
        prepare(Task(model=mlp(), data=data()))


def test_long_doubles_are_taken_as_they_can_be():
    assert torch.equal(
        prepare(Task(model=mlp(), data=(X.numpy().astype(np.longdouble), Y))).x,
        prepare(Task(model=mlp(), data=(X, Y))).x,
    )


@every_way
def test_a_dataset_that_draws_is_told_of(program, spec):
    result, notes = run(program, spec, Task(model=mlp(), data=Augmenting()))
    assert any("draws at random" in note for note in notes)
    assert result.state == "done"


@every_way
@pytest.mark.parametrize("what", ["X", "y"])
def test_a_dataset_that_draws_for_some_rows_only_is_told_of(program, spec, what):
    _, notes = run(program, spec, Task(model=mlp(), data=Seldom(what)))
    said = [note for note in notes if "draws at random" in note]
    assert len(said) == 1
    assert f"is another {what} when it is read again" in said[0]
    assert not [note for note in run(program, spec, Task(model=mlp(), data=Seldom("")))[1] if "draws" in note]


def test_missing_values_and_memory_that_is_written_anew_are_no_drawing():
    memory = torch.zeros(4)

    class Missing(Seldom):
        def __getitem__(self, i):
            return memory.copy_(X[i]), torch.tensor([float("nan"), 1.0])

    class Rewriting(Seldom):
        def __getitem__(self, i):
            return memory.copy_(X[i] + torch.randn(4)), 0

    assert told_of_drawing(Missing("")) == []
    assert "row 0 is another X" in told_of_drawing(Rewriting(""))[0]


def test_a_slow_dataset_is_read_twice_as_far_as_that_takes_little_time():
    slow, fast = Seldom("", pause=LONGEST), Seldom("")
    assert told_of_drawing(slow) == told_of_drawing(fast) == []
    assert (slow.read, fast.read > 64) == (2, True)


def test_rows_read_twice_change_nothing_of_what_a_rank_draws():
    """How many are is a matter of time, and what is trained on is not."""
    task = Task(model=mlp(), data=Seldom("y"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cooptim_lab.data.values.TWICE", 1)
        few, _ = run(*WAYS["sharded"], task)
    many, _ = run(*WAYS["sharded"], task)
    assert torch.equal(few.network[0].weight, many.network[0].weight)


@every_way
@pytest.mark.parametrize("kind", ["pixels beside an embedding", "one-hot inside"])
def test_whole_numbers_are_given_as_the_model_takes_them(program, spec, kind):
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.head = nn.Embedding(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x / 255) + self.place.weight.sum(0)

    model = (
        Pixels
        if kind.startswith("pixels")
        else lambda: Made(lambda self, x: self.net(F.one_hot(x[:, 0], 256).float()), 256)
    )
    data = ((X.abs() * 50).clamp(max=255).to(torch.uint8), Y)
    assert run(program, spec, Task(model=model, data=data))[0].state == "done"


# The rest of a task.


def test_a_scheduler_is_stepped_and_a_norm_is_bounded():
    rates, task = [], Task(
        model=mlp().double(), data=(X, Y), optimizer=lambda p: optim.SGD(p, lr=0.1), clip=0.01,
        scheduler=lambda o, steps: optim.lr_scheduler.LambdaLR(o, lambda k: rates.append(k / steps) or 1 - k / steps),
    )  # fmt: skip
    result, _ = run(train_baseline, Baseline(epochs=2), task)
    assert max(rates) == 1.0
    plain, prepared = mlp().double(), prepare(task)
    plain.load_state_dict(prepared.model(0).state_dict())
    optimizer = optim.SGD(plain.parameters(), lr=0.1)
    for epoch, k in ((0, 0), (1, 5)):
        for step, rows in enumerate(batches(len(prepared.x), 64, 0, epoch)):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - (k + step) / 10)
            optimizer.zero_grad()
            F.cross_entropy(plain(prepared.x[rows]), prepared.y[rows]).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
            optimizer.step()
    assert all(
        (a - b).abs().max() < 1e-14 for a, b in zip(result.network.parameters(), plain.parameters(), strict=True)
    )


MADE = []
"""Of this module, whose functions are no copies where steps are tried: all schedulers, with their steps."""


class Counting(optim.lr_scheduler.OneCycleLR):
    """Counts the steps that it makes."""

    def step(self, epoch=None):
        super().step()
        self.seen = getattr(self, "seen", -1) + 1  # the first is its own


def counted(optimizer, steps):
    MADE.append((Counting(optimizer, 0.1, total_steps=steps), steps))
    return MADE[-1][0]


@every_way
@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_scheduler_with_a_fixed_end_is_never_stepped_beyond_it(program, spec, epochs):
    """Neither by the training nor by what is tried before it, with however many threads."""
    MADE.clear()
    torch.set_num_threads(2)
    given = Task(model=mlp(), data=(X, Y), optimizer=lambda p: optim.SGD(p, lr=0.1), scheduler=counted)
    result, _ = run(program, dataclasses.replace(spec, epochs=epochs, batch=200), given)
    assert {steps for _, steps in MADE} == {2 * epochs} == {result.steps}
    assert len(MADE) > 1
    assert MADE[-1][0].seen == result.steps


@pytest.mark.parametrize("way", ["allreduce", "ordered", "local", "async"])
def test_the_rate_follows_the_schedule_in_every_way_to_aggregate(way):
    """With one rank they are all one process; and a rate of nothing, from some step on, moves nothing."""
    given = Task(
        model=mlp().double(), data=(X, Y), optimizer=lambda p: optim.SGD(p, lr=0.1),
        scheduler=lambda o, steps: optim.lr_scheduler.LambdaLR(o, lambda k: float(k < 7) / (1 + k)),
    )  # fmt: skip
    spec, every = Sharded(epochs=3, aggregate="server"), {}
    for name, epochs in (("server", 3), (way, 3), (way, 2)):
        changed = dataclasses.replace(spec, epochs=epochs, aggregate=name)
        every[name, epochs] = nn.utils.parameters_to_vector(run(train_sharded, changed, given)[0].network.parameters())
    assert (every[way, 3] - every["server", 3]).abs().max() < 1e-14
    assert (every[way, 3] - every[way, 2]).abs().max() < 1e-14


SAID = {
    "a scheduler that is none": ({"scheduler": 3}, ("scheduler is a int", "(optimizer, steps)")),
    "of one argument": ({"scheduler": lambda optimizer: None}, ("optimizer and the number of steps",)),
    "one that wants a metric": (
        {"scheduler": lambda o, n: optim.lr_scheduler.ReduceLROnPlateau(o)},
        ("wants metrics",),
    ),
    "a clip of nothing": ({"clip": 0}, ("clip = 0", "above 0")),
    "two optimizers": ({"optimizer": optim.Adam, "named": optim.Adam}, ("optimizer and named are both given",)),
    "a name that is none": ({"name": 3}, ("name is 3",)),
}


@pytest.mark.parametrize(("given", "said"), SAID.values(), ids=SAID)
def test_a_mistake_in_the_rest_is_said_in_one_line(given, said):
    with refused(*said):
        run(train_baseline, Baseline(epochs=1), Task(model=mlp(), data=(X, Y), **given))


def test_nothing_is_drawn_or_changed_by_looking():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with undisturbed():
        torch.rand(3), np.random.rand(3), random.random()
    drawn = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())
    prepare(Task(model=model, data=(X, Y)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_looking_is_quick():
    """A figure of its own is in the benchmarks; this only sees that nothing has gone wild."""
    from cooptim_lab import digits

    prepare(digits())
    began = time.process_time()
    prepare(digits())
    assert time.process_time() - began < 3
