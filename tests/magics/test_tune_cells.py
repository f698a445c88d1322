"""`%cooptim tune` and `--plan` as they are typed; the race's picture while it goes on, at its end, and opened again."""

from __future__ import annotations

import math

import pytest
from cooptim_magics import sheets
from cooptim_magics.commands import COMMANDS
from cooptim_magics.grammar import complete, parse, spec_options
from cooptim_magics.picture import Picture
from cooptim_magics.plots import figure
from cooptim_magics.racing import HIGHEST, figure_of, proof_table, race_curves, race_line, race_table
from IPython.core.error import UsageError

from cooptim_lab.codesign.race import OUT, Entry
from cooptim_lab.codesign.tune import TuneSpec
from cooptim_lab.codesign.tuning import AS_IS, PLAN, Part
from cooptim_lab.levers import Plan
from cooptim_lab.runs.events import Ended, Note, Phase, Raced, Started


def entry(text, *ratios, gate=None, why=""):
    made = Entry(Plan.read(text), gate=gate, to_goal=dict(enumerate(ratios)), an_epoch=dict(enumerate(ratios)))
    if why:
        made.leave(why)
    return made.summary()


def part(title, plan, *ratios):
    return Part(
        title, Plan.read(plan), to_goal=list(ratios), an_epoch=list(ratios), seconds=list(ratios),
        metrics=[0.97] * len(ratios), metric_name="accuracy", parameters=1000,
    ).summary()  # fmt: skip


RACE = [
    entry("fused", 0.8, 0.81, gate=0.8),
    entry("batch=256,fused", 0.3, 0.31, gate=0.28),
    entry("autocast", gate=3.0, why="an epoch takes 3.00 of the default's"),
    entry("lr=4", math.inf, gate=1.0),
]
PROOF = [part(AS_IS, "", *[1.0] * 5), part(PLAN, "batch=256,fused", 0.33, 0.32, 0.34, 0.33, 0.33)]


def picture(*events):
    return Picture.of("tune: digits", [Started(way="tune", options={}, workers=1), *events])


def test_the_race_is_in_order_and_says_why_one_is_out():
    head, *rows = race_table(RACE)
    assert [row[0] for row in rows] == ["batch=256,fused", "fused", "lr=4", "autocast"]
    assert rows[0][1:] == ["0.28", "0.30", "0.29 – 0.32", "2", ""] or rows[0][1] == "0.28"
    assert rows[2][head.index("P to the goal")] == "never reached it"
    assert rows[3][-1] == "an epoch takes 3.00 of the default's"


def test_plans_that_were_never_trained_stand_together_by_their_reason():
    slow = [
        entry(f"batch={size}", gate=ratio, why=f"an epoch takes {ratio:.2f} of the default's")
        for size, ratio in ((128, 1.02), (256, 1.4), (512, 1.11), (1024, 2.5))
    ]
    late = entry("narrow=0.5", gate=0.9, why="the budget's share was used up before its turn")
    beaten = entry("lr=2", 0.9, 0.9, why="slower than the best: P 0.90 beside P 0.30")
    head, *rows = race_table([*RACE, *slow, late, beaten])
    by = {row[0]: row for row in rows}
    assert len(rows) == 6
    together = by["5 plans: batch=128; batch=512; batch=256; and 2 more"]
    assert together[head.index("an epoch at its gate")] == "1.02 – 3.00"
    assert together[-1] == "an epoch takes 1.02 to 3.00 of the default's"
    assert by["narrow=0.5"][-1] == "the budget's share was used up before its turn"
    assert by["lr=2"][-1] == "slower than the best: P 0.90 beside P 0.30"


def test_while_it_goes_on_those_that_are_in_are_shown():
    shown = picture(Phase(text="round 1"), *(Raced(row=row) for row in RACE))
    assert [row[0] for row in sheets.table(shown)[1:]] == ["batch=256,fused", "fused", "lr=4"]
    assert [curve.name for curve in shown.curves] == ["batch=256,fused", "fused", "the default"]
    assert "round 1" in shown.status


def test_while_it_goes_on_the_budget_and_who_fell_out_are_shown():
    fallen = [entry("lr=2", 0.9, 0.9, why="slower than the best: P 0.90 beside P 0.30")]
    shown = Picture("tune: digits", lambda: 12.0)
    started = Started(way="tune", options={"budget": 25.0}, workers=1, time=2.0)
    shown.feed([started, Phase(text="round 2", time=3.0), *(Raced(row=row) for row in [*RACE, *fallen])])
    assert sheets.table(shown)[-1][0] == "lr=2"
    assert sheets.table(shown)[-1][-1] == "slower than the best: P 0.90 beside P 0.30"
    assert shown.status == "round 2 · 10 s, budget 25 s"


def test_a_bar_of_two_rounds_does_not_flatten_the_dots():
    wide = entry("batch=256", 0.1, 3.0)
    (curve, _) = race_curves([wide])
    assert figure_of(wide).high > 100
    assert curve.hi == [HIGHEST]


def test_a_dot_stands_at_its_row_of_the_table():
    missed, last = part(PLAN, "lr=4", math.inf), part("lr=4 alone", "lr=4", 0.5)
    (curve, _) = race_curves([PROOF[0], missed, last])
    assert (curve.name, curve.x) == ("lr=4 alone", [3.0])


def test_misses_stand_in_the_table():
    head, row = proof_table([part(PLAN, "batch=256", math.inf, 0.4, 0.3)])
    assert row[head.index("P to the goal")] == "0.40, missed 1 of 3"


def test_the_proof_takes_its_place():
    events = [Raced(row=row) for row in [*RACE, *PROOF]]
    said = ["P = 0.33, between 0.32 and 0.34 (95 %) to accuracy 97.0 %: batch=256,fused"]
    end = Ended(state="done", summary={"sentences": said})
    shown = picture(*events, Note(text="the goal is accuracy 97.0 %", is_doubt=False), Note(text="busy"), end)
    assert [row[0] for row in sheets.table(shown)[1:]] == [AS_IS, f"{PLAN}: batch=256,fused"]
    assert [curve.name for curve in shown.curves] == [PLAN, "the default"]
    assert shown.sentence == "co-designed: P 0.33 (0.32 – 0.34, 95 %)"
    first, second = sheets.full_tables(shown)
    assert first.notes == (*said, "the goal is accuracy 97.0 %", "⚠ busy")
    assert len(second.cells) == 1 + len(RACE)
    assert figure(shown).get_axes()


def test_of_the_default_there_is_no_p():
    head, default, plan = proof_table(PROOF)
    assert default[head.index("P to the goal")] == ""
    assert plan[head.index("P to the goal")] == "0.33"


def test_who_leads_in_a_line():
    found = figure_of(RACE[1])
    assert race_line(RACE) == f"batch=256,fused leads: P 0.30 ({found.low:.2f} – {found.high:.2f}, 95 %)"
    assert race_line([]) == ""
    assert race_curves([entry("fused", gate=0.9)]) == []
    assert race_curves([{**RACE[0], "state": OUT}]) == []


def test_how_it_is_typed():
    command = COMMANDS["tune"]
    given = parse(command, ["--budget", "30", "--keep-accuracy", "1%", "--levers", "fused,threads", "-o", "found"])
    assert (given.budget, given.keep_accuracy, given.levers, given.out) == (30.0, "1%", "fused,threads", "found")
    assert TuneSpec(**spec_options(given)).budget == 30.0
    with pytest.raises(UsageError, match="budget"):
        parse(command, ["--budget", "soon"])
    assert "--keep-accuracy" in complete(command, [], "--k")


@pytest.mark.parametrize("name", ["train", "subnets", "sharded", "compare"])
def test_every_training_takes_a_plan(name, capsys):
    given = parse(COMMANDS[name], ["--plan", "batch=256,fused"])
    assert given.plan == "batch=256,fused"
    assert parse(COMMANDS[name], ["--help"]) is None
    printed = capsys.readouterr().out
    assert "--plan PLAN" in printed
    assert "(default )" not in printed
