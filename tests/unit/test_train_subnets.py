"""The program of the way `subnets` on one rank: dealing anew, data for each, engines, fusions, one that diverges."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab import Task, digits
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_baseline, train_subnets
from cooptim_lab.runs.events import Note, Points
from cooptim_lab.subnets.fuse import FUSIONS, VoteFusion, diversity
from cooptim_lab.subnets.program import _Work
from cooptim_lab.subnets.split import divide
from cooptim_lab.subnets.states import state_of
from cooptim_lab.subnets.telling import of_merging
from cooptim_lab.subnets.trainer import Trainer
from cooptim_lab.training.spec import Baseline, Subnets
from tests.networks import NETWORKS, make
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(90, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def task(**changed):
    return Task(**{"model": network, "data": (X, Y), "name": "test", **changed})


def context(events):
    return Context(SoloComm(), lambda *new: events.extend(new), lambda: False, threads=1)


def run(spec, task, program=train_subnets):
    events = []
    return program(context(events), task, spec), events


def notes(events):
    return [event.text for event in events if isinstance(event, Note)]


def same(one, other):
    pairs = zip(state_of(one).values(), state_of(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestNeurons:
    @pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
    def test_one_part_is_plain_training_however_often_it_is_dealt(self, optimizer):
        plain, _ = run(Baseline(epochs=4, batch=16), task(optimizer=optimizer), train_baseline)
        for resplit in (0, 1, 2):
            spec = Subnets(subnets=1, split="neurons", resplit=resplit, fuse="merge", epochs=4, batch=16)
            assert same(run(spec, task(optimizer=optimizer))[0].network, plain.network)

    def test_an_optimizer_that_forgets_when_it_is_dealt_anew_is_not_plain_training(self, monkeypatch):
        def forget(self, memory):
            for _, updater in self._made.pairs:
                updater.optimizer.state.clear()

        monkeypatch.setattr(Trainer, "remember", forget)
        plain, _ = run(Baseline(epochs=4, batch=16), task(), train_baseline)
        spec = Subnets(subnets=1, split="neurons", resplit=1, fuse="merge", epochs=4, batch=16)
        assert not same(run(spec, task())[0].network, plain.network)

    @pytest.mark.parametrize("engine", ["stacked", "separate"])
    def test_dealing_anew_changes_nothing_by_itself(self, engine):
        model = network()
        still = task(model=model, optimizer=lambda p: torch.optim.SGD(p, lr=1e-30, momentum=0.9))
        spec = Subnets(subnets=3, split="neurons", resplit=1, fuse="merge", epochs=4, engine=engine)
        assert same(run(spec, still)[0].network, model)

    def test_it_learns_and_what_nobody_has_stays(self):
        model = network()
        spec = Subnets(subnets=2, split="neurons", resplit=0, fuse="merge", epochs=3, polish=0)
        result, _ = run(spec, task(model=model))
        weight, before = result.network[2].weight, model[2].weight
        assert 0.4 < float((weight == before).double().mean()) < 0.6  # between units of different parts: half of them
        assert not same(result.network, model)


class TestData:
    def batches(self, **options):
        spec = Subnets(subnets=4, batch=10, **options)
        work = _Work(context([]), prepare(task()), task(), spec)
        return [torch.cat(list(work.epoch_batches(epoch)), dim=-1) for epoch in (0, 1)], len(work.prepared.x)

    def test_all_see_the_same(self):
        (first, second), rows = self.batches()
        assert torch.equal(first.sort().values, torch.arange(rows))
        assert not torch.equal(first, second)

    def test_a_bootstrap_sample_is_drawn_with_replacement_and_kept(self):
        (first, second), rows = self.batches(data="bootstrap")
        assert first.shape == (4, rows)
        assert torch.equal(first.sort(1).values, second.sort(1).values)
        assert all(0.5 < len(set(each.tolist())) / rows < 0.75 for each in first)  # 1 - 1/e of the rows
        assert not torch.equal(first[0].sort().values, first[1].sort().values)

    def test_shards_have_no_row_in_common_and_together_all(self):
        (first, _), rows = self.batches(data="shard")
        assert first.shape == (4, rows // 4)  # 72 rows
        assert torch.equal(first.flatten().sort().values, torch.arange(rows))

    def test_what_each_sees_is_what_it_learns(self):
        together, _ = run(Subnets(subnets=4, data="shard", epochs=2, batch=8, engine="stacked"), task())
        alone, _ = run(Subnets(subnets=4, data="shard", epochs=2, batch=8, engine="separate"), task())
        assert (together.engine, alone.engine) == ("grouped", "separate")
        for one, other in zip(together.subnets, alone.subnets, strict=True):
            assert all((a - b).abs().max() < 1e-9 for a, b in zip(one.parameters(), other.parameters(), strict=True))
        everything, _ = run(Subnets(subnets=4, epochs=2, batch=8), task())
        assert not same(everything.subnets[0], together.subnets[0])


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "residual", "transformer"])
@pytest.mark.parametrize("split", ["replicas", "neurons"])
def test_the_engines_agree(name, split):
    model, _ = make(name)
    data = torch.randn(40, 64, dtype=torch.float64), torch.arange(40) % 10
    one, other = (
        run(
            Subnets(subnets=2, split=split, epochs=2, batch=8, engine=engine),
            Task(model=model, data=data, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
        )[0]
        for engine in ("stacked", "separate")
    )
    engines = {"perceptron": "grouped", "convolutional": "channels"}
    assert (one.engine, other.engine) == (engines.get(name, "vmap"), "separate")
    for a, b in zip(one.subnets, other.subnets, strict=True):
        for mine, its in zip(state_of(a).values(), state_of(b).values(), strict=True):
            assert (mine - its).abs().max() < 1e-8
    assert abs(one.loss - other.loss) < 1e-8


def test_auto_says_what_it_chose_and_why():
    result, events = run(Subnets(subnets=8, epochs=1), task())
    (said,) = notes(events)
    assert said.startswith(f"engine {'separate' if result.engine == 'separate' else 'stacked'}: a step takes ")
    assert notes(run(Subnets(subnets=8, epochs=1, engine="separate"), task())[1]) == []


class TestOneThatDiverges:
    def bad(self, i):
        torch.manual_seed(i)
        made = network()
        if i == 1:
            with torch.no_grad():
                made[0].weight.fill_(float("inf"))
        return made

    @pytest.mark.parametrize("engine", ["stacked", "separate"])
    def test_it_is_named_and_left_out_and_the_others_go_on(self, engine):
        spec = Subnets(subnets=3, epochs=2, engine=engine)
        result, events = run(spec, task(subnet=self.bad))
        (said,) = notes(events)
        assert said == "the loss of 'subnet 1' became nan in epoch 1; it is left out, the others go on"
        assert (result.state, len(result.subnets), len(result.subnet_scores)) == ("done", 2, 2)
        assert result.loss < 2
        curves = {event.curve for event in events if isinstance(event, Points)}
        assert {"subnet 0", "subnet 2"} <= curves
        healthy, _ = run(spec, task(subnet=lambda i: self.bad(2 * i)))
        assert same(result.subnets[1], healthy.subnets[1])  # number 2 of the one is number 1 of the other

    def test_all_of_them_are_an_error(self):
        with refused("'subnet 0' became", "every other sub-network", "learning rate"):
            run(Subnets(subnets=2, epochs=1), task(subnet=lambda i: self.bad(1)))


class TestSubnetsOfOnesOwn:
    def test_what_is_wrong_is_said_with_the_number(self):
        def narrow(i):
            return nn.Linear(6, 2 if i == 2 else 3).double()

        with refused("subnet(2): the model gives 2 outputs", "labels up to 2"):
            run(Subnets(subnets=4, epochs=1), task(subnet=narrow))
        with refused("subnet(0) returned a str"):
            run(Subnets(subnets=4, epochs=1), task(subnet=lambda i: "net"))

    @pytest.mark.parametrize("subnet", [network, network(), lambda i, j: network()])
    def test_what_takes_no_number_is_refused(self, subnet):
        with refused("subnet is", "def subnet(i)"):
            task(subnet=subnet)

    def test_one_and_the_same_is_copied(self):
        shared = network()
        before = {name: value.clone() for name, value in state_of(shared).items()}
        spec = Subnets(subnets=2, epochs=2, data="bootstrap")
        one, other = run(spec, task(subnet=lambda i: shared))[0].subnets
        assert not same(one, other)
        assert all(torch.equal(value, before[name]) for name, value in state_of(shared).items())


class TestFusions:
    def test_what_a_fusion_cannot_do_is_said(self):
        with refused("fuse = vote", "fuse mean"):
            run(Subnets(subnets=2, fuse="vote", epochs=1), task(data=(X, X[:, :3])))
        with refused("fuse = soup", "not equally wide"):
            run(Subnets(subnets=3, fuse="soup", epochs=1), task())
        with refused("fuse = merge", "leave subnet(i) out"):
            run(Subnets(subnets=2, fuse="merge", epochs=1), task(subnet=lambda i: network()))
        with refused("resplit = 2", "split = neurons"):
            Subnets(resplit=2)

    def test_merged_parts_know_the_statistics_of_what_they_compute_together(self):
        """BatchNorm of a part knows its own units only: merged, it has to see the data again."""
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16),
                              nn.ReLU(), nn.Linear(16, 3)).double()  # fmt: skip
        spec = Subnets(subnets=4, split="neurons", resplit=1, fuse="merge", epochs=10, batch=16)
        result, _ = run(spec, task(model=model))
        merged = result.network.eval()
        x = prepare(task()).x
        with torch.no_grad():
            inputs = merged[3](torch.relu(merged[1](merged[0](x))))
        assert (merged[4].running_mean - inputs.mean(0)).abs().max() < 0.2 * inputs.std(0).max()

    @pytest.mark.parametrize(
        ("last", "said"),
        [(nn.LayerNorm(3), "normalises over all its units"), (nn.LogSoftmax(1), "is not linear where its parts meet")],
    )
    def test_merging_that_is_not_the_mean_is_told_of(self, last, said):
        plain = task(model=network)
        spec = Subnets(subnets=2, fuse="merge", epochs=2)
        assert not [text for text in notes(run(spec, plain)[1]) if "merged" in text]
        changed = task(model=lambda: nn.Sequential(*network(), last.double()))
        (text,) = [text for text in notes(run(spec, changed)[1]) if "merged" in text]
        assert text.startswith(f"the model {said}: merged, the parts do not compute their mean (held-out accuracy 0.")

    def test_merging_that_does_worse_than_the_mean_is_told_of(self):
        prepared, division = prepare(task()), divide(task(), X[:2], 2, split="neurons", seed=0)
        right = functional.one_hot(prepared.held_y, 3).double()
        assert of_merging(prepared, division, right, right) is None
        note = of_merging(prepared, division, -right, right)
        assert note.text.startswith("merged, the parts do worse than their mean (held-out accuracy 0; their mean: 1)")

    def test_a_vote_is_the_majoritys_and_a_tie_is_broken_by_the_probabilities(self):
        class Fixed(nn.Module):
            def __init__(self, *logits):
                super().__init__()
                self.logits = nn.Parameter(torch.tensor(logits))

            def forward(self, x):
                return self.logits.expand(len(x), -1)

        a, b, c = Fixed(2.0, 1.0, 0.0), Fixed(1.5, 1.0, 0.0), Fixed(0.0, 9.0, 0.0)
        shares = VoteFusion([a, b, c])(torch.zeros(1, 1)).exp()[0]
        assert shares.argmax() == 0  # two against one, though the mean of the logits is for 1
        assert torch.isclose(shares.sum(), torch.tensor(1.0))
        assert VoteFusion([a, c])(torch.zeros(1, 1)).argmax() == 1  # one against one: the surer

    @pytest.mark.parametrize(("name", "fuse"), [*itertools.product(["convolutional", "transformer"], FUSIONS)])
    def test_the_fused_network_saves_loads_and_exports(self, name, fuse):
        model, x = make(name)
        division = divide(Task(model=model, data=([0, 0], [0, 0])), x, 2, split="replicas", seed=0)
        fused = FUSIONS[fuse](division.make(), division, [0, 1]).eval()
        with torch.no_grad():
            expected = fused(x)
            exported = torch.export.export(fused, (x,)).module()(x)
        assert torch.allclose(exported, expected, atol=1e-12)
        file = io.BytesIO()
        torch.save(fused.state_dict(), file)
        file.seek(0)
        other = FUSIONS[fuse](division.make(), division, [0, 1]).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        with torch.no_grad():
            assert torch.equal(other(x), expected)

    def test_averaging_weights_is_not_averaging_outputs(self):
        """Identity 9, the lesson: on digits the soup of networks trained apart is hardly better than chance."""
        scores = {
            fuse: run(Subnets(subnets=4, fuse=fuse, epochs=20, engine="stacked"), digits())[0].metric
            for fuse in ("mean", "soup")
        }
        assert scores["mean"] > 0.9
        assert scores["soup"] < 0.6


@torch.no_grad()
def test_cross_entropy_of_the_ensemble_is_the_mean_less_the_ambiguity():
    """Identity 2, for logits."""
    outputs = 3 * torch.randn(5, 50, 4, dtype=torch.float64)
    targets = torch.arange(50) % 4
    mean = sum(float(functional.cross_entropy(each, targets)) for each in outputs) / 5
    ensemble = float(functional.cross_entropy(outputs.mean(0), targets))
    assert abs(ensemble - (mean - diversity(outputs, is_classification=True))) < 1e-12
    assert diversity(outputs, is_classification=True) > 0.1
    assert abs(ensemble - (mean - diversity(outputs))) > 0.1  # breakage: the squared one is not it


def test_all_networks_are_there():
    assert {"perceptron", "convolutional", "residual", "transformer"} <= set(NETWORKS)


def test_a_network_in_bfloat16_comes_back_whole():
    def half():
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).bfloat16()

    result, _ = run(Subnets(subnets=2, epochs=1, engine="separate"), task(model=half))
    assert {p.dtype for p in result.network.parameters()} == {torch.bfloat16}
