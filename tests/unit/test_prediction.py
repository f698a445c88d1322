"""A step's seconds by hand: ceilings that are round numbers, a step of known work, and what must change with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cooptim_lab.codesign.prediction import predict
from cooptim_lab.codesign.prices import Prices, between_levels
from cooptim_lab.codesign.rescaling import rescaled
from cooptim_lab.costs import families
from cooptim_lab.costs.work import Call, Layer, Product, Step, Work, total
from cooptim_lab.errors import InputError
from cooptim_lab.hardware.ceilings import BF16, FLOAT32, INSIDE, Ceiling, Ceilings, Found

US = 1e-6
GIGA = 1e9
SIZES = (16, 64, 256, 1024)


CONVOLUTIONS = {families.FORWARD: (20.0, 80.0), families.INPUT: (25.0, 25.0), families.WEIGHT: (10.0, 10.0)}
"""Rates for pictures of the smaller and the larger side."""


def row(kind: str, value: float | None, name: str = "", threads: int = 1, size: int = 0) -> Ceiling:
    return Ceiling(kind=kind, name=name, threads=threads, size=size, value=value, low=value, high=value, samples=3)


def machine(threads: int = 1, faster: float = 1.0) -> list[Ceiling]:
    """Rates that do not depend on the size, costs in whole microseconds."""
    rates = {"square": 100.0, "skinny": 50.0, "thin": 10.0, "outer": 40.0}
    return [
        *(row(kind, faster * rate, FLOAT32, threads, n) for kind, rate in rates.items() for n in SIZES),
        *(row("square", 400.0, BF16, threads, n) for n in SIZES),
        *(
            row("convolution", rate / (1 + is_first), families.convolving(what, side, is_first), threads, c)
            for what, rates in CONVOLUTIONS.items()
            for side, rate in zip(families.SIDES, rates, strict=True)
            for is_first in (False, True)
            for c in (4, 64)
        ),
        row("cells", 8.0, FLOAT32, threads, 32),
        row("cache", 40.0, "", threads, 1 << 18),
        row("memory", 10.0, "", threads, 1 << 27),
        *(row("fresh", rate, "", threads, size) for size, rate in ((1 << 17, 20.0), (1 << 21, 20.0), (1 << 24, 2.0))),
        row("function", 5.0, families.BATCH_NORM, threads, 1 << 18),
        row("operator", 1 * US, "", threads),
        row("operator, trained", 10 * US, "", threads),
        row("view, trained", 2 * US, "", threads),
        row("loss", 100 * US, "", threads),
        row("step of a tensor", 60 * US, "Adam, fused", threads, 16),
        row("step of tensors", (60 + 63 * 4) * US, "Adam, fused", threads, 1024),
        row("step of a large tensor", 60 * US + (1 << 20) * 1e-9, "Adam, fused", threads, 1 << 20),
    ]


def ceilings(*rows: Ceiling) -> Ceilings:
    every = rows or (*machine(), *machine(2, 2.0))
    return Ceilings(fingerprint={}, taken=0.0, seconds=1.0, cpus=2, rows=tuple(every))


def work(*calls: Call, views: int = 0) -> Work:
    return total(
        Work(
            call.operations * call.times,
            call.bytes * call.times,
            call.times,
            0,
            call.products * call.times,
            call.bytes * call.times if call.operations else 0,
            (call,),
        )
        for call in calls
    ) + Work(views=views)


def multiply(operator: str, *products: Product, times: int = 1) -> Call:
    moved = sum(4 * one.times * (one.m * one.k + one.k * one.n + one.m * one.n) for one in products)
    return Call(operator, moved, products, sum(one.operations for one in products), times)


def layer(name: str, kind: str, forward: Work, backward: Work) -> Layer:
    return Layer(name=name, kind=kind, parameters=1, forward=forward, backward=backward)


ROWS, WIDE = 64, 512
LINEAR = layer(
    "0",
    "Linear",
    work(multiply("addmm", Product(ROWS, WIDE, WIDE)), views=1),
    work(
        multiply("mm", Product(ROWS, WIDE, WIDE)),
        multiply("mm", Product(WIDE, ROWS, WIDE)),
        Call("sum", 4 * (ROWS + 1) * WIDE),
        views=3,
    ),
)
RELU = layer("1", "ReLU", work(Call("relu", 8 * ROWS * WIDE)), work(Call("threshold_backward", 12 * ROWS * WIDE)))
NONE = Work()


def step(*layers: Layer, loss: Work = NONE, rows: int = ROWS) -> Step:
    return Step(
        name="a task", rows=rows, precision="float32", threads=1, layers=layers, loss=loss, optimizer=Work(),
        parameters=1_000_000, tensors=10,
    )  # fmt: skip


def predicted(*layers: Layer, **options):
    return predict(step(*layers), ceilings(), **{"threads": 1, "fused": True, **options})


class TestByHand:
    def test_a_linear_layer(self):
        found = predicted(LINEAR)
        operations = 2 * ROWS * WIDE * WIDE
        # Two skinny products and an outer one; each without what any operator takes.
        assert found.parts["products"] == pytest.approx(operations / GIGA * (2 / 50 + 1 / 40) - 3 * US)
        assert found.parts["bytes"] == pytest.approx(4 * 65 * WIDE / 40 / GIGA)  # a sum writes little
        assert found.parts["dispatch"] == pytest.approx((4 * 10 + 4 * 2) * US)
        assert found.layers[0].bound == "products"

    def test_an_activation(self):
        found = predicted(RELU).layers[0]
        assert (found.products, found.bound) == (0.0, "bytes")
        assert found.bytes == pytest.approx(20 * ROWS * WIDE / 20 / GIGA)
        assert found.dispatch == pytest.approx(20 * US)

    def test_large_results_wait_for_memory(self):
        large = layer("1", "ReLU", work(Call("relu", 1 << 24)), NONE)
        assert predicted(large).layers[0].bytes == pytest.approx((1 << 24) / 2 / GIGA)
        assert predicted(large).bound == "bytes"

    def test_functions_at_their_own_rate(self):
        norm = layer("1", "BatchNorm2d", work(Call("native_batch_norm", 10**6)), NONE)
        assert predicted(norm).layers[0].bytes == pytest.approx(10**6 / 5 / GIGA)

    def test_a_convolution_forward_and_both_gradients(self):
        one = Product(4096, 9 * 16, 16)
        back = [Product(4096, 16, 9 * 16), Product(9 * 16, 4096, 16)]
        conv = layer("0", "Conv2d", work(multiply("convolution", one)), work(multiply("convolution_backward", *back)))
        expected = one.operations / GIGA * (1 / 20 + 1 / 25 + 1 / 10)
        assert predicted(conv).parts["products"] == pytest.approx(expected)  # 64 pictures of 8 × 8
        between = one.operations / GIGA * (1 / 40 + 1 / 25 + 1 / 10)
        found = predict(step(conv, rows=16), ceilings(), threads=1, fused=True)  # 16 of 16 × 16
        assert found.parts["products"] == pytest.approx(between)
        first = replace(conv, backward=work(multiply("convolution_backward", back[1])))
        assert predicted(first).parts["products"] == pytest.approx(one.operations / GIGA * (1 / 20 + 1 / 10))

    def test_a_convolution_of_few_channels(self):
        one = Product(4096, 9 * 3, 16)
        back = Product(9 * 3, 4096, 16)
        conv = layer("0", "Conv2d", work(multiply("convolution", one)), work(multiply("convolution_backward", back)))
        assert predicted(conv).parts["products"] == pytest.approx(one.operations / GIGA * (2 / 20 + 2 / 10))

    def test_an_lstm(self):
        cells = multiply("mkldnn_rnn_layer", Product(640, 32, 128), Product(64, 32, 128, 10))
        assert predicted(layer("0", "LSTM", work(cells), NONE)).parts["products"] == pytest.approx(
            cells.operations / 8 / GIGA
        )

    def test_the_optimizer(self):
        found = predicted()
        assert found.optimizer == pytest.approx((60 - 4 + 10 * 4) * US + 1e-3)
        assert found.seconds == pytest.approx(found.optimizer)
        assert found.bound == "optimizer"
        assert predicted(optimizer="AdamW").optimizer == found.optimizer

    def test_the_loss_has_the_way_into_the_backward_pass(self):
        loss = work(Call("_log_softmax", 0), Call("nll_loss_forward", 0), Call("nll_loss_backward", 0))
        found = predict(step(loss=loss), ceilings(), threads=1, fused=True)
        assert found.layers[-1].name == "(loss)"
        assert found.layers[-1].seconds == pytest.approx(100 * US)

    def test_the_whole_is_the_sum_of_its_parts(self):
        found = predicted(LINEAR, RELU)
        assert found.seconds == pytest.approx(sum(found.parts.values()))
        assert found.seconds == pytest.approx(sum(each.seconds for each in found.layers) + found.optimizer)

    def test_two_threads(self):
        alone, both = predicted(LINEAR), predicted(LINEAR, threads=2)
        assert both.parts["products"] + 3 * US == pytest.approx((alone.parts["products"] + 3 * US) / 2)
        assert both.parts["dispatch"] == alone.parts["dispatch"]

    def test_calls_that_are_alike(self):
        once = layer("0", "x", work(multiply("mm", Product(64, 512, 512))), NONE)
        thrice = layer("0", "x", work(multiply("mm", Product(64, 512, 512), times=3)), NONE)
        assert predicted(thrice).layers[0].seconds == pytest.approx(3 * predicted(once).layers[0].seconds)

    def test_a_step_that_an_older_version_counted(self):
        old = replace(LINEAR, forward=replace(LINEAR.forward, calls=()), backward=replace(LINEAR.backward, calls=()))
        assert predicted(old).parts["products"] == pytest.approx(predicted(LINEAR).parts["products"])


class TestShapes:
    def test_between_thin_skinny_and_square(self):
        prices = Prices(ceilings(), 1, FLOAT32)
        assert prices.product_rate(8, 512, 512).value == pytest.approx(10.0)
        assert prices.product_rate(4, 512, 512).value == pytest.approx(10.0)
        assert prices.product_rate(64, 512, 512).value == pytest.approx(50.0)
        assert prices.product_rate(512, 64, 512).value == pytest.approx(40.0)
        assert prices.product_rate(512, 512, 512).value == pytest.approx(100.0)
        halfway = (64 * 512) ** 0.5
        assert between_levels([(64, Found(50.0)), (512, Found(100.0))], halfway).value == pytest.approx(5000**0.5)

    def test_the_order_of_skinny_sides_matters_where_it_was_measured(self):
        prices = Prices(ceilings(), 1, FLOAT32)
        assert prices.product_rate(64, 512, 512).value != prices.product_rate(512, 64, 512).value

    def test_sizes_beyond_are_said(self):
        wide = layer("0", "Linear", work(multiply("addmm", Product(64, 4096, 4096))), NONE)
        assert any("above the largest measured" in each for each in predicted(wide).beyond)
        assert predicted(LINEAR).beyond == ()

    def test_an_operator_without_sides_is_said(self):
        strange = layer("0", "x", work(Call("strange", 100, (), 2 * 64**3)), NONE)
        found = predicted(strange)
        assert found.parts["products"] == pytest.approx(2 * 64**3 / 100 / GIGA)
        assert any("strange multiplies" in each for each in found.beyond)


class TestAnotherBatch:
    def test_as_if_it_had_been_counted(self):
        def counted(rows: int) -> Step:
            linear = layer(
                "0",
                "Linear",
                work(multiply("addmm", Product(rows, 100, 300))),
                work(multiply("mm", Product(rows, 300, 100)), multiply("mm", Product(300, rows, 100))),
            )
            heads = layer("1", "x", work(multiply("bmm", Product(20, 8, 20, 4 * rows))), NONE)
            relu = layer("2", "ReLU", work(Call("relu", 8 * rows * 300)), NONE)
            return step(linear, heads, relu, rows=rows)

        small, large = counted(48), counted(480)
        by_rows = predict(small, ceilings(), threads=1, fused=True, rows=480)
        assert by_rows.parts == pytest.approx(predict(large, ceilings(), threads=1, fused=True).parts)
        assert by_rows.rows == 480
        scaled = rescaled(small.layers[0].backward, 48, 10.0)
        assert scaled.calls == large.layers[0].backward.calls
        # Without it the batch would be the one that was counted.
        assert predict(small, ceilings(), threads=1, fused=True).seconds < by_rows.seconds / 2

    def test_the_same_batch_changes_nothing(self):
        assert predicted(LINEAR, RELU, rows=ROWS) == predicted(LINEAR, RELU)

    def test_bf16_has_half_the_bytes(self):
        found, usual = (predicted(RELU, precision=precision) for precision in (BF16, FLOAT32))
        assert found.parts["bytes"] == pytest.approx(usual.parts["bytes"] / 2)


class TestWhatCannotBePredicted:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"threads": 3}, "3 threads were not measured: choose from 1, 2"),
            ({"precision": "fp16"}, "precision 'fp16' is not measured: choose from 'float32', 'bf16'"),
            ({"precision": INSIDE}, "no product in float32, bf16 inside was measured with 1 threads"),
            ({"optimizer": "Lion"}, "the optimizer 'Lion, fused' was not measured: choose from 'Adam, fused'"),
            ({"fused": False}, "the optimizer 'Adam, loop' was not measured"),
            ({"rows": 0}, "a batch of 0 rows has no step: give at least 1"),
        ],
    )
    def test_is_refused_in_a_line(self, options, said):
        with pytest.raises(InputError, match=said) as refused:
            predicted(LINEAR, **options)
        assert "\n" not in str(refused.value)

    def test_ceilings_of_nothing(self):
        rows = [each for each in machine() if each.kind != "operator, trained"]
        with pytest.raises(InputError, match="operator, trained was not measured"):
            predict(step(LINEAR), ceilings(*rows), threads=1, fused=True)

    def test_layers_that_were_not_measured_are_said(self):
        rows = [each for each in machine() if each.kind not in ("convolution", "function", "cells")]
        conv = layer("0", "Conv2d", work(multiply("convolution", Product(4096, 144, 16))), NONE)
        norm = layer("1", "BatchNorm2d", work(Call("native_batch_norm", 10**6)), NONE)
        found = predict(step(conv, norm), ceilings(*rows), threads=1, fused=True)
        assert [each.split(" was")[0] for each in found.beyond] == ["no convolution", "batch norm"]
        assert found.layers[0].products > 0
        assert found.layers[1].bytes > 0


def test_work_with_its_calls_there_and_back():
    whole = LINEAR.forward + RELU.forward + RELU.forward
    merged = whole.merged()
    assert [(call.operator, call.times) for call in merged.calls] == [("addmm", 1), ("relu", 2)]
    assert merged.bytes == whole.bytes
    counted = step(replace(LINEAR, forward=merged))
    assert Step.from_summary(counted.summary()) == counted
