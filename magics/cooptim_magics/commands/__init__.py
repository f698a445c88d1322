"""The commands: one file for each family, which holds its commands' options, help, body and handler together.

A new command is a file here and its entry in `COMMANDS`, the one place where it is listed: dispatch, help, completion
and the overview read that. A family knows what it calls and shows, and must know no other family.
"""

from __future__ import annotations

from ..grammar import Command
from . import codesign, course, hardware, lab, pool, ranks, records, studies, task, training

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        hardware.HARDWARE,
        task.TASK,
        training.TRAIN,
        training.SUBNETS,
        training.SHARDED,
        ranks.RANKS,
        studies.SPEEDUP,
        studies.COMPARE,
        studies.COSTS,
        studies.SIMULATE,
        codesign.TUNE,
        course.PREDICT,
        course.CHECK,
        lab.LAB,
        records.RUNS,
        records.SHOW,
        records.STOP,
        training.RESUME,
        pool.POOL,
    )
}
"""By name, in the order in which they are shown."""
