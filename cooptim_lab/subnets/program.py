"""The program of the way `subnets`: divide, train at the same time, fuse: y = f(x) = 1/N Σ f_i(x).

It says what happens when, and on which rank. How a network is cut, a step is made and parts are joined is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..comm.context import Context
from ..comm.objects import agree, agreed, allgather, barrier, bcast, gather
from ..data.values import first_line
from ..errors import InputError
from ..preparing.examination.learning import refuse_what_lies_flat
from ..preparing.prepare import Prepared, prepare
from ..preparing.seeds import derive, seed_all
from ..preparing.sharing import refuse_to_move
from ..runs.result import Result
from ..task import Task
from ..training.cutting import shard
from ..training.loop import Clock, Recorder, fit
from ..training.reporting import make_recorder, make_result, record_score, tell_findings, warm_up
from ..training.spec import Subnets
from . import telling
from .dealing import cut_memory, put_together
from .engines.device import CPU, choose_device
from .engines.trying import Trial
from .fuse import FUSIONS, check_alike, check_can_merge, diversity_of
from .joint import Joint
from .outlook import Outlook, foresee
from .sampling import batches_each, check_rows, rows_each
from .scaled import settle
from .split import Division, divide
from .states import State, fill, pack, state_of, unpack
from .trainer import Trainer
from .trial import HANDED_OVER, choose_engine, is_handed_over, make_trial, rehearsal, see_handed_over
from .units import OFFER

BLOCK = 24
"""Steps that one stack makes before the next has its turn."""


def train_subnets(context: Context, task: Task, spec: Subnets) -> Result | None:
    """N subnets dealt over the ranks; each rank trains its own as one batched program; rank 0 fuses them."""
    prepared = prepare(task, spec.batch, spec.parts)
    if task.subnet is None:
        refuse_what_lies_flat(prepared.examined.learned, "subnets")
    tell_findings(context, prepared.findings)
    work = _Work(context, prepared, task, spec)
    work.begin()
    clock, rows = Clock(), rows_each(len(work.prepared.x), spec)
    recorder = make_recorder(context, [f"subnet {i}" for i in work.mine], rows, spec, may_diverge=work.leave_out)

    def end_epoch(epoch: int) -> bool:
        stop = work.score(recorder, epoch)
        if not stop and spec.deals_every and epoch % spec.deals_every == 0 and epoch < spec.apart_epochs:
            clock.resume()  # dealing anew is part of the way
            work.deal_anew(epoch // spec.deals_every)
            clock.stop()
            recorder.restart()
        return stop

    barrier(context.comm)
    clock.start()
    finished = fit(
        work.step,
        work.epoch_blocks,
        spec.apart_epochs,
        recorder=recorder,
        clock=clock,
        stopping=context.stopping,
        end_epoch=end_epoch,
    )
    fused = work.fuse()
    joint = None
    if fused is not None and spec.fuse == "merge":
        joint = Joint(context, work.prepared, spec, fused[0], clock, work.outlook, work.device)
        finished = joint.make(finished, is_exact=work.division.is_fresh or spec.subnets == 1)
    seconds = max(allgather(context.comm, clock.stop()))
    work.see_what_is_handed_over()
    engines = gather(context.comm, work.trainer.engines)
    if fused is None or engines is None:
        return None
    work.tell(engines)
    network, subnets = fused
    outputs = torch.stack([work.prepared.outputs(subnet) for subnet in subnets])
    fused_outputs = work.prepared.outputs(network)
    if joint is not None:
        context.report(*telling.of_joining(spec, work.prepared, work.division, joint, fused_outputs, outputs.mean(0)))
    return make_result(
        context, task, spec, network, work.prepared.score(fused_outputs), seconds,
        recorder.steps + (0 if joint is None else joint.steps), finished, subnets=subnets, path=recorder.path,
        engine="+".join(sorted(set(itertools.chain.from_iterable(engines)))),
        subnet_scores=tuple(work.prepared.score(output).metric for output in outputs),
        diversity=diversity_of(work.prepared, outputs),
    )  # fmt: skip


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
    """What speaks for the engine, where it was chosen."""
    _said: str = ""
    """Of the first subnet that diverged."""
    device: torch.device = CPU
    outlook: Outlook | None = None
    """Of merging, on rank 0."""
    _trial: Trial = field(init=False)
    _failed: bool = False
    """Whether a stack failed and was taken apart."""

    @property
    def mine(self) -> range:
        """The numbers of this rank's subnets."""
        return shard(self.spec.subnets, self.context.size, self.context.rank)

    def begin(self) -> None:
        """Divide the network, choose the engine, warm up."""
        spec = self.spec
        check_rows(len(self.prepared.x), spec)
        if spec.fuse == "vote" and not self.prepared.is_classification:
            raise InputError("fuse = vote is for outputs that say classes along their second axis: fuse mean")
        cut = partial(divide, self.task, self.prepared.x[:2], spec.subnets, split=spec.split, seed=spec.seed)
        # No rank is ended by another's complaint while it imports what finds units, and would then have half of it.
        self.division = agreed(self.context.comm, lambda: cut(is_scaled=spec.is_scaled))
        if spec.fuse == "merge":
            check_can_merge(self.division)
        if spec.fuse == "soup":
            check_alike(self.division.make())
        which = range(spec.subnets) if self.context.is_root else self.mine
        self._networks = dict(zip(which, self.division.make(which), strict=True))
        if self.task.subnet is not None:
            agree(self.context.comm, self._misfit())
        self.device = choose_device(spec.device, self.context.rank)
        if self.device != CPU:
            refuse_to_move(self._networks[self.mine[0]])
        every, is_own = self.epoch_batches(0), spec.data != "all"
        see_handed_over(self.prepared, self._networks[self.mine[0]], every)
        self._trial = make_trial(self.prepared, every, is_own=is_own, device=self.device)
        self._choose_engine()
        self._tell_outlook()
        warm_up(lambda: rehearsal(self._train(self.division.make(self.mine)), spec), self.epoch_batches)
        self.trainer = self._train(self.division.make(self.mine), steps=spec.epochs * len(every))
        seed_all(derive(spec.seed, self.context.rank))

    def step(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        """One step of this rank's subnets (see `stepping.StackedStep`); parts that do not run any more are refused."""
        try:
            return self.trainer.step(rows)
        except Exception as error:
            if self.division.units is None or isinstance(error, InputError):
                raise
            why = first_line(error)
            raise InputError(f"a part of the model cannot make a step that others could ({why}): {OFFER}") from error

    def epoch_blocks(self, epoch: int) -> Sequence[Tensor | Sequence[Tensor]]:
        """The batches of an epoch, one by one, or where there are several stacks by `BLOCK` (see `StackedStep`)."""
        every = self.epoch_batches(epoch)
        if len(self.trainer.stacks) == 1:
            return every
        return [every[start : start + BLOCK] for start in range(0, len(every), BLOCK)]

    def epoch_batches(self, epoch: int) -> Sequence[Tensor]:
        """Row numbers of every step: see `batches_each`."""
        return batches_each(len(self.prepared.x), self.spec, self.mine, epoch)

    def leave_out(self, place: int, said: str) -> None:
        """One subnet is lost; the others' gradients are their own, so they go on."""
        self.diverged.add(self.mine[place])
        self._said = self._said or said
        self.context.report(telling.of_one_lost(self.context.rank, said))

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
            stop = any(flag for *_, flag in shared) or not count or recorder.has_reached
        return bool(bcast(self.context.comm, stop))

    def deal_anew(self, deal: int) -> None:
        """Put all parts back into the network and deal its units among the subnets again, optimizers included."""
        states, memory = self.trainer.states(), self.trainer.memory()
        whole, remembered = put_together(self.context.comm, self.division, states, memory, self.diverged)
        fill(self.division.model, whole)
        self.division = self.division.deal_again(deal)
        units, parts = self.division.units, self.division.parts
        assert units is not None
        # In place: a part of this number is as wide in every deal, so engines and optimizers stay as they are.
        self.trainer.put([units.cut(whole, parts[i]) for i in self.mine])
        self.trainer.remember([cut_memory(units, remembered, parts[i]) for i in self.mine])
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
        return settle(FUSIONS[self.spec.fuse](subnets, self.division, numbers)), [settle(each) for each in subnets]

    def see_what_is_handed_over(self) -> None:
        """Whether it computes what was trained; of those that diverged nobody asks."""
        networks = {place: self._networks[i] for place, i in enumerate(self.mine) if i not in self.diverged}
        if not is_handed_over(self.prepared, self.trainer, networks):
            self.context.report(telling.of_what_is_lost(self.context.rank, HANDED_OVER))

    def tell(self, engines: Sequence[Sequence[str]]) -> None:
        """How the subnets were trained; `engines` of every rank."""
        if self._why:
            self.context.report(telling.of_the_engine(self._engine, self._why))
        self.context.report(*telling.of_the_training(self.spec, self.division, self.device, engines))

    def _tell_outlook(self) -> None:
        """Before the clock, whether there is anything to be gained."""
        if self.spec.joins:
            parts, rows = self._train(self.division.make(self.mine)), self.epoch_batches(0)[0]
            self.outlook = foresee(self.context, self.prepared.for_trial(), self.spec, self.division, parts, rows)
            if why := self.outlook and self.outlook.why:
                self.context.report(telling.of_no_gain(why))

    def _misfit(self) -> InputError | None:
        """What is wrong with those of this rank's subnets that the user made."""
        for i in self.mine:
            try:
                examined = self.prepared.check(self._networks[i], f"subnet({i})", self.spec.batch, self.spec.parts)
                refuse_what_lies_flat(examined.learned, "subnets")
            except InputError as error:
                return InputError(f"subnet({i}): {error}")
        return None

    def _choose_engine(self) -> None:
        """All ranks the same."""
        self._engine = self.spec.engine
        if self._engine == "auto":
            rows = self.epoch_batches(0)[0]
            engine, why = choose_engine(self.prepared, self.division.make(self.mine), rows, self._trial, self.device)
            self._engine, self._why = bcast(self.context.comm, (engine, why))

    def _train(self, subnets: Sequence[nn.Module], steps: int = 0) -> Trainer:
        is_own, prepared = self.spec.data != "all", self.prepared if steps else self.prepared.for_trial()
        return Trainer(
            prepared, subnets, self._engine, self._trial, steps=steps, is_own=is_own, device=self.device,
            tell=self._tell_of_failure, share=self.division.share,
        )  # fmt: skip

    def _tell_of_failure(self, why: str) -> None:
        """Once: all stacks fail alike."""
        if not self._failed:
            self.context.report(telling.of_a_stack_that_failed(self.context.rank, why))
        self._failed = True

    def _sound(self) -> dict[int, State]:
        """What this rank's subnets have learned, by their numbers, but for those that diverged."""
        return {i: state for i, state in zip(self.mine, self.trainer.states(), strict=True) if i not in self.diverged}

    def _filled(self, states: Mapping[int, State]) -> dict[int, nn.Module]:
        for i, state in states.items():
            fill(self._networks[i], state)
        return {i: self._networks[i] for i in states}
