"""The kit's own ways on a machine that is not here: what is put together is what was measured, and the formulas."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cooptim_lab.costs.formulas import step_seconds
from cooptim_lab.costs.links import Calibration, Compute, Link
from cooptim_lab.ranks.cpus import take_turns
from cooptim_lab.ranks.wire import Hello
from cooptim_lab.scaling import here
from cooptim_lab.scaling.here import Figures, Machine, gradient_seconds, simulate, step_of
from cooptim_lab.scaling.units import read_bandwidth, read_seconds
from cooptim_lab.studies.simulate import SimulateSpec, thinned
from tests.support import refused

LOCAL, ETHERNET = Link(2e-6, 4e9, 3e9), Link(5e-5, 1.25e9, 1.25e9)
FIGURES = Figures(
    batch=64, size=1 << 20, alone=4e-3, gradients={64: 3e-3, 32: 1.6e-3, 16: 0.9e-3, 8: 0.55e-3}, update=1e-3,
    subnets={1: 4e-3, 2: 2.5e-3, 4: 1.5e-3}, apart=(1.0,), spread=0.0,
    links=Calibration(local=LOCAL, between=None, meeting=3e-6, gamma=1e-10, cpus=4),
)  # fmt: skip
TWO = Machine(hosts=2, cores=4, bandwidth=1.25e9)


@pytest.mark.parametrize("way", ["server", "allreduce", "shared", "local"])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_where_nobody_is_late_a_step_is_what_the_formulas_of_costs_say(way, workers, monkeypatch):
    hosts = TWO.place(workers)
    links = replace(FIGURES.links, between=ETHERNET)
    gradient = gradient_seconds(FIGURES, 64 / workers)
    of = Compute(gradient, FIGURES.update, gradient + FIGURES.update)

    def by_formula():
        return step_seconds(way, FIGURES.size, hosts, links, of, 10 if way == "local" else 1)

    assert float(step_of(FIGURES, way, hosts, TWO, 10).seconds) == pytest.approx(by_formula(), rel=1e-12)
    monkeypatch.setattr(here, "exchange_seconds", lambda *arguments: 0.0)
    assert float(step_of(FIGURES, way, hosts, TWO, 10).seconds) != pytest.approx(by_formula(), rel=1e-6)


def test_what_was_measured_comes_out_as_it_went_in():
    assert [gradient_seconds(FIGURES, rows) for rows in (64, 16, 4)] == [3e-3, 0.9e-3, 0.55e-3]
    assert gradient_seconds(FIGURES, 24) == pytest.approx(1.25e-3)
    for way in here.WAYS:
        assert simulate(FIGURES, way, 1, Machine()).seconds == FIGURES.alone, "one worker is the network as it is"
    assert simulate(FIGURES, "subnets", 4, TWO).seconds == 1.5e-3
    assert Figures.from_summary(json.loads(json.dumps(FIGURES.summary()))) == FIGURES


def test_who_is_late_is_waited_for_more_the_more_there_are():
    late = replace(FIGURES, apart=(1.0,) * 9 + (2.0,))
    waited = [float(step_of(late, "allreduce", TWO.place(n), TWO, 10).waiting) for n in (2, 4, 8)]
    gradients = [gradient_seconds(late, 64 / n) for n in (2, 4, 8)]
    expected = [g * (2 - 0.9**n - 1.1) for n, g in zip((2, 4, 8), gradients, strict=True)]
    assert waited == pytest.approx(expected, rel=1e-12)
    meets_less = float(step_of(late, "local", TWO.place(8), TWO, 10).waiting)
    assert meets_less == pytest.approx(waited[-1] / 10**0.5, rel=1e-12)


def test_a_slower_link_and_more_turns_take_longer():
    for way in ("server", "allreduce", "shared", "local"):
        fast, slow = (simulate(FIGURES, way, 8, replace(TWO, bandwidth=rate)).seconds for rate in (1e10, 1e9))
        assert fast < slow, way
        own, shared_core = (simulate(FIGURES, way, 8, Machine(cores=cores)) for cores in (8, 2))
        assert own.turns == 1
        assert shared_core.turns == 4
        assert own.seconds < shared_core.seconds, way
        assert own.high / own.low < shared_core.high / shared_core.low, "and are less certain"
    crowded = replace(FIGURES, crowding=1.5, late={"server": 2e-3})
    alike, more = (simulate(one, "server", 8, Machine(cores=2)) for one in (FIGURES, crowded))
    assert more.parts["waiting"] - alike.parts["waiting"] == pytest.approx(4e-3), "2 ms for each doubling of the turns"
    assert more.parts["computing"] == pytest.approx(1.5 * alike.parts["computing"])


def test_a_server_that_nobody_waits_for_makes_a_step_of_every_gradient():
    few, many = (simulate(FIGURES, "async", n, Machine(cores=64)).parts["dispatch"] for n in (4, 8))
    assert many == pytest.approx(2 * few)
    assert simulate(FIGURES, "async", 8, Machine(cores=64)).parts["waiting"] == 0


def test_hosts_are_filled_and_then_shared():
    assert Machine(hosts=3, cores=2, bandwidth=1).place(4) == [0, 0, 1, 1]
    assert Machine(hosts=2, cores=1, bandwidth=1).place(4) == [0, 0, 1, 1]
    assert Machine(hosts=3, cores=1, bandwidth=1).place(2) == [0, 1]


def test_what_cannot_be_is_refused_in_a_line():
    with refused("way = 'ring'", "choose subnets, server"):
        simulate(FIGURES, "ring", 2, TWO)
    with refused("workers = 0", "1 or more"):
        simulate(FIGURES, "server", 0, TWO)
    with refused("65 workers", "a batch of 64 rows", "larger batch"):
        simulate(FIGURES, "server", 65, TWO)
    with refused("3 sub-networks", "cut into 1, 2, 4"):
        simulate(FIGURES, "subnets", 3, TWO)
    with refused("what joins the hosts", "10Gbit"):
        simulate(FIGURES, "server", 8, Machine(hosts=2, cores=4))
    with refused("hosts = 0", "1 or more"):
        Machine(hosts=0)
    with refused("latency = -1"):
        Machine(latency=-1)
    with refused("a link of '0Gbit' joins nothing"):
        SimulateSpec(link="0Gbit")
    with refused("a latency of '5'", "50us"):
        SimulateSpec(latency="5")


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [("25Gbit", 3.125e9), ("100 Mbit/s", 1.25e7), ("3.2GB/s", 3.2e9), ("1 TB", 1e12), ("8 kbit", 1e3), ("10Gbps", 0)],
)
def test_bandwidths_are_read_with_their_units(text, bytes_per_second):
    if not bytes_per_second:
        with refused(repr(text), "with its unit"):
            read_bandwidth(text)
        return
    assert read_bandwidth(text) == pytest.approx(bytes_per_second)


@pytest.mark.parametrize("text", ["", "fast", "10", "1.2.3Gbit", "-1Gbit", "10 Gb", "nan Gbit", "1e9 bit"])
def test_what_is_no_bandwidth_is_refused(text):
    with refused("give"):
        read_bandwidth(text)


def test_latencies_are_read_with_their_units():
    assert [read_seconds(text) for text in ("50us", "0.2 ms", "1s", "300ns")] == pytest.approx([5e-5, 2e-4, 1, 3e-7])
    with refused("with its unit"):
        read_seconds("50")


def test_of_many_sizes_the_outer_ones_are_measured_and_some_between():
    assert thinned([1, 2, 4]) == [1, 2, 4]
    some = thinned(list(range(1, 101)))
    assert (some[0], some[-1], len(some)) == (1, 100, 10)


def hello(machine, cpus, affinity=(0, 1)):
    known = {"machine": machine, "cpus": cpus, "affinity": affinity}
    return Hello(**{**dict.fromkeys(Hello.__dataclass_fields__), **known})


def test_ranks_that_share_their_cpus_with_more_than_there_are_take_turns():
    assert take_turns([hello("a", 2)] * 2 + [hello("b", 2)] * 3) == [False, False, True, True, True]
    assert take_turns([hello("a", 1, (0,)), hello("a", 1, (1,))]) == [False, False], "each is bound to its own"
