"""Every doubt, with what raises it and, beside it, what just does not."""

from __future__ import annotations

import pytest

from cooptim_lab.studies import doubts


def test_workers_that_take_turns():
    assert doubts.crowded(3, 2) == "3 workers on 2 CPUs take turns"
    assert doubts.crowded(2, 2) == ""


def test_too_short():
    said = "the shortest round took 0.9 ms, of which clocks and wake-ups are a part: give more epochs"
    assert doubts.too_short([1.0, 0.9e-3, 1.0]) == said
    assert doubts.too_short([1.0, doubts.SHORTEST_SECONDS]) == ""


class TestSlowFirst:
    def test_slower_than_all_others(self):
        assert doubts.slow_first([1.2, 1.0, 1.05]) == "slow first round: 1.2 s, the others took 1 to 1.05 s"

    @pytest.mark.parametrize(
        "seconds",
        [[1.09, 1.0, 1.0], [1.2, 1.0, 1.15], [1.0, 1.2, 1.0], [0.5, 1.0, 1.0], [2.0, 1.0], [2.0]],
        ids=["by little", "than some", "the second", "faster", "of two", "of one"],
    )
    def test_nothing_to_say(self, seconds):
        assert doubts.slow_first(seconds) == ""


class TestNoisy:
    def test_spread(self):
        assert doubts.noisy([0.89, 1.0, 1.11]) == "noisy: the rounds' speedups spread by 11 % of their mean"
        assert doubts.noisy([0.91, 1.0, 1.09]) == ""

    def test_one_that_lies_far_off_is_said_and_the_spread_is_not(self):
        ratios = [1.0] * 8 + [1.9]
        assert doubts.noisy(ratios) == "noisy: one round's 1.90× lies 73 % off the mean of the rounds, 1.10×"
        assert "lies 59 % off" in doubts.noisy([0.4] + [1.0] * 39)

    def test_one_of_many_that_lies_less_far_is_no_noise(self):
        assert doubts.noisy([1.0] * 39 + [1.4]) == ""

    def test_what_is_slow_alike_is_no_noise(self):
        assert doubts.noisy([2.0, 2.0, 2.0]) == ""

    def test_one_round_has_no_spread(self):
        assert doubts.noisy([7.0]) == ""


def test_fewer_threads():
    assert doubts.slow_threads(["", "a", "b"]) == "b"
    assert doubts.slow_threads(["a", ""]) == doubts.slow_threads([""]) == ""


@pytest.mark.parametrize("sign", [1, -1])
def test_another_score(sign):
    assert doubts.another_score("accuracy", 0.9 + sign * 0.05, 0.9).startswith("not the same result: accuracy ")
    assert doubts.another_score("accuracy", 0.9 + sign * 0.9 * doubts.SAME_ACCURACY, 0.9) == ""
    assert doubts.another_score("loss", 5.0, 0.1) == doubts.another_score("accuracy", None, 0.9) == ""


def test_all_of_the_seconds_of_one_way():
    said = list(doubts.of_seconds([2e-3, 0.5e-3, 0.5e-3], workers=3, cpus=2))
    assert [text.split()[0] for text in said] == ["3", "the", "slow"]
    assert list(doubts.of_seconds([1.0, 1.0, 1.0], workers=2, cpus=2)) == []
