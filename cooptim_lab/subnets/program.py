"""The program of the way `subnets`: divide, train at the same time, fuse: y = f(x) = 1/N Σ f_i(x)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..comm.context import Context
from ..comm.objects import agree, allgather, barrier, bcast, gather
from ..errors import InputError
from ..runs.events import Note
from ..runs.result import Result
from ..task import Task
from ..training.cutting import shard
from ..training.loop import Clock, Recorder, batches, fit
from ..training.prepare import Prepared, prepare
from ..training.reporting import make_recorder, make_result, record_score, warm_up
from ..training.seeds import derive
from ..training.spec import Subnets
from .engines.device import CPU, choose_device
from .fuse import FUSIONS, check_alike, check_can_merge, diversity
from .split import Division, divide
from .states import State, fill, pack, state_of, unpack
from .trainer import Trainer
from .trial import choose_engine

BLOCK = 24
"""Steps that one stack makes before the next has its turn."""
WORSE = 1.1
"""Merged parts whose loss is more than so many times that of their mean are told of."""
ORDER, SAMPLE = 1, 2
"""What a random generator of a subnet is for."""


def train_subnets(context: Context, task: Task, spec: Subnets) -> Result | None:
    """N subnets dealt over the ranks; each rank trains its own as one batched program; rank 0 fuses them."""
    work = _Work(context, prepare(task), task, spec)
    work.begin()
    clock = Clock()
    recorder = make_recorder(
        context, [f"subnet {i}" for i in work.mine], work.rows, spec, may_diverge=work.note_divergence
    )

    def end_epoch(epoch: int) -> bool:
        stop = work.score(recorder, epoch)
        if not stop and spec.resplit and epoch % spec.resplit == 0 and epoch < spec.epochs:
            clock.resume()  # dealing anew is part of the way
            work.deal_anew(epoch // spec.resplit)
            clock.stop()
            recorder.restart()
        return stop

    barrier(context.comm)
    clock.start()
    finished = fit(
        work.step,
        work.epoch_blocks,
        spec.epochs,
        recorder=recorder,
        clock=clock,
        stopping=context.stopping,
        end_epoch=end_epoch,
    )
    fused = work.fuse()
    seconds = max(allgather(context.comm, clock.stop()))
    engines = gather(context.comm, work.trainer.engines)
    if fused is None or engines is None:
        return None
    work.say_how(engines)
    network, subnets = fused
    outputs = torch.stack([work.prepared.outputs(subnet) for subnet in subnets])
    fused_outputs = work.prepared.outputs(network)
    if spec.fuse == "merge":
        work.say_what_merging_did(fused_outputs, outputs.mean(0))
    return make_result(
        context,
        task,
        spec,
        network,
        work.prepared.score(fused_outputs),
        seconds,
        recorder.steps,
        finished,
        subnets=subnets,
        engine="+".join(sorted(set(itertools.chain.from_iterable(engines)))),
        subnet_scores=tuple(work.prepared.score(output).metric for output in outputs),
        diversity=diversity(outputs, is_classification=work.prepared.is_classification),
    )


@dataclass
class _Work:
    """What one rank does of it."""

    context: Context
    prepared: Prepared
    task: Task
    spec: Subnets
    division: Division = field(init=False)
    trainer: Trainer = field(init=False)
    diverged: set[int] = field(default_factory=set)
    """Numbers of this rank's subnets whose loss is no longer finite."""
    _networks: dict[int, nn.Module] = field(default_factory=dict)
    """By their numbers, networks to be scored and handed out: those of this rank's subnets, on rank 0 those of all."""
    _engine: str = ""
    _why: str = ""
    _said: str = ""
    _device: torch.device = CPU

    @property
    def mine(self) -> range:
        """The numbers of this rank's subnets."""
        return shard(self.spec.subnets, self.context.size, self.context.rank)

    @property
    def rows(self) -> int:
        """Rows that a subnet sees in an epoch."""
        every = len(self.prepared.x)
        return -(-every // self.spec.subnets) if self.spec.data == "shard" else every

    def begin(self) -> None:
        """Divide the network, choose the engine, warm up."""
        every = len(self.prepared.x)
        if self.spec.data == "shard" and self.spec.subnets > every:
            raise InputError(f"subnets = {self.spec.subnets}: data = shard needs a row for each, and there are {every}")
        if self.spec.fuse == "vote" and not self.prepared.is_classification:
            raise InputError("fuse = vote is for classes, and y is not one: fuse mean")
        spec = self.spec
        self.division = divide(self.task, self.prepared.x[:2], spec.subnets, split=spec.split, seed=spec.seed)
        if spec.fuse == "merge":
            check_can_merge(self.division)
        if spec.fuse == "soup":
            check_alike(self.division.make())
        self._make_networks()
        if self.task.subnet is not None:
            agree(self.context.comm, self._misfit())
        self._device = choose_device(spec.device, self.context.rank)
        engine = self._choose()
        warm_up(lambda: self._train(self.division.make(self.mine), engine).step, self.epoch_batches)
        self.trainer = self._train(self.division.make(self.mine), engine)
        torch.manual_seed(derive(self.spec.seed, self.context.rank))

    def step(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        """One step of this rank's subnets (see `stepping.stacked_step`), by the trainer that they have now."""
        return self.trainer.step(rows)

    def epoch_blocks(self, epoch: int) -> Sequence[Tensor | Sequence[Tensor]]:
        """The batches of an epoch, one by one, or where there are several stacks by `BLOCK` (see `stacked_step`)."""
        every = self.epoch_batches(epoch)
        if len(self.trainer.stacks) == 1:
            return every
        return [every[start : start + BLOCK] for start in range(0, len(every), BLOCK)]

    def epoch_batches(self, epoch: int) -> Sequence[Tensor]:
        """Row numbers of every step: (batch,) where all subnets see the same, else (subnets of this rank, batch)."""
        spec, every = self.spec, len(self.prepared.x)
        if spec.data == "all":
            return batches(every, spec.batch, spec.seed, epoch)
        orders = torch.stack([self._own_rows(i, epoch) for i in self.mine])
        return orders.split(spec.batch, dim=1)

    def _own_rows(self, i: int, epoch: int) -> Tensor:
        """Rows of subnet `i` in the order of this epoch; a shard that is one row short sees one of its rows twice."""
        every, spec = len(self.prepared.x), self.spec
        order = torch.Generator().manual_seed(derive(spec.seed, epoch, i, ORDER))
        if spec.data == "bootstrap":
            sample = torch.Generator().manual_seed(derive(spec.seed, i, SAMPLE))
            own = torch.randint(every, (every,), generator=sample)
        else:
            part = shard(every, spec.subnets, i)
            own = torch.arange(part.start, part.stop)
        own = own[torch.randperm(len(own), generator=order)]
        return torch.cat([own, own[: self.rows - len(own)]])

    def _make_networks(self) -> None:
        which = range(self.spec.subnets) if self.context.is_root else self.mine
        self._networks = dict(zip(which, self.division.make(which), strict=True))

    def _misfit(self) -> InputError | None:
        """What is wrong with those of this rank's subnets that the user made."""
        for i in self.mine:
            try:
                self.prepared.check(self._networks[i])
            except InputError as error:
                return InputError(f"subnet({i}): {error}")
        return None

    def _sound(self) -> dict[int, State]:
        """What this rank's subnets have learned, by their numbers, but for those that diverged."""
        return {i: state for i, state in zip(self.mine, self.trainer.states(), strict=True) if i not in self.diverged}

    def _filled(self, states: Mapping[int, State]) -> dict[int, nn.Module]:
        for i, state in states.items():
            fill(self._networks[i], state)
        return {i: self._networks[i] for i in states}

    def note_divergence(self, place: int, said: str) -> None:
        """One subnet is lost; the others' gradients are their own, so they go on."""
        self.diverged.add(self.mine[place])
        self._said = self._said or said
        self.context.report(Note(rank=self.context.rank, text=f"{said}; it is left out, the others go on"))

    def score(self, recorder: Recorder, epoch: int) -> bool:
        """Score the mean of all subnets so far; whether the ranks agree to end here."""
        sound = self._filled(self._sound()).values()
        own = torch.stack([self.prepared.outputs(network) for network in sound]).sum(0) if sound else None
        shared = gather(self.context.comm, (own, len(sound), self.context.stopping()))
        stop = False
        if shared is not None:
            count = sum(number for _, number, _ in shared)
            if count:
                total = sum(part for part, _, _ in shared if part is not None)
                record_score(recorder, epoch, self.prepared.score(total / count))
            stop = any(flag for *_, flag in shared) or not count
        return bool(bcast(self.context.comm, stop))

    def deal_anew(self, deal: int) -> None:
        """Put all parts back into the network and deal its units among the subnets again, optimizers included."""
        units, parts = self.division.units, self.division.parts
        assert units is not None
        own = [{name: value.clone() for name, value in state.items()} for state in self.trainer.states()]
        everyone = allgather(self.context.comm, (own, self.trainer.memory(), sorted(self.diverged)))
        states, memory, lost = (list(itertools.chain.from_iterable(of)) for of in zip(*everyone, strict=True))
        sound = [i for i in range(self.spec.subnets) if i not in lost]
        whole = units.join(state_of(self.division.model), [states[i] for i in sound], [parts[i] for i in sound])
        remembered: dict[str, dict[str, Tensor]] = {}
        for key, of in memory[sound[0]].items():
            if "" in of:
                remembered[key] = of
                continue
            zero = {name: torch.zeros_like(whole[name]) for name in of}
            remembered[key] = units.join(zero, [memory[i][key] for i in sound], [parts[i] for i in sound])
        fill(self.division.model, whole)
        self.division = self.division.deal_again(deal)
        self._make_networks()
        parts = self.division.parts
        fresh = self.division.make(self.mine)
        self.trainer = self._train(fresh, self._engine)
        cut = [{key: of if "" in of else units.cut(of, parts[i]) for key, of in remembered.items()} for i in self.mine]
        self.trainer.remember(cut, fresh)
        self.diverged.clear()  # the lost parts have the network's weights again

    def fuse(self) -> tuple[nn.Module, list[nn.Module]] | None:
        """On rank 0, the fused network and the subnets; those that diverged are left out."""
        own = self._sound()
        gathered = gather(self.context.comm, None if self.context.is_root else (list(own), pack(own.values())))
        if gathered is None:
            return None
        sound = self._filled(own)
        for theirs, packed in gathered[1:]:
            networks = {i: self._networks[i] for i in theirs}
            unpack(packed, map(state_of, networks.values()))
            sound |= networks
        if not sound:
            raise InputError(
                f"{self._said}, and every other sub-network's too: "
                "lower the learning rate, scale the inputs, or look for NaN in the data"
            )
        numbers, subnets = list(sound), list(sound.values())
        network = FUSIONS[self.spec.fuse](subnets, self.division, numbers)
        if self.spec.fuse == "merge" and not self.division.is_fresh and self.spec.subnets > 1:
            # A part's BatchNorm knows what its own units give; together they give their sum.
            x = self.prepared.x
            update_bn(x.tensor_split(-(-len(x) // self.spec.batch)), network)
        return network, subnets

    def say_what_merging_did(self, merged: Tensor, mean: Tensor) -> None:
        """By their outputs on the held-out rows: of replicas merging is to be exact, of neurons it is to be as good."""
        (ours, theirs), fresh = map(self.prepared.score, (merged, mean)), self.division.is_fresh
        found = f"held-out {ours.metric_name} {ours.metric:.3g}; their mean: {theirs.metric:.3g}"
        rounding = torch.finfo(mean.dtype).eps ** 0.5 * mean.abs().max()
        if fresh and (merged - mean).abs().max() > rounding:
            units = self.division.units
            mixes = units is not None and units.mixes_units
            how = "normalises over all its units" if mixes else "is not linear where its parts meet"
            text = f"the model {how}: merged, the parts do not compute their mean ({found})"
        elif not fresh and ours.loss > theirs.loss * WORSE:
            text = f"merged, the parts do worse than their mean ({found}): deal more often (resplit), or fuse mean"
        else:
            return
        self.context.report(Note(rank=0, text=text))

    def say_how(self, engines: Sequence[Sequence[str]]) -> None:
        """What a reader of the result should know."""
        notes = []
        if self._device != CPU:
            said = f"trained on {torch.cuda.get_device_name(self._device)}; the network as it is trains on the CPU"
            notes.append(said)
        if self._why:
            said = f"engine {self._engine}: {self._why}"
            self.context.report(Note(rank=0, text=said, is_doubt=False))
        if self.spec.engine == "stacked" and any(of_rank.count("separate") > 1 for of_rank in engines):
            notes.append("some subnets cannot be stacked and were trained one after the other")
        if self.spec.fuse == "soup":
            notes.append("soup averages the weights of networks that were trained apart: expect a poor score")
        units = self.division.units
        if units is not None and (uneven := [x for x in units.layers if x.size % self.spec.subnets]):
            sizes = ", ".join(f"layer {layer.name} ({layer.size} {layer.what})" for layer in uneven)
            notes.append(f"{self.spec.subnets} does not divide {sizes}: the first sub-networks are a little wider")
        if self.spec.resplit >= self.spec.epochs > 0 < self.spec.resplit:
            notes.append(f"resplit = {self.spec.resplit} of {self.spec.epochs} epochs: the neurons were not dealt anew")
        for text in notes:
            self.context.report(Note(rank=0, text=text))

    def _train(self, subnets: Sequence[nn.Module], engine: str) -> Trainer:
        return Trainer(self.prepared, subnets, engine, is_own=self.spec.data != "all", device=self._device)

    def _choose(self) -> str:
        """The engine: all ranks the same."""
        self._engine = self.spec.engine
        if self._engine == "auto":
            rows = self.epoch_batches(0)[0]
            engine, why = choose_engine(self.prepared, self.division.make(self.mine), rows, self._device)
            self._engine, self._why = bcast(self.context.comm, (engine, why))
        return self._engine
