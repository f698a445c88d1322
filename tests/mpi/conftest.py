"""What the tests of ranks share: handing a program to a pool and watching its run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cooptim_lab import RankPool, Run
from cooptim_lab.errors import LabError
from cooptim_lab.runs.events import Event
from tests.support import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def undisturbed(calm: None) -> None:
    """What a run says is not to hang on what else this machine does."""


@pytest.fixture
def submit() -> Callable[..., Run[list[Any]]]:
    """`submit(pool, program, workers=2, is_cooperative=True, rescue=None, **arguments)`: a run of the ranks' values."""

    def submit(
        pool: RankPool,
        program: Callable[..., Any],
        *,
        workers: int = 2,
        is_cooperative: bool = True,
        rescue: Callable[[LabError], bool] | None = None,
        **arguments: Any,
    ) -> Run[list[Any]]:
        run: Run[list[Any]] = Run("test", {})
        pool.submit(
            run,
            program,
            arguments,
            workers=workers,
            finish=lambda run, values, stopped: run.finish(values, state="stopped" if stopped else "done"),
            is_cooperative=is_cooperative,
            rescue=rescue,
        )
        return run

    return submit


@pytest.fixture
def hear() -> Callable[..., None]:
    """`hear(run, Phase, 2)` waits until a run has had two events of a class, or fails."""

    def hear(run: Run[Any], kind: type[Event], count: int = 1, *, by_ranks: bool = True) -> None:
        heard, enough = [], threading.Event()

        def listener(event: Event) -> None:
            if isinstance(event, kind) and (event.rank is not None or not by_ranks):
                heard.append(event)
                if len(heard) >= count:
                    enough.set()

        run.log.listen(listener)
        assert enough.wait(PATIENCE_SECONDS), f"heard {heard}, state {run.state}, {run.error}"

    return hear
