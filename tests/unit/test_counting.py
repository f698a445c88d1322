"""Operations and bytes of a step beside closed forms; without our formulas they are wrong, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cooptim_lab.costs import counting, products
from cooptim_lab.costs.counting import Counter, count_step, time_layers
from cooptim_lab.costs.work import Product, Step, Work, total

pytestmark = pytest.mark.usefixtures("one_thread")
N = 6  # rows of a batch


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def counted(network: nn.Module, x: Tensor, optimizer: Callable = torch.optim.SGD) -> Step:
    y = torch.zeros_like(network(x))
    return count_step(network, mean_square, optimizer(network.parameters(), lr=0.1), x, y)


def of(step: Step, name: str) -> tuple[int, int]:
    """Operations of a layer, forward and backward."""
    (layer,) = [each for each in step.layers if each.name == name]
    return layer.forward.operations, layer.backward.operations


def evaluated(network: nn.Module, x: Tensor) -> int:
    """Operations of a forward pass in evaluation mode."""
    network.eval()
    counter = Counter(network)
    with counter.watching(), torch.no_grad():
        network(x)
    return total(counter.works.values()).operations


def by_torch(action: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


class First(nn.Module):
    """The first of what a module gives, of its input thrice where that is asked for."""

    def __init__(self, inner: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(*[x] * self.times)[0]


class TestClosedForms:
    def test_perceptron(self):
        step = counted(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(N, 5))
        # The first layer's input wants no gradient.
        assert of(step, "0") == (2 * N * 5 * 7, 2 * N * 5 * 7)
        assert of(step, "1") == (0, 0)
        assert of(step, "2") == (2 * N * 7 * 3, 2 * 2 * N * 7 * 3)
        assert step.whole.operations == 2 * (2 * N * 5 * 7) + 3 * (2 * N * 7 * 3)
        assert (step.rows, step.parameters, step.tensors, step.precision) == (N, 5 * 7 + 7 + 7 * 3 + 3, 4, "float32")

    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_convolutions(self, groups, stride):
        network = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=stride, groups=groups, bias=False)
        )
        step = counted(network, torch.randn(N, 4, 9, 9))
        side = (9 - 3) // stride + 1
        once = 2 * N * side * side * 9 * (8 // groups) * 12
        assert of(step, "1") == (once, 2 * once)
        assert of(step, "0") == (2 * N * 81 * 9 * 4 * 8,) * 2

    @pytest.mark.parametrize("groups", [1, 2])
    def test_transposed_convolutions(self, groups):
        network = nn.Sequential(nn.Linear(5, 5), nn.ConvTranspose1d(4, 6, 3, stride=2, groups=groups))
        step = counted(network, torch.randn(N, 4, 5))
        once = 2 * N * 5 * 3 * 4 * (6 // groups)
        assert of(step, "1") == (once, 2 * once)

    def test_attention(self):
        length, width, heads = 5, 8, 2
        step = counted(nn.Sequential(nn.Linear(width, width), First(nn.MultiheadAttention(width, heads, batch_first=True), 3)), torch.randn(N, length, width))  # fmt: skip # noqa: E501
        forward, backward = of(step, "1.inner")
        linear = 2 * N * length * width * 4 * width
        scores = 2 * N * length * length * width
        # need_weights: scores and their product with the values, as plain products
        assert forward == linear + 2 * scores
        assert backward == 2 * forward
        (layer,) = [each for each in step.layers if each.name == "1.inner"]
        assert layer.parameters == 4 * width * width + 4 * width  # the last layer's too, which is never called

    @pytest.mark.parametrize("is_causal", [False, True])
    def test_attention_by_blocks(self, is_causal):
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(4))

            def forward(self, x: Tensor) -> Tensor:
                q = x * self.scale
                return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=is_causal)

        step = counted(Heads(), torch.randn(N, 3, 7, 4))
        one = 2 * N * 3 * 7 * 7 * 4
        assert of(step, "") == (2 * one, 5 * one)

    def test_lstm(self):
        steps, inputs, h = 5, 4, 6
        network = nn.Sequential(nn.Linear(inputs, inputs), First(nn.LSTM(inputs, h, batch_first=True)))
        once = 2 * steps * N * 4 * h * (inputs + h)
        assert of(counted(network, torch.randn(N, steps, inputs)), "1.inner") == (once, 2 * once)

    def test_lstm_of_two_layers_both_ways(self):
        steps, inputs, h = 5, 4, 6
        step = counted(
            First(nn.LSTM(inputs, h, 2, batch_first=True, bidirectional=True)), torch.randn(N, steps, inputs)
        )
        once = 2 * (2 * steps * N * 4 * h * (inputs + h)) + 2 * (2 * steps * N * 4 * h * (2 * h + h))
        assert of(step, "inner") == (once, 2 * once)

    def test_gru(self):
        steps, inputs, h = 5, 4, 6
        forward, backward = of(counted(First(nn.GRU(inputs, h)), torch.randn(steps, N, inputs)), "inner")
        of_inputs, of_states = 2 * steps * N * 3 * h * inputs, 2 * steps * N * 3 * h * h
        assert forward == of_inputs + of_states
        # The inputs want no gradient, nor does the first state.
        assert backward == of_inputs + 2 * of_states - of_states // steps

    def test_evaluation_of_attention(self):
        length, width, heads = 5, 8, 2
        network = First(nn.MultiheadAttention(width, heads, batch_first=True), 3)
        expected = 2 * N * length * width * 4 * width + 2 * 2 * N * length * length * width
        assert evaluated(network, torch.randn(N, length, width)) == expected

    def test_evaluation_of_an_encoder(self):
        length, width, inner = 5, 8, 12
        network = nn.TransformerEncoderLayer(width, 2, inner, batch_first=True)
        expected = 2 * N * length * (4 * width * width + 2 * width * inner) + 2 * 2 * N * length * length * width
        assert evaluated(network, torch.randn(N, length, width)) == expected

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_evaluation_of_sequences_of_several_lengths(self):
        lengths, width, inner = [5, 2, 3], 8, 12
        network = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, inner, batch_first=True), 1).eval()
        mask = torch.tensor([[place >= length for place in range(5)] for length in lengths])
        counter = Counter(network)
        with counter.watching(), torch.no_grad():
            network(torch.randn(3, 5, width), src_key_padding_mask=mask)
        per_token = 2 * (4 * width * width + 2 * width * inner)
        expected = sum(length * per_token + 4 * length * length * width for length in lengths)
        assert total(counter.works.values()).operations == expected

    def test_inference_mode(self):
        counter = Counter(network := nn.Linear(5, 7))
        with counter.watching(), torch.inference_mode():
            network(torch.randn(N, 5))
        assert counter.works["", False].operations == 2 * N * 5 * 7


def encoder() -> tuple[nn.Module, Tensor]:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), torch.randn(N, 5, 8)


class TestWithoutOurFormulas:
    """What is left of the counts where an operator's formula is missing, so that torch's counter decides."""

    @pytest.mark.parametrize(
        ("name", "network", "shape"),
        [
            ("mkldnn_rnn_layer", First(nn.LSTM(4, 6)), (5, N, 4)),
            ("mkldnn_rnn_layer_backward", First(nn.LSTM(4, 6)), (5, N, 4)),
            ("convolution_backward", nn.Conv1d(4, 8, 3, groups=4), (N, 4, 9)),
            ("_scaled_dot_product_flash_attention_for_cpu", encoder()[0], (N, 5, 8)),
            ("_scaled_dot_product_flash_attention_for_cpu_backward", encoder()[0], (N, 5, 8)),
        ],
    )
    def test_a_step_is_wrong(self, monkeypatch, name, network, shape):
        x = torch.randn(*shape)
        right = counted(network, x).whole.operations
        monkeypatch.delitem(products.FORMULAS, getattr(torch.ops.aten, name))
        assert counted(network, x).whole.operations != right

    @pytest.mark.parametrize(
        ("name", "network"),
        [
            ("_transformer_encoder_layer_fwd", encoder()[0]),
            ("_native_multi_head_attention", First(nn.MultiheadAttention(8, 2, batch_first=True), 3)),
        ],
    )
    def test_a_fast_path_is_nothing(self, monkeypatch, name, network):
        x = torch.randn(N, 5, 8)
        assert evaluated(network, x) > 0
        monkeypatch.delitem(products.FORMULAS, getattr(torch.ops.aten, name))
        assert evaluated(network, x) == 0

    def test_torch_alone_is_right_where_it_knows(self):
        network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5)), torch.randn(N, 3, 5, 5)
        theirs = by_torch(lambda: mean_square(network(x), torch.zeros(N, 5)).backward())
        assert counted(network, x).whole.operations == theirs

    def test_torch_alone_counts_groups_too_often(self):
        network, x = nn.Conv1d(4, 8, 3, groups=4), torch.randn(N, 4, 9)
        theirs = by_torch(lambda: network(x).sum().backward())
        once = 2 * N * 7 * 3 * 1 * 8
        assert theirs == once + 4 * once
        assert counted(network, x).whole.operations == 2 * once


class TestBytes:
    def test_inputs_weights_and_outputs(self):
        step = counted(nn.Sequential(nn.Linear(5, 7), nn.ReLU()), torch.randn(N, 5))
        linear, relu = step.layers
        assert linear.forward.bytes == 4 * (N * 5 + 7 * 5 + 7 + N * 7)
        assert relu.forward.bytes == 4 * 2 * N * 7
        assert relu.backward.bytes == 4 * 3 * N * 7
        assert (linear.forward.operators, linear.forward.views) == (1, 1)

    def test_what_works_in_place_reads_and_writes(self):
        step = counted(nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True)), torch.randn(N, 5))
        assert step.layers[1].forward.bytes == 4 * 2 * N * 7

    def test_an_embedding_reads_the_rows_it_gives(self):
        network = nn.Embedding(1000, 4)
        counter = Counter(network)
        with counter.watching(), torch.no_grad():
            network(torch.zeros(N, dtype=torch.long))
        assert counter.works["", False].bytes == 8 * N + 2 * 4 * 4 * N

    def test_what_is_repeated_counts_once(self):
        assert counting.size(torch.ones(1, 5).expand(100, 5)) == 4 * 5
        assert counting.size(torch.ones(3, 5)[:, ::2]) == 4 * 9

    def test_a_fused_optimizer_is_one_operator(self):
        network, x = nn.Linear(5, 7), torch.randn(N, 5)
        fused = counted(network, x, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True))
        loop = counted(network, x, lambda p, lr: torch.optim.Adam(p, lr=lr, foreach=False))
        assert fused.optimizer.operators < loop.optimizer.operators
        numbers = 5 * 7 + 7
        # Parameter, gradient and two moments are read, all but the gradient are written (torch's kernel: it too).
        assert fused.optimizer.bytes >= 4 * 7 * numbers

    def test_half_precision_is_half_as_many(self):
        whole = counted(nn.Linear(64, 64), torch.randn(64, 64))
        half = counted(nn.Linear(64, 64).bfloat16(), torch.randn(64, 64).bfloat16())
        assert 2 * half.layers[0].forward.bytes == whole.layers[0].forward.bytes
        assert half.precision == "bfloat16"


class Twice(nn.Module):
    """A residual branch, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x + self.b(torch.relu(self.a(x)))


class TestBelonging:
    def test_backward_of_branches_and_of_layers_called_twice(self):
        step = counted(Twice(), torch.randn(N, 4))
        once = 2 * N * 4 * 4
        assert of(step, "a") == (2 * once, 3 * once)  # one of its inputs wants no gradient
        assert of(step, "b") == (once, 2 * once)
        (own,) = [each for each in step.layers if each.name == ""]
        assert own.parameters == 0
        assert own.forward.bytes == 4 * (2 * N * 4 + 3 * N * 4)  # relu and the sum

    def test_without_numbers_of_the_graph_it_is_lost(self, monkeypatch):
        monkeypatch.setattr(Counter, "_mark", lambda self: None)
        assert of(counted(Twice(), torch.randn(N, 4)), "a")[1] == 0

    def test_the_loss_and_the_optimizer_are_no_layers(self):
        step = counted(nn.Linear(5, 7), torch.randn(N, 5))
        assert step.loss.operators > 0
        assert step.optimizer.operators > 0
        assert [layer.name for layer in step.layers] == [""]

    def test_nothing_is_followed_afterwards(self):
        every = torch.nn.modules.module
        counted(network := nn.Linear(5, 7), torch.randn(N, 5))
        time_layers(network, torch.randn(N, 5), [""], rounds=1)
        assert not every._global_forward_hooks
        assert not every._global_forward_pre_hooks
        assert not network._forward_pre_hooks


class TestProducts:
    def test_sides(self):
        step = counted(nn.Linear(5, 7), torch.randn(N, 5))
        (layer,) = step.layers
        assert layer.forward.products == (Product(N, 5, 7),)
        assert layer.backward.products == (Product(7, N, 5),)

    def test_operations_are_those_of_the_products(self):
        network, x = encoder()
        whole = counted(network, x).whole
        assert whole.operations == sum(product.operations for product in whole.products)
        assert 0 < whole.product_bytes < whole.bytes


def test_json():
    step = counted(Twice(), torch.randn(N, 4))
    assert Step.from_summary(json.loads(json.dumps(step.summary()))) == step
    assert Work() + step.loss == step.loss


class Fussy(nn.Linear):
    """A layer that wants to be called once."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("not again")
        return super().forward(x)


def test_a_layer_that_cannot_be_called_by_itself_has_no_seconds():
    network = nn.Sequential(Fussy(4, 4), nn.Linear(4, 4))
    assert list(time_layers(network, torch.randn(N, 4), ["0", "1"], rounds=2)) == ["1"]


def test_layers_are_timed_by_themselves():
    network, x = Twice(), torch.randn(N, 4)
    took = time_layers(network, x, ["a", "b"], rounds=3)
    assert {name: len(each) for name, each in took.items()} == {"a": 3, "b": 3}
    assert all(seconds > 0 for each in took.values() for seconds in each)
