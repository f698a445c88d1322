"""How a task is to be trained: one frozen, validated dataclass per way, and every option declared here once.

The Python calls, the magics' parser, its help and its completion all read these fields: name,
type, default, bounds, choices, help. Options that only a face has (`--bg`, `-o`) are not here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ..errors import InputError
from ..levers.plan import NONE, Plan
from ..options import option, validate


def subnets_option() -> Any:
    """N, of the way and of the studies that contain it."""
    return option(4, "N, the number of sub-networks", at_least=1, flag="n")


SYNCHRONOUS = ("server", "allreduce", "ordered", "shared")
AGGREGATES = (*SYNCHRONOUS, "local", "diloco", "async")
UNDIVIDED = 1 << 17
"""Bytes up to which `shared` does not divide a network over the ranks of one host: there a second meeting takes longer
than what it saves (measured on 2 ranks: the two are alike at some 150 kB)."""
USED_BY = {
    "sync_every": ("local", "diloco"),
    "staleness": ("async",),
    "outer_lr": ("diloco",),
    "outer_momentum": ("diloco",),
}
"""Options that only some of the ways to aggregate have a use for."""
DEALS = 4
"""How often neurons are dealt, where nobody says and they are to be merged: every epoch is no better, and slower."""
POLISHED = 0.2
"""Of the epochs, where nobody says: the share that trains the merged network as one (`Subnets.polish`)."""
COMPRESSIONS = {"bf16": "", "topk": "0.01", "powersgd": "4"}
"""With what each takes, where it takes something."""


def aggregate_option() -> Any:
    """How to aggregate, of the way and of the studies that contain it: a name, or a class of the user's own."""
    return option("server", "how the ranks' gradients become one step", choices=AGGREGATES, takes_class="aggregate")


def plan_option() -> Any:
    """What differs from the default, of the ways and of the studies that contain them; its text may be given."""
    return option(NONE, "levers by which it is trained, as tune prints them: batch=256,lr=4,fused")


def until_option() -> Any:
    """When a training that has its goal ends, of the ways."""
    return option(0.0, "end at the epoch whose held-out accuracy (else loss) is as good; 0: train all", at_least=0)


def read_plan(spec: Any) -> None:
    """A spec's plan may be given as text.

    Raises
    ------
    InputError
        For what is no plan.
    """
    object.__setattr__(spec, "plan", Plan.read(spec.plan))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all ways have in common."""

    way: ClassVar[str]
    workers: int = option(1, "MPI ranks that train at the same time", at_least=1)
    epochs: int = option(20, "passes over the training data", at_least=1)
    batch: int = option(64, "rows per step, over all ranks together", at_least=1)
    seed: int = option(0, "of the initial weights and of the order of the rows", at_least=0)

    def __post_init__(self) -> None:
        validate(self)

    def options(self) -> dict[str, Any]:
        """The options as a JSON object."""
        options = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in options.items()}

    @property
    def obeyed(self) -> Plan:
        """The plan by which it is carried out; of what has none, the default."""
        return getattr(self, "plan", NONE)


@dataclass(frozen=True, kw_only=True)
class Baseline(Spec):
    """As it is: one process, the framework's defaults. Its time is T_p."""

    way: ClassVar[str] = "baseline"
    parameters: int = option(0, "narrow the network to about so many parameters; 0: as it is", at_least=0)
    until: float = until_option()
    narrow: float = option(0.0, "narrow it to that share of its parameters; 0: as it is", at_least=0)
    prune: float = option(0.0, "after the first epoch, prune it to that share of them; 0: do not", at_least=0)
    plan: Plan = plan_option()  # noqa: RUF009 - makes a field

    def __post_init__(self) -> None:
        super().__post_init__()
        read_plan(self)
        if self.narrow and self.parameters:
            raise InputError(f"narrow = {self.narrow} and parameters = {self.parameters} are both given: leave one out")
        if self.workers != 1:
            raise InputError(
                f"workers = {self.workers}: the network as it is trains on 1; use subnets or sharded for more"
            )


@dataclass(frozen=True, kw_only=True)
class Subnets(Spec):
    """N small networks trained at the same time and fused: y = 1/N Σ f_i(x)."""

    way: ClassVar[str] = "subnets"
    subnets: int = subnets_option()
    split: str = option("replicas", "fresh narrow copies, or its own hidden units", choices=("replicas", "neurons"))
    resplit: int = option(
        -1, "deal the neurons anew every so many epochs; 0: never; -1: four deals if they are merged", at_least=-1
    )
    fuse: str = option("mean", "how N networks become one", choices=("mean", "vote", "soup", "merge"))
    polish: int = option(
        -1, "of the epochs, the last ones that train merged neurons as one network; 0: none; -1: a fifth", at_least=-1
    )
    data: str = option("all", "the rows that each sub-network sees", choices=("all", "bootstrap", "shard"))
    engine: str = option("auto", "how they train at once; auto measures", choices=("auto", "stacked", "separate"))
    device: str = option("auto", "where; auto: a GPU where there is one", choices=("auto", "cpu", "cuda"))
    until: float = until_option()
    plan: Plan = plan_option()  # noqa: RUF009 - makes a field

    @property
    def parts(self) -> int:
        """Among how many networks the rows are divided, each being trained on its own part."""
        return self.subnets if self.data == "shard" else 1

    @property
    def is_scaled(self) -> bool:
        """Whether a part's units count for those that it has not. Measured: it helps every way to fuse them."""
        return self.split == "neurons"

    @property
    def joins(self) -> bool:
        """Whether parts of the network itself become one network again."""
        return self.split == "neurons" and self.fuse == "merge" and self.subnets > 1

    @property
    def deals_every(self) -> int:
        """After how many epochs the neurons are dealt anew; 0: never. Only parts that are merged gain by it."""
        if self.resplit >= 0:
            return self.resplit
        return -(-self.apart_epochs // DEALS) if self.joins else 0

    @property
    def joint_epochs(self) -> int:
        """Of the epochs, how many at the end train the merged network as one. One part alone is the network."""
        if self.fuse != "merge" or self.subnets == 1:
            return 0
        if self.polish >= 0:
            return self.polish
        return round(self.epochs * POLISHED) if self.joins else 0

    @property
    def apart_epochs(self) -> int:
        """Of the epochs, how many train the parts."""
        return self.epochs - self.joint_epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        read_plan(self)
        if self.until and self.joins:
            raise InputError(f"until = {self.until}: merged parts are scored at their end; leave it out")
        if self.resplit > 0 and self.split != "neurons":
            raise InputError(f"resplit = {self.resplit}: only neurons can be dealt anew; add split = neurons")
        if self.polish > 0 and self.fuse != "merge":
            raise InputError(f"polish = {self.polish}: only a merged network can be trained as one; add fuse = merge")
        if self.polish >= self.epochs:
            raise InputError(
                f"polish = {self.polish}: the parts need an epoch of the {self.epochs}; give at most {self.epochs - 1}"
            )
        if self.workers > self.subnets:
            raise InputError(
                f"workers = {self.workers}: there are only {self.subnets} sub-networks to share; "
                f"give at most {self.subnets} workers, or more sub-networks"
            )


@dataclass(frozen=True, kw_only=True)
class Sharded(Spec):
    """The training data spread over M ranks, gradients aggregated at every step: min_w 1/M Σ L(θ_i, y_i)."""

    way: ClassVar[str] = "sharded"
    aggregate: Any = aggregate_option()  # noqa: RUF009 - makes a field
    shards: str = option("shuffle", "how rows are dealt over the ranks", choices=("order", "shuffle", "stratify"))
    skew: float = option(0.0, "deal each class by Dirichlet(skew): small is uneven; 0: do not", at_least=0)
    compress: str = option("none", "send less: none, bf16, topk:0.01 or powersgd:4 of the gradient", shown_as="KIND")
    sync_every: int = option(10, "steps between the meetings of local and diloco", at_least=1)
    staleness: int = option(2, "steps that a rank of async may be ahead of the slowest", at_least=0)
    outer_lr: float = option(0.7, "learning rate of diloco's outer step", at_least=0)
    outer_momentum: float = option(0.9, "Nesterov momentum of diloco's outer step", at_least=0)
    save_every: int = option(0, "steps between checkpoints (the task is kept too); 0: none", at_least=0)
    retries: int = option(0, "how often to go on by itself after a rank was lost", at_least=0)
    until: float = until_option()
    plan: Plan = plan_option()  # noqa: RUF009 - makes a field

    def __post_init__(self) -> None:
        super().__post_init__()
        read_plan(self)
        kind, _ = read_compress(self.compress)
        if kind != "none" and self.aggregate != "allreduce" and not (self.aggregate == "server" and kind != "powersgd"):
            able = "allreduce" if kind == "powersgd" else "allreduce or server"
            given = self.aggregate if isinstance(self.aggregate, str) else self.aggregate.__name__
            raise InputError(f"compress = {self.compress}: {given} cannot send that; aggregate by {able}")
        if self.skew and self.shards != "shuffle":
            raise InputError(f"skew = {self.skew} deals the rows by class: leave shards = {self.shards} out")
        for name, ways in USED_BY.items():
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default and self.aggregate not in ways:
                raise InputError(f"{name} = {value}: only {' and '.join(ways)} take it; leave it out")
        if self.retries and not self.save_every:
            raise InputError(f"retries = {self.retries}: there is nothing to go on from; add save_every")

    @property
    def is_synchronous(self) -> bool:
        """Whether every step of every rank is a step of all, on the gradient of the whole batch."""
        return not isinstance(self.aggregate, str) or self.aggregate in SYNCHRONOUS

    @property
    def deals_by_class(self) -> bool:
        """Whether rows are dealt by their labels."""
        return bool(self.skew) or self.shards == "stratify"


def read_compress(text: str) -> tuple[str, float]:
    """The kind of compression and its amount: "topk:0.01" is ("topk", 0.01), "powersgd" ("powersgd", 4).

    Raises
    ------
    InputError
    """
    kind, _, amount = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind in ("none", "bf16") and not amount:
        return kind, 0.0
    try:
        number = float(amount or COMPRESSIONS[kind])
        if (kind == "topk" and 0 < number <= 1) or (kind == "powersgd" and number >= 1 and number % 1 == 0):
            return kind, number
    except (KeyError, ValueError):
        pass
    raise InputError(
        f"compress = {text}: choose none, bf16, topk:F (the part that is sent, 0 < F <= 1) or powersgd:R (a rank, 1 or "
        "more)"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return value.__name__
    return str(value) if isinstance(value, Plan) else value


WAYS: dict[str, type[Spec]] = {spec.way: spec for spec in (Baseline, Subnets, Sharded)}

S = TypeVar("S", bound=Spec)


def make_spec(kind: type[S], options: Mapping[str, Any]) -> S:
    """A spec from keyword options; an option that the way does not have is refused by name.

    Raises
    ------
    InputError
        For an unknown option (with the nearest known one) or a value out of bounds.
    """
    known = [item.name for item in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
            raise InputError(f"{kind.way} has no option {name}: {hint}")
    return kind(**options)
