"""Where rows of a batch meet in a network, that is seen before the clock; where they do not, nothing is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cooptim_lab.preparing.building import build_model
from cooptim_lab.preparing.examination import undisturbed
from cooptim_lab.preparing.examination.apart import GRADIENT, OUTPUTS, Apart, see_apart
from cooptim_lab.preparing.scoring import loss_of
from tests.networks import NETWORKS, make
from tests.random_networks import draw_task

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


class Made(nn.Module):
    """Two layers, and a function of them and x."""

    def __init__(self, function, **buffers):
        super().__init__()
        self.a, self.b, self.function, self.calls = nn.Linear(8, 16), nn.Linear(16, 3), function, 0
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x):
        return self.function(self, x)


class Attending(nn.Module):
    """torch's own encoder layer over the two halves of a row; without `batch_first`, over the rows."""

    def __init__(self, batch_first, dropout):
        super().__init__()
        self.embed, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=batch_first)

    def forward(self, x):
        return self.last(self.encoder(self.embed(x.view(-1, 2, 4))).mean(1))


class Normed(torch.autograd.Function):
    """Its gradient has the length 1 over the whole batch."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / gradient.norm()


def centred(model, x):
    h = model.a(x)
    return model.b(F.dropout(torch.relu(h - h.mean(0, keepdim=True)), 0.5, model.training))


def averaging(model, x):
    h = model.a(x)
    if model.training:
        model.mean = 0.9 * model.mean + 0.1 * h.detach().mean()
    return model.b(torch.relu(h))


def set_by_the_first(model, x):
    h = model.a(x)
    if model.training and not model.done:
        model.shift.fill_(float(-h.detach().mean()))
        model.done.fill_(1)
    return model.b(h + model.shift)


def counting_rows(model, x):
    model.seen += len(x)
    return model.b(model.a(x))


def counting(model, x):
    model.calls += 1
    model.seen += 1
    return model.b(model.a(x) * min(1.0, 0.1 * model.calls))


def remembering(model, x):
    h = model.a(x)
    if hasattr(model, "last") and len(model.last) == len(h):
        h = h + model.last
    model.last = h.detach()
    return model.b(h)


def drawing(model, x):
    return model.b(model.a(x) + torch.randn(len(x), 16).to(x))


def of_instances():
    norm = nn.InstanceNorm1d(8, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def noisy(by, meets):
    """Noise drawn in one way, over rows that meet or do not."""

    def forward(model, x):
        h = model.a(x) - (model.a(x).mean(0, keepdim=True) if meets else 0)
        return model.b(torch.relu(by(h)))

    return lambda: Made(forward)


def added(h):
    return h + torch.randn_like(h)


def gumbel(h):
    return F.gumbel_softmax(h, dim=1)


def normal(h):
    return torch.distributions.Normal(h, h.square() + 1).rsample()


def along_the_second_axis(h):
    return h + torch.empty(1, len(h), dtype=h.dtype).uniform_().t()


def one_for_all(h):
    return h * (1 + torch.rand(1, 16, dtype=h.dtype)) * (1 + torch.rand((), dtype=h.dtype))


def of_some_rows(h):
    return h * torch.empty(len(h), 1, dtype=h.dtype).bernoulli_(0.5)


def again(h):
    return checkpoint(lambda h: F.dropout(h + torch.randn_like(h), 0.5), h, use_reentrant=False)


NOISE = [added, gumbel, normal, along_the_second_axis, one_for_all, of_some_rows, again]


def by_heads(h):
    return h + torch.randn(2 * len(h), 8, dtype=h.dtype).view(2, len(h), 8).permute(1, 0, 2).flatten(1)


def by_numpy(h):
    return h + torch.from_numpy(np.random.normal(size=(len(h), 16))).to(h)


def by_the_numbers(h):
    return h * torch.bernoulli(h.sigmoid())


MEETING = {
    "centred by the batch": (lambda: Made(centred), (OUTPUTS,)),
    "attention over rows": (lambda: Attending(False, 0.0), (OUTPUTS,)),
    "attention over rows, dropout": (lambda: Attending(False, 0.1), (OUTPUTS,)),
    "a mean that is kept": (lambda: Made(averaging, mean=0.0), ("mean",)),
    "set by the first batch": (lambda: Made(set_by_the_first, shift=0.0, done=0), (OUTPUTS, "shift")),
    "a gradient over the batch": (lambda: Made(lambda m, x: m.b(Normed.apply(m.a(x)))), (GRADIENT,)),
    "by the number of rows": (lambda: Made(lambda m, x: m.b(m.a(x)) / len(x) ** 0.5), (OUTPUTS,)),
    "statistics of instances": (of_instances, ("2.running_mean", "2.running_var")),
    "remembered from batch to batch": (lambda: Made(remembering), (OUTPUTS,)),
    "rows counted": (lambda: Made(counting_rows, seen=0), ("seen",)),
}
APART = {
    "calls counted": lambda: Made(counting, seen=0),
    "attention": lambda: Attending(True, 0.0),
    "attention, dropout": lambda: Attending(True, 0.1),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3)),
    "dropout always": lambda: Made(lambda m, x: m.b(F.dropout(m.a(x), 0.5, True))),
    "it draws": lambda: Made(drawing),
    "BatchNorm": lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
    "power iteration": lambda: nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(8, 16)), nn.Linear(16, 3)),
}


@both_dtypes
@pytest.mark.parametrize("by", NOISE)
def test_noise_does_not_hide_whether_rows_meet(by, dtype):
    torch.manual_seed(0)
    for meets in (True, False):
        network = noisy(by, meets)().to(dtype)
        assert seen(network, X.to(dtype)) == Apart((OUTPUTS,) if meets else ())


@both_dtypes
@pytest.mark.parametrize("by", [by_heads, by_numpy, by_the_numbers])
def test_noise_that_cannot_be_had_again_for_a_part_is_told_of(by, dtype):
    for meets in (True, False):
        assert seen(noisy(by, meets)().to(dtype), X.to(dtype)) == Apart(is_untold=True)


def seen(network, x=X, y=Y, loss=F.cross_entropy):
    with undisturbed():
        return see_apart(network.train(), loss, x, y)


@both_dtypes
@pytest.mark.parametrize("name", MEETING)
def test_rows_that_meet_are_seen(name, dtype):
    torch.manual_seed(0)
    network, what = MEETING[name]
    assert seen(network().to(dtype), X.to(dtype)).training == what


@both_dtypes
@pytest.mark.parametrize("name", APART)
def test_rows_that_do_not_meet_are_not_accused(name, dtype):
    torch.manual_seed(0)
    assert seen(APART[name]().to(dtype), X.to(dtype)) == Apart()


@both_dtypes
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_make_are_not_accused(name, dtype):
    network, x = make(name)
    assert seen(network.to(dtype), x.to(dtype) if x.is_floating_point() else x, torch.arange(len(x))) == Apart()


def test_networks_drawn_at_random_are_not_accused():
    for number in range(40):
        task, _ = draw_task(number)
        x, y = task.data
        if "column" not in task.name:  # its loss broadcasts, which is refused
            assert seen(build_model(task.model, 0), x, y, loss_of(task, y)) == Apart(), number


def test_low_precision_inside_is_not_taken_for_rows_that_meet():
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Linear(64, 3)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.b(torch.relu(self.n(self.a(x).bfloat16()))).float()

    torch.manual_seed(0)
    assert seen(Halved(), X.float()) == Apart()


def test_batchnorm_that_keeps_no_statistics_scores_rows_together():
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    network = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 3)).double()
    assert seen(network) == Apart((), is_scored_together=True)


def test_a_generator_of_its_own_is_not_judged():
    network = Made(lambda m, x: m.b(m.a(x) + torch.as_tensor(m.drawn.normal(size=(len(x), 16))).to(x))).double()
    network.drawn = np.random.default_rng(0)
    assert seen(network) == Apart(is_untold=True)


def test_the_network_and_generators_are_as_before():
    network = Made(counting, seen=0).double()
    before, state = network.state_dict()["seen"].clone(), torch.get_rng_state()
    seen(network)
    assert network.calls == 0
    assert torch.equal(network.seen, before)
    assert torch.equal(torch.get_rng_state(), state)
