"""How gauges take turns: rounds, refusals, what takes too long; and the real ones, each once."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from cooptim_lab.comm.context import Context
from cooptim_lab.costs import gauges, layers, measuring
from cooptim_lab.costs.counting import Counter
from cooptim_lab.costs.families import FAMILY, FORWARD, INPUT, RANDOM, WEIGHT
from cooptim_lab.costs.gauge import Gauge, Refused
from cooptim_lab.costs.measuring import Turn, measure_machine, of_samples
from cooptim_lab.costs.work import total
from cooptim_lab.hardware.ceilings import BF16, FLOAT32, INSIDE, UNITS, Ceiling
from cooptim_lab.runs.events import Gauged, Progress

pytestmark = pytest.mark.usefixtures("one_thread")


class One:
    """A communicator of one rank."""

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 1


def context(heard: list, *, threads: int = 1, stopping=lambda: False) -> Context:
    return Context(One(), lambda *events: heard.extend(events), stopping, threads)


def gauge(action, *, size: int = 64, per_call: float = 1.0, is_rate: bool = True, kind: str = "square") -> Gauge:
    return Gauge(Ceiling(kind=kind, name=FLOAT32, size=size), lambda: action, per_call, is_rate)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless an action moves it."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


def taking(clock, *seconds: float):
    """An action that takes so long, each time the next of these."""
    every = itertools.cycle(seconds)

    def act():
        clock.now += next(every)

    return act


class TestTurns:
    def test_a_rate_and_a_cost(self, clock):
        act = taking(clock, 0.5)
        rate, cost = gauge(act, per_call=3.0), gauge(act, per_call=50, is_rate=False, kind="operator")
        for one, value in ((rate, 6.0), (cost, 0.01)):
            turn = Turn(one, longest=1.0)
            turn.begin(None)
            turn.take()
            assert turn.ceiling().value == pytest.approx(value)

    def test_a_short_action_is_called_often(self, clock):
        calls = []
        act = taking(clock, 1e-4)
        turn = Turn(gauge(lambda: (calls.append(1), act())), longest=1.0)
        turn.begin(None)
        before = len(calls)
        turn.take()
        assert len(calls) - before == 1 + round(measuring.SAMPLE_SECONDS / 1e-4)

    def test_median_and_quartiles(self):
        made = of_samples(Ceiling(kind="memory"), [5.0, 1.0, 3.0, 2.0, 4.0])
        assert (made.low, made.value, made.high, made.samples) == (2.0, 3.0, 4.0, 5)
        assert of_samples(Ceiling(kind="memory"), []).value is None

    def test_refused(self):
        def refuse():
            raise Refused("no such thing")

        turn = Turn(Gauge(Ceiling(kind="square", name=BF16), refuse, 1.0), longest=1.0)
        turn.begin(None)
        turn.take()
        made = turn.ceiling()
        assert (made.value, made.low, made.high, made.samples, made.why) == (None, None, None, 0, "no such thing")

    def test_what_takes_too_long_is_called_once(self, clock):
        calls = []
        act = taking(clock, 2.0)
        turn = Turn(gauge(lambda: (calls.append(1), act())), longest=1.0)
        turn.begin(None)
        turn.take()
        assert len(calls) == 1
        assert turn.ceiling().value is None
        assert "2 s" in turn.ceiling().why

    def test_what_would_take_much_too_long_is_not_called(self, clock):
        small, calls = Turn(gauge(taking(clock, 0.5), per_call=1.0), longest=1.0), []
        small.begin(None)
        small.take()
        large = Turn(gauge(lambda: calls.append(1), size=512, per_call=8.0), longest=1.0)
        large.begin(small)
        assert calls == []
        assert "4 s" in large.ceiling().why
        larger = Turn(gauge(lambda: calls.append(1), size=1024, per_call=64.0), longest=1.0)
        larger.begin(large)
        assert calls == []
        assert larger.ceiling().why == large.ceiling().why

    def test_a_remark_does_not_keep_it_from_being_measured(self, clock):
        turn = Turn(Gauge(Ceiling(kind="memory"), lambda: taking(clock, 0.5), 1.0, remark=lambda: "small"), longest=1.0)
        turn.begin(None)
        turn.take()
        assert (turn.ceiling().value, turn.ceiling().why) == (2.0, "small")

    def test_a_remark_is_no_refusal_for_the_next_size(self, clock):
        first = Turn(Gauge(gauge(None).about, lambda: taking(clock, 0.5), 1.0, remark=lambda: "small"), longest=1.0)
        second = Turn(gauge(taking(clock, 0.5), size=128), longest=1.0)
        first.begin(None)
        second.begin(first)
        second.take()
        assert second.ceiling().value == 2.0


class TestRounds:
    @pytest.fixture
    def few(self, clock, monkeypatch):
        """Two gauges for each number of threads, 0.1 s a call."""
        order = []

        def act(about):
            clock.now += 0.1
            order.append((about.threads, about.size))

        def make(threads):
            abouts = [Ceiling(kind="square", name=FLOAT32, threads=threads, size=size) for size in (16, 32)]
            return [Gauge(about, lambda about=about: lambda: act(about), 1.0) for about in abouts]

        monkeypatch.setattr(measuring, "gauges", make)
        return order

    def test_each_has_its_turn_in_every_round(self, few):
        rows = measure_machine(context([], threads=2), 60.0)
        assert [row["samples"] for row in rows] == [measuring.MOST_ROUNDS] * 4
        taken = [key for key, again in itertools.pairwise(few[-8:]) if key == again]
        assert taken == [(1, 16), (1, 32), (2, 16), (2, 32)]

    def test_the_seconds_end_it(self, few, monkeypatch):
        monkeypatch.setattr(measuring, "CALLS", 60)  # a call's 0.1 s are not too long
        rows = measure_machine(context([], threads=2), 6.1)
        assert {row["samples"] for row in rows} == {7}  # the first round takes 1.2 s, each other 0.8 s

    def test_three_rounds_at_least(self, few, monkeypatch):
        monkeypatch.setattr(measuring, "CALLS", 1)
        assert {row["samples"] for row in measure_machine(context([], threads=2), 0.5)} == {3}

    def test_each_is_told_as_soon_as_it_is_known(self, few):
        heard = []
        rows = measure_machine(context(heard, threads=2), 60.0)
        told = [event.ceiling for event in heard if isinstance(event, Gauged)]
        assert [each["size"] for each in told] == [row["size"] for row in rows]
        assert {each["samples"] for each in told} == {1}
        done = [event.done for event in heard if isinstance(event, Progress)]
        assert done == sorted(done)
        assert done[-1] <= 1000

    def test_a_stop_keeps_what_there_is(self, few):
        rows = measure_machine(context([], threads=2, stopping=lambda: len(few) > 5), 60.0)
        assert [row["value"] is None for row in rows] == [False, False, True, True]

    def test_threads_are_as_before(self, few):
        before = torch.get_num_threads()
        measure_machine(context([], threads=before + 1), 60.0)
        assert torch.get_num_threads() == before


class TestRealGauges:
    def test_all_kinds_are_there(self):
        kinds = {one.about.kind for one in gauges.gauges(1)}
        assert kinds == UNITS.keys() - {"latency", "link", "link, both ways"}
        keys = [one.about.key for one in gauges.gauges(1)]
        assert len(set(keys)) == len(keys)

    def test_each_gives_a_figure_or_says_why(self, monkeypatch):
        monkeypatch.setattr(gauges, "SIZES", (16, 64))
        monkeypatch.setattr(gauges, "FEW_SIZES", (16, 64))
        monkeypatch.setattr(gauges, "MANY", 1 << 12)
        monkeypatch.setattr(gauges, "MOST_MEMORY", 1 << 22)
        monkeypatch.setattr(measuring, "MOST_ROUNDS", 2)
        monkeypatch.setattr(measuring, "SAMPLE_SECONDS", 1e-4)
        rows = [Ceiling.from_summary(row) for row in measure_machine(context([]), 30.0)]
        assert len(rows) == len(gauges.gauges(1))
        for row in rows:
            known = row.value is not None
            assert known or row.why, row
            assert not known or (row.value > 0 and math.isfinite(row.value) and row.low <= row.value <= row.high), row
        assert all(row.value for row in rows if row.name in (FLOAT32, "") or "Adam" in row.name)
        assert any("less than four times" in row.why for row in rows if row.kind == "memory")

    def test_bf16_that_a_processor_refuses(self, monkeypatch):
        def refuse(*given, **more):
            raise RuntimeError("no kernel for BFloat16. More words")

        monkeypatch.setattr(torch, "mm", refuse)
        with pytest.raises(Refused, match="no kernel for BFloat16"):
            gauges.product("square", BF16, 16, 1).make()

    @pytest.mark.parametrize(("is_equal", "said"), [(True, "in float32"), (False, "")])
    def test_bf16_inside_says_where_it_is_not(self, monkeypatch, is_equal, said):
        monkeypatch.setattr(torch, "equal", lambda a, b: is_equal)
        seen = []
        real = torch.mm
        matmul = torch.backends.mkldnn.matmul
        monkeypatch.setattr(torch, "mm", lambda *a, **k: (seen.append(matmul.fp32_precision), real(*a, **k)))
        turn = Turn(gauges.product("square", INSIDE, 16, 1), longest=10.0)
        turn.begin(None)
        turn.take()
        assert set(seen) == {"bf16"}
        assert turn.ceiling().value > 0
        assert turn.ceiling().why == said

    def test_bf16_inside_leaves_torch_as_it_was(self):
        matmul = torch.backends.mkldnn.matmul
        before = matmul.fp32_precision
        with pytest.raises(ZeroDivisionError), gauges.bf16_inside():
            assert matmul.fp32_precision == "bf16"
            raise ZeroDivisionError
        assert matmul.fp32_precision == before

    def test_a_torch_without_that_setting(self, monkeypatch):
        monkeypatch.delattr(type(torch.backends.mkldnn), "matmul")
        turn = Turn(gauges.product("square", INSIDE, 16, 1), longest=10.0)
        turn.begin(None)
        turn.take()
        assert turn.ceiling().value is None
        assert "has no torch.backends.mkldnn.matmul.fp32_precision" in turn.ceiling().why

    def test_an_optimizer_that_is_not_there(self, monkeypatch):
        def refuse(*given, **more):
            raise RuntimeError("`fused=True` requires a GPU")

        monkeypatch.setattr(torch.optim, "Adam", refuse)
        (one,) = [g for g in gauges.optimizers(1) if g.about.key[:2] == ("step of a tensor", "Adam, fused")]
        with pytest.raises(Refused, match="requires a GPU"):
            one.make()

    def test_figures_are_of_what_is_done(self):
        square = gauges.product("square", FLOAT32, 64, 1)
        assert square.per_call * 1e9 == pytest.approx(2 * 64**3)
        assert gauges.product("skinny", FLOAT32, 128, 1).per_call * 1e9 == pytest.approx(2 * 64 * 128 * 128)
        trained = {one.about.kind: one for one in gauges.operators(1)}["operator, trained"]
        # Forward a product and a comparison; backward two products, a sum and a comparison; the first of all has one.
        assert trained.per_call == gauges.DEPTH * 6 - 1
        triad = gauges.triad("cache", 12000, 1)
        assert triad.per_call * 1e9 == pytest.approx(triad.about.size) == 12000

    def test_layers_amount_to_what_is_counted(self):
        """Operations and bytes of a call, as the counter finds them in the action itself."""
        for one in layers.layers(1):
            if one.about.kind not in ("batched", "cells", "attention", "function") or one.about.name == RANDOM:
                continue
            counter = Counter(torch.nn.Identity())
            action = one.make()
            with counter.watching():
                action()
            calls = total(counter.works.values()).calls
            if one.about.kind == "function":
                counted = sum(call.bytes for call in calls if FAMILY.get(call.operator) == one.about.name)
            else:
                counted = sum(call.operations for call in calls)
            assert counted == pytest.approx(one.per_call * 1e9), one.about

    @pytest.mark.parametrize("what", [FORWARD, INPUT, WEIGHT])
    def test_a_convolution_computes_what_it_is_named_after(self, what):
        gauge = layers.convolution(what, 16, 2, 4, 1)
        assert gauge.per_call * 1e9 == pytest.approx(2 * 16 * 16**2 * 9 * 2 * 4)
        out = gauge.make()()
        if what == FORWARD:
            assert out.shape == (16, 4, 16, 16)
        else:
            assert [each is not None for each in out] == [what == INPUT, what == WEIGHT, False]

    def test_a_torch_without_such_an_operator(self, monkeypatch):
        monkeypatch.setattr(layers, "calls_of", lambda action, operators: [])
        refused = [each for each in layers.layers(1) if each.about.kind in ("cells", "attention", "function")]
        for one in refused:
            if one.about.name != RANDOM:
                with pytest.raises(Refused, match="torch has no"):
                    one.make()
