"""Parts that are to be merged: how they count, that every engine counts alike, what the merged network still learns."""

from __future__ import annotations

import copy
import pickle
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_baseline, train_subnets
from cooptim_lab.runs.events import Note, Points
from cooptim_lab.subnets import joint as joint_module
from cooptim_lab.subnets import outlook
from cooptim_lab.subnets.finding import find_units
from cooptim_lab.subnets.joint import MERGED, Joint
from cooptim_lab.subnets.scaled import Scaled, scale, settle
from cooptim_lab.subnets.split import divide
from cooptim_lab.subnets.states import state_of
from cooptim_lab.training.loop import Clock, batches, plain_step
from cooptim_lab.training.spec import Baseline, Subnets
from tests.networks import NETWORKS, make
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-12
X = torch.randn(90, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)
SUMS = X @ torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(width=8, outputs=3):
    layers = [nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers).double()


def normed():
    middle = [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()]
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), *middle, nn.Linear(16, 3)).double()


def task(**changed):
    return Task(**{"model": network, "data": (X, Y), "name": "test", **changed})


def merging(**changed):
    return Subnets(**{"split": "neurons", "fuse": "merge", "batch": 16, "resplit": 1, **changed})


def run(spec, task, program=train_subnets, stopping=lambda: False):
    events = []
    context = Context(SoloComm(), lambda *new: events.extend(new), stopping, threads=1)
    return program(context, task, spec), events


def notes(events):
    return [event.text for event in events if isinstance(event, Note)]


def same(one, other):
    pairs = zip(state_of(one).values(), state_of(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("no_grad")
class TestHowPartsCount:
    def linear(self, width):
        """A network whose output is a sum over units: linear, so that its expectation is exact."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3)).double()
        return model, find_units(model, X[:2])

    def rotated(self, units, count):
        """Deals in which every unit has every place once, so that their mean is the expectation over all."""
        size = units.layers[0].size
        firsts = units.deal(count)
        return [[[(place + turn) % size for place in part] for part in firsts] for turn in range(size)]

    @pytest.mark.parametrize("width", [8, 7, 5])
    def test_over_all_deals_a_sum_is_the_whole_networks(self, width):
        model, units = self.linear(width)
        deals = [[[units_of.sort().values for units_of in part] for part in deal] for deal in self.rotated(units, 4)]
        for place in range(4):  # also where the parts are not equally wide
            parts = [deal[place] for deal in deals]
            counted = [scale(units.narrow(part), units.factors(part))(X) for part in parts]
            assert (torch.stack(counted).mean(0) - model(X)).abs().max() < EXACT
            plain = torch.stack([units.narrow(part)(X) for part in parts]).mean(0)
            assert (plain - model(X)).abs().max() > 0.1  # breakage: as they are, a sum is too small
            by_count = [scale(units.narrow(part), {"1.weight": torch.full((len(part[0]),), 4.0)})(X) for part in parts]
            is_right = (torch.stack(by_count).mean(0) - model(X)).abs().max() < EXACT
            assert is_right == (width == 8)  # breakage: N is the factor of equal parts only

    def test_one_part_counts_once(self):
        for name in NETWORKS:
            model, x = make(name)  # also of one whose heads no two parts can share
            division = divide(Task(model=model, data=([0, 0], [0, 0])), x, 1, split="neurons", seed=0, is_scaled=True)
            (only,) = division.make()
            assert not any(isinstance(module, Scaled) for module in only.modules()), name

    def test_what_is_no_hidden_unit_counts_once(self):
        model, x = make("residual")  # its last layer takes [h, x]
        units = find_units(model, x)
        factor = units.factors(units.deal(4)[0])["last.weight"]
        assert factor.tolist() == [4.0] * 4 + [1.0] * 64

    @pytest.mark.parametrize(
        ("name", "counted"),
        [
            ("perceptron", {"2.0.weight", "3.weight"}),
            ("convolutional", {"second.weight", "last.weight"}),
            ("depthwise", {"mix.weight", "last.weight"}),  # a depthwise convolution sums over no units
            (
                "transformer",
                {
                    "encoder.self_attn.out_proj.weight",
                    "encoder.linear1.weight",
                    "encoder.linear2.weight",
                    "last.weight",
                },
            ),
            ("words", {"q.weight", "k.weight", "v.weight", "out.weight", "last.weight"}),
        ],
    )
    def test_every_sum_over_units_does(self, name, counted):
        model, x = make(name)
        units = find_units(model, x)
        assert set(units.factors(units.deal(2)[0])) == counted

    @pytest.mark.parametrize("name", [name for name in NETWORKS if name != "words"])  # whose heads cannot be cut
    def test_handed_out_it_is_a_plain_network_that_computes_the_same(self, name):
        model, x = make(name)
        division = divide(Task(model=model, data=([0, 0], [0, 0])), x, 2, split="neurons", seed=0, is_scaled=True)
        part = division.make([1])[0].eval()
        plain = settle(copy.deepcopy(part))
        assert torch.equal(plain(x), part(x))
        assert any(isinstance(module, Scaled) for module in part.modules())
        assert not any(isinstance(module, Scaled) for module in plain.modules())
        assert [type(module) for module in plain.modules()] == [type(module) for module in model.modules()]
        assert torch.equal(pickle.loads(pickle.dumps(plain))(x), part(x))
        exported = torch.export.export(plain, (x,)).module()(x)
        assert (exported - part(x)).abs().max() < EXACT
        unscaled = find_units(model, x).narrow(division.parts[1]).eval()
        assert (unscaled(x) - part(x)).abs().max() > 1e-3

    def test_what_is_stored_is_the_whole_networks(self):
        model, _ = self.linear(8)
        division = divide(task(model=model), X[:2], 4, split="neurons", seed=0, is_scaled=True)
        part, own = division.make([0])[0], model[1].weight[:, division.parts[0][0]]
        assert torch.equal(state_of(part)["1.weight"], own)
        assert torch.equal(part[1].weight, 4 * own)
        assert torch.equal(copy.deepcopy(part).float()[1].weight, 4 * own.float())

    def test_factors_of_each_input_move_with_the_layer(self):
        model, x = make("residual")
        part = divide(task(model=model), x, 4, split="neurons", seed=0, is_scaled=True).make([0])[0]
        assert part.float().last.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "residual", "transformer"])
@pytest.mark.parametrize("subnets", [2, 3])  # by 3 not all layers can be divided
def test_every_engine_counts_alike(name, subnets, monkeypatch):
    model, _ = make(name)
    data = torch.randn(40, 64, dtype=torch.float64), torch.arange(40) % 10
    spec = {"subnets": subnets, "epochs": 2, "batch": 8, "polish": 0}
    one, other = (
        run(
            merging(**spec, engine=engine),
            Task(model=model, data=data, optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        )[0]
        for engine in ("stacked", "separate")
    )
    engines = {"perceptron": "grouped", "convolutional": "channels"}
    if subnets == 2 or name in ("perceptron", "residual"):  # three parts of the others are of three widths
        assert engines.get(name, "vmap") in one.engine.split("+")
    assert other.engine == "separate"
    for a, b in zip((*one.subnets, one.network), (*other.subnets, other.network), strict=True):
        for mine, its in zip(state_of(a).values(), state_of(b).values(), strict=True):
            assert (mine - its).abs().max() < 1e-8
    monkeypatch.setattr(Subnets, "is_scaled", False)
    unscaled, _ = run(
        merging(**spec, engine="separate"),
        Task(model=model, data=data, optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    )
    pairs = zip(unscaled.subnets[0].parameters(), one.subnets[0].parameters(), strict=True)
    assert max((a - b).abs().max() for a, b in pairs) > 1e-3  # breakage


@pytest.mark.parametrize("engine", ["stacked", "separate"])
@pytest.mark.parametrize("subnets", [3, 4])
def test_with_nothing_learned_the_merged_network_is_the_network(engine, subnets):
    """Identity 8, dealt anew after every epoch and polished: a rate that moves no digit of any weight."""
    model = network()
    still = task(model=model, optimizer=lambda p: torch.optim.SGD(p, lr=1e-40, momentum=0.9))
    spec = merging(subnets=subnets, epochs=4, polish=1, engine=engine)
    assert same(run(spec, still)[0].network, model)
    moving = task(model=model, optimizer=lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9))
    assert not same(run(spec, moving)[0].network, model)


def test_the_parts_handed_out_are_those_that_were_scored():
    result, _ = run(merging(subnets=3, epochs=3), task())
    prepared = prepare(task())
    scores = [prepared.score(prepared.outputs(subnet)).metric for subnet in result.subnets]
    assert scores == list(result.subnet_scores)
    assert {type(module) for subnet in result.subnets for module in subnet.modules()} == {
        nn.Sequential,
        nn.Linear,
        nn.Tanh,
    }


def test_a_sum_over_units_is_not_n_times_too_large(monkeypatch):
    tanh = task(
        model=lambda: nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 1)).double(),
        data=(X, SUMS),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    spec = merging(subnets=4, epochs=30, polish=0)
    merged, _ = run(spec, tanh)
    alone, _ = run(Baseline(epochs=30, batch=16), tanh, train_baseline)
    variance = float(SUMS.var())
    assert merged.loss < alone.loss + 0.05 * variance
    monkeypatch.setattr(Subnets, "is_scaled", False)
    assert run(spec, tanh)[0].loss > variance  # breakage: worse than saying nothing


class TestPolish:
    def test_none_leaves_the_network_as_it_was_merged_and_more_is_plain_training(self):
        merged, _ = run(merging(epochs=2, polish=0), task())
        polished, events = run(merging(epochs=3, polish=1), task())
        prepared = prepare(task())

        def trained_on(epoch):
            model = copy.deepcopy(merged.network).train()
            optimizer = torch.optim.Adam(model.parameters())
            step = plain_step(model, optimizer, functional.cross_entropy, prepared.x, prepared.y)
            for rows in batches(len(prepared.x), 16, 0, epoch):
                step(rows)
            return model

        assert same(polished.network, trained_on(2))
        assert not same(polished.network, trained_on(1))  # breakage: the rows of another epoch
        assert polished.steps == merged.steps + len(batches(len(prepared.x), 16, 0, 2))
        curve = [x for event in events if isinstance(event, Points) and event.curve == MERGED for x in event.x]
        assert len(curve) == polished.steps - merged.steps
        assert 2 < curve[0] < curve[-1] == 3

    def test_its_seconds_count(self, monkeypatch):
        plain = joint_module.plain_step

        def slow(*arguments, **options):
            step = plain(*arguments, **options)

            def slowed(rows):
                time.sleep(0.05)
                return step(rows)

            return slowed

        monkeypatch.setattr(joint_module, "plain_step", slow)
        result, _ = run(merging(epochs=3, polish=1), task())
        assert result.seconds > 0.05 * 5

    def test_it_may_be_stopped(self):
        seen = []

        def stopping():
            return any(isinstance(event, Points) and event.curve == MERGED for event in seen)

        spec = merging(epochs=400, polish=399)
        context = Context(SoloComm(), lambda *new: seen.extend(new), stopping, threads=1)
        result = train_subnets(context, task(), spec)
        assert result.state == "stopped"
        assert 5 < result.steps < 5 * 400
        assert len(result.subnets) == 4

    def test_a_stop_before_it_leaves_it_out(self):
        result, events = run(merging(epochs=4, polish=2), task(), stopping=lambda: True)
        assert result.state == "stopped"
        assert not [event for event in events if isinstance(event, Points) and event.curve == MERGED]

    def test_one_that_diverges_is_taken_back(self, monkeypatch):
        def broken(model, *arguments, **options):
            def step(rows):
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))
                return torch.tensor([float("nan")])

            return step

        monkeypatch.setattr(joint_module, "plain_step", broken)
        result, events = run(merging(epochs=3, polish=1), task())
        monkeypatch.undo()
        assert same(result.network, run(merging(epochs=2, polish=0), task())[0].network)
        assert [text for text in notes(events) if text.startswith("the loss of 'merged' became nan in epoch 3")]

    @pytest.mark.parametrize("polish", [-1, 0, 2])
    def test_one_part_is_plain_training(self, polish):
        plain, _ = run(Baseline(epochs=4, batch=16), task(), train_baseline)
        assert same(run(merging(subnets=1, epochs=4, polish=polish), task())[0].network, plain.network)

    def test_what_it_cannot_be_is_said(self):
        with refused("polish = 2", "fuse = merge"):
            Subnets(polish=2)
        with refused("polish = 5", "at most 4"):
            merging(epochs=5, polish=5)
        with refused("polish = -2"):
            merging(polish=-2)

    def test_nobody_says_how_long(self):
        assert [merging(epochs=epochs, resplit=-1).deals_every for epochs in (1, 5, 20, 60)] == [1, 1, 4, 12]
        assert Subnets(split="neurons").deals_every == 0  # only what is merged gains by it
        assert [merging(epochs=epochs).joint_epochs for epochs in (1, 2, 5, 20)] == [0, 0, 1, 4]
        assert Subnets(fuse="merge").joint_epochs == 0  # merged replicas are their mean
        assert Subnets(fuse="merge", polish=3).joint_epochs == 3
        assert Subnets().apart_epochs == 20

    def test_what_was_gained_by_what_is_told(self):
        _, events = run(merging(epochs=5), task(model=normed))
        (said,) = [text for text in notes(events) if text.startswith("held-out accuracy: merged ")]
        assert ", its norms re-estimated " in said
        assert ", trained as one for 1 epoch " in said
        assert not [text for text in notes(run(merging(subnets=1), task())[1]) if "merged" in text]


class TestOutlook:
    """What is said before the clock of parts that are to be merged."""

    def said(self, width, **changed):
        digits = torch.randn(200, 64), torch.arange(200) % 10
        wide = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        _, events = run(merging(**{"epochs": 2, **changed}), task(model=wide, data=digits))
        first = next(i for i, event in enumerate(events) if isinstance(event, Points))
        foretold = [event.text for event in events[:first] if isinstance(event, Note)]
        return [text for text in foretold if text.startswith("no gain is to be expected: ")]

    def test_too_narrow(self):
        (text,) = self.said(124)
        assert "2.weight sums over 31 numbers" in text
        assert "fewer sub-networks" in text
        assert not [text for text in self.said(128) if "sums over" in text]
        assert not [text for text in self.said(62, subnets=2) if "sums over 62" in text]

    def test_the_shortest_sum_counts(self):
        model, x = make("convolutional")
        units = find_units(model, x)
        assert units.fewest(units.deal(2)[1]) == ("second.weight", 4 * 9)
        model, x = make("residual")  # of [h, x] only what is hidden
        units = find_units(model, x)
        assert units.fewest(units.deal(3)[2]) == ("last.weight", 5)

    def test_too_slow(self, monkeypatch):
        plain = outlook.plain_step

        def slow(*arguments, **options):
            step = plain(*arguments, **options)

            def slowed(rows):
                time.sleep(0.05)
                return step(rows)

            return slowed

        monkeypatch.setattr(outlook, "FEWEST", 1)
        monkeypatch.setattr(outlook, "GAIN", 0.0)
        (text,) = self.said(128)
        assert "of the seconds of the network as it is (a step of the parts of one rank " in text
        assert "more workers" in text
        monkeypatch.setattr(outlook, "GAIN", 0.8)
        monkeypatch.setattr(outlook, "plain_step", slow)
        assert not self.said(128)

    def test_others_are_not_asked(self):
        for changed in ({"fuse": "mean"}, {"split": "replicas", "resplit": -1}, {"subnets": 1}):
            assert not self.said(16, **changed)


class TestNorms:
    def joint(self, model, order=None):
        x, y = (X, Y) if order is None else (X[order], Y[order])
        prepared = prepare(task(model=model, data=(x, y)), batch=16)
        context = Context(SoloComm(), lambda *new: None, lambda: False, threads=1)
        return Joint(context, prepared, merging(), model, Clock())

    def test_every_row_counts_once(self):
        model = normed()
        joint, seen = self.joint(model), []
        handle = model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        assert joint.estimate_norms()
        handle.remove()
        rows = torch.cat(seen)
        assert len(rows) == len(joint.prepared.x)
        assert torch.equal(rows.sort(0).values, joint.prepared.x.sort(0).values)
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
        with torch.no_grad():
            inputs = model[0](joint.prepared.x)
        assert (model[1].running_mean - inputs.mean(0)).abs().max() < 0.01
        assert (model[1].running_var / inputs.var(0) - 1).abs().max() < 0.2
        assert model[1].momentum == 0.1

    def test_what_learns_none_keeps_those_that_it_has(self):
        class Frozen(nn.BatchNorm1d):
            def train(self, mode=True):
                return super().train(False)

        model = normed()
        model[1] = Frozen(16).double()
        joint = self.joint(model)
        model[1].running_mean.fill_(3.0)
        assert joint.estimate_norms()
        assert (model[1].running_mean == 3.0).all()
        assert (model[4].running_var != 1.0).all()
        assert not self.joint(network()).estimate_norms()
