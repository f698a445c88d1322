"""N subnets as one program are N programs: the oracle is the plain loop over each alone, in float64."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.subnets.engines import grouped
from cooptim_lab.subnets.engines.channels import PlainChannelStack
from cooptim_lab.subnets.engines.losses import losses_and_gradient, per_subnet_loss
from cooptim_lab.subnets.engines.stacked import MOST, stack
from cooptim_lab.subnets.engines.stacks import AutogradStack, states_of
from cooptim_lab.subnets.engines.stepping import StackedStep
from cooptim_lab.subnets.engines.trying import Trial
from cooptim_lab.subnets.engines.updating import Rules, Updater
from cooptim_lab.subnets.states import fill
from cooptim_lab.training.loop import batches, plain_step

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, STEPS = 40, 20
TOLERANCE = 1e-8
"""A bias in front of BatchNorm has rounding for a gradient, which Adam scales up; all else agrees to 1e-12."""
FLOAT = torch.float64
CLASSES = torch.arange(ROWS) % 3
X = torch.randn(ROWS, 6, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
X += functional.one_hot(CLASSES, 6)


def perceptron(width=5, bias=True):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, width, bias=bias), nn.Tanh(), nn.Linear(width, width), nn.Softplus(),
        nn.Linear(width, 3)
    )  # fmt: skip


class Normed(nn.Module):
    """Not a perceptron: it adds what it skipped, and normalises. `scale` is a setting that no printed form shows."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.scale = scale

    def forward(self, x):
        return self.last(self.norm(x + self.scale * self.first(x).tanh()))


def batch_normed():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def frozen():
    subnet = perceptron()
    subnet[1].weight.requires_grad_(False)
    return subnet


def hooked():
    subnet = perceptron()
    subnet.register_forward_hook(lambda module, given, outputs: outputs * 2)
    return subnet


def tied():
    """One layer in two places."""
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 3))


MIXTURES = {
    "grouped": ([perceptron] * 4, {"grouped"}),
    "grouped without bias": ([lambda: perceptron(bias=False)] * 3, {"grouped"}),
    "vmap": ([Normed] * 3, {"vmap"}),
    "vmap with frozen weights": ([frozen] * 3, {"vmap"}),
    "one alone": ([perceptron], {"separate"}),
    "tied weights": ([tied] * 2, {"separate"}),
    "buffers": ([batch_normed] * 2, {"vmap"}),
    "two widths": ([perceptron, perceptron, lambda: perceptron(4), lambda: perceptron(4)], {"grouped"}),
    "everything": (
        [perceptron, Normed, batch_normed, lambda: perceptron(4), perceptron, Normed],
        {"grouped", "vmap", "separate"},
    ),
}

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
}


def make(makers, seed=0):
    made = []
    for i, maker in enumerate(makers):
        torch.manual_seed(seed + i)
        made.append(maker().double().train())
    return made


def train(step):
    """STEPS steps; the losses, shape (steps, curves)."""
    order = itertools.chain.from_iterable(batches(ROWS, 8, 0, epoch) for epoch in range(STEPS))
    return torch.stack([step(rows) for rows in itertools.islice(order, STEPS)])


def stacked_step(stacks, optimizer, loss, x, y, **options):
    """By an optimizer of parameters, as tasks have it."""
    rules = Rules(lambda parameters, names: optimizer(parameters))
    is_flat = len(stacks) > 1 or stacks[0].engine != "separate"
    return StackedStep([(each, Updater(each, rules, is_flat=is_flat)) for each in stacks], loss, x, y, **options)


def tried(x, y=CLASSES, loss=functional.cross_entropy, **options):
    return Trial(loss, [(x[:8], y[:8]), (x[:2], y[:2])], **options)


def train_alone(subnets, optimizer, loss, y=CLASSES):
    subnets = copy.deepcopy(subnets)
    losses = [train(plain_step(each, optimizer(each.parameters()), loss, X, y)) for each in subnets]
    return subnets, torch.cat(losses, 1)


def train_stacked(subnets, optimizer, loss, y=CLASSES, **options):
    stacks = stack(copy.deepcopy(subnets), **options)
    losses = train(stacked_step(stacks, optimizer, loss, X, y))
    return trained_in(stacks, subnets), losses


def trained_in(stacks, subnets):
    """Networks like `subnets`, as they are in the stacks now."""
    networks = copy.deepcopy(subnets)
    for each in stacks:
        for member, state in zip(each.members, each.states(), strict=True):
            fill(networks[member], state)
    return networks


@torch.no_grad()
def distance(some, others):
    """The largest difference of any number in two lists of networks, their outputs included."""
    differences = [(a - b).abs().max() for a, b in zip(states(some), states(others), strict=True)]
    outputs = [(a.eval()(X) - b.eval()(X)).abs().max() for a, b in zip(some, others, strict=True)]
    return float(torch.stack([*differences, *outputs]).max())


def states(subnets):
    return [value.double() for subnet in subnets for value in subnet.state_dict().values()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("makers", "engines"), MIXTURES.values(), ids=MIXTURES)
def test_together_is_each_alone(makers, engines, optimizer):
    subnets = make(makers)
    assert {each.engine for each in stack(subnets)} == engines
    alone, losses = train_alone(subnets, optimizer, functional.cross_entropy)
    stacked, stacked_losses = train_stacked(subnets, optimizer, functional.cross_entropy)
    assert distance(alone, subnets) > 1e-2  # it did train
    assert distance(alone, stacked) < TOLERANCE
    assert (losses - stacked_losses).abs().max() < TOLERANCE


class Focal(nn.CrossEntropyLoss):
    """A user's own, derived from torch's."""

    def forward(self, outputs, targets):
        return super().forward(outputs, targets) * 2 + outputs.square().mean()


LOSSES = {
    "weighed": (nn.CrossEntropyLoss(weight=torch.tensor([10.0, 1.0, 0.1], dtype=FLOAT)), CLASSES),
    "another label ignored": (nn.CrossEntropyLoss(ignore_index=1), CLASSES),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "derived from torch's": (Focal(), CLASSES),
    "absolute": (nn.L1Loss(), X[:, :3]),
    "mse": (functional.mse_loss, X[:, :3]),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
    "own": (lambda outputs, targets: (outputs.logsumexp(1) - outputs[:, 0] * targets).mean(), CLASSES),
    "probabilities": (functional.cross_entropy, X[:, :3].softmax(1)),
    "ignored labels": (functional.cross_entropy, CLASSES.where(torch.arange(ROWS) % 4 > 0, torch.tensor(-100))),
}


@pytest.mark.parametrize(("loss", "y"), LOSSES.values(), ids=LOSSES)
def test_every_loss_is_taken_as_it_is(loss, y):
    subnets = make([perceptron] * 3)
    alone, losses = train_alone(subnets, OPTIMIZERS["SGD"], loss, y)
    stacked, stacked_losses = train_stacked(subnets, OPTIMIZERS["SGD"], loss, y)
    assert distance(alone, stacked) < TOLERANCE
    assert (losses - stacked_losses).abs().max() < TOLERANCE


BETWEEN = {
    "relu": [nn.ReLU()],
    "relu in place": [nn.ReLU(inplace=True)],
    "relu of what autograd keeps": [nn.Tanh(), nn.ReLU()],
    "one in place": [nn.ELU(inplace=True)],
    "two in place": [nn.GELU(), nn.Hardtanh(inplace=True), nn.LeakyReLU(0.1, inplace=True)],
    "nothing": [nn.Identity()],
    "nothing, then relu": [nn.Identity(), nn.ReLU()],
    "many": [nn.GELU(), nn.Identity(), nn.Softsign(), nn.ReLU(), nn.ReLU(), nn.SiLU()],
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_backpropagation_as_written_out_is_autograds(between):
    def chain():
        front, end = [nn.ReLU(), nn.Identity()], copy.deepcopy(between)
        return nn.Sequential(*front, nn.Linear(6, 5), *copy.deepcopy(between), nn.Linear(5, 3), *end)

    subnets = make([chain] * 3)
    assert [each.engine for each in stack(subnets)] == ["grouped"]
    alone, losses = train_alone(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    stacked, stacked_losses = train_stacked(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    assert distance(alone, subnets) > 1e-2
    assert distance(alone, stacked) < 1e-12
    assert (losses - stacked_losses).abs().max() < 1e-12


@pytest.mark.parametrize("flatten", [nn.Flatten(), nn.Flatten(1, 2), nn.Flatten(2)], ids=["all", "two", "rest"])
@pytest.mark.parametrize("is_own", [False, True])
def test_images_are_flattened_as_the_layer_says(flatten, is_own):
    images, wanted = X.view(ROWS, 1, 2, 3), X[:, :1] * X[:, 1:2]

    def chain():
        first = nn.Linear(3 if flatten.end_dim == 2 else 6, 2)
        return nn.Sequential(nn.Tanh(), copy.deepcopy(flatten), first, nn.ReLU(), nn.Linear(2, 1))

    def loss(outputs, targets):
        return (outputs.flatten(1) - targets).square().mean()

    subnets = make([chain] * 3)
    alone = copy.deepcopy(subnets)
    rows = torch.arange(8)
    for each in alone:
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        plain_step(each, optimizer, loss, images, wanted)(rows)
    batch = [images[:3], wanted[:3]]
    batch = [each.expand(3, *each.shape) for each in batch] if is_own else batch
    stacks = stack(subnets, trial=Trial(loss, [batch], is_own=is_own), is_own=is_own)
    step = stacked_step(stacks, lambda p: torch.optim.SGD(p, lr=0.1), loss, images, wanted)
    step(rows.expand(3, 8) if is_own else rows)
    assert {each.engine for each in stacks} == ({"grouped"} if flatten.start_dim == 1 == -flatten.end_dim else {"vmap"})
    pairs = zip(states(alone), states(trained_in(stacks, subnets)), strict=True)
    assert all((a - b).abs().max() < 1e-12 for a, b in pairs)


def test_what_works_in_place_on_its_inputs_leaves_the_data_alone():
    def chain():
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))

    given = X.clone()
    (together,) = stack(make([chain] * 3), trial=tried(given))
    assert together.engine == "grouped"
    assert torch.equal(given, X)


@pytest.mark.parametrize("count", [1, 3])
def test_a_loss_of_nothing_in_some_batch_changes_nothing(count):
    """As of triplets where a batch has none."""

    def loss(outputs, targets):
        if (targets == 0).sum() < 3:
            return torch.zeros((), requires_grad=True)
        return functional.cross_entropy(outputs, targets)

    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    subnets = make([perceptron] * count)
    alone, losses = train_alone(subnets, plain, loss)
    stacked, stacked_losses = train_stacked(subnets, plain, loss)
    assert 0 < (losses == 0).sum() < losses.numel()
    assert distance(alone, stacked) < 1e-12
    assert (losses - stacked_losses).abs().max() < 1e-12


def test_in_half_precision_every_number_is_updated():
    """What torch's fused SGD does not do there."""
    subnets = [each.bfloat16() for each in make([perceptron] * 3)]
    before = torch.cat([value.flatten() for value in states(subnets)])
    stacks = stack(subnets)
    step = stacked_step(stacks, lambda p: torch.optim.SGD(p, lr=10.0), functional.cross_entropy, X.bfloat16(), CLASSES)
    step(torch.arange(ROWS))
    after = torch.cat([value.flatten() for value in states(trained_in(stacks, subnets))])
    assert (before != after).double().mean() > 0.95


def test_breakage_a_derivative_taken_where_another_is_needed(monkeypatch):
    monkeypatch.setattr(grouped._ReLU, "backward", lambda self, kept, gradient: gradient)
    subnets = make([lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))] * 3)
    alone, _ = train_alone(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    stacked, _ = train_stacked(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    assert distance(alone, stacked) > 1e-3


@pytest.mark.parametrize("layers", [[nn.Dropout(0.5), nn.Linear(6, 6)], [nn.Linear(6, 6), nn.Dropout(0.5)]])
def test_each_subnet_drops_by_itself_and_learns_by_what_it_kept(layers):
    def chain():
        return nn.Sequential(*layers, nn.Linear(6, 6, bias=False)).double()

    chosen = chain()
    (together,) = stack([copy.deepcopy(chosen) for _ in range(2)])
    one, other = together(torch.ones(4, 6, dtype=FLOAT))
    assert (one - other).abs().max() > 1e-3
    gradient = torch.zeros(2, 4, 6, dtype=FLOAT)
    gradient[0] = 1
    together.backward(torch.stack([one, other]), gradient)
    of_one, of_other = list(together.parameters().values())[-1].grad  # (2, out, in)
    assert of_one.abs().max() > 0
    assert of_other.abs().max() == 0


@pytest.mark.parametrize("is_own", [False, True])
def test_the_gradient_of_cross_entropy_is_autograds(is_own):
    outputs = torch.randn(3, 8, 4, dtype=FLOAT, requires_grad=True)
    targets = torch.randint(4, (3, 8) if is_own else (8,))
    each = targets if is_own else targets.expand(3, 8)
    expected = torch.stack([functional.cross_entropy(a, b) for a, b in zip(outputs, each, strict=True)])
    (slope,) = torch.autograd.grad(expected.sum(), outputs)
    for none_ignored in (True, False):  # in closed form, and by autograd
        losses, gradient = losses_and_gradient(
            functional.cross_entropy, outputs, targets, is_own=is_own, none_ignored=none_ignored
        )
        assert (losses - expected).abs().max() < 1e-14
        assert (gradient - slope).abs().max() < 1e-15


def test_breakage_the_mean_of_the_losses_is_not_their_sum():
    subnets = make([perceptron] * 4)
    alone, _ = train_alone(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    broken, _ = train_stacked(subnets, OPTIMIZERS["SGD"], lambda out, y: functional.cross_entropy(out, y) / 4)
    assert distance(alone, broken) > 1e-3


class Unit(torch.optim.SGD):
    """Steps along the gradient of all parameters together, made of length 1: not elementwise."""

    @torch.no_grad()
    def step(self):
        parameters = [p for group in self.param_groups for p in group["params"]]
        length = torch.stack([p.grad.norm() for p in parameters]).norm()
        for p in parameters:
            p.sub_(p.grad / length, alpha=0.1)


def test_breakage_an_optimizer_that_is_not_elementwise_is_shared_by_mistake():
    subnets = make([perceptron] * 3)
    alone, _ = train_alone(subnets, Unit, functional.cross_entropy)
    assert distance(alone, train_stacked(subnets, Unit, functional.cross_entropy)[0]) > 1e-3
    assert distance(alone, train_stacked(subnets, Unit, functional.cross_entropy, separate=True)[0]) < TOLERANCE


def test_a_subnet_does_not_feel_the_others():
    one, two, three = make([perceptron] * 3)
    first, _ = train_stacked([one, two], OPTIMIZERS["SGD"], functional.cross_entropy)
    other, _ = train_stacked([one, three], OPTIMIZERS["SGD"], functional.cross_entropy)
    assert distance(first[:1], other[:1]) < TOLERANCE
    assert distance(first[1:], other[1:]) > 1e-2


# Which subnets make one stack, and with which engine.


def test_subnets_of_one_architecture_make_one_stack_and_keep_their_places():
    stacks = stack(make([perceptron, Normed, perceptron, Normed, batch_normed, perceptron]))
    assert [(each.engine, each.members) for each in stacks] == [
        ("grouped", [0, 2, 5]),
        ("vmap", [1, 3]),
        ("separate", [4]),
    ]


def test_separate_keeps_each_by_itself():
    assert [each.members for each in stack(make([perceptron] * 3), separate=True)] == [[0], [1], [2]]


def test_a_setting_that_is_no_weight_stays_the_subnets_own():
    subnets = make([lambda: Normed(0.5), lambda: Normed(2.0), lambda: Normed(2.0)])
    alone, _ = train_alone(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    stacked, _ = train_stacked(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    assert distance(alone, stacked) < TOLERANCE


def test_a_hook_is_heeded():
    subnets = make([hooked] * 2)
    alone, _ = train_alone(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    stacked, _ = train_stacked(subnets, OPTIMIZERS["SGD"], functional.cross_entropy)
    assert distance(alone, stacked) < TOLERANCE


@pytest.mark.parametrize(
    "makers", [[perceptron] * 3, [Normed] * 3, [batch_normed] * 2], ids=["grouped", "vmap", "separate"]
)
def test_taken_out_at_once_they_are_what_they_were(makers):
    subnets = make(makers)
    assert distance(subnets, trained_in(stack(subnets), make(makers, seed=9))) == 0


@pytest.mark.parametrize("shape", [(3, 8, 4), (3, 8, 4, 5)], ids=["rows", "pixels"])
def test_losses_of_classes_are_those_of_each_by_itself(shape):
    outputs, targets = torch.randn(shape, dtype=FLOAT), torch.randint(4, (3, *shape[1:2], *shape[3:]))
    expected = [functional.cross_entropy(*each) for each in zip(outputs, targets, strict=True)]
    losses = per_subnet_loss(functional.cross_entropy, outputs, targets)
    assert (losses - torch.stack(expected)).abs().max() < 1e-14


class Viewing(nn.Module):
    """Looks at its images with `view`, which only torch's own layout allows."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 2, 1, bias=False), nn.Linear(2 * 4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x.view(-1, 1, 4, 4))))
        return self.last(self.second(x).view(len(x), -1))


class Mixing(Viewing):
    """Takes a mean over channels, which side by side are those of all networks."""

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x.view(-1, 1, 4, 4))))
        return self.last(self.second(x - x.mean(1, keepdim=True)).flatten(1))


class TestChannels:
    IMAGES = torch.randn(ROWS, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def subnets(self, kind):
        torch.manual_seed(0)
        return [kind().double() for _ in range(3)]

    @pytest.mark.parametrize(("kind", "engine"), [(Viewing, "channels"), (Mixing, "vmap")])
    def test_together_is_each_alone(self, kind, engine):
        def optimizer(p):
            return torch.optim.SGD(p, lr=0.1, momentum=0.9)

        alone = self.subnets(kind)
        for each in alone:
            train(plain_step(each, optimizer(each.parameters()), functional.cross_entropy, self.IMAGES, CLASSES))
        (together,) = stack(self.subnets(kind), trial=tried(self.IMAGES))
        assert together.engine == engine
        train(stacked_step([together], optimizer, functional.cross_entropy, self.IMAGES, CLASSES))
        for one, other in zip(alone, trained_in([together], alone), strict=True):
            for mine, its in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                assert (mine - its).abs().max() < TOLERANCE
            assert (one.eval()(self.IMAGES) - other.eval()(self.IMAGES)).abs().max() < TOLERANCE

    def test_channels_that_are_mixed_would_be_wrong(self):
        modules = [each.eval() for each in self.subnets(Mixing)]
        outputs = PlainChannelStack(modules, [0, 1, 2])(self.IMAGES)
        assert (outputs[0] - modules[0](self.IMAGES)).abs().max() > 1e-3

    def own(self):
        x, y = self.IMAGES[:8], CLASSES[:8]
        return Trial(functional.cross_entropy, [(x.expand(3, *x.shape), y.expand(3, *y.shape))], is_own=True)

    def test_batches_of_ones_own_are_not_for_it(self):
        assert [each.engine for each in stack(self.subnets(Viewing), trial=self.own(), is_own=True)] == ["vmap"]


def test_in_blocks_of_steps_it_is_the_same_training():
    torch.manual_seed(0)
    subnets = [nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double() for _ in range(MOST + 3)]
    rows = list(itertools.islice(itertools.cycle(batches(ROWS, 8, 0, 0)), 6))

    def trained(blocks):
        stacks = stack(copy.deepcopy(subnets))
        assert len(stacks) == 2
        step = stacked_step(stacks, torch.optim.Adam, functional.cross_entropy, X, CLASSES)
        losses = torch.cat([step(block).reshape(len(subnets), -1) for block in blocks], 1)
        return losses, trained_in(stacks, subnets)

    one_by_one, networks = trained(rows)
    in_blocks, others = trained([rows[:4], rows[4:]])
    assert torch.equal(one_by_one, in_blocks)
    assert all(torch.equal(a, b) for a, b in zip(states(networks), states(others), strict=True))


class Viewed(AutogradStack):
    """A linear layer and what follows it. What it reads are its parameters, unless a kind of it keeps others."""

    engine = "viewed"

    def __init__(self, subnets, members):
        self.members, self.after = members, subnets[0][1:]
        self.weight = torch.stack([each[0].weight.detach() for each in subnets]).requires_grad_()
        self.own = self.weight.detach().view(len(members), 3, 6)

    def read(self):
        return self.weight

    def parameters(self):
        return {"0.weight": self.weight}

    def buffers(self):
        return []

    def __call__(self, x, *, is_own=False):
        return self.after(torch.baddbmm(torch.zeros((), dtype=FLOAT), x.expand(2, *x.shape), self.read().mT))

    def states(self):
        return states_of({"0.weight": self.weight})


class ReadsAView(Viewed):
    """From before: its forward is always that of the first step."""

    def read(self):
        return self.weight + (self.own - self.weight).detach()


class TellsAView(Viewed):
    """From before: nothing that it tells has moved."""

    def states(self):
        return states_of({"0.weight": self.own})


class WritesAView(Viewed):
    """From before: its gradient goes where the optimizer does not read."""

    def __init__(self, subnets, members):
        super().__init__(subnets, members)
        self.weight.grad = torch.zeros_like(self.weight)
        self.gradient = self.weight.grad

    def backward(self, outputs, gradient):
        (found,) = torch.autograd.grad(outputs, self.weight, gradient)
        self.weight.grad = self.gradient.copy_(found)


@pytest.mark.parametrize("after", [[], [nn.Dropout(0.5)]], ids=["still", "drawing"])
@pytest.mark.parametrize("last", [2, 8], ids=["a smaller batch last", "all alike"])
@pytest.mark.parametrize("kind", [ReadsAView, TellsAView, WritesAView])
def test_an_engine_that_keeps_what_was_there_before_the_optimizer_is_not_chosen(kind, last, after):
    subnets = make([lambda: nn.Sequential(nn.Linear(6, 3, bias=False), *after)] * 2)
    batches = [(X[:8], CLASSES[:8]), *([(X[:last], CLASSES[:last])] if last < 8 else [])]
    trial = Trial(functional.cross_entropy, batches)
    assert trial.choose("it", [kind, Viewed], subnets) is Viewed


def test_what_is_tried_leaves_the_subnets_alone():
    subnets = make([perceptron] * 2)
    before = copy.deepcopy(subnets)
    assert [each.engine for each in stack(subnets, trial=tried(X))] == ["grouped"]
    assert distance(subnets, before) == 0
