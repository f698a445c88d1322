"""What a measurement says: closed forms of P, speedup and efficiency, range and interval of the rounds, every doubt."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cooptim_lab import Result
from cooptim_lab.studies.doubts import SAME_ACCURACY, SHORTEST_SECONDS, SPREAD
from cooptim_lab.studies.intervals import ratio_interval
from cooptim_lab.studies.rows import BEYOND, Row, measure, no_gain


def result(seconds: float, **other) -> Result:
    """One training that took so long."""
    fields = {"way": "sharded", "workers": 2, "loss": 0.1, "metric": 0.97, "metric_name": "accuracy", **other}
    fixed = {"task": "t", "options": {"seed": 0}, "state": "done", "threads": 1, "steps": 10, "parameters": 99}
    return Result(seconds=seconds, **fixed, **fields, network_bytes=b"")


def rounds(*seconds: float, **other) -> list[Result]:
    return [result(each, **other) for each in seconds]


def baseline(*seconds: float, **other) -> list[Result]:
    return rounds(*seconds, way="baseline", workers=1, **other)


def test_closed_forms():
    row = measure("two shards", rounds(2.0), baseline(3.0), cpus=2)
    assert (row.seconds, row.baseline_seconds) == (2.0, 3.0)
    assert row.ratio == 2 / 3
    assert row.speedup == 1.5
    assert row.efficiency == 0.75
    assert (row.low, row.high, row.repeats) == (1.5, 1.5, 1)
    assert (row.title, row.way, row.workers, row.parameters) == ("two shards", "sharded", 2, 99)


def test_the_baseline_beside_itself_is_one():
    side = baseline(2.0, 1.0, 3.0)
    row = measure("as it is", side, side, cpus=1)
    assert (row.ratio, row.speedup, row.efficiency, row.low, row.high) == (1, 1, 1, 1, 1)
    assert row.warnings == ()


def test_medians_of_odd_and_even_rounds():
    assert measure("", rounds(9, 1, 2), baseline(6, 8, 7), cpus=2).seconds == 2
    assert measure("", rounds(9, 1, 2), baseline(6, 8, 7), cpus=2).baseline_seconds == 7
    assert measure("", rounds(1, 2, 4, 9), baseline(1, 1, 1, 1), cpus=2).seconds == 3


def test_scores_are_medians_over_the_rounds():
    side = [result(1, loss=loss, metric=metric) for loss, metric in ((0.3, 0.9), (0.1, 0.99), (0.2, 0.95))]
    row = measure("", side, baseline(1, 1, 1), cpus=2)
    assert (row.loss, row.metric, row.metric_name) == (0.2, 0.95, "accuracy")


def test_identities_on_random_measurements():
    """P·S = 1, efficiency·workers = S, and the ratio of the medians lies in the range of the rounds' ratios."""
    random = np.random.default_rng(0)
    for _ in range(300):
        n, workers = int(random.integers(1, 9)), int(random.integers(1, 9))
        after = rounds(*random.lognormal(sigma=1.5, size=n), workers=workers, way="subnets")
        before = baseline(*random.lognormal(sigma=1.5, size=n))
        row = replace(measure("", after, before, cpus=8), trouble="")  # that they disagree is another matter
        assert row.ratio * row.speedup == pytest.approx(1, rel=1e-14)
        assert row.efficiency * workers == pytest.approx(row.speedup, rel=1e-14)
        assert row.low * (1 - 1e-14) <= row.speedup <= row.high * (1 + 1e-14)
        if row.interval is not None:
            assert row.interval[0] <= row.speedup <= row.interval[1]


def test_the_mean_of_ratios_would_break_it():
    """Beside the identity: ratios of unpaired rounds need not bracket the ratio of the medians."""
    after, before = [1.0, 2.0, 100.0], [300.0, 1.0, 2.0]
    mean_of_ratios = float(np.mean(np.divide(before, after)))
    assert mean_of_ratios != pytest.approx(
        replace(measure("", rounds(*after), baseline(*before), cpus=2), trouble="").speedup, rel=0.5
    )


def test_the_range_is_of_rounds_measured_together():
    """A machine that is slow in one round is slow on both sides: no spread."""
    row = measure("", rounds(1, 10), baseline(2, 20), cpus=2)
    assert (row.low, row.high) == (2, 2)
    assert row.warnings == ()


def test_oversubscribed():
    assert measure("", rounds(1, workers=4), baseline(1), cpus=2).warnings == ("4 workers on 2 CPUs take turns",)
    assert measure("", rounds(1, workers=4), baseline(1), cpus=4).warnings == ()


def test_noisy():
    within, beyond = 1 + 0.8 * SPREAD, 1 + 3 * SPREAD  # of three rounds, one: a deviation of 1/√3 of it
    assert measure("", rounds(1, 1, 1), baseline(1, 1, within), cpus=2).warnings == ()
    (doubt,) = measure("", rounds(1, 1, 1), baseline(1, 1, beyond), cpus=2).warnings
    assert doubt == "noisy: the rounds' speedups spread by 16 % of their mean"


def test_every_way_has_the_doubts_of_its_own_seconds():
    slow, short = rounds(1.5, 1, 1), baseline(0.5 * SHORTEST_SECONDS, 0.5 * SHORTEST_SECONDS)
    assert measure("", slow, baseline(1.5, 1, 1), cpus=2).warnings == (
        "slow first round: 1.5 s, the others took 1 to 1 s",
    )
    assert measure("", rounds(1, 1, 1), baseline(1.1, 1, 1), cpus=2).warnings == ()
    assert measure("", short, short, cpus=2).warnings[0].startswith("the shortest round took 0.5 ms")


class TestInterval:
    def test_of_the_rounds_own_ratios(self):
        row = measure("", rounds(1, 2, 1), baseline(1.5, 3.1, 1.6), cpus=2)
        low, high, _ = ratio_interval([1.5, 1.55, 1.6])
        assert row.interval == (low, high)
        assert row.noise == pytest.approx(0.0323, abs=1e-4)
        assert row.interval[0] < row.low < row.high < row.interval[1]
        assert row.is_told_apart

    def test_reaches_as_far_as_the_speedup(self):
        """The medians are of one round here, which gains nothing; the mean of all rounds does."""
        after, before = [2.1, 2.9, 2.6, 1.0, 2.7], [2.5, 3.2, 2.6, 1.2, 3.2]
        row = measure("", rounds(*after), baseline(*before), cpus=2)
        alone = ratio_interval([one / other for one, other in zip(before, after, strict=True)])
        assert alone.low > row.speedup == 1
        assert row.interval == (1, alone.high)
        assert not row.is_told_apart

    @pytest.mark.parametrize(
        "row",
        [
            measure("", rounds(1), baseline(1.5), cpus=2),
            measure("", rounds(1, 1), baseline(1, 3), cpus=2),
            measure("", rounds(1, 1), baseline(50, 50), cpus=2),
            measure("", rounds(1, 1), baseline(1, 1), cpus=2, disturbed=["others", "others"]),
            Row.refused("subnets", "", 2, "no"),
        ],
        ids=["one round", "disagree", "impossible", "busy", "refused"],
    )
    def test_none_where_nothing_is_known(self, row):
        assert (row.interval, row.noise, row.is_told_apart, no_gain(row)) == (None, None, None, "")

    def test_of_the_rounds_that_count(self):
        side, before = rounds(1, 9, 1), baseline(1.5, 1.5, 1.5)
        assert measure("", side, before, cpus=2, disturbed=["", "others", ""]).interval == (1.5, 1.5)

    def test_a_record_of_old_has_none(self):
        row = measure("", rounds(1, 1), baseline(1.5, 1.6), cpus=2)
        old = {name: value for name, value in row.summary().items() if name not in ("interval", "noise")}
        assert Row.from_summary(old) == replace(row, interval=None, noise=None)


class TestNoGain:
    def test_an_interval_that_holds_1(self):
        row = measure("2 shards", rounds(1, 1, 1), baseline(1.0, 1.04, 1.05), cpus=2)
        said = no_gain(row)
        assert said.startswith("'2 shards': no gain told apart from noise, 1/P lies between 0.97 and 1.10 (95 %)")
        assert said.endswith("; at this noise some 5 rounds would show 4 %")

    def test_nothing_where_it_leaves_out_1(self):
        assert no_gain(measure("", rounds(1, 1, 1), baseline(1.4, 1.44, 1.45), cpus=2)) == ""
        assert no_gain(measure("", rounds(1, 1, 1), baseline(0.7, 0.71, 0.72), cpus=2)) == ""

    def test_the_baseline_is_not_compared_with_itself(self):
        side = baseline(1, 1.1)
        assert no_gain(measure("as it is", side, side, cpus=2)) == ""

    def test_rounds_that_are_there_are_not_asked_for(self):
        assert "rounds" not in no_gain(measure("", rounds(1, 1, 1), baseline(1, 1.0001, 1), cpus=2))


def test_one_round_has_no_spread_to_doubt():
    assert measure("", rounds(1), baseline(2), cpus=2).warnings == ()


@pytest.mark.parametrize("sign", [1, -1])
def test_another_accuracy(sign):
    def row(difference: float) -> Row:
        return measure("", rounds(1, metric=0.9 + sign * difference), baseline(1, metric=0.9), cpus=2)

    assert row(0.9 * SAME_ACCURACY).warnings == ()
    (doubt,) = row(0.05).warnings
    assert doubt == f"not the same result: accuracy {100 * (0.9 + sign * 0.05):.1f} %, as it is 90.0 %"


def test_other_metrics_have_no_scale_to_be_compared_on():
    side = rounds(1, metric=50.0, metric_name="loss")
    assert measure("", side, baseline(1, metric=0.1, metric_name="loss"), cpus=2).warnings == ()


def test_shards_cannot_gain_more_than_their_number():
    row = measure("", rounds(1), baseline(50), cpus=2)
    assert (row.is_busy, row.speedup, row.ratio, row.efficiency, row.serial_fraction) == (True, *[None] * 4)
    assert (row.figure, row.low, row.high) == ("more than workers can give: not measured", None, None)
    assert row.warnings == ("the rounds say more than 2 workers can gain: the baseline was slowed by something else",)
    assert measure("", rounds(1), baseline(2 * 0.99 * BEYOND), cpus=2).speedup == 2 * 0.99 * BEYOND
    assert measure("", rounds(1, way="subnets"), baseline(50), cpus=2).speedup == 50


def test_rounds_that_disagree():
    row = measure("", rounds(1, 1, way="subnets"), baseline(1, 3), cpus=2)
    assert (row.is_busy, row.speedup, row.low, row.high) == (True, None, 1, 3)
    assert "×" not in " ".join(row.warnings)


@pytest.mark.parametrize(("seconds", "fraction"), [(1.5, 1.0), (0.75, 0.0), (1.0, 1 / 3), (1.6, None), (0.7, None)])
def test_a_serial_fraction_is_a_fraction(seconds, fraction):
    assert measure("", rounds(seconds), baseline(1.5), cpus=2).serial_fraction == (
        None if fraction is None else pytest.approx(fraction)
    )


def test_disturbed_rounds_count_for_scores_only():
    side, before = [result(1, metric=0.5), result(9, metric=0.7), result(1, metric=0.6)], baseline(2, 2, 2)
    row = measure("", side, before, cpus=2, disturbed=["", "others", ""])
    assert (row.speedup, row.low, row.high, row.repeats, row.disturbed, row.metric) == (2, 2, 2, 3, 1, 0.6)
    row = measure("", side, before, cpus=2, disturbed=["others", "", "others again"])
    assert (row.speedup, row.low, row.high, row.disturbed, row.metric) == (None, 2 / 9, 2, 2, 0.6)
    assert row.warnings[0] == "busy: others again"


def test_a_baseline_slowed_by_its_threads_is_doubted():
    slow, well = ((2, 3e-3), (1, 1e-3)), ((2, 1e-3), (1, 1e-3))
    assert measure("", [result(1, tried=slow)], baseline(1), cpus=2).warnings[0].endswith("with 1 thread 1 ms")
    assert measure("", [result(1, tried=slow), result(1, tried=well)], baseline(1, 1), cpus=2).warnings == ()


def test_doubts_add_up():
    row = measure("", rounds(1, 1, workers=3, metric=0.5), baseline(1, 1.5), cpus=1)
    assert [doubt.split()[0] for doubt in row.warnings] == ["3", "noisy:", "not"]


@pytest.mark.parametrize(("after", "before"), [(0, 0), (1, 0), (0, 1), (2, 3)])
def test_rounds_without_a_partner(after, before):
    with pytest.raises(ValueError, match=f"^{after} results beside {before} of the baseline: give as many of both"):
        measure("", rounds(*[1.0] * after), baseline(*[1.0] * before), cpus=2)


def test_json_round_trip():
    row = measure("4 Netze ×", rounds(0.1, 0.3, workers=9), baseline(1 / 3, 1.5), cpus=2)
    assert row.warnings
    text = json.dumps(row.summary())
    assert Row.from_summary(json.loads(text)) == row
    assert json.loads(text)["efficiency"] == row.efficiency
    refused = Row.refused("subnets", "4 Netze", 2, "no")
    assert Row.from_summary(json.loads(json.dumps(refused.summary(), allow_nan=False))) == refused
    assert Row.from_summary(json.loads(text)) != replace(row, seconds=row.seconds + 1e-9)
