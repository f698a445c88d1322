"""What an exchange costs by the formulas: closed forms, limits, who shares which link."""

from __future__ import annotations

import itertools
import json
from math import ceil, log2

import pytest

from cooptim_lab.costs import collectives
from cooptim_lab.costs import formulas as costs
from cooptim_lab.costs.collectives import across, allreduce, broadcast, gather, ring, star
from cooptim_lab.costs.formulas import CostRow, crossing, exchange_seconds, spread, step_seconds
from cooptim_lab.costs.links import Calibration, Compute, Link, Round, seconds
from cooptim_lab.studies import costs as costing
from tests.support import refused

ALPHA, BETA, GAMMA, SIZE = 1e-5, 1e8, 1e-10, 1e6
LINK = Link(ALPHA, BETA, BETA)
ALIKE = Calibration(local=LINK, between=LINK, gamma=GAMMA)
FAST = Link(0.0, 1e18, 1e18)
BETWEEN_ALONE = Calibration(local=FAST, between=LINK)
"""What happens inside a host takes no time."""
RANKS = range(2, 18)


def one_host(ranks: int) -> list[int]:
    return [0] * ranks


def crossing_bytes(rounds: list[Round], hosts: list[int]) -> tuple[float, float]:
    """Bytes from host 0 to host 1, and back."""
    messages = [(hosts[source], hosts[to], size) for one in rounds for source, to, size in one.messages]
    return tuple(sum(size for *way, size in messages if way == wanted) for wanted in ([0, 1], [1, 0]))


class TestClosedForms:
    @pytest.mark.parametrize("ranks", RANKS)
    def test_gather(self, ranks):
        # the root's last message comes from the largest subtree; the sum over its own is M - 1
        expected = ceil(log2(ranks)) * ALPHA + (ranks - 1) * SIZE / BETA
        assert seconds(gather(ranks, SIZE), one_host(ranks), ALIKE) == pytest.approx(expected)

    @pytest.mark.parametrize("ranks", RANKS)
    def test_broadcast(self, ranks):
        tree = ceil(log2(ranks)) * (ALPHA + SIZE / BETA)
        parts = (ceil(log2(ranks)) + ranks - 1) * ALPHA
        took = seconds(broadcast(one_host(ranks), SIZE), one_host(ranks), ALIKE)
        if ranks < collectives.FEW_RANKS:
            assert took == pytest.approx(tree)
        elif ranks in (8, 16):
            assert took == pytest.approx(parts + 2 * (ranks - 1) / ranks * SIZE / BETA)
        else:
            assert parts + (ranks - 1) / ranks * SIZE / BETA < took < tree

    @pytest.mark.parametrize("ranks", [2, 4, 8, 16])
    def test_allreduce(self, ranks):
        part = (ranks - 1) / ranks * SIZE
        expected = 2 * log2(ranks) * ALPHA + 2 * part / BETA + part * GAMMA
        assert seconds(allreduce(ranks, SIZE), one_host(ranks), ALIKE) == pytest.approx(expected)
        short = log2(ranks) * (ALPHA + 2000 / BETA + 2000 * GAMMA)
        assert seconds(allreduce(ranks, 2000), one_host(ranks), ALIKE) == pytest.approx(short)

    @pytest.mark.parametrize("ranks", [3, 5, 6, 7])
    def test_allreduce_of_other_numbers_gives_and_takes_once_more(self, ranks):
        power = 2 ** int(log2(ranks))
        more = 2 * (ALPHA + SIZE / BETA) + SIZE * GAMMA
        expected = seconds(allreduce(power, SIZE), one_host(power), ALIKE) + more
        assert seconds(allreduce(ranks, SIZE), one_host(ranks), ALIKE) == pytest.approx(expected)

    @pytest.mark.parametrize("ranks", RANKS)
    def test_ring(self, ranks):
        part = (ranks - 1) / ranks * SIZE
        expected = 2 * (ranks - 1) * ALPHA + 2 * part / BETA + part * GAMMA
        assert seconds(ring(ranks, SIZE), one_host(ranks), ALIKE) == pytest.approx(expected)

    @pytest.mark.parametrize("ranks", RANKS)
    def test_in_one_memory_each_rank_adds_a_part_between_two_meetings(self, ranks):
        on = Calibration(local=ALIKE.local, between=None, meeting=3 * ALPHA, gamma=GAMMA)
        expected = 6 * ALPHA + (ranks - 1) / ranks * SIZE * GAMMA
        assert exchange_seconds("shared", SIZE, one_host(ranks), on) == pytest.approx(expected)
        few = Calibration(local=ALIKE.local, between=None, meeting=3 * ALPHA, gamma=GAMMA, cpus=1)
        assert exchange_seconds("shared", SIZE, one_host(ranks), few) == pytest.approx(
            6 * ALPHA + (ranks - 1) * SIZE * GAMMA
        )
        took = step_seconds("shared", SIZE, one_host(ranks), on, Compute(gradient=1.0, update=0.4, step=1.5))
        assert took == pytest.approx(1 + 0.5 / ranks + expected)

    def test_a_small_network_in_one_memory_is_added_up_by_every_rank_after_one_meeting(self):
        on = Calibration(local=ALIKE.local, between=None, meeting=3 * ALPHA, gamma=GAMMA)
        expected = 3 * ALPHA + 4 * 1e5 * GAMMA
        assert exchange_seconds("shared", 1e5, one_host(4), on) == pytest.approx(expected)
        took = step_seconds("shared", 1e5, one_host(4), on, Compute(gradient=1.0, update=0.4, step=1.5))
        assert took == pytest.approx(1.5 + expected)

    @pytest.mark.parametrize("places", [(2, 2), (3, 2), (1, 4)])
    def test_in_two_memories_every_number_crosses_the_link_once(self, places):
        hosts = [0] * places[0] + [1] * places[1]
        crossed = [m for one in across(hosts, SIZE) for m in one.messages]
        assert all(hosts[source] != hosts[to] for source, to, _ in crossed)
        assert sum(size for source, _, size in crossed if hosts[source] == 0) == pytest.approx(SIZE)

    def test_local_meets_at_every_hth_step(self):
        hosts = one_host(4)
        meeting = exchange_seconds("allreduce", SIZE, hosts, ALIKE) + 2 * SIZE * GAMMA
        losses = seconds(allreduce(4, 8 * 10), hosts, ALIKE)
        assert exchange_seconds("local", SIZE, hosts, ALIKE, 10) == pytest.approx((meeting + losses) / 10)
        ratio = exchange_seconds("local", SIZE, hosts, ALIKE, 10) / exchange_seconds("local", SIZE, hosts, ALIKE, 20)
        assert ratio == pytest.approx(2, rel=0.01)


class TestLimits:
    @pytest.mark.parametrize("way", [*costs.WAYS, "ring"])
    @pytest.mark.parametrize("ranks", [2, 4])
    def test_nothing_to_send_costs_the_latency_alone(self, way, ranks):
        latencies = {"server": ranks - 1 + log2(ranks), "allreduce": log2(ranks), "local": 2 * log2(ranks)}
        latencies["ring"], latencies["shared"] = 2 * (ranks - 1), 0
        free = Calibration(local=Link(ALPHA, 1e30, 1e30), between=None)
        assert exchange_seconds(way, 0, one_host(ranks), free) == pytest.approx(latencies[way] * ALPHA)

    @pytest.mark.parametrize("way", [*costs.WAYS, "ring"])
    def test_endless_bandwidth_costs_no_more_for_more(self, way):
        free = Calibration(local=Link(ALPHA, 1e30, 1e30), between=None)
        took = [exchange_seconds(way, size, one_host(4), free) for size in (1e4, 1e9)]
        assert took[0] == pytest.approx(took[1])

    @pytest.mark.parametrize("way", [*costs.WAYS, "ring"])
    def test_one_rank_exchanges_nothing(self, way):
        assert exchange_seconds(way, SIZE, [0], ALIKE) == 0

    def test_the_servers_bytes_grow_with_the_ranks_and_the_rings_do_not(self):
        free = Calibration(local=Link(0, BETA, BETA), between=None)
        for ranks in (2, 4, 8, 16, 64):
            hosts = one_host(ranks)
            assert seconds(star(ranks, SIZE), hosts, free) == pytest.approx((ranks - 1) * SIZE / BETA)
            assert SIZE / BETA <= seconds(ring(ranks, SIZE), hosts, free) < 2 * SIZE / BETA
            assert SIZE / BETA <= seconds(allreduce(ranks, SIZE), hosts, free) < 2 * SIZE / BETA

    def test_a_sum_that_sent_more_would_be_noticed(self, monkeypatch):
        """The closed forms above fail when the halves are not halved."""
        whole = collectives._exchange
        monkeypatch.setattr(collectives, "_exchange", lambda ranks, mask, size: whole(ranks, mask, 2 * size))
        with pytest.raises(AssertionError):
            TestClosedForms().test_allreduce(4)


class TestHosts:
    def test_those_of_a_host_share_its_link(self):
        """2 + 2: the gradients of both ranks over there come one after the other; the weights go there once."""
        hosts = [0, 0, 1, 1]
        assert crossing_bytes(star(4, SIZE), hosts) == (0, 2 * SIZE)
        assert crossing_bytes(broadcast(hosts, SIZE), hosts) == (SIZE, 0)
        assert crossing_bytes(allreduce(4, SIZE), hosts) == (SIZE, SIZE)
        server = exchange_seconds("server", SIZE, hosts, BETWEEN_ALONE)
        assert server == pytest.approx(3 * ALPHA + 3 * SIZE / BETA)
        assert exchange_seconds("allreduce", SIZE, hosts, BETWEEN_ALONE) == pytest.approx(2 * ALPHA + SIZE / BETA)

    def test_one_rank_each(self):
        assert exchange_seconds("server", SIZE, [0, 1], BETWEEN_ALONE) == pytest.approx(2 * (ALPHA + SIZE / BETA))
        assert exchange_seconds("allreduce", SIZE, [0, 1], BETWEEN_ALONE) == pytest.approx(2 * ALPHA + SIZE / BETA)

    def test_a_sum_over_an_uneven_number_sends_more_than_it_need(self):
        assert crossing_bytes(allreduce(4, SIZE), [0, 1, 1, 1]) == (1.5 * SIZE, 1.5 * SIZE)

    def test_the_bytes_of_a_round_add_up_each_way_by_itself(self):
        link = Link(ALPHA, BETA, BETA / 2)
        on = Calibration(local=None, between=link)
        one_way = Round(((0, 2, SIZE), (1, 3, SIZE)))
        assert seconds([one_way], [0, 0, 1, 1], on) == pytest.approx(ALPHA + 2 * SIZE / BETA)
        both = Round(((0, 2, SIZE), (3, 1, SIZE)))
        assert seconds([both], [0, 0, 1, 1], on) == pytest.approx(ALPHA + SIZE / (BETA / 2))

    def test_pairs_inside_a_host_go_at_the_same_time_while_there_are_cpus(self):
        pairs = Round(((0, 1, SIZE), (2, 3, SIZE)))
        once = ALPHA + SIZE / BETA
        assert seconds([pairs], one_host(4), Calibration(local=LINK, between=None, cpus=4)) == pytest.approx(once)
        assert seconds([pairs], one_host(4), Calibration(local=LINK, between=None, cpus=2)) == pytest.approx(2 * once)
        assert seconds([pairs], [0, 0, 1, 1], Calibration(local=LINK, between=None, cpus=1)) == pytest.approx(once)

    def test_a_link_that_was_not_measured_is_missed(self):
        with refused("between hosts"):
            seconds(gather(2, SIZE), [0, 1], Calibration(local=LINK, between=None))

    @pytest.mark.parametrize(
        ("ranks", "hosts", "where"),
        [(4, [0, 0, 1, 1], [0, 0, 1, 1]), (2, [0, 0, 1, 1], [0, 1]), (3, [0, 1], [0, 0, 1]), (3, [0], [0, 0, 0])],
    )
    def test_spread(self, ranks, hosts, where):
        assert spread(ranks, hosts) == where

    @pytest.mark.parametrize("hosts", [one_host(5), one_host(8), [0, 0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 2, 2, 1, 0, 3]])
    def test_everybody_hears_of_everything(self, hosts):
        ranks = len(hosts)
        everybody = set(range(ranks))
        assert heard(gather(ranks, SIZE), ranks)[0] == everybody
        assert all(0 in each for each in heard(broadcast(hosts, SIZE), ranks))
        assert all(each == everybody for each in heard(ring(ranks, SIZE), ranks))
        for size in (SIZE, 8):
            assert all(each == everybody for each in heard(allreduce(ranks, size), ranks))
        assert not all(each == everybody for each in heard(allreduce(ranks, 8)[:-1], ranks))


def heard(rounds: list[Round], ranks: int) -> list[set[int]]:
    """Of whom each rank has heard in the end, by the messages alone."""
    known = [{rank} for rank in range(ranks)]
    for one in rounds:
        before = [set(each) for each in known]
        for source, to, size in one.messages:
            assert source != to
            assert size > 0
            known[to] |= before[source]
    return known


class TestCrossing:
    def test_a_ring_wins_with_many_bytes_and_loses_with_few(self):
        least = crossing(one_host(16), ALIKE)
        assert least is not None
        for size, server_wins in ((least / 2, True), (2 * least, False)):
            took = {way: exchange_seconds(way, size, one_host(16), ALIKE) for way in ("server", "ring")}
            assert (took["server"] < took["ring"]) == server_wins

    def test_two_ranks_have_no_use_for_a_server(self):
        assert crossing([0, 1], ALIKE) == costs.LEAST

    def test_bandwidth_without_end_leaves_latency_alone(self):
        assert crossing(one_host(4), Calibration(local=Link(ALPHA, 1e30, 1e30), between=None)) is None


def test_computing_and_exchange_add_up():
    compute = Compute(gradient=1.0, update=0.1, step=1.3)
    for way, alone in (("server", 1.1), ("allreduce", 1.3), ("local", 1.3)):
        exchange = exchange_seconds(way, SIZE, [0, 1], ALIKE)
        assert step_seconds(way, SIZE, [0, 1], ALIKE, compute) == pytest.approx(alone + exchange)


def test_no_formula_for_what_is_not_known():
    with refused("async", "server"):
        exchange_seconds("async", SIZE, [0, 1], ALIKE)


def test_rows_and_calibrations_go_to_json_and_back():
    row = CostRow.of("server", 2, 1204, predicted=0.22, exchange=0.2, took=[0.3, 0.2, 0.1])
    assert (row.measured, row.low, row.high) == (0.2, 0.1, 0.3)
    assert row.off == pytest.approx(0.1)
    assert CostRow.from_summary(json.loads(json.dumps(row.summary()))) == row
    for links in itertools.product((LINK, None), repeat=2):
        on = Calibration(local=links[0], between=links[1], gamma=GAMMA, cpus=2)
        assert Calibration.from_summary(json.loads(json.dumps(on.summary()))) == on


def test_computing_between_what_was_measured():
    known = {2: Compute(4.0, 1.0, 5.0), 4: Compute(2.0, 1.0, 3.0)}
    assert costing.interpolate(known, 2) == known[2]
    assert costing.interpolate(known, 4) == costing.interpolate(known, 8) == known[4]
    between = costing.interpolate(known, 3)
    assert between.gradient == pytest.approx(8 / 3)  # all of it is 8/M
    assert between.update == pytest.approx(1.0)
    assert costing.interpolate({4: known[4]}, 2) == known[4]


class TestRefused:
    def test_options(self):
        with refused("workers = 1", "2 or more"):
            costing.CostSpec(workers=(1, 2))
        with refused("no option worker", "workers"):
            costing.measure_costs(worker=(2,))
        with refused("batch = 3", "4 workers"):
            costing.measure_costs(workers=(2, 4), batch=3)
