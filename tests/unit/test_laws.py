"""Laws of scaling: their identities, what fits find again, what the data cannot tell; a breakage beside each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cooptim_lab.scaling.forecast import FEWEST, forecast
from cooptim_lab.scaling.laws import GUSTAFSON, LAWS, STRONG, WEAK, Series, fit
from cooptim_lab.scaling.losses import explain, karp_flatt, lost
from tests.support import refused

COUNTS = (1, 2, 4, 8, 16, 32)
N = np.array(COUNTS, float)


def series(rates, scaling=STRONG, counts=COUNTS, **more):
    return Series(counts=tuple(counts), rates=tuple(map(float, rates)), scaling=scaling, **more)


def usl(sigma, kappa, scale=3.0):
    return scale * N / (1 + sigma * (N - 1) + kappa * N * (N - 1))


def test_usl_without_crosstalk_is_amdahl():
    rates = usl(0.07, 0.0)
    one, other = (fit(LAWS[name], series(rates)).rate([64, 1024]) for name in ("USL", "Amdahl"))
    assert one == pytest.approx(rates_of_amdahl(0.07, [64, 1024]), rel=1e-9)
    assert one == pytest.approx(other, rel=1e-9)
    apart = fit(LAWS["Amdahl"], series(usl(0.07, 1e-3))).rate([1024])
    assert apart != pytest.approx(fit(LAWS["USL"], series(usl(0.07, 1e-3))).rate([1024]), rel=0.5)


def rates_of_amdahl(serial, counts):
    n = np.array(counts, float)
    return 3.0 / (serial + (1 - serial) / n)


def test_karp_flatt_is_constant_on_amdahls_data_and_grows_where_more_is_told():
    serial = [karp_flatt(rate / 3.0, n) for n, rate in zip(COUNTS[1:], rates_of_amdahl(0.1, COUNTS[1:]), strict=True)]
    assert serial == pytest.approx([0.1] * 5, rel=1e-12)
    told = [karp_flatt(rate / 3.0, n) for n, rate in zip(COUNTS[1:], usl(0.01, 1e-3)[1:], strict=True)]
    assert all(b > a * 1.05 for a, b in itertools.pairwise(told))
    with refused("a serial fraction needs 2 workers"):
        karp_flatt(1.0, 1)


def test_what_is_lost_adds_up():
    ranks = [
        {"compute": 6.0, "communication": 1.0, "waiting": 3.0},
        {"compute": 8.0, "communication": 1.0, "waiting": 1.0},
    ]
    assert lost(ranks) == pytest.approx((0.2, 0.1))
    assert lost([]) == (0, 0)
    assert explain(0.2, 0.1) == "30 % is lost: 20 % waiting, 10 % exchanging"
    assert explain(0.2, 0.1, 0.65) == "35 % is lost: 20 % waiting, 10 % exchanging, 5 % more work in total"
    said = "20 % is lost: 20 % waiting, 10 % exchanging; they compute 10 % less in total than one alone"
    assert explain(0.2, 0.1, 0.8) == said
    assert explain(0.0, 0.001) == "nothing is lost"


@pytest.mark.parametrize("scaling", [STRONG, WEAK])
@pytest.mark.parametrize("name", ["ring", "ring with latency", "tree", "USL", "Amdahl", "ideal"])
def test_one_worker_tells_nobody_anything(name, scaling):
    """At N = 1 whatever is told is free: a unit of work takes what it computes."""
    terms = LAWS[name].terms(np.array([1.0, 4.0]), series(N, scaling))
    free = 1 if name == "Amdahl" else 0  # whose second part is not told, but never divided
    assert sum(term[0] for term in terms) == 1 + free
    assert name == "ideal" or sum(term[1] for term in terms) > 0.25


@pytest.mark.parametrize("name", [name for name in LAWS if name not in ("server", "ideal")])
@pytest.mark.parametrize("scaling", [STRONG, WEAK])
def test_a_fit_finds_the_weights_that_made_the_data(name, scaling):
    if name == GUSTAFSON:
        if scaling == STRONG:
            assert fit(LAWS[name], series(N, scaling)) is None
            return
        rates = 2.0 * N + 0.5
    else:
        terms = LAWS[name].terms(N, series(N, scaling, per_host=4))
        rates = 1 / sum(weight * term for weight, term in zip((1.0, 0.2, 0.05, 0.02), terms, strict=False))
    made = fit(LAWS[name], series(rates, scaling, per_host=4))
    assert made.residual < 1e-9
    other = fit(LAWS["ideal"], series(rates, scaling, per_host=4))
    assert other.residual > 1e-3


def test_a_server_is_divided_but_not_its_largest_tensor():
    told = [1.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    servers = tuple(map(int, told))
    share = np.maximum(1 / np.array(told), 0.25)
    rates = 1 / (1 / N + 0.01 * (N - 1) * share)
    given = {"servers": servers, "largest": 0.25}
    assert fit(LAWS["server"], series(rates, **given)).residual < 1e-9
    assert fit(LAWS["server"], series(rates, servers=servers)).residual > 1e-2
    assert fit(LAWS["server"], series(rates)) is None


def test_strong_and_weak_are_not_the_same_law():
    step = 1 + 0.1 * (N - 1) / N
    weak = series(N / step, WEAK)
    assert fit(LAWS["ring"], weak).residual < 1e-9
    assert fit(LAWS["ring"], series(N / step, STRONG)).residual > 1e-3
    assert Series.of_seconds(COUNTS, step, scaling=WEAK).rates == pytest.approx(weak.rates)


def test_relative_residuals_count_a_small_point_like_a_large_one():
    rates = rates_of_amdahl(0.02, COUNTS)
    rates[0] *= 1.1
    off = np.abs(np.log(fit(LAWS["Amdahl"], series(rates)).rate(COUNTS) / rates))
    assert off[0] > 0.03
    assert off[-1] > 0.005


class TestForecast:
    def test_the_law_that_made_the_data_is_chosen_and_right(self):
        rates = usl(0.02, 5e-4)
        found = forecast(series(rates))
        (point,) = found.at([64])
        assert point.rate == pytest.approx(3.0 * 64 / (1 + 0.02 * 63 + 5e-4 * 64 * 63), rel=0.02)
        assert point.low < point.rate < point.high
        assert point.tells

    def test_the_interval_grows_with_noise(self):
        quiet = forecast(series(rates_of_amdahl(0.05, COUNTS))).at([64])[0]
        noise = np.array([1, 1.1, 0.9, 1.12, 0.88, 1.1])
        loud = forecast(series(rates_of_amdahl(0.05, COUNTS) * noise)).at([64])[0]
        assert loud.high / loud.low > 1.3 * quiet.high / quiet.low
        assert not loud.tells

    def test_fewer_than_four_counts_cannot_tell(self):
        with refused("1, 2, 4", "cannot tell", str(FEWEST)):
            forecast(series((1, 2, 3), counts=(1, 2, 4)))

    def test_workers_that_take_turns_are_left_out(self):
        rates = [*rates_of_amdahl(0.05, COUNTS[:5]), 1.0]
        assert forecast(series(rates, cores=16)).series.counts == COUNTS[:5]
        assert forecast(series(rates, cores=16)).at([64])[0].rate > 20
        assert not forecast(series(rates)).at([64])[0].tells
        with refused("up to the 4 cores: 1, 2, 4", "cannot tell"):
            forecast(series(rates, cores=4))

    def test_more_than_ideal_is_taken_as_it_is(self):
        rates = [1, 2.2, 4.6, 9.4, 19, 38]
        (point,) = forecast(series(rates)).at([64])
        assert 60 < point.rate < 90

    def test_what_to_measure_next_is_where_laws_part_for_its_cost(self):
        found = forecast(series(rates_of_amdahl(0.05, COUNTS[:4]), counts=COUNTS[:4]))
        apart = {n: np.ptp(np.log([one.rate([n])[0] for one in found.fan])) / n for n in (16, 32, 64, 128)}
        assert found.next_to_measure((8, 16, 32, 64, 128)) == max(apart, key=apart.get)
        assert found.next_to_measure((1, 2)) is None


class TestBadInput:
    def test_counts_and_rates(self):
        with refused("counts = 1, 2, 2", "each once"):
            series((1, 2, 3), counts=(1, 2, 2))
        with refused("2 counts and 3 rates"):
            series((1, 2, 3), counts=(1, 2))
        with refused("a rate is 0.0", "above 0"):
            series((1, 0, 3), counts=(1, 2, 3))
        with refused("a rate is nan"):
            series((1, float("nan"), 3), counts=(1, 2, 3))
        with refused("scaling = 'both'", "strong or weak"):
            series((1, 2), "both", (1, 2))
        with refused("3 counts and 1 servers"):
            series((1, 2, 3), counts=(1, 2, 3), servers=(1,))

    def test_a_series_without_one_worker_begins_where_it_begins(self):
        assert series((10, 18, 30, 50), counts=(8, 16, 32, 64)).speedup() == pytest.approx((8, 14.4, 24, 40))
