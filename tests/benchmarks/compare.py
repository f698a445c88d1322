"""`compare` on digits: the baseline beside a loop that anyone would write, then each way beside the baseline."""

from __future__ import annotations

import math
import statistics
import time

from cooptim_lab import compare, digits
from cooptim_lab.comm.context import Context
from cooptim_lab.ranks.shared import shared_pool
from tests.benchmarks.rows import REPEATS, Row, interleave

EPOCHS, BATCH = 20, 64


def rows() -> list[Row]:
    """The kit's own overhead, then P of sub-networks and of shards."""
    pool = shared_pool()
    measured = compare(epochs=EPOCHS, batch=BATCH, repeats=REPEATS).wait()
    ours, other = interleave(compare_baseline, lambda: pool.run(plain_loop, workers=1)[0])
    overhead = Row(
        name="compare: as it is, beside a plain loop",
        ours=ours,
        other=other,
        unit="s",
        ratio=ours / other,
        reach="<= 1.10",
        holds=ours / other <= 1.10,
        note="the same training with recording and live events on, on the same rank with the same threads",
    )
    return [overhead, *(as_row(row) for row in measured[1:])]


def as_row(row) -> Row:
    """A measured way as a benchmark row; it has no bar to reach: no gain is an answer."""
    is_measured = row.ratio is not None
    return Row(
        name=f"compare: {row.title}",
        ours=row.seconds,
        other=row.baseline_seconds,
        unit="s",
        ratio=row.ratio if is_measured else math.nan,
        reach="none: measured",
        holds=is_measured,
        note=f"P = T_c/T_p over {row.repeats - row.disturbed} rounds; speedup {row.low:.2f} to {row.high:.2f}; "
        f"held-out {row.metric_name} {row.metric:.3f}; {'; '.join(row.warnings)}".rstrip("; "),
    )


def compare_baseline() -> float:
    """T_p of the kit."""
    from cooptim_lab import train

    return train(epochs=EPOCHS, batch=BATCH).wait().seconds


def plain_loop(context: Context) -> float:
    """T_p of a loop without anything around it; on a rank. Median of three, as the first is slow."""
    import torch
    from torch.nn.functional import cross_entropy

    from cooptim_lab.preparing.prepare import prepare

    prepared = prepare(digits())
    seconds = []
    for _ in range(3):
        model = prepared.model(0)
        optimizer = prepared.optimizer(model.parameters())
        began = time.perf_counter()
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(prepared.x)).split(BATCH):
                optimizer.zero_grad()
                loss = cross_entropy(model(prepared.x[rows]), prepared.y[rows])
                loss.backward()
                optimizer.step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
