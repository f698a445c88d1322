"""`predict` and `check`: the course. A number and a reason before the run, a verdict on both after it."""

from __future__ import annotations

import argparse
from pathlib import Path

from IPython.display import display

from cooptim_lab.course import asking, checking, saying, telling
from cooptim_lab.course.lessons import LESSONS
from cooptim_lab.course.progress import place
from cooptim_lab.errors import InputError
from cooptim_lab.runs import store

from ..grammar import Command, Option
from ..session import Session
from ..tables import Table


def predict(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Lock a prediction; without one, list what can be predicted."""
    if arguments.text is None:
        display(Table(telling.listed(), [str(place())]))
        return
    claim = asking.find(arguments.text)
    if arguments.number is None:
        raise InputError(saying.WITHOUT_NUMBER.of(name=claim.name))
    kept, is_new = asking.predict(claim, arguments.number, arguments.because)
    for line in telling.locked(claim, kept, is_new=is_new, when=store.age(kept.time)):
        print(line)
    before = checking.open_before(claim.lesson)
    if before is not None and claim is LESSONS[claim.lesson].claims[0]:
        number, missing, of_all = before
        print(saying.RAN_ALREADY.of(lesson=number, open=missing, all=of_all))


def check(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Judge one lesson, or all of them, by the student's own runs; write the file to hand in."""
    numbers = list(LESSONS) if arguments.lesson is None else [asking.find_lesson(arguments.lesson)]
    if arguments.export:
        checking.export(Path(arguments.export).expanduser(), numbers)
    for number in numbers:
        found = checking.check(LESSONS[number].claims)
        display(Table(telling.cells(found), [*telling.said(found), telling.score(number, found)]))
    if arguments.export:
        print(saying.EXPORTED.of(place=arguments.export))


PREDICT = Command(
    "predict",
    "the course: commit to a number before the run; alone, list the questions",
    predict,
    options=(
        Option(("text",), "the question, in its words or by its number, as 3.1"),
        Option(("number",), "what you expect to be measured; it is locked"),
        Option(("--because",), "the reason, one of those that the question has", shown_as="REASON"),
    ),
)
CHECK = Command(
    "check",
    "the course: be judged by your own runs, number and reason",
    check,
    options=(
        Option(("lesson",), "which lesson; all when left out", kind=int, at_least=1),
        Option(("--export",), "also write predictions and verdicts as one JSON file, to hand in", shown_as="FILE"),
    ),
)
