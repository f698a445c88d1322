"""Ways to send less of a gradient. One small class per way, over an mpi4py communicator.

Each turns every rank's part into an approximation of the parts' sum, bit for bit the same on every rank: all get the
same numbers and compute the same with them. PowerSGD multiplies and orthogonalises, so its ranks must run on processors
of one kind, with as many threads. The parts come weighted by their rows: the sum is wanted, not the mean.

Error feedback: what a step leaves out is kept (the residual) and added to the next gradient. It is kept of the
gradient, as in PowerSGD, not of the step, as in Stich et al.: the same until the learning rate changes.

Knows nothing of models and optimizers: a gradient is a flat tensor of float32 or float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..comm.waiting import complete
from ..errors import InputError


class Compression:
    """One rank's side of a way to send less; what it remembers between steps is this rank's own."""

    name: ClassVar[str]
    can_gather: ClassVar[bool] = True
    """Whether a central server can collect the parts: they can be encoded, and added one by one."""
    remembers: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        """A copy of what is remembered: flat tensors by name, none before the first step."""
        return {name: tensor.clone() for name, tensor in self.kept.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state()`; InputError for another compression's, in the next step for another size's."""
        if state and state.keys() != self.remembers:
            names = [", ".join(sorted(each)) or "nothing" for each in (state, self.remembers)]
            raise InputError(
                f"the state holds {names[0]}, {self.name} remembers {names[1]}: keep the compression it was saved with"
            )
        self.kept = {name: tensor.clone() for name, tensor in state.items()}

    def recall(self, name: str, size: int, dtype: torch.dtype, first: Callable[[int], Tensor] = torch.zeros) -> Tensor:
        """What is remembered, shape (size,), to be changed in place; in the first step what `first` makes."""
        if name not in self.kept:
            self.kept[name] = first(size).to(dtype)
        kept = self.kept[name]
        if kept.shape != (size,) or kept.dtype != dtype:
            had, need = (f"{n} of {t}" for n, t in ((kept.numel(), kept.dtype), (size, dtype)))
            raise InputError(f"{self.name}'s {name} holds {had}, not {need}: load a state of the same model and amount")
        return kept

    def encode(self, gradient: Tensor) -> np.ndarray:
        """What is sent of a gradient of shape (count,): uint8, of the same size on every rank and in every step."""
        raise NotImplementedError

    def add(self, payload: np.ndarray, out: Tensor) -> None:
        """Add what any rank's `encode` returned on `out`, of the gradient's shape and type."""
        raise NotImplementedError

    def exchange(self, comm: Any, gradient: Tensor) -> int:
        """Turn every rank's part of a gradient, in place, into the (compressed) sum of all.

        Parameters
        ----------
        comm
            mpi4py communicator; every rank of it takes every step.
        gradient
            This rank's weighted part, shape (count,), contiguous.

        Returns
        -------
        int
            Bytes that this rank handed to MPI. How often MPI passes them on is its own choice.
        """
        payload = self.encode(gradient)
        gathered = np.empty((comm.Get_size(), payload.size), np.uint8)
        complete(comm.Iallgather(payload, gathered), payload, gathered)
        gradient.zero_()
        for part in gathered:  # in the order of ranks, so that all of them round alike
            self.add(part, gradient)
        return payload.nbytes


class Bf16(Compression):
    """Every number as a bfloat16: 2 bytes, float32's range, relative error at most 2⁻⁸ (more below 1e-38).

    Without error feedback: the rounding takes no side and is small beside every single number, so nothing is left out
    step after step. A residual would cost as much memory as the gradient and mend little.
    """

    name = "bf16"

    def encode(self, gradient: Tensor) -> np.ndarray:
        return gradient.to(torch.bfloat16).view(torch.uint8).numpy()

    def add(self, payload: np.ndarray, out: Tensor) -> None:
        out += torch.from_numpy(payload).view(torch.bfloat16)


class TopK(Compression):
    """The k = max(1, round(fraction · count)) numbers largest by magnitude, with their places. Error feedback.

    Stich, Cordonnier, Jaggi, "Sparsified SGD with memory", NeurIPS 2018. Sent are k int32 places, then k values: more
    bytes than the gradient has when the fraction is over 1/2 (float32) or 2/3 (float64).

    Raises
    ------
    InputError
        When the fraction is not in (0, 1], or, from `encode`, when the gradient is too long for int32.
    """

    name = "topk"
    remembers = frozenset({"residual"})

    def __init__(self, fraction: float) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise InputError(f"topk sends a fraction of the gradient over 0 and at most 1, not {fraction}: try 0.01")
        self.fraction = fraction

    def encode(self, gradient: Tensor) -> np.ndarray:
        if (count := gradient.numel()) > 2**31 - 1:
            raise InputError(f"topk can send at most 2^31 - 1 places, the gradient has {count}: use powersgd or bf16")
        residual = self.recall("residual", count, gradient.dtype)
        residual += gradient
        places = residual.abs().topk(max(1, round(self.fraction * count)), sorted=False).indices
        values = residual[places]
        residual[places] = 0
        return np.concatenate([places.to(torch.int32).numpy().view(np.uint8), values.numpy().view(np.uint8)])

    def add(self, payload: np.ndarray, out: Tensor) -> None:
        split = 4 * (payload.size // (4 + out.element_size()))
        # Copies, because a part of a payload need not begin where a number may.
        places, values = (torch.from_numpy(part.copy()) for part in (payload[:split], payload[split:]))
        out.index_add_(0, places.view(torch.int32), values.view(out.dtype))


class PowerSGD(Compression):
    """Every matrix as a product P Qᵀ of rank k, whose factors can be summed. Error feedback.

    Vogels, Karimireddy, Jaggi, "PowerSGD", NeurIPS 2019, algorithms 1 and 2, with sums for means. With a rank's part
    M_r (n, m), residual included, and the Q (m, k) of the step before:

        P = orth(Σ M_r orth(Q)),   Q_r = M_rᵀ P,   sum = P (Σ Q_r)ᵀ,   residual_r = M_r − P Q_rᵀ

    orth(Q) is not in the paper and spans the same; it keeps all columns alive after a gradient of lower rank, or zero.
    So the sum is exact at full rank, k = min(n, m).

    A parameter of more than two dimensions is a matrix (first, all others). One of fewer, or one whose factors are not
    smaller than itself (at full rank they never are), is summed as it is, along with the P.

    Parameters
    ----------
    rank
        k, a whole number of at least 1, else InputError; a matrix takes its shorter side at most.
    shapes
        The parameters', in the order in which they lie in the flat gradient.
    seed
        For the first Q; the same on every rank.
    """

    name = "powersgd"
    can_gather = False
    remembers = frozenset({"residual", "q"})

    def __init__(self, rank: float, shapes: Sequence[torch.Size], seed: int) -> None:
        super().__init__()
        if not (rank >= 1 and float(rank).is_integer()):
            raise InputError(f"powersgd's rank is a whole number of at least 1, not {rank}: try 2")
        self.seed, self.sizes = seed, [shape.numel() for shape in shapes]
        self.matrices: dict[int, tuple[int, int, int]] = {}  # n, m, k by place among the parameters
        for i, shape in enumerate(shapes):
            if len(shape) > 1 and shape.numel():
                n, m = shape[0], shape[1:].numel()
                if is_smaller(n, m, k := min(int(rank), n, m)):
                    self.matrices[i] = n, m, k
        self.plain = [i for i in range(len(shapes)) if i not in self.matrices]

    def exchange(self, comm: Any, gradient: Tensor) -> int:
        dims = self.matrices.values()
        residual = self.recall("residual", gradient.numel(), gradient.dtype)
        flat_q = self.recall("q", sum(m * k for _, m, k in dims), gradient.dtype, self.first_q)
        residual += gradient
        parts, out = residual.split(self.sizes), gradient.split(self.sizes)
        matrices = [parts[i].view(n, m) for i, (n, m, _) in self.matrices.items()]
        qs = [q.view(m, k) for q, (_, m, k) in zip(flat_q.split([m * k for _, m, k in dims]), dims, strict=True)]

        products = [(part @ orth(q)).flatten() for part, q in zip(matrices, qs, strict=True)]
        sent = torch.cat([*products, *(parts[i] for i in self.plain)])
        summed = torch.empty_like(sent)
        complete(comm.Iallreduce(sent.numpy(), summed.numpy()), sent, summed)
        sums = summed.split([*(n * k for n, _, k in dims), *(self.sizes[i] for i in self.plain)])
        for i, part in zip(self.plain, sums[len(dims) :], strict=True):
            out[i].copy_(part)
            parts[i].zero_()
        if not self.matrices:  # on all ranks alike
            return sent.nbytes

        ps = [orth(part.view(n, k)) for part, (n, _, k) in zip(sums, dims, strict=False)]
        own = torch.cat([(part.T @ p).flatten() for part, p in zip(matrices, ps, strict=True)])
        complete(comm.Iallreduce(own.numpy(), flat_q.numpy()), own, flat_q)
        own_qs = own.split([q.numel() for q in qs])
        for i, part, p, q, own_q in zip(self.matrices, matrices, ps, qs, own_qs, strict=True):
            part.sub_(p @ own_q.view_as(q).T)
            torch.mm(p, q.T, out=out[i].view_as(part))
        return sent.nbytes + own.nbytes

    def first_q(self, size: int) -> Tensor:
        """Normal numbers, drawn in float64 so that a seed means the same in every type."""
        return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed))


def is_smaller(n: int, m: int, k: int) -> bool:
    """Whether factors (n, k) and (m, k) hold fewer numbers than their product."""
    return (n + m) * k < n * m


def orth(matrix: Tensor) -> Tensor:
    """Orthonormal columns, shape (n, k), whose span holds that of the matrix (n, k), k ≤ n; also of a singular one."""
    return torch.linalg.qr(matrix).Q


COMPRESSIONS = ("none", "bf16", "topk", "powersgd")


def make_compression(kind: str, amount: float, shapes: Sequence[torch.Size], seed: int) -> Compression | None:
    """The compression of a kind, None for "none"; InputError when there is no such kind, or the amount is refused.

    `amount` is topk's fraction or powersgd's rank and nothing to the others; for `shapes` and `seed` see `PowerSGD`.
    """
    match kind:
        case "powersgd":
            return PowerSGD(amount, shapes, seed)
        case "topk":
            return TopK(amount)
        case "bf16":
            return Bf16()
        case "none":
            return None
    raise InputError(f"compression = {kind}: choose one of {', '.join(COMPRESSIONS)}")
