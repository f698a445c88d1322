"""Levers and plans: their text, what they exclude, and that each changes what it says and nothing else."""

from __future__ import annotations

import pickle

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab import Task, apply
from cooptim_lab.comm.context import Context
from cooptim_lab.levers import Lever, Plan, Seen
from cooptim_lab.levers.lever import KINDS
from cooptim_lab.levers.plan import NONE, read_kinds
from cooptim_lab.preparing.arithmetic import as_given, products_in
from cooptim_lab.training.planned import under_plan
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from cooptim_lab.ways import run_program
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = np.random.default_rng(0).normal(size=(80, 6))
Y = (X[:, 0] > X[:, 1]).astype("int64") + (X[:, 2] > 0)
IMAGES = np.random.default_rng(1).normal(size=(60, 3, 8, 8))


def network():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    ).double()  # fmt: skip


def single():
    return network().float()


SEEN: list[tuple[bool, str]] = []


class Looks(nn.Module):
    """Remembers in what its products were computed."""

    def __init__(self):
        super().__init__()
        self.inner = single()

    def forward(self, x):
        SEEN.append((self.training, torch.backends.mkldnn.matmul.fp32_precision))
        return self.inner(x)


def task(**changed):
    return Task(**{"model": network, "data": (X, Y), "name": "test", **changed})


def trained(plan="", *, given=None, **options):
    """The result of a training in this process."""
    spec = under_plan(Baseline(**{"epochs": 3, "batch": 16, "plan": plan, **options}))
    context = Context(SoloComm(), lambda *events: None, lambda: False, threads=1)
    return run_program(context, given or task(), spec)[0]


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.network.parameters()])


class TestText:
    @pytest.mark.parametrize("text", ["", "fused", "batch=256,lr=4,fused,threads=1", "subnets=4,workers=2", "lr=0.5"])
    def test_a_plan_is_read_as_it_is_written(self, text):
        assert Plan.read(str(Plan.read(text))) == Plan.read(text)

    def test_its_order_does_not_matter(self):
        assert Plan.read("threads=1, fused ,batch=8") == Plan.read("batch=8,fused,threads=1")

    def test_nothing_is_no_plan(self):
        assert not Plan.read("")
        assert Plan.read("") == NONE

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("fusd", ("there is no lever fusd", "did you mean fused")),
            ("quick", ("there is no lever quick", "choose from", "fused")),
            ("subnets=4,prune=0.5", ("exclude each other",)),
            ("prune=0.5,compile", ("exclude each other",)),
            ("batch", ("batch", "None", "whole number of 1 or more")),
            ("batch=2.5", ("batch", "2.5", "whole number")),
            ("batch=0", ("batch", "0")),
            ("batch=many", ("batch", "'many'", "give a number")),
            ("lr=-1", ("lr", "-1", "above 0")),
            ("lr=nan", ("lr", "nan")),
            ("lr=inf", ("lr", "inf")),
            ("fused=1", ("fused", "takes no value")),
            ("batch=8,batch=9", ("batch twice",)),
            ("autocast,bf16", ("exclude each other",)),
            ("subnets=4,narrow=0.5", ("exclude each other",)),
            ("subnets=1", ("subnets", "2 or more")),
        ],
    )
    def test_what_is_no_plan_is_refused(self, text, parts):
        with refused(*parts):
            Plan.read(text)

    def test_of_something_else(self):
        with refused("plan is a int", "give a Plan"):
            Baseline(plan=3)

    def test_names_of_levers(self):
        assert read_kinds("batch, fused") == ("batch", "fused")
        with refused("there is no lever speed"):
            read_kinds("speed")


class TestUnderAPlan:
    def test_it_says_options(self):
        spec = under_plan(Baseline(batch=64, epochs=3, plan="batch=128,narrow=0.5"))
        assert (spec.batch, spec.narrow, spec.epochs) == (128, 0.5, 3)

    def test_it_says_the_way(self):
        spec = under_plan(Baseline(epochs=3, seed=2, plan="subnets=4,workers=2,batch=32"))
        assert isinstance(spec, Subnets)
        assert (spec.subnets, spec.workers, spec.batch, spec.epochs, spec.seed) == (4, 2, 32, 3, 2)
        spec = under_plan(Baseline(plan="shards=2"))
        assert isinstance(spec, Sharded)
        assert (spec.workers, spec.aggregate) == (2, "shared")
        spec = under_plan(Baseline(plan="sync=8,shards=2"))
        assert (spec.workers, spec.aggregate, spec.sync_every) == (2, "local", 8)

    @pytest.mark.parametrize(
        ("spec", "parts"),
        [
            (lambda: Subnets(plan="autocast"), ("autocast does nothing in subnets",)),
            (lambda: Sharded(plan="subnets=4"), ("subnets", "this is sharded")),
            (lambda: Baseline(plan="workers=2"), ("workers does nothing in baseline",)),
            (lambda: Baseline(plan="sync=4"), ("sync does nothing in baseline",)),
        ],
    )
    def test_what_a_way_does_not_obey_is_refused(self, spec, parts):
        with refused(*parts):
            under_plan(spec())

    def test_a_lever_beside_another_way_is_refused_at_once(self):
        with refused("autocast does nothing beside subnets"):
            Plan.read("subnets=4,autocast")

    def test_its_options_are_json(self):
        assert Baseline(plan="fused").options()["plan"] == "fused"


class TestWhatTheyChange:
    def test_a_batch_is_that_of_the_option(self):
        assert torch.equal(weights(trained("batch=8")), weights(trained(batch=8)))
        assert not torch.equal(weights(trained("batch=8")), weights(trained()))

    @pytest.mark.parametrize(
        "optimizer",
        [
            None,
            torch.optim.Adam,
            lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
            torch.optim.SGD(network().parameters(), lr=0.1),
        ],
        ids=["default", "class", "function", "ready-made"],
    )
    def test_a_rate_is_so_many_times_the_tasks(self, optimizer):
        def twice(parameters):
            made = Task(model=network, data=(X, Y), optimizer=optimizer)
            from cooptim_lab.preparing.building import build_optimizer

            built = build_optimizer(made, list(parameters))
            built.param_groups[0]["lr"] *= 2
            return built

        by_plan = trained("lr=2", given=task(optimizer=optimizer))
        assert torch.equal(weights(by_plan), weights(trained(given=task(optimizer=twice))))
        assert not torch.equal(weights(by_plan), weights(trained(given=task(optimizer=optimizer))))

    def test_a_rate_of_an_optimizer_that_goes_by_names(self):
        def named(pairs):
            slow, fast = ([p for name, p in pairs if ("bias" in name) is is_bias] for is_bias in (True, False))
            return torch.optim.SGD([{"params": slow, "lr": 0.01}, {"params": fast, "lr": 0.1}], lr=1.0)

        def twice(pairs):
            made = named(list(pairs))
            for group in made.param_groups:
                group["lr"] *= 2
            return made

        by_plan = trained("lr=2", given=task(named=named))
        assert torch.equal(weights(by_plan), weights(trained(given=task(named=twice))))

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, 0.9)])
    def test_fused_learns_the_same(self, optimizer):
        given = task(optimizer=optimizer)
        fused, loop = (weights(trained(plan, given=given)) for plan in ("fused", ""))
        assert (fused - loop).abs().max() < 1e-12

    def test_fused_is_fused(self):
        seen = []

        class Watched(torch.optim.Adam):
            pass

        def remember(parameters):
            seen.append(torch.optim.Adam(parameters))
            return seen[-1]

        trained("fused", given=task(optimizer=remember))
        assert seen[-1].param_groups[0]["fused"] is True
        trained(given=task(optimizer=remember))
        assert not seen[-1].param_groups[0]["fused"]

    def test_threads_are_set_and_set_back(self):
        before = torch.get_num_threads()
        result = trained("threads=2")
        assert result.threads == 2
        assert torch.get_num_threads() == before

    def test_channels_last_learns_the_same_and_is_handed_over_plain(self):
        given = task(model=convolutions, data=(IMAGES, Y[:60]), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        last, plain = trained("channels-last", given=given), trained(given=given)
        assert (weights(last) - weights(plain)).abs().max() < 1e-12
        assert all(p.is_contiguous() for p in last.network.parameters())
        assert last.metric == plain.metric

    def test_bf16_weights_are_handed_over_in_float32(self):
        given = task(model=single)
        result = trained("bf16", given=given)
        assert {p.dtype for p in result.network.parameters()} == {torch.float32}
        assert torch.equal(weights(result), weights(result).bfloat16().float())
        assert not torch.equal(weights(result), weights(trained(given=given)))
        with torch.no_grad():
            result.network(torch.zeros(2, 6))

    def test_autocast_computes_otherwise_and_products_may(self):
        given = task(model=single)
        plain, cast, inside = (weights(trained(plan, given=given)) for plan in ("", "autocast", "bf16-products"))
        assert 0 < (cast - plain).abs().max() < 0.1
        assert (inside - plain).abs().max() < 0.1  # 0 where the processor has no such instructions

    def test_narrow_has_that_share_of_the_parameters(self):
        whole, half = trained(), trained("narrow=0.5")
        assert 0.3 * whole.parameters < half.parameters <= 0.55 * whole.parameters

    def test_what_is_scored_is_what_is_handed_over(self):
        for plan in ("", "bf16", "channels-last", "autocast", "bf16-products", "narrow=0.5"):
            given = task(model=single) if plan != "channels-last" else task(model=convolutions, data=(IMAGES, Y[:60]))
            result = trained(plan, given=given)
            assert (result.path[-1][2], result.path[-1][3]) == (result.loss, result.metric), plan


class TestPrecisionIsSetBack:
    def test_scores_are_taken_as_the_user_has_it(self):
        matmul = torch.backends.mkldnn.matmul
        before = matmul.fp32_precision
        with products_in("bf16"):
            assert matmul.fp32_precision == "bf16"
            with as_given():
                assert matmul.fp32_precision == before
            assert matmul.fp32_precision == "bf16"
        assert matmul.fp32_precision == before

    def test_after_a_failure_too(self):
        before = torch.backends.mkldnn.matmul.fp32_precision
        with pytest.raises(ZeroDivisionError), products_in("bf16"):
            raise ZeroDivisionError
        assert torch.backends.mkldnn.matmul.fp32_precision == before

    def test_a_network_is_scored_in_it(self):
        SEEN.clear()
        trained("bf16-products", given=task(model=Looks))
        assert (True, "bf16") in SEEN
        assert (False, "bf16") not in SEEN


class TestAGoal:
    def test_it_ends_at_the_epoch_that_reaches_it(self):
        whole = trained(epochs=12)
        goal = sorted(metric for *_, metric in whole.path)[-2]
        first = next(epoch for epoch, _, _, metric in whole.path if metric >= goal)
        result = trained(epochs=12, until=goal)
        assert [point[0] for point in result.path] == list(range(1, first + 1))
        assert result.state == "done"
        assert result.metric >= goal

    def test_one_that_is_never_reached(self):
        assert [point[0] for point in trained(until=1.1).path] == [1, 2, 3]

    def test_of_a_loss_it_is_at_most(self):
        given = task(data=(X, X[:, :3] @ np.ones((3, 3))))
        whole = trained(given=given, epochs=6)
        losses = [loss for _, _, loss, _ in whole.path]
        result = trained(given=given, epochs=6, until=losses[2])
        assert len(result.path) == 3

    def test_seconds_grow(self):
        seconds = [point[1] for point in trained(epochs=5).path]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0


class TestOfOnesOwn:
    def test_a_class_is_a_lever_at_once_and_a_newer_one_takes_its_place(self):
        try:
            for factor in (2.0, 3.0):

                class Mine(Lever):
                    name, help, changes = "mine", "noise", True
                    by = factor

                    def change_optimizer(self, optimizer):
                        optimizer.param_groups[0]["lr"] *= self.by

                assert KINDS["mine"] is Mine
            by_plan = trained("mine")
            assert torch.equal(weights(by_plan), weights(trained("lr=3")))
        finally:
            KINDS.pop("mine", None)

    def test_it_travels_by_value(self):
        source = (
            "from cooptim_lab.levers import Lever\n"
            "class Far(Lever):\n    name = 'far'\n"
            "    def options(self):\n        return {'batch': 7}\n"
        )
        names: dict = {"__name__": "__main__"}
        try:
            exec(source, names)
            plan = Plan((names["Far"](),))
            KINDS.pop("far")  # as on a rank, which has not run the cell
            assert pickle.loads(cloudpickle.dumps(plan)).options == {"batch": 7}
            assert str(plan.with_(KINDS["fused"]())) == "fused,far"
        finally:
            KINDS.pop("far", None)

    @pytest.mark.parametrize(
        ("body", "parts"),
        [({"name": "a b"}, ("'a b'", "letters")), ({"name": "ab", "group": "speed"}, ("'speed'", "structure"))],
    )
    def test_what_it_must_be(self, body, parts):
        with refused(*parts):
            type("Mine", (Lever,), body)


class TestWhereTheyApply:
    def seen(self, model, optimizer=torch.optim.Adam, x=torch.zeros(16, 6), **changed):  # noqa: B008
        made = model()
        given = {"network": made, "optimizer": optimizer(made.parameters()), "x": x, "y": torch.zeros(16).long()}
        return Seen(**{**given, "rows": 1000, "batch": 64, "cpus": 2, **changed})

    def test_fused(self):
        assert KINDS["fused"]().why_not(self.seen(single)) == ""
        assert "Adamax" in KINDS["fused"]().why_not(self.seen(single, torch.optim.Adamax))
        assert "half" in KINDS["fused"]().why_not(self.seen(lambda: single().bfloat16()))

    def test_channels(self):
        assert "convolution" in KINDS["channels-last"]().why_not(self.seen(single))
        assert KINDS["channels-last"]().why_not(self.seen(convolutions, x=torch.zeros(2, 3, 8, 8))) == ""

    def test_precision(self):
        for name in ("bf16", "autocast", "bf16-products"):
            assert "float64" in KINDS[name]().why_not(self.seen(network))
            assert KINDS[name]().why_not(self.seen(single)) == ""

    def test_a_compiler(self, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler")
        assert "no-such-compiler" in KINDS["compile"]().why_not(self.seen(single))

    def test_values_that_are_tried(self):
        seen = self.seen(single)
        assert [str(each) for each in KINDS["batch"].tried(seen)] == ["batch=128", "batch=256"]
        assert [str(each) for each in KINDS["lr"].tried(seen)] == ["lr=1.41", "lr=2", "lr=4"]
        assert [str(each) for each in KINDS["threads"].tried(seen)] == ["threads=1"]
        assert [str(each) for each in KINDS["shards"].tried(seen)] == ["shards=2"]

    def test_on_one_cpu(self):
        seen = self.seen(single, cpus=1)
        for name in ("threads", "shards", "workers"):
            assert list(KINDS[name].tried(seen)) == []


class TestInALoopOfOnesOwn:
    def loop(self, plan):
        torch.manual_seed(0)
        made = single()
        optimizer = torch.optim.Adam(made.parameters())
        applied = apply(plan, made, optimizer)
        x, y = torch.tensor(X).float(), torch.tensor(Y)
        with applied:
            threads = torch.get_num_threads()
            for _ in range(5):
                applied.optimizer.zero_grad()
                with applied.forward():
                    value = nn.functional.cross_entropy(applied.network(applied.rows(x)), y)
                value.backward()
                applied.optimizer.step()
        return applied, threads

    def test_it_is_applied_and_set_back(self):
        before = torch.get_num_threads()
        applied, threads = self.loop("batch=32,lr=2,fused,threads=2")
        assert (applied.batch, threads) == (32, 2)
        assert applied.optimizer.param_groups[0]["fused"] is True
        assert applied.optimizer.param_groups[0]["lr"] == 0.002
        assert torch.get_num_threads() == before

    def test_bf16_comes_back_plain(self):
        assert {p.dtype for p in self.loop("bf16")[0].give_back().parameters()} == {torch.float32}

    def test_what_no_loop_can_be_given(self):
        made = single()
        for text in ("subnets=4", "narrow=0.5", "prune=0.5", "shards=2,sync=4", "subnets=2,workers=2"):
            with refused(text.partition("=")[0], "take plan.settings"):
                apply(text, made, torch.optim.Adam(made.parameters()))
            rest = Plan.read(f"{text},batch=8,threads=1").settings
            assert rest == Plan.read("batch=8,threads=1")
            assert repr(apply(rest, made, torch.optim.Adam(made.parameters()))).startswith("batch=8,threads=1, applied")


class Annealed:
    """A loss that grows with its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, outputs, y):
        self.calls += 1
        return (1 + 0.01 * self.calls) * nn.functional.cross_entropy(outputs, y)


def test_trainings_in_one_job_are_those_of_jobs_of_their_own():
    """Bit for bit, also where the task's functions remember what they were called with."""
    from cooptim_lab.codesign.asked import run_trainings

    given = task(loss=Annealed(), model=single)
    context = Context(SoloComm(), lambda *events: None, lambda: False, threads=1)
    specs = [under_plan(Baseline(epochs=2, batch=16, plan=plan, seed=1)) for plan in ("", "lr=2", "", "batch=32")]
    together = [result for result, _ in run_trainings(context, given, specs, [""] * len(specs))]
    for spec, result in zip(specs, together, strict=True):
        alone = run_program(context, task(loss=Annealed(), model=single), spec)[0]
        assert (result.loss, [point[2:] for point in result.path]) == (alone.loss, [point[2:] for point in alone.path])
