"""Lesson 3, many small networks: y = 1/N Σ f_i. Why four quarter-networks are faster, what they lose, and soup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...runs.store import Record
from ...studies.rows import Row
from ..claims import PERCENT, POINTS, TIMES, Claim, Evidence, Lesson
from ..languages import Text
from ..readings import mean_difference, mean_metric, of_rows, of_task, ratio_of_table, speaks_for, speedup

TASK = "lesson 3"
"""The lesson's task by name: runs of no other answer."""
ALONE, TOGETHER, SUBNETS = "sub-networks, 1 worker", "sub-networks, 2 workers", "4 sub-networks"
SPEEDUP = "%cooptim speedup subnets -n 4 --workers 1,2 --epochs 10 --repeats 5"
SEEDS = "%cooptim subnets -n 4 --workers 2 --epochs 20 --seeds 5"
SOUP = "%cooptim subnets -n 4 --workers 2 --fuse soup --epochs 10 --seeds 5"


def read_speedup(rows: Mapping[str, Row], record: Record) -> Evidence | None:
    """Of two workers; one worker alone says how much of it is less work, what the second adds is the cores'."""
    if TOGETHER not in rows:
        return None
    both = rows[TOGETHER]
    found = speedup(both)
    one = rows.get(ALONE)
    if one is None or not (one.interval and one.speedup and both.interval and both.speedup):
        return found
    work, cores = one.interval, (both.interval[0] / one.interval[1], both.interval[1] / one.interval[0])
    best = None
    if both.interval[1] <= 1:
        best = "slower"
    elif work[0] > max(1.0, cores[1]):
        best = "work"
    elif cores[0] > max(1.0, work[1]):
        best = "cores"
    return speaks_for(found, best, alone=one.speedup, second=both.speedup / one.speedup, both=both.speedup)


def read_loss(rows: Mapping[str, Row], record: Record) -> Evidence | None:
    """In points of accuracy. One network of as many parameters says whether size alone explains it."""
    whole, subnets, as_large = rows.get("as it is"), rows.get(SUBNETS), rows.get("one network, as many parameters")
    if whole is None or subnets is None or as_large is None:
        return None
    found = mean_difference(whole, subnets, 100)
    size, split = mean_difference(whole, as_large, 100), mean_difference(as_large, subnets, 100)
    if found.low is None or size.low is None or split.low is None or size.value is None or split.value is None:
        return found
    best = None
    if found.high is not None and found.high <= 0:
        best = "nothing"
    elif split.low > 0 and split.value > size.value:
        best = "split"
    elif size.low > 0 and size.value > split.value:
        best = "size"
    return speaks_for(found, best, size=size.value, split=split.value)


def read_soup(rows: Mapping[str, Row], record: Record) -> Evidence | None:
    """In percent. That it is the weights' order shows in its being far below the network as it is."""
    whole, soup = rows.get("as it is"), rows.get(SUBNETS)
    if whole is None or soup is None:
        return None
    found, drop = mean_metric(soup, 100), mean_difference(whole, soup, 100)
    collapses = drop.low is not None and drop.low > 10
    if found.low is not None and found.high is not None:  # soups differ so much that Student's interval leaves 0 to 100
        found = replace(found, low=max(0.0, found.low), high=min(100.0, found.high))
    return speaks_for(found, "order" if collapses else None, drop=drop.value or 0.0)


def read_keras() -> Evidence:
    """Eight GPUs over one, by one program and by the other."""
    machine = "p3.16xlarge V100, 1/2/8 GPUs"
    keras = ratio_of_table("T19", f"{machine} Keras ResNet50", 1, 8)
    other = ratio_of_table("T19", f"{machine} tensorpack ResNet50", 1, 8)
    return speaks_for(keras, "software", keras=keras.value or 0.0, other=other.value or 0.0)


SMALL_NETWORKS = Lesson(
    number=3,
    name=Text("many small networks", "许多小网络"),
    claims=(
        Claim(
            id="3.1",
            name=Text("speedup of 4 sub-networks", "4 个子网络的加速比"),
            unit=TIMES,
            is_ratio=True,
            tolerance=0.3,
            kinds=("speedup",),
            read=of_task(TASK, of_rows(read_speedup, way="subnets", subnets=4)),
            run=SPEEDUP,
            reasons={
                "work": Text("they have less to compute, and fewer calls to make", "它们的计算量更小，调用次数也更少"),
                "cores": Text(
                    "they keep two cores busy where one network cannot", "它们能让两个核同时忙起来，而一个网络做不到"
                ),
                "slower": Text(
                    "they are not faster: starting and fusing them costs more", "它们并不更快：启动和融合的开销更大"
                ),
            },
            because={
                "work": Text(
                    "with one worker they are {alone:.1f}× as fast already, a second worker adds {second:.1f}×: "
                    "a hidden layer of a quarter of the width has a sixteenth of the weights, and four a quarter",
                    "只用一个 worker 就已经是 {alone:.1f}×，第二个 worker 再带来 {second:.1f}×："
                    "宽度为四分之一的隐藏层只有十六分之一的权重，四个加起来也只有四分之一",
                ),
                "cores": Text(
                    "with one worker they are {alone:.1f}× as fast, a second worker adds {second:.1f}×: "
                    "most of it is cores",
                    "一个 worker 时是 {alone:.1f}×，第二个 worker 再带来 {second:.1f}×：主要来自更多的核",
                ),
                "slower": Text(
                    "two workers come to {both:.2f}×: here it does not pay",
                    "两个 worker 只有 {both:.2f}×：在这里不划算",
                ),
            },
        ),
        Claim(
            id="3.2",
            name=Text("accuracy lost by 4 sub-networks", "4 个子网络损失的准确率"),
            unit=POINTS,
            is_ratio=False,
            tolerance=1.0,
            kinds=("seeds",),
            read=of_task(TASK, of_rows(read_loss, subnets=4, fuse="mean")),
            run=SEEDS,
            reasons={
                "size": Text("they have fewer parameters in all", "它们的参数总量更少"),
                "split": Text("units of different parts never meet", "不同部分的神经元互不相连"),
                "nothing": Text("they lose nothing: the mean makes up for it", "没有损失：取平均弥补了差距"),
            },
            because={
                "size": Text(
                    "one network of as many parameters loses {size:.1f} points too, splitting it {split:.1f} more",
                    "参数总量相同的单个网络也损失 {size:.1f} 个百分点，拆分本身只再损失 {split:.1f} 个",
                ),
                "split": Text(
                    "one network of as many parameters loses only {size:.1f} points, splitting it {split:.1f} more",
                    "参数总量相同的单个网络只损失 {size:.1f} 个百分点，拆分本身再损失 {split:.1f} 个",
                ),
                "nothing": Text("over the seeds nothing is lost", "在这些随机种子上没有损失"),
            },
        ),
        Claim(
            id="3.3",
            name=Text("accuracy of the soup", "权重平均（soup）的准确率"),
            unit=PERCENT,
            is_ratio=False,
            tolerance=30.0,
            kinds=("seeds",),
            read=of_task(TASK, of_rows(read_soup, subnets=4, fuse="soup")),
            run=SOUP,
            reasons={
                "same": Text("a mean of weights is about a mean of outputs", "权重的平均近似等于输出的平均"),
                "order": Text(
                    "each network has its hidden units in an order of its own", "每个网络的隐藏神经元各有各的排列"
                ),
                "size": Text(
                    "the soup is as small as one part, and no worse than that", "soup 与单个部分一样小，但不会比它更差"
                ),
            },
            because={
                "order": Text(
                    "it is {drop:.0f} points below the network as it is: unit 7 of one network does another thing than "
                    "unit 7 of the next, and their mean does neither",
                    "它比原始网络低 {drop:.0f} 个百分点：一个网络的第 7 号神经元与另一个网络的第 7 号做的事不同，"
                    "它们的平均两件事都做不了",
                ),
            },
        ),
        Claim(
            id="3.4",
            name=Text("speedup of Keras on 8 GPUs", "Keras 在 8 块 GPU 上的加速比"),
            unit=TIMES,
            is_ratio=True,
            tolerance=0.4,
            published=read_keras,
            run="%cooptim check 3",
            reasons={
                "gpus": Text("eight GPUs give about eight times", "8 块 GPU 大约快 8 倍"),
                "network": Text("ResNet-50 is too small for eight GPUs", "ResNet-50 对 8 块 GPU 来说太小"),
                "software": Text("how a program feeds the GPUs decides", "取决于程序怎样给 GPU 供数据"),
            },
            because={
                "software": Text(
                    "on the same 8 GPUs, with the same network, another program has {other:.1f}× and Keras "
                    "{keras:.1f}× (github.com/tensorpack/benchmarks)",
                    "同样 8 块 GPU、同样的网络，另一个程序达到 {other:.1f}×，而 Keras 只有 {keras:.1f}×"
                    "（github.com/tensorpack/benchmarks）",
                ),
            },
        ),
    ),
)
