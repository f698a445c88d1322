"""Every verdict of the course, of records that were made here: right, wrong, noisy, missing, of number and reason."""

from __future__ import annotations

import itertools
import math

import pytest

from cooptim_lab.course import telling
from cooptim_lab.course.claims import Evidence
from cooptim_lab.course.lessons import CLAIMS, LESSONS
from cooptim_lab.course.progress import Prediction
from cooptim_lab.course.verdicts import MISSING, NOISY, RIGHT, WRONG, band, decide, judge
from cooptim_lab.runs.events import Ended
from cooptim_lab.runs.store import Record
from cooptim_lab.studies.intervals import student
from cooptim_lab.studies.rows import Row

SPEEDUP, LOSS, SOUP, KERAS = LESSONS[3].claims
SERVER, OFF_BY, LATE, DAINT = LESSONS[4].claims
PREDICTED_AT = 1000.0
numbers = itertools.count()


def row(title: str, speedup: float = 1.0, spread: float = 0.02, **more: object) -> dict:
    """A row of five rounds as it is on record, its interval as far to both sides as `spread` says."""
    interval = None if math.isnan(spread) else (speedup / (1 + spread), speedup * (1 + spread))
    fields = {
        "way": "subnets", "title": title, "workers": 2, "seconds": 1 / speedup, "baseline_seconds": 1.0, "repeats": 5,
        "low": None, "high": None, "interval": interval, "noise": None if interval is None else spread,
        "loss": 0.1, "metric": 0.97,
        "metric_name": "accuracy", "parameters": 100,
    }  # fmt: skip
    return Row(**{**fields, **more}).summary()


def record(kind: str, rows: list[dict] | None, *, created: float = 2000.0, title: str = "x: lesson 3", **options):
    """A run on record; of rows None, one that has no end though its kernel is gone."""
    end = () if rows is None else (Ended(state="done", summary={"rows": rows}),)
    id = f"run{next(numbers)}"
    return Record(id=id, kind=kind, title=title, options=options, created=created, pid=2**30, events=end)


def speedup_run(both: float, alone: float = 1.0, spread: float = 0.02, **more):
    rows = [
        row("as it is", way="baseline"),
        row("sub-networks, 1 worker", alone, spread, workers=1),
        row("sub-networks, 2 workers", both, spread),
    ]
    return record("speedup", rows, way="subnets", subnets=4, **more)


def seeds_run(whole: float, subnets: float, as_large: float, spread: float = 0.002, fuse: str = "mean"):
    titles = {"as it is": whole, "4 sub-networks": subnets, "one network, as many parameters": as_large}
    rows = [row(title, metric=metric, spread=0.02) for title, metric in titles.items()]
    return record("seeds", [{**each, "spread": spread} for each in rows], subnets=4, fuse=fuse)


def server_run(speedup: float, lost: tuple[float, float] | None = (0.1, 0.4), spread: float = 0.02, **more):
    rows = [row("sharded, 2 workers", speedup, spread, way="sharded", lost=lost)]
    return record("speedup", rows, title="speedup sharded: lesson 4", way="sharded", aggregate="server", **more)


def ranks_run(values: list):
    end = Ended(state="done", summary={"values": values})
    title = "a cell on 2 ranks"
    return Record(id="cell", kind="ranks", title=title, options={}, created=2000.0, pid=2**30, events=(end,))


def predicted(claim, value: float, because: str | None = None) -> Prediction:
    return Prediction(claim=claim.id, value=value, because=because, time=PREDICTED_AT)


def verdict(claim, value, because, *records):
    """The states of number and reason, and why; what is said of it can be said."""
    found = judge(claim, predicted(claim, value, because), records)
    assert telling.lines(found)
    assert len(telling.cells([found])[1]) == len(telling.cells([])[0])
    return found.state, found.reason, found.why


class TestRightAndWrong:
    @pytest.mark.parametrize(
        ("claim", "value", "because", "run", "expected"),
        [
            (SPEEDUP, 2.6, "work", speedup_run(2.5, 2.2), (RIGHT, RIGHT)),
            (SPEEDUP, 2.6, "cores", speedup_run(2.5, 2.2), (RIGHT, WRONG)),
            (SPEEDUP, 4.0, "cores", speedup_run(1.9, 1.05), (WRONG, RIGHT)),
            (SPEEDUP, 0.8, "slower", speedup_run(0.8, 0.7), (RIGHT, RIGHT)),
            (SPEEDUP, 2.6, None, speedup_run(2.5, 2.2), (RIGHT, MISSING)),
            (SPEEDUP, 2.6, "work", speedup_run(2.5, 1.6), (RIGHT, NOISY)),
            (LOSS, 1.0, "split", seeds_run(0.984, 0.970, 0.981), (RIGHT, RIGHT)),
            (LOSS, 4.0, "size", seeds_run(0.984, 0.970, 0.972), (WRONG, RIGHT)),
            (LOSS, 0.0, "nothing", seeds_run(0.970, 0.980, 0.970), (RIGHT, RIGHT)),
            (SOUP, 20, "order", seeds_run(0.98, 0.25, 0.97, fuse="soup"), (RIGHT, RIGHT)),
            (SOUP, 95, "same", seeds_run(0.98, 0.25, 0.97, fuse="soup"), (WRONG, WRONG)),
            (KERAS, 1.8, "software", None, (RIGHT, RIGHT)),
            (KERAS, 8, "gpus", None, (WRONG, WRONG)),
            (SERVER, 0.9, "exchanging", server_run(0.82), (RIGHT, RIGHT)),
            (SERVER, 2, "waiting", server_run(0.82), (WRONG, WRONG)),
            (SERVER, 2, "waiting", server_run(0.82, (0.4, 0.1)), (WRONG, RIGHT)),
            (SERVER, 2, "waiting", server_run(0.82, None), (WRONG, NOISY)),
            (SERVER, 2, "exchanging", server_run(0.82, (0.12, 0.26), spread=0.3), (WRONG, NOISY)),
            (SERVER, 2, "computing", server_run(0.82, (0.1, 0.1)), (WRONG, RIGHT)),
            (OFF_BY, 25, "weight", ranks_run([{"1/M is off by, %": 28.2}, None]), (RIGHT, RIGHT)),
            (OFF_BY, 1, "rounding", ranks_run([{"1/M is off by, %": 28.2}]), (WRONG, WRONG)),
            (DAINT, 1.3, "server", None, (RIGHT, RIGHT)),
            (DAINT, 2, "double", None, (WRONG, WRONG)),
        ],
    )
    def test_of_number_and_reason(self, claim, value, because, run, expected):
        records = [] if run is None else [run]
        assert verdict(claim, value, because, *records)[:2] == expected

    def test_of_a_late_rank(self):
        rows = [row("sharded, 2 workers", 0.4, way="sharded")]
        late = record("speedup", rows, title="speedup sharded: lesson 4", way="sharded", aggregate="Late")
        assert verdict(LATE, 0.5, "slowest", late)[:2] == (RIGHT, RIGHT)
        assert verdict(LATE, 1.0, "hidden", late)[:2] == (WRONG, WRONG)

    def test_the_other_direction_is_said(self):
        found = judge(SERVER, predicted(SERVER, 2.0), [server_run(0.82)])
        assert "even the direction is another" in telling.lines(found)[0]
        found = judge(SERVER, predicted(SERVER, 2.0), [server_run(1.2)])
        assert "even the direction is another" not in telling.lines(found)[0]

    def test_every_reason_that_data_can_speak_for_is_explained(self):
        for claim in CLAIMS.values():
            assert set(claim.because) <= set(claim.reasons), claim.id


class TestNoisy:
    def test_a_wide_interval_asks_for_more_rounds(self):
        found = judge(SPEEDUP, predicted(SPEEDUP, 3.0), [speedup_run(2.5, spread=0.2)])
        assert (found.state, found.why) == (NOISY, "wide")
        (line,) = telling.lines(found)
        asked = f"--repeats {found.rounds}"
        assert 9 <= found.rounds <= 49
        assert f"2.08× to 3× cannot tell your 3× from another. Measure again with {asked}:  %cooptim speedup" in line
        assert line.endswith(asked)

    def test_so_many_rounds_are_enough(self):
        """At the noise that was seen the interval is as narrow as the tolerance then."""
        found = judge(SPEEDUP, predicted(SPEEDUP, 3.0), [speedup_run(2.5, spread=0.2)])
        half = student(found.rounds - 1) * 0.2 / math.sqrt(found.rounds)
        assert verdict(SPEEDUP, 3.0, None, speedup_run(2.5, spread=math.expm1(half)))[0] == RIGHT

    def test_a_very_noisy_machine_is_not_to_be_measured_for_ever(self):
        (line,) = telling.lines(judge(SPEEDUP, predicted(SPEEDUP, 2.5), [speedup_run(2.5, spread=2.0)]))
        assert "nor would 49 rounds" in line

    def test_what_even_a_wide_interval_rules_out_is_wrong(self):
        assert verdict(SPEEDUP, 20.0, None, speedup_run(2.5, spread=0.5))[0] == WRONG

    def test_one_round(self):
        state, _, why = verdict(SPEEDUP, 2.5, "work", speedup_run(2.5, spread=math.nan))
        assert (state, why) == (NOISY, "one round")

    def test_a_busy_machine(self):
        busy = record("speedup", [row("sub-networks, 2 workers", trouble="busy")], way="subnets", subnets=4)
        assert verdict(SPEEDUP, 2.5, "work", busy) == (NOISY, NOISY, "busy")

    def test_the_first_run_that_can_judge_counts(self):
        noisy = speedup_run(2.5, 2.2, spread=0.5, created=1100.0)
        first = speedup_run(1.2, created=1200.0)
        later = speedup_run(2.5, created=1300.0)
        found = judge(SPEEDUP, predicted(SPEEDUP, 2.5), [later, noisy, first])
        assert (found.state, found.run) == (WRONG, first.id)

    def test_a_busy_accuracy_is_an_accuracy(self):
        """Others on the machine make a training slow, not worse."""
        run = seeds_run(0.984, 0.970, 0.981)
        rows = [{**each, "trouble": "busy"} for each in run.events[-1].summary["rows"]]
        assert verdict(LOSS, 1.0, "split", record("seeds", rows, subnets=4, fuse="mean"))[:2] == (RIGHT, RIGHT)


class TestMissing:
    def test_nothing_predicted_never_shows_what_was_measured(self):
        found = judge(SPEEDUP, None, [speedup_run(2.5)])
        assert (found.state, found.why, found.evidence) == (MISSING, "not predicted", None)
        assert judge(KERAS, None, []).evidence is None
        assert "nothing was predicted" in telling.lines(found)[0]

    def test_nothing_run(self):
        assert verdict(SPEEDUP, 2.5, "work") == (MISSING, MISSING, "not run")

    def test_a_run_before_the_prediction_is_none(self):
        assert verdict(SPEEDUP, 2.5, "work", speedup_run(2.5, created=999.0))[2] == "not run"

    @pytest.mark.parametrize("change", [{"title": "speedup subnets: digits"}, {"subnets": 8}, {"way": "sharded"}])
    def test_another_run_is_none(self, change):
        run = speedup_run(2.5)
        fields = {**vars(run), "options": {**run.options, **change}, "title": change.get("title", run.title)}
        assert verdict(SPEEDUP, 2.5, "work", Record(**fields))[::2] == (MISSING, "another")

    def test_a_run_without_an_end(self):
        lost = record("speedup", None, way="subnets", subnets=4)
        assert verdict(SPEEDUP, 2.5, "work", lost)[::2] == (MISSING, "unfinished")

    def test_a_run_that_goes_on(self):
        import os

        lost = record("speedup", None, way="subnets", subnets=4)
        running = Record(**{**vars(lost), "pid": os.getpid()})
        assert verdict(SPEEDUP, 2.5, "work", running)[::2] == (MISSING, "running")

    @pytest.mark.parametrize("rows", [[{"title": "of old"}], [3], [{}]])
    def test_a_record_of_another_version(self, rows):
        other = record("speedup", rows, way="subnets", subnets=4)
        assert verdict(SPEEDUP, 2.5, "work", other)[::2] == (MISSING, "version")

    def test_a_way_that_refused(self):
        refused = record("speedup", [row("sub-networks, 2 workers", trouble="refused")], way="subnets", subnets=4)
        assert verdict(SPEEDUP, 2.5, "work", refused)[::2] == (MISSING, "refused")

    @pytest.mark.parametrize("value", [math.nan, "28", True, None])
    def test_a_cell_that_returned_no_number(self, value):
        assert verdict(OFF_BY, 25, "weight", ranks_run([{"1/M is off by, %": value}]))[0] == MISSING


class TestTheRule:
    def exactly(self, low: float, high: float) -> Evidence:
        return Evidence(value=math.sqrt(low * high), low=low, high=high, rounds=5)

    @pytest.mark.parametrize(
        ("low", "high", "state"),
        [
            (1.9, 2.1, RIGHT),  # within the band of 1.54 to 2.6
            (2.7, 4.0, WRONG),  # nothing in common
            (1.2, 2.2, NOISY),  # wide, and over the edge
            (2.5, 2.7, RIGHT),  # narrow, over the edge: its value decides
            (2.58, 2.8, WRONG),
            (0.5, 9.0, NOISY),  # wider than the band
        ],
    )
    def test_of_a_ratio(self, low, high, state):
        assert band(SPEEDUP, 2.0) == (2.0 / 1.3, 2.6)
        assert decide(SPEEDUP, 2.0, self.exactly(low, high)) == state

    def test_without_an_interval_the_error_alone_could_not_tell(self):
        """The breakage beside it: the same figure is right with an interval, and where another run gives the same."""
        assert decide(SPEEDUP, 2.0, Evidence(value=2.0)) == NOISY
        assert decide(SPEEDUP, 2.0, Evidence(value=2.0, is_exact=True)) == RIGHT
        assert decide(SPEEDUP, 2.0, self.exactly(1.95, 2.05)) == RIGHT
