"""Lesson 4, shards and the server: min_w Σ n_r/n L(θ_r, y_r). What agreeing costs, and why plain 1/M is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from ...runs.store import Record
from ...studies.rows import Row
from ..claims import PERCENT, TIMES, Claim, Evidence, Lesson
from ..languages import Text
from ..readings import of_rows, of_task, ratio_of_table, speaks_for, speedup, value_of_ranks

TASK = "lesson 4"
TWO = "sharded, 2 workers"
CLEARLY = 0.05
"""Of the workers' time: one loss is the largest where it takes so much more than the next."""
OFF_BY = "1/M is off by, %"
"""Under this name the lesson's cell on ranks returns its number."""
SERVER = "%cooptim speedup sharded --workers 1,2 --aggregate server --epochs 10 --repeats 5"
LATE = "%cooptim speedup sharded --workers 2 --aggregate Late --epochs 5 --repeats 5"


def read_server(rows: Mapping[str, Row], record: Record) -> Evidence | None:
    """The speedup of two shards; what takes most of what is lost, over the whole interval, is the reason."""
    if TWO not in rows:
        return None
    row, found = rows[TWO], speedup(rows[TWO])
    if row.lost is None or row.speedup is None or row.interval is None:
        return found
    losses = losses_at(row.speedup, row)
    largest = {largest_of(losses_at(speedup, row)) for speedup in (*row.interval, row.speedup)}
    told = {name: 100 * part for name, part in losses.items()}
    return speaks_for(found, largest.pop() if len(largest) == 1 else None, **told)


def losses_at(speedup: float, row: Row) -> dict[str, float]:
    """What workers' time is lost to, if that is the speedup; what is neither waiting nor exchanging is more work."""
    assert row.lost is not None
    waiting, exchanging = row.lost
    more = 1 - speedup / row.workers - waiting - exchanging
    return {"waiting": waiting, "exchanging": exchanging, "computing": more}


def largest_of(losses: Mapping[str, float]) -> str | None:
    """The loss that is clearly the largest."""
    (best, most), (_, next_most), _ = sorted(losses.items(), key=lambda item: -item[1])
    return best if most >= next_most + CLEARLY else None


def read_off_by(record: Record) -> Evidence | None:
    """In percent of the gradient."""
    found = value_of_ranks(OFF_BY)(record)
    return None if found is None else speaks_for(found, "weight" if found.value else None)


def read_late(rows: Mapping[str, Row], record: Record) -> Evidence | None:
    """The speedup where one rank is late at every step: what the other one does meanwhile is waiting."""
    if TWO not in rows:
        return None
    found = speedup(rows[TWO])
    slows = found.high is not None and found.high < 1
    return speaks_for(found, "slowest" if slows else None, speedup=found.value or 0.0)


def read_daint() -> Evidence:
    """From 64 to 128 GPUs with parameter servers."""
    found = ratio_of_table("T1", "Daint", 64, 128)
    before = ratio_of_table("T1", "Daint", 32, 64)
    return speaks_for(found, "server", before=before.value or 0.0, growth=found.value or 0.0)


SHARDS = Lesson(
    number=4,
    name=Text("shards and the server", "数据分片与服务器"),
    claims=(
        Claim(
            id="4.1",
            name=Text("speedup of 2 shards with a server", "2 个分片加服务器的加速比"),
            unit=TIMES,
            is_ratio=True,
            tolerance=0.3,
            kinds=("speedup",),
            read=of_task(TASK, of_rows(read_server, way="sharded", aggregate="server")),
            run=SERVER,
            reasons={
                "exchanging": Text("gradients and weights have to travel", "梯度和权重需要传输"),
                "waiting": Text("each waits for the other at every step", "每一步都要互相等待"),
                "computing": Text("two halves are more work than one whole", "两个一半的计算量比一个整体更大"),
            },
            because={
                name: Text(
                    "of the workers' time {exchanging:.0f} % goes to exchanging, {waiting:.0f} % to waiting, "
                    "{computing:.0f} % to computing more in total than one alone",
                    "在 worker 的时间中，{exchanging:.0f} % 用于交换数据，{waiting:.0f} % 用于等待，"
                    "{computing:.0f} % 用于比单个进程更多的总计算",
                )
                for name in ("exchanging", "waiting", "computing")
            },
        ),
        Claim(
            id="4.2",
            name=Text("how far plain 1/M is off", "直接用 1/M 的偏差"),
            unit=PERCENT,
            is_ratio=True,
            tolerance=0.6,
            kinds=("ranks",),
            read=read_off_by,
            run=Text("the cell below, %%cooptim ranks", "下面的单元格 %%cooptim ranks"),
            reasons={
                "weight": Text("each row of the small shard counts more", "小分片里的每一行权重更大"),
                "rounding": Text("floating-point sums depend on their order", "浮点求和与次序有关"),
                "none": Text("it is not off: a mean of means is the mean", "没有偏差：平均的平均就是平均"),
            },
            because={
                "weight": Text(
                    "a row of the shard of a tenth counts nine times as much as one of the other; weighted by n_r/n "
                    "the sum is the whole gradient but for rounding",
                    "只占十分之一的分片里，一行的权重是另一分片的九倍；按 n_r/n 加权后，除舍入误差外就等于整体梯度",
                ),
            },
        ),
        Claim(
            id="4.3",
            name=Text("speedup with a rank that is late", "有一个 rank 迟到时的加速比"),
            unit=TIMES,
            is_ratio=True,
            tolerance=0.5,
            kinds=("speedup",),
            read=of_task(TASK, of_rows(read_late, way="sharded", aggregate="Late")),
            run=LATE,
            reasons={
                "slowest": Text("every step takes as long as its slowest rank", "每一步的时间由最慢的 rank 决定"),
                "half": Text("one of two is late, so half of it shows", "两个中只有一个迟到，所以只显出一半"),
                "hidden": Text("the other rank computes on meanwhile", "另一个 rank 会继续计算，因此看不出来"),
            },
            because={
                "slowest": Text(
                    "{speedup:.2f}×: all meet at every step, so the whole of one rank's delay is everybody's",
                    "{speedup:.2f}×：每一步大家都要会合，一个 rank 的延迟就是所有 rank 的延迟",
                ),
            },
        ),
        Claim(
            id="4.4",
            name=Text("growth from 64 to 128 GPUs", "从 64 到 128 块 GPU 的增长"),
            unit=TIMES,
            is_ratio=True,
            tolerance=0.2,
            published=read_daint,
            run="%cooptim check 4",
            reasons={
                "double": Text("twice the GPUs are twice as fast", "GPU 加倍，速度也加倍"),
                "server": Text(
                    "what the servers must receive and send grows with the workers",
                    "服务器收发的数据量随 worker 数增长",
                ),
                "gpus": Text("each GPU has too few rows", "每块 GPU 分到的行数太少"),
            },
            because={
                "server": Text(
                    "from 32 to 64 it is {before:.2f}×, from 64 to 128 {growth:.2f}×; each GPU keeps its 64 rows, "
                    "only what passes through the servers grows (github.com/e-bug/distributed-tensorflow-benchmarks)",
                    "从 32 到 64 是 {before:.2f}×，从 64 到 128 是 {growth:.2f}×；"
                    "每块 GPU 仍是 64 行，增长的只是经过服务器的数据量"
                    "（github.com/e-bug/distributed-tensorflow-benchmarks）",
                ),
            },
        ),
    ),
)
