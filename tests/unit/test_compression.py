"""What is sent of a gradient, and what is kept, add up to it; all ranks get the same bits. In float64, without MPI."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cooptim_lab.shards import compression
from cooptim_lab.shards.compression import COMPRESSIONS, Bf16, PowerSGD, TopK, make_compression
from tests.support import PATIENCE_SECONDS, SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [torch.Size(s) for s in [(12, 9), (12,), (8, 3, 2, 2), (2, 2), (), (9, 11), (1,)]]
"""Matrices and a convolution; at rank 2 a matrix that factors would not make smaller; vectors, a scalar."""
COUNT = sum(shape.numel() for shape in SHAPES)
RANKS = 3
ONES = torch.ones(RANKS, COUNT, dtype=torch.float64)


class Meeting:
    """Where the ranks of one process meet: what each brings lies here while all look at it."""

    def __init__(self, size):
        self.brought = [None] * size
        self.barrier = threading.Barrier(size, timeout=PATIENCE_SECONDS)


class ThreadComm(SoloComm):
    """The communicator of a rank that is a thread; its calls return when all ranks have made them."""

    def __init__(self, meeting, rank):
        self.meeting, self.rank, self.calls = meeting, rank, []

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return len(self.meeting.brought)

    def gathered(self, name, send):
        self.calls.append((name, send.nbytes))
        self.meeting.brought[self.rank] = send.copy()
        self.meeting.barrier.wait()
        everything = list(self.meeting.brought)
        self.meeting.barrier.wait()  # nobody brings the next before all have seen this
        return everything

    def Iallgather(self, send, receive):
        receive[:] = self.gathered("Iallgather", send)
        return self

    def Iallreduce(self, send, receive):
        receive[:] = sum(self.gathered("Iallreduce", send))
        return self


def on_ranks(compressions, gradients):
    """One exchange of all ranks: what each then holds, the bytes it reports, its calls as (name, bytes)."""
    meeting = Meeting(len(gradients))

    def exchange(rank):
        comm, gradient = ThreadComm(meeting, rank), gradients[rank].clone()
        try:
            return gradient, compressions[rank].exchange(comm, gradient), comm.calls
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(len(gradients)) as threads:
        return list(zip(*threads.map(exchange, range(len(gradients))), strict=True))


def alone(one, gradient):
    return on_ranks([one], [gradient])[0][0]


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def matrix(flat, i):
    """Parameter i of a flat gradient, as the matrix that PowerSGD makes of it."""
    return flat.split([shape.numel() for shape in SHAPES])[i].reshape(SHAPES[i][0], -1)


def residual(one):
    return one.state().get("residual", 0)


def everything(kind, amount, steps=6):
    """(Σ of all gradients, Σ of what the ranks were given) of some steps, and the compressions then."""
    compressions = [make_compression(kind, amount, SHAPES, 5) for _ in range(RANKS)]
    wanted = sent = 0
    for step in range(steps):
        gradients = draw(step, RANKS, COUNT)
        held, _, _ = on_ranks(compressions, gradients)
        wanted, sent = wanted + gradients.sum(0), sent + held[0]
    return wanted, sent, compressions


@pytest.fixture
def always_factors(monkeypatch):
    """Also where factors are not smaller, which at full rank they never are."""
    monkeypatch.setattr(compression, "is_smaller", lambda n, m, k: True)


WITH_MEMORY = pytest.mark.parametrize(("kind", "amount"), [("topk", 0.1), ("powersgd", 2)])
ALL = pytest.mark.parametrize(("kind", "amount"), [("bf16", 0), ("topk", 0.1), ("powersgd", 2)])


@WITH_MEMORY
def test_all_that_was_sent_and_the_residuals_are_all_gradients(kind, amount):
    wanted, sent, compressions = everything(kind, amount)
    assert (sent + sum(map(residual, compressions)) - wanted).abs().max() < 1e-12


@WITH_MEMORY
def test_breakage_without_keeping_the_residual_gradients_are_lost(kind, amount, monkeypatch):
    recall = compression.Compression.recall

    def forgetful(self, name, *arguments):
        if name == "residual":
            self.kept.pop(name, None)
        return recall(self, name, *arguments)

    monkeypatch.setattr(compression.Compression, "recall", forgetful)
    wanted, sent, compressions = everything(kind, amount)
    assert (sent + sum(map(residual, compressions)) - wanted).abs().max() > 0.1


@WITH_MEMORY
def test_a_gradient_that_stays_arrives_in_the_mean(kind, amount):
    one, gradient, steps = make_compression(kind, amount, SHAPES, 0), draw(0, COUNT), 300
    mean = sum(alone(one, gradient) for _ in range(steps)) / steps
    assert (mean - gradient).norm() < 0.05 * gradient.norm()
    first = alone(make_compression(kind, amount, SHAPES, 0), gradient)
    assert (first - gradient).norm() > 0.3 * gradient.norm(), "one step alone sends much less"


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ranks_hold_the_same_bits_of_the_sum(kind, amount, dtype):
    compressions = [make_compression(kind, amount, SHAPES, 0) for _ in range(RANKS)]
    for step in range(4):
        gradients = draw(step, RANKS, COUNT, dtype=dtype)
        whole = gradients.sum(0) + sum(map(residual, compressions))
        held, sizes, calls = on_ranks(compressions, gradients)
        assert all(torch.equal(each, held[0]) for each in held[1:])
        left = sum(map(residual, compressions))
        tolerance = 2**-8 * gradients.abs().sum(0).max() if kind == "bf16" else 1e-12 if dtype.itemsize == 8 else 1e-4
        assert (held[0] + left - whole).abs().max() < tolerance
        assert sizes == tuple(sum(size for _, size in each) for each in calls)
        assert [name for name, _ in calls[0]] == (["Iallreduce"] * 2 if kind == "powersgd" else ["Iallgather"])
        assert sizes[0] < gradients[0].nbytes


def test_topk_sends_the_largest_with_their_places():
    one = TopK(0.4)
    gradient = torch.tensor([1.0, -5, 0.5, 4, -2], dtype=torch.float64)
    payload = one.encode(gradient)
    assert payload.dtype.name == "uint8"
    assert payload.size == 2 * (4 + 8)
    out = torch.ones(5, dtype=torch.float64)
    one.add(payload, out)
    assert out.tolist() == [1, -4, 1, 5, 1]
    assert one.state()["residual"].tolist() == [1, 0, 0.5, 0, -2]


@pytest.mark.parametrize(
    ("fraction", "count", "k"), [(0.01, 5, 1), (1e-9, 1, 1), (1, 1, 1), (0.3, 10, 3), (0.25, 7, 2), (1, 7, 7)]
)
def test_topk_sends_at_least_one_number(fraction, count, k):
    assert TopK(fraction).encode(draw(0, count)).size == k * 12
    held, _, _ = on_ranks([TopK(1) for _ in range(RANKS)], draw(0, RANKS, count))
    assert (held[0] - draw(0, RANKS, count).sum(0)).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bf16_is_off_by_at_most_one_part_in_256(dtype):
    gradient = draw(0, 5000, dtype=dtype) * 10 ** draw(1, 5000, dtype=dtype)
    error = ((alone(Bf16(), gradient) - gradient) / gradient).abs().max()
    assert 2**-9 < error <= 2**-8
    assert Bf16().encode(gradient).size == 2 * 5000


def test_bf16_leaves_a_bfloat16_as_it_is():
    gradient = draw(0, 100).bfloat16().double()
    assert torch.equal(alone(Bf16(), gradient), gradient)


FULL = 12
"""A rank that no matrix here exceeds. Its factors are never smaller, so these tests use `always_factors`."""


def errors_at(rank, ranks=RANKS):
    """Largest error of each of four steps; the first, of zero, and the third, of rank 1, leave Q singular."""
    compressions = [PowerSGD(rank, SHAPES, 3) for _ in range(ranks)]
    worst = []
    for gradients in (ONES * 0, draw(0, *ONES.shape), ONES, draw(1, *ONES.shape)):
        held, _, _ = on_ranks(compressions, gradients[:ranks])
        worst.append(float((held[0] - gradients[:ranks].sum(0)).abs().max()))
    return worst


def test_powersgd_at_full_rank_is_the_identity(always_factors):
    assert len(PowerSGD(FULL, SHAPES, 3).matrices) == 4
    assert max(errors_at(FULL)) < 1e-10


def test_breakage_powersgd_at_rank_1_is_not(always_factors):
    assert errors_at(1)[1] > 0.1


def test_breakage_without_orthogonalising_q_full_rank_is_lost(always_factors, monkeypatch):
    orth, calls, matrices = compression.orth, iter(range(10**6)), 4

    def orth_of_p(matrix):
        """Of every step's calls the first are for the Q."""
        return matrix if next(calls) // matrices % 2 == 0 else orth(matrix)

    monkeypatch.setattr(compression, "orth", orth_of_p)
    assert errors_at(FULL, ranks=1)[1] > 0.1


def test_powersgd_is_exact_where_the_sum_has_the_rank():
    n, m, k = 12, 9, 2
    left, right = draw(0, RANKS, n, k), draw(1, m, k)
    gradients = (left @ right.T).flatten(1)
    compressions = [PowerSGD(k, [torch.Size((n, m))], 0) for _ in range(RANKS)]
    held, sizes, _ = on_ranks(compressions, gradients)
    assert (held[0] - gradients.sum(0)).abs().max() < 1e-10
    assert sizes[0] == (n + m) * k * 8


def test_powersgd_sends_what_would_not_get_smaller_as_it_is():
    one = PowerSGD(2, SHAPES, 0)
    assert one.matrices == {0: (12, 9, 2), 2: (8, 12, 2), 5: (9, 11, 2)}
    gradient = draw(0, COUNT)
    held, kept = alone(one, gradient), one.state()["residual"]
    sizes = [shape.numel() for shape in SHAPES]
    pieces = list(zip(held.split(sizes), gradient.split(sizes), kept.split(sizes), strict=True))
    for i in one.plain:
        assert torch.equal(pieces[i][0], pieces[i][1])
        assert not pieces[i][2].any()
    for i in one.matrices:
        assert torch.linalg.matrix_rank(matrix(held, i)) == 2
        assert pieces[i][2].abs().max() > 0.1


def test_powersgd_of_vectors_alone_is_one_sum():
    compressions = [PowerSGD(2, [torch.Size((4,)), torch.Size(())], 0) for _ in range(RANKS)]
    held, sizes, calls = on_ranks(compressions, draw(0, RANKS, 5))
    assert (held[0] - draw(0, RANKS, 5).sum(0)).abs().max() < 1e-14
    assert calls[0] == [("Iallreduce", 40)]
    assert sizes[0] == 40


def test_powersgd_warm_started_comes_closer_to_the_best_of_its_rank():
    """Without error feedback: the same gradient again and again, as in the power iteration that it is named for."""
    one, gradient = PowerSGD(2, [torch.Size((12, 9))], 0), draw(0, 108)
    errors = []
    for _ in range(60):
        one.kept.pop("residual", None)
        errors.append(float((alone(one, gradient) - gradient).norm()))
    best = torch.linalg.svdvals(gradient.view(12, 9))[2:].norm()
    assert errors[0] > 1.02 * best
    assert abs(errors[-1] - best) < 1e-3 * best


@ALL
def test_zero_gradients_give_zeros(kind, amount):
    compressions = [make_compression(kind, amount, SHAPES, 0) for _ in range(RANKS)]
    for _ in range(3):
        held, _, _ = on_ranks(compressions, torch.zeros(RANKS, COUNT))
        assert not any(each.any() for each in held)
    held, _, _ = on_ranks(compressions, torch.ones(RANKS, COUNT))
    assert held[0].abs().max() > 1


@ALL
@pytest.mark.parametrize("shape", [(1,), (), (1, 1)])
def test_one_parameter_of_one_number(kind, amount, shape):
    compressions = [make_compression(kind, amount, [torch.Size(shape)], 0) for _ in range(RANKS)]
    held, _, _ = on_ranks(compressions, torch.tensor([[1.0], [2.0], [4.0]]))
    assert [each.tolist() for each in held] == [[7.0]] * RANKS


@ALL
def test_a_saved_state_goes_on_bit_for_bit(kind, amount):
    compressions = [make_compression(kind, amount, SHAPES, 0) for _ in range(RANKS)]
    for step in range(2):
        on_ranks(compressions, draw(step, RANKS, COUNT))
    resumed = [make_compression(kind, amount, SHAPES, 99) for _ in range(RANKS)]
    for one, other in zip(compressions, resumed, strict=True):
        file = io.BytesIO()
        torch.save(one.state(), file)
        file.seek(0)
        other.load(torch.load(file, weights_only=True))
    for step in (2, 3):
        held, again = (on_ranks(each, draw(step, RANKS, COUNT))[0] for each in (compressions, resumed))
        assert all(map(torch.equal, held, again))


@WITH_MEMORY
def test_breakage_without_the_state_it_does_not(kind, amount):
    one, fresh = (make_compression(kind, amount, SHAPES, 0) for _ in range(2))
    alone(one, draw(0, COUNT))
    assert not torch.equal(alone(one, draw(1, COUNT)), alone(fresh, draw(1, COUNT)))


@WITH_MEMORY
def test_a_state_is_a_copy(kind, amount):
    one = make_compression(kind, amount, SHAPES, 0)
    assert one.state() == {}
    alone(one, draw(0, COUNT))
    state = one.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    alone(one, draw(1, COUNT))  # changes no state handed out
    one.load(state)
    alone(one, draw(1, COUNT))  # nor one handed in
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_the_state_of_another_compression_is_refused():
    topk = TopK(0.5)
    alone(topk, draw(0, COUNT))
    with refused("holds residual", "powersgd remembers q, residual"):
        PowerSGD(2, SHAPES, 0).load(topk.state())
    with refused("holds residual", "bf16 remembers nothing"):
        Bf16().load(topk.state())
    with refused(f"topk's residual holds {COUNT} of torch.float64, not 3 of torch.float64"):
        topk.encode(draw(0, 3))
    with refused("torch.float64, not", "torch.float32"):
        topk.encode(torch.zeros(COUNT))
    one, other = PowerSGD(1, SHAPES, 0), PowerSGD(2, SHAPES, 0)
    alone(one, draw(0, COUNT))
    other.load(one.state())
    with refused("powersgd's q holds", "same model and amount"):
        alone(other, draw(0, COUNT))


def test_kinds_and_amounts():
    assert make_compression("none", 0, SHAPES, 0) is None
    made = [make_compression(kind, 1, SHAPES, 0) for kind in COMPRESSIONS[1:]]
    assert [(each.name, each.can_gather) for each in made] == [("bf16", True), ("topk", True), ("powersgd", False)]
    with refused("compression = zip", "none, bf16, topk, powersgd"):
        make_compression("zip", 1, SHAPES, 0)


@pytest.mark.parametrize("amount", [0, -0.1, 1.5, float("nan")])
def test_fractions_that_are_refused(amount):
    with refused("topk", f"not {amount}"):
        make_compression("topk", amount, SHAPES, 0)


@pytest.mark.parametrize("amount", [0, 0.5, 2.5, -1, float("nan"), float("inf")])
def test_ranks_that_are_refused(amount):
    with refused("powersgd", f"not {amount}"):
        make_compression("powersgd", amount, SHAPES, 0)
