"""What disturbs a round, and what a study makes of it: readings and trainings are handed in, nothing is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from cooptim_lab import InputError, Result
from cooptim_lab.hardware.load import Disturbance, Reading
from cooptim_lab.runs.events import Beside, Measured, Note, Phase
from cooptim_lab.runs.result import SLICE, WAITS_MUCH, ready_waiting, slow_by_threads
from cooptim_lab.studies.compare import Comparison
from cooptim_lab.studies.quiet import OTHERS, PATIENCE_SECONDS, STOLEN, Surroundings, disturbed, disturbs, throttled
from cooptim_lab.studies.rounds import Rounds
from cooptim_lab.studies.rows import BUSY, REFUSED
from cooptim_lab.studies.seeds import SeedRounds, SeedStudy
from cooptim_lab.training.spec import Baseline, Sharded, Subnets

QUIET = Disturbance(1.0, 0.0, 0.0, 0.0, 0.0)
UNKNOWN = Disturbance(1.0, None, None, None, None)
LOUD = Disturbance(1.0, 0.9, 0.0, 0.0, 0.0)


def result(seconds: float = 1.0, waiting: float | None = 0.0, **other) -> Result:
    """One training, of which a rank waited this share of its time."""
    fields = {"way": "sharded", "workers": 2, "threads": 1, "options": {"seed": 0}, **other}
    fixed = {"task": "t", "state": "done", "steps": 1, "loss": 0.1, "metric": 0.9, "metric_name": "accuracy"}
    waited = None if waiting is None else 2 * waiting + SLICE
    ran = ({"rank": 0, "elapsed": 2.0, "cpu": 2.0, "waiting": waited},)
    return Result(seconds=seconds, ran=ran, parameters=9, network_bytes=b"", **fixed, **fields)


def baseline(seconds: float = 1.0, **other) -> Result:
    return result(seconds, **{"way": "baseline", "workers": 1, "threads": 2, **other})


class TestWhatDisturbs:
    @pytest.mark.parametrize(("share", "said"), [(0.9 * OTHERS, ""), (0.48, "other programs had 48 % of the CPUs")])
    def test_others(self, share, said):
        assert disturbs(Disturbance(1.0, share, 0.0, 0.0, 0.0)) == said

    def test_steal(self):
        assert disturbs(Disturbance(1.0, None, 0.9 * STOLEN, None, None)) == ""
        assert "gave 20 % of the CPUs' time to other machines" in disturbs(Disturbance(1.0, 0.0, 0.2, 0.0, 0.0))

    def test_threads_that_were_ready_and_did_not_run(self):
        calm, waiting = [baseline(), result()], [baseline(), result(waiting=0.5)]
        assert disturbed(QUIET, calm, 2) == disturbed(UNKNOWN, calm, 2) == ""
        assert disturbed(UNKNOWN, waiting, 2) == "threads were ready and did not run 50 % of the time"
        assert disturbed(QUIET, [baseline(), result(waiting=0.9 * WAITS_MUCH)], 2) == ""

    def test_more_threads_than_cpus_wait_for_each_other(self):
        assert disturbed(QUIET, [baseline(), result(waiting=0.5, workers=4)], 2) == ""
        assert disturbed(LOUD, [baseline(), result(workers=4)], 2) != ""

    def test_what_is_not_known_does_not_disturb(self):
        assert disturbs(UNKNOWN) == ""
        assert disturbed(UNKNOWN, [baseline(waiting=None), result(waiting=None)], 2) == ""

    def test_more_than_workers_can_give(self):
        assert "2 workers seemed to gain more" in disturbed(QUIET, [baseline(18.7), result(1.0)], 2)
        assert disturbed(QUIET, [baseline(18.7), result(1.0, way="subnets")], 2) == ""

    def test_a_quota_is_said_and_disturbs_nobody(self):
        seen = Disturbance(1.0, 0.0, 0.0, 0.82, 3.0)
        assert disturbs(seen) == ""
        assert throttled([QUIET, seen]).startswith("the CPU quota was used up in 82 % of its periods")
        assert throttled([QUIET, UNKNOWN]) == ""


class Counters:
    """Readings in which others have `load` of one CPU, on a clock that only `sleep` moves."""

    def __init__(self, load: Callable[[float], float]) -> None:
        self.load, self.at, self.busy = load, 0.0, 0.0

    def read(self, alone: Sequence[int], families: Sequence[int]) -> Reading:
        return Reading(self.at, 1, 1, self.busy, 0.0, {}, None)

    def sleep(self, seconds: float) -> None:
        self.busy += seconds * self.load(self.at)
        self.at += seconds

    def surroundings(self, *, is_here: bool = True) -> Surroundings:
        return Surroundings(is_here=is_here, read=self.read, clock=lambda: self.at, sleep=self.sleep)


class TestWaitingForQuiet:
    def test_a_quiet_machine_is_looked_at_once(self):
        counters, said = Counters(lambda at: 0.02), list[str]()
        assert counters.surroundings().await_quiet(said.append)
        assert counters.at < 0.5
        assert said == []

    def test_what_passes_is_waited_for(self):
        counters, said = Counters(lambda at: float(at < 2)), list[str]()
        assert counters.surroundings().await_quiet(said.append)
        assert 2 <= counters.at < 3
        assert set(said) == {"other programs had 100 % of the CPUs"}

    def test_what_does_not_pass_is_not_waited_for_twice(self):
        counters, said = Counters(lambda at: 1.0), list[str]()
        around = counters.surroundings()
        assert not around.await_quiet(said.append)
        assert PATIENCE_SECONDS <= counters.at < PATIENCE_SECONDS + 1
        began, said[:] = counters.at, []
        assert not around.await_quiet(said.append)
        assert counters.at - began < 0.5
        assert said == []

    def test_of_another_machine_nothing_is_known(self):
        around = Counters(lambda at: 1.0).surroundings(is_here=False)
        assert around.await_quiet(pytest.fail)
        assert around.so_far().others is None


class Scripted:
    """Surroundings that are what the script says, round after round; the last goes on."""

    def __init__(self, seen: Sequence[Disturbance], *, comes_quiet: bool = True) -> None:
        self.seen, self.comes_quiet, self.begun, self.ranks = list(seen), comes_quiet, 0, ()

    def begin(self) -> None:
        self.begun += 1

    def so_far(self) -> Disturbance:
        return self.seen[min(self.begun, len(self.seen)) - 1]

    def await_quiet(self, tell) -> bool:
        return self.comes_quiet


POOL = SimpleNamespace(reserve=lambda workers: None, launch=SimpleNamespace(is_here=True), cpus=2)
WAYS = [("as it is", Baseline()), ("4 sub-networks", Subnets(workers=2)), ("2 shards", Sharded(workers=2))]


def play(seen, seconds=lambda way, number: 1.0, *, repeats=3, kind=Rounds, refuses="", ways=WAYS, **more):
    """A study whose trainings take so many seconds; `refuses` is a way that does not take the network."""
    study = kind(None, Comparison() if kind is Rounds else SeedStudy(), ways, repeats, POOL)
    study.around = Scripted(seen, **more)
    count = dict.fromkeys((title for title, _ in ways), 0)

    def train(title, spec, *, is_first):
        if spec.way == refuses:
            raise InputError("this network cannot be split: say how")
        count[title] += 1
        took = seconds(spec.way, count[title])
        options = {"seed": spec.seed}
        return (baseline if spec.way == "baseline" else result)(took, way=spec.way, options=options)

    study._find_ranks, study._train = lambda: None, train
    study.run.begin()
    study._carry()
    study.count = count
    return study


def of(study, kind):
    return [event for event in study.run.log.since(0) if isinstance(event, kind)]


def everything_said(study) -> str:
    return repr([vars(event) for event in study.run.log.since(0) if isinstance(event, Note | Phase)])


class TestRounds:
    def test_quiet(self):
        study = play([QUIET], lambda way, number: 2.0 if way == "baseline" else 1.0)
        assert [row.speedup for row in study.rows] == [1, 2, 2]
        assert [(row.repeats, row.disturbed, row.threads) for row in study.rows] == [(3, 0, 2), (3, 0, 1), (3, 0, 1)]
        assert [event.round for event in of(study, Beside)] == [1, 2, 3]
        assert [note.text for note in of(study, Note)] == [
            "the range of 3 rounds holds the true median with probability 0.75"
        ]
        assert [row.is_told_apart for row in study.rows] == [False, True, True]

    def test_rounds_take_turns(self):
        study = play([QUIET])
        titles = ["as it is", "4 sub-networks", "2 shards"]
        said = [event.text.partition(": ") for event in of(study, Phase)]
        assert [title for where, _, title in said if where == "round 1 of 3"] == titles
        assert [title for where, _, title in said if where == "round 2 of 3"] == titles[::-1]
        assert [title for where, _, title in said if where == "round 3 of 3"] == titles
        assert [event.row["title"] for event in of(study, Measured)] == titles * 3

    def test_a_drift_is_no_gain(self):
        """Every training takes 5 % more than the one before."""
        drifting = iter(range(100))
        study = play([QUIET], lambda way, number: 1.05 ** next(drifting), repeats=4)
        assert [row.is_told_apart for row in study.rows] == [False] * 3
        said = [note.text for note in of(study, Note)]
        assert [text.partition(", 1/P")[0] for text in said[:-1]] == [
            "'4 sub-networks': no gain told apart from noise",
            "'2 shards': no gain told apart from noise",
        ]
        assert said[-1].startswith("the range of 4 rounds")

    def test_a_disturbed_round_is_done_again(self):
        study = play(
            [QUIET, LOUD, QUIET, QUIET], lambda way, number: 50.0 if way == "baseline" and number == 2 else 1.0
        )
        assert study.count["as it is"] == 4
        assert [(row.speedup, row.high, row.disturbed) for row in study.rows] == [(1, 1, 0)] * 3
        assert "round 2 of 3 again: as it is" in [event.text for event in of(study, Phase)]
        assert [event.why[:14] for event in of(study, Beside)] == ["", "other programs", "", ""]

    def test_no_headline_where_quiet_does_not_come(self):
        study = play([LOUD], lambda way, number: 42.9 + number if way == "baseline" else 1.0, comes_quiet=False)
        assert study.count["as it is"] == 3
        for row in study.rows:
            assert (row.is_busy, row.speedup, row.ratio, row.efficiency, row.serial_fraction) == (True, *[None] * 4)
            assert row.figure == "busy: not measured"
            assert row.warnings == ("busy: other programs had 90 % of the CPUs",)
            assert row.metric == 0.9
        assert (study.rows[1].low, study.rows[1].high) == (43.9, 45.9)
        assert "×" not in everything_said(study)
        for event in of(study, Measured):
            assert event.row["is_busy"]
            assert event.row["speedup"] is event.row["ratio"] is event.row["efficiency"] is None
        assert of(study, Note)[-1].text.startswith("busy: 3 of 3 rounds were disturbed, so there is no P")

    def test_as_many_again_as_were_asked_for(self):
        study = play([LOUD])
        assert study.count["as it is"] == 6
        assert study.rows[1].is_busy
        assert "3 of 3 rounds were disturbed, also when done again" in of(study, Note)[-1].text

    def test_one_round(self):
        study = play([LOUD, LOUD], lambda way, number: 18.7 if way == "baseline" else 1.0, repeats=1)
        assert study.count["as it is"] == 2
        assert all(row.is_busy and row.low is row.high is None for row in study.rows)
        assert play([LOUD, QUIET], repeats=1).rows[2].speedup == 1

    def test_a_round_that_was_disturbed_later_takes_back_what_was_shown(self):
        study = play([QUIET], comes_quiet=False, repeats=1)
        seen = iter([QUIET, QUIET, LOUD, LOUD])
        study = play([QUIET], repeats=1, comes_quiet=False)
        study._rounds, study._rows = {}, {}
        study.around.so_far = lambda: next(seen, LOUD)
        study._do(1)
        assert [row.trouble for row in study.rows] == [BUSY] * 3

    def test_most_rounds_are_enough(self):
        study = play([QUIET, LOUD, QUIET], comes_quiet=False)
        assert [(row.speedup, row.repeats, row.disturbed) for row in study.rows] == [(1, 3, 1)] * 3
        said = [event.text for event in of(study, Note)]
        assert said == [
            "1 of 3 rounds were disturbed: their seconds do not count",
            "'4 sub-networks': no gain told apart from noise, 1/P lies between 1.00 and 1.00 (95 %)",
            "'2 shards': no gain told apart from noise, 1/P lies between 1.00 and 1.00 (95 %)",
            "the range of 2 rounds holds the true median with probability 0.50",
        ]
        assert play([LOUD, QUIET, LOUD], comes_quiet=False).rows[1].is_busy

    def test_an_impossible_figure_is_a_disturbed_round(self):
        study = play([QUIET], lambda way, number: 18.7 if way == "baseline" and number == 1 else 1.0)
        assert study.count["as it is"] == 4
        assert [(row.speedup, row.high) for row in study.rows] == [(1, 1)] * 3

    def test_rounds_that_disagree_measure_nothing(self):
        seconds = lambda way, number: {1: 1.0, 2: 2.5}.get(number, 1.0) if way == "subnets" else 1.0  # noqa: E731
        study = play([QUIET], seconds)
        assert [row.is_busy for row in study.rows] == [False, True, False]
        assert study.rows[1].figure == "the rounds disagree: not measured"

    def test_scores_of_disturbed_rounds_count(self):
        ways = [*WAYS[:2], ("as large", Baseline())]
        study = play([LOUD], kind=SeedRounds, comes_quiet=False, ways=ways)
        assert all(row.is_busy and row.spread == 0 for row in study.rows)
        assert "score alike" in of(study, Note)[0].text


class TestRefusals:
    def test_the_others_stand(self):
        study = play([QUIET], refuses="subnets")
        assert study.run.state == "done"
        assert [row.title for row in study.rows] == ["as it is", "4 sub-networks", "2 shards"]
        assert [row.speedup for row in study.rows] == [1, None, 1]
        refused = study.rows[1]
        assert (refused.trouble, refused.is_busy, refused.seconds) == (REFUSED, False, None)
        assert refused.warnings == ("this network cannot be split: say how",)
        assert study.count == {"as it is": 3, "4 sub-networks": 0, "2 shards": 3}

    def test_nothing_but_the_baseline_is_nothing(self):
        study = play([QUIET], refuses="subnets", ways=WAYS[:2])
        assert study.run.state == "failed"
        assert str(study.run.error) == "this network cannot be split: say how"
        assert study.count["as it is"] == 1

    def test_the_baseline_s_is_everybody_s(self):
        assert play([QUIET], refuses="baseline").run.state == "failed"

    def test_seeds_compare_with_what_is_refused(self):
        assert play([QUIET], kind=SeedRounds, refuses="subnets", ways=WAYS).run.state == "failed"


class TestThreads:
    def test_a_baseline_slowed_by_its_own_threads(self):
        said = slow_by_threads(((2, 0.098), (1, 0.0014)))
        assert said == "the network as it is, with torch's default 2 threads: 98 ms a step; with 1 thread 1.4 ms"

    def test_long_steps_are_written_out(self):
        assert "threads: 183 ms a step; with 1 thread 0.64 ms" in slow_by_threads(((2, 0.183), (1, 0.00064)))

    @pytest.mark.parametrize("tried", [(), ((2, 1.0), (1, 1.5)), ((2, 1.0), (1, 0.9))])
    def test_nothing_to_say(self, tried):
        assert slow_by_threads(tried) == ""

    @pytest.mark.parametrize(("cpu", "share"), [(0.5, None), (0.45, None), (0.2, pytest.approx(0.5))])
    def test_who_has_used_up_a_quota_has_waited_for_that(self, cpu, share):
        one = {"elapsed": 2.0, "cpu": cpu, "waiting": 1.0 + SLICE, "quota": 0.5}
        assert ready_waiting([one, one]) == share

    def test_the_share_that_a_rank_waited(self):
        assert result(waiting=0.25).ready_waiting == pytest.approx(0.25)
        assert result(waiting=None).ready_waiting is None
        assert result(waiting=7).ready_waiting == 1
