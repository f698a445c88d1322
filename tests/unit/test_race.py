"""P of paired trainings, the race between plans, what is worth a training, and what is said of it all."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cooptim_lab.codesign import candidates
from cooptim_lab.codesign.figures import Figure, figure, in_words, interval_in_words
from cooptim_lab.codesign.gating import Gating
from cooptim_lab.codesign.goal import Goal, read_allowance, seconds_an_epoch, set_goal
from cooptim_lab.codesign.proof import Proof
from cooptim_lab.codesign.race import IN, OUT, Entry, choose, close_round, standing
from cooptim_lab.codesign.tuning import AS_IS, PLAN, TUNED, Part, Tuning
from cooptim_lab.levers import Plan
from cooptim_lab.levers.plan import NONE, read_lever
from cooptim_lab.runs.result import Result
from cooptim_lab.training.spec import Baseline
from tests.support import refused

INF = math.inf


class TestFigures:
    def test_of_finite_ratios_it_is_the_geometric_mean(self):
        found = figure([0.25, 0.25, 1.0, 1.0])
        assert found.value == pytest.approx(0.5)
        assert found.low < 0.5 < found.high
        assert (found.pairs, found.misses) == (4, 0)

    def test_of_one_there_is_no_interval(self):
        assert figure([0.5]) == Figure(0.5, None, None, 1, 0)
        assert figure([]) is None

    def test_a_miss_is_infinitely_slow(self):
        found = figure([0.4, 0.5, 0.6, INF, 0.5, 0.45])
        assert found.value == 0.5
        assert (found.low, found.high, found.misses) == (0.4, INF, 1)
        assert figure([0.4, INF, INF]).value == INF
        assert figure([0.4, INF]).value == INF  # half of them: nobody would call that a gain

    def test_five_with_a_miss_have_no_interval(self):
        assert figure([0.4, 0.5, 0.6, INF, 0.5]).low is None

    def test_it_is_json_and_back(self):
        for ratios in ([0.5], [0.5, 0.6], [0.4, 0.5, 0.6, INF, 0.5, 0.45], [INF]):
            found = figure(ratios)
            assert Figure.from_summary(json.loads(json.dumps(found.summary(), allow_nan=False))) == found

    def test_in_words(self):
        assert in_words(figure([0.5])) == "0.50"
        assert interval_in_words(figure([0.5])) == ""
        assert in_words(figure([INF])) == "never reached it"
        assert interval_in_words(figure([0.4, 0.5, 0.6, INF, 0.5, 0.45])) == "0.40 – ∞"

    @pytest.mark.parametrize("noise", [0.02, 0.1])
    def test_a_plan_beside_itself_is_told_apart_in_one_of_twenty(self, noise):
        """200 studies of five pairs with equal means; 16 would be too many of them (2.4 % for an exact interval)."""
        draw = random.Random(3)
        told = [
            figure([math.exp(draw.gauss(0, noise)) for _ in range(5)]).is_told_apart
            for _ in range(200)
        ]  # fmt: skip
        assert 2 <= sum(told) <= 16
        narrower = [
            figure([math.exp(draw.gauss(0, noise)) for _ in range(5)], level=0.6).is_told_apart
            for _ in range(200)
        ]  # fmt: skip
        assert sum(narrower) > 16  # the breakage


def result(path, metric_name="accuracy", **more):
    return Result(
        way="baseline", task="test", options={"seed": 0}, state="done", workers=1, threads=1, seconds=path[-1][1],
        steps=1, loss=path[-1][2], metric=path[-1][3], metric_name=metric_name, parameters=10, network_bytes=b"",
        path=tuple(path), **more,
    )  # fmt: skip


PATH = [(1, 0.1, 0.9, 0.80), (2, 0.2, 0.5, 0.95), (3, 0.3, 0.4, 0.94), (4, 0.4, 0.3, 0.97)]


class TestGoal:
    def test_seconds_are_those_until_it_is_reached_first(self):
        assert Goal(0.94, True).seconds(result(PATH)) == 0.2
        assert Goal(0.98, True).seconds(result(PATH)) == INF
        assert Goal(0.4, False).seconds(result(PATH)) == 0.3

    def test_it_is_the_median_last_score_less_the_allowance(self):
        paths = [[(1, 0.1, 0.5, accuracy)] for accuracy in (0.9, 0.96, 0.97)]
        assert set_goal([result(path) for path in paths], 0.005) == Goal(pytest.approx(0.955), True)

    @pytest.mark.parametrize("name", ["loss", "wer"])
    def test_of_another_metric_the_loss_is_judged(self, name):
        paths = [[(1, 0.1, loss, 7.0)] for loss in (0.5, 0.6, 0.7)]
        assert set_goal([result(path, name) for path in paths], 0.1) == Goal(pytest.approx(0.66), False)

    def test_an_epoch(self):
        assert seconds_an_epoch(result(PATH)) == pytest.approx(0.1)

    def test_what_may_be_lost(self):
        assert read_allowance("0.5%") == read_allowance("0.005") == 0.005
        assert read_allowance("0%") == 0
        for text in ("", "much", "-1%", "100%", "0.5%%", "1 % of it", "nan"):
            with refused("keep_accuracy", "0.5%"):
                read_allowance(text)


def entry(text, *ratios, gate=None):
    return Entry(Plan.read(text), gate=gate, to_goal=dict(enumerate(ratios)), an_epoch=dict(enumerate(ratios)))


class TestRace:
    def test_who_is_far_behind_in_the_first_round_is_out(self):
        entries = [entry("fused", 0.5), entry("threads=1", 0.9), entry("batch=128", 1.1)]
        assert [str(each.plan) for each in close_round(entries, 6)] == ["batch=128"]
        assert "far behind" in entries[2].why
        assert [each.state for each in entries] == [IN, IN, OUT]

    def test_who_missed_twice_is_out(self):
        entries = [entry("fused", 0.5, 0.5), entry("lr=4", INF, INF), entry("lr=2", INF, 0.2)]
        close_round(entries, 6)
        assert [each.state for each in entries] == [IN, OUT, IN]
        assert "2 of 2 seeds" in entries[1].why

    def test_a_miss_ranks_behind_all_that_have_none(self):
        entries = [entry("lr=4", 0.1, INF), entry("fused", 0.9, 0.9)]
        assert [str(each.plan) for each in standing(entries)] == ["fused", "lr=4"]

    def test_slower_seed_by_seed_is_out_though_seeds_differ_by_more(self):
        best = entry("fused", 0.20, 0.40, 0.30, 0.25)
        other = entry("batch=128", *(1.2 * ratio * (1 + 1e-3 * place) for place, ratio in best.to_goal.items()))
        close_round([best, other], 6)
        assert other.state == OUT
        assert "slower than the best" in other.why

    def test_errors_are_spent_over_plans_and_rounds(self):
        """Equal plans: the better half by luck must not throw the others out; without spending it would."""

        def thrown(rounds):
            draw, out = random.Random(1), 0
            for _ in range(40):
                entries = [entry("fused"), *(entry(f"batch={size}") for size in range(100, 108))]
                for number in range(6):
                    for each in entries:
                        if each.state == IN:
                            each.to_goal[number] = math.exp(draw.gauss(0, 0.05))
                    close_round(entries, rounds)
                out += sum(each.state == OUT for each in entries)
            return out / (40 * 9)

        assert thrown(6) < 0.1
        assert thrown(6) < 0.5 * thrown(0.01)

    def test_of_ties_the_fewest_levers_win(self):
        long = entry("batch=256,lr=4,fused,threads=1", 0.30, 0.31, 0.30)
        short = entry("batch=256,lr=4", 0.31, 0.30, 0.31)
        winner, tied = choose([long, short, entry("fused", 0.6, 0.61, 0.6)])
        assert winner is short
        assert tied == [long]

    def test_who_is_told_apart_does_not_tie(self):
        winner, tied = choose([entry("batch=256,lr=4", 0.30, 0.31, 0.30), entry("fused", 0.35, 0.36, 0.35)])
        assert str(winner.plan) == "batch=256,lr=4"
        assert tied == []

    def test_without_any_there_is_none(self):
        with pytest.raises(ValueError, match="no plan was trained"):
            choose([entry("fused")])


LEVERS = [read_lever(text) for text in (
    "subnets=4", "narrow=0.5", "shards=2", "workers=2", "threads=1", "batch=128", "batch=256", "lr=1.41", "lr=2",
    "lr=4", "fused", "bf16-products", "autocast",
)]  # fmt: skip


class TestCandidates:
    def test_levers_alone(self):
        assert list(map(str, candidates.singles(LEVERS))) == [
            "narrow=0.5", "threads=1", "batch=128", "batch=256", "fused", "bf16-products", "autocast",
        ]  # fmt: skip

    def test_those_that_change_nothing_are_put_together_where_they_are_faster(self):
        gates = {"threads=1": 0.7, "fused": 0.8, "autocast": 0.5}
        assert str(candidates.put_together(LEVERS, gates)) == "fused,threads=1"
        assert str(candidates.put_together(LEVERS, {"threads=1": 1.2, "fused": 0.99})) == ""

    def test_combined_with_each_batch_and_without_threads(self):
        fast = Plan.read("fused,threads=1")
        plans = list(map(str, candidates.combined(LEVERS, fast, {"autocast": 3.0})))
        assert "batch=256,fused,threads=1" in plans
        assert "batch=256,fused" in plans
        assert "narrow=0.5,batch=128,fused,threads=1" in plans
        assert not [text for text in plans if "autocast" in text]  # three times slower on the small batch
        assert len(plans) == len(set(plans))

    def test_a_larger_batch_is_trained_with_each_rule(self):
        gates = {"batch=256,fused": 0.3, "batch=128,fused": 1.1}
        chosen = candidates.of_rules(LEVERS, Plan.read("fused"), gates, 64)
        assert list(map(str, chosen)) == ["fused", "batch=256,lr=4,fused", "batch=256,lr=2,fused", "batch=256,fused"]

    def test_of_threads_the_faster_is_taken_for_each_batch(self):
        fast = Plan.read("fused,threads=1")
        gates = {"fused": 0.9, "fused,threads=1": 0.7, "batch=256,fused": 0.3, "batch=256,fused,threads=1": 0.5}
        chosen = list(map(str, candidates.of_rules(LEVERS, fast, gates, 64)))
        assert chosen[0] == "fused,threads=1"
        assert "batch=256,lr=4,fused" in chosen
        assert "batch=256,lr=4,fused,threads=1" not in chosen

    def test_others_follow_the_best_rule_of_their_batch(self):
        gates = {"narrow=0.5,batch=256,fused": 0.2, "narrow=0.5,fused": 0.6, "narrow=0.5,batch=128,fused": 0.4}
        rules = {None: None, 256: read_lever("lr=2")}
        chosen = candidates.of_others(LEVERS, Plan.read("fused"), gates, rules)
        assert list(map(str, chosen)) == ["narrow=0.5,batch=256,lr=2,fused", "narrow=0.5,fused"]

    def test_other_ways(self):
        plans = candidates.of_ways(LEVERS, Plan.read("fused,threads=1"), Plan.read("batch=256,lr=4,fused"))
        assert list(map(str, plans)) == [
            "subnets=4,threads=1", "subnets=4,batch=256,lr=4,threads=1", "shards=2", "batch=256,lr=4,shards=2",
        ]  # fmt: skip
        more = candidates.on_more_ranks(LEVERS, plans[1])
        assert list(map(str, more)) == ["subnets=4,batch=256,lr=4,workers=2"]
        assert candidates.on_more_ranks(LEVERS, plans[2]) == []

    def test_levers_of_another_way_only_come_with_it(self):
        levers = [*LEVERS, read_lever("sync=4"), read_lever("sync=16")]
        plans = list(map(str, candidates.of_ways(levers, Plan.read("fused"), Plan.read("batch=256,fused"))))
        assert plans == [
            "subnets=4", "subnets=4,batch=256", "shards=2", "batch=256,shards=2", "shards=2,sync=4", "shards=2,sync=16",
        ]  # fmt: skip
        assert not any("sync" in str(plan) for plan in candidates.singles(levers))

    def test_neighbours(self):
        plans = list(map(str, candidates.neighbours(LEVERS, Plan.read("batch=128,lr=2,fused"))))
        assert plans == ["batch=256,lr=2,fused", "batch=128,lr=4,fused", "batch=128,lr=1,fused"]
        assert list(map(str, candidates.neighbours(LEVERS, Plan.read("fused")))) == ["lr=2,fused"]


def part(title, plan, *ratios, **more):
    return Part(title, Plan.read(plan), to_goal=list(ratios), an_epoch=list(ratios), seconds=list(ratios), **more)


def tuned(*parts, winner=("batch=256,fused", 0.25, 0.26, 0.27), tied=()):
    made = Tuning(batch=64, epochs=20, goal=Goal(0.97, True), parts=list(parts))
    made.choose(entry(*winner), tied)
    return made


DEFAULT = part(AS_IS, "", 1.0, 1.0, 1.0, 1.0, 1.0)


class TestWhatIsSaid:
    def test_the_proof_is_the_headline_and_the_race_stands_beside_it(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", 0.30, 0.31, 0.30, 0.29, 0.30))
        assert made.headline.value == pytest.approx(0.30, abs=0.01)
        assert str(made.plan) == "batch=256,fused"
        said = " | ".join(made.sentences())
        assert said.startswith("P = 0.30, between 0.29 and 0.31 (95 %) to accuracy 97.0 %: batch=256,fused")
        assert "the race itself said 0.26; the proof counts" in said
        assert '%cooptim train --plan "batch=256,fused" --epochs 20 --batch 64' in said

    def test_no_gain_is_a_result(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", 0.8, 1.5, 0.9, 1.3, 1.05))
        assert made.plan == NONE
        assert made.sentences()[0].startswith(
            "no gain on this machine: the best of the race, batch=256,fused, has P 1."
        )

    def test_a_gain_that_the_noise_hides_is_none(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", 0.5, 1.1, 0.6, 1.0, 0.7))
        assert made.plan == NONE
        assert made.sentences()[0].startswith("no gain told apart from noise")

    def test_a_plan_that_never_reaches_it_is_no_gain(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", INF, INF, 0.3, INF, 0.3))
        assert made.plan == NONE
        assert "never reached it" in made.sentences()[0]

    def test_beside_the_tuned_default(self):
        made = tuned(
            DEFAULT, part(TUNED, "fused", 0.8, 0.8, 0.8, 0.8, 0.8), part(PLAN, "batch=256,fused", *[0.4] * 5)
        )  # fmt: skip
        assert made.beside_tuned.value == pytest.approx(0.5)
        assert any("beside the default with fused: P = 0.50" in text for text in made.sentences())

    def test_what_most_of_it_comes_from(self):
        made = tuned(
            DEFAULT,
            part(PLAN, "batch=256,fused", *[0.4] * 5),
            part("without batch=256", "fused", *[0.8] * 5),
            part("without fused", "batch=256", *[0.45] * 5),
        )
        assert any("most of it comes from batch=256: without it P is 0.80" in text for text in made.sentences())

    def test_without_any_of_them_it_is_the_same(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", *[0.4] * 5), part("without fused", "batch=256", *[0.4] * 5))
        assert any("no single lever is missed" in text for text in made.sentences())

    def test_ties_are_told(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", *[0.4] * 5), tied=[entry("fused", 0.3)])
        assert any("not told apart from it in the race: fused" in text for text in made.sentences())

    def test_stopped_before_the_proof(self):
        made = tuned()
        first, again = made.sentences()
        assert first.startswith("stopped before the proof: batch=256,fused led with P 0.26 (0.2")
        assert again == 'try it: %cooptim train --plan "batch=256,fused" --epochs 20 --batch 64'

    def test_misses_stand_beside_the_headline(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", INF, 0.5, 0.4, INF, 0.3))
        said = made.sentences()
        assert made.plan == NONE  # five with a miss have no interval: nobody knows that it is faster
        assert said[0].startswith("no gain told apart from noise: the best of the race, batch=256,fused, has P 0.50")
        assert said[1].startswith("it missed the goal on 2 of 5 seeds")
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", INF, *[0.4] * 8))
        assert made.sentences()[0].startswith("P = 0.40, between 0.40 and 0.40 (95 %) to accuracy")
        assert made.sentences()[1].startswith("it missed the goal on 1 of 9 seeds")

    def test_a_lever_left_out_is_compared_in_its_own_rounds(self):
        """One round, in which the plan missed too, says nothing of the lever."""
        plan = part(PLAN, "batch=256,fused", INF, *[0.4] * 8)
        made = tuned(DEFAULT, plan, part("without fused", "batch=256", INF))
        assert not any("comes from" in text or "no single lever" in text for text in made.sentences())
        plan = part(PLAN, "batch=256,fused", 0.4, INF, *[0.4] * 7)
        made = tuned(DEFAULT, plan, part("without fused", "batch=256", INF))
        assert any("most of it comes from fused: without it it never" in text for text in made.sentences())

    def test_it_is_json(self):
        made = tuned(DEFAULT, part(PLAN, "batch=256,fused", INF, *[0.4] * 5))
        json.dumps(made.summary(), allow_nan=False)
        json.dumps([replace(DEFAULT).summary(), entry("fused", INF).summary()], allow_nan=False)


@pytest.mark.parametrize("seconds, rounds", [(10.0, 5), (1.0, 9)])
def test_the_rounds_of_a_proof_are_counted(seconds, rounds):
    """A round that the budget has no room for is none."""

    class Study:
        seed, spent, budget, goal = 0, 0.0, 9.5, Goal(0.9, True)

        def __init__(self):
            self.said, self.trained, self.tuning = [], 0, Tuning(batch=64, epochs=2)

        def train(self, plans, seed, where):
            self.trained, self.spent = self.trained + 1, self.spent + seconds
            return [result([(1, 1.0, 0.1, 0.95)], 0.95) for _ in plans]

        def say(self, text):
            self.said.append(text)

        def post(self, part):
            pass

    study = Study()
    Proof(study, Plan.read("fused"), NONE).carry()
    assert study.trained == rounds
    assert study.said == [f"the proof: {rounds} rounds of fresh seeds in {study.spent:.0f} s"]


class TestGating:
    def test_plans_whose_steps_are_alike_are_timed_once(self):
        asked = []

        def ask(program, *, spec, plans, seed):
            asked.extend(map(str, plans))
            return [[(0.5, "")] * len(plans)]

        entries = {}
        study = SimpleNamespace(
            entry=lambda plan: entries.setdefault(str(plan), Entry(plan)), post=lambda entry: None,
            phase=lambda said: None,
        )  # fmt: skip
        levers = [read_lever(text) for text in ("narrow=0.5", "prune=0.5", "fused", "batch=128")]
        fast, gates = Gating(study, ask, Baseline()).pass_gates(levers)
        assert len(asked) == len(set(asked)) and not any("prune" in text for text in asked)
        assert gates["prune=0.5"] == gates["narrow=0.5"] == entries["prune=0.5"].gate == 0.5
        assert gates["prune=0.5,batch=128,fused"] == 0.5 and str(fast) == "fused"
