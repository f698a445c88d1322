"""What a step of many is made of, and machines that are not here, calibrated by somebody's first rows."""

from __future__ import annotations

import numpy as np
import pytest

from cooptim_lab.errors import InputError
from cooptim_lab.scaling.laws import STRONG, WEAK, Series
from cooptim_lab.scaling.published import published
from cooptim_lab.scaling.step import BACKWARD, Step, expected_largest, hide, largest_of
from cooptim_lab.scaling.systems import SERVER, Simulator, System
from tests.benchmarks import simulate as scored


def test_the_parts_of_a_step_add_up_to_it() -> None:
    step = Step(computing=3.0, waiting=0.5, dispatch=0.25, exchange=2.0, hidden=1.5)
    assert step.seconds == 4.25 == sum(step.parts().values())


@pytest.mark.parametrize("exchange", [0.0, 0.5, 1.0, 5.0])
def test_what_can_be_hidden_all_is_hidden_as_far_as_backward_lasts(exchange: float) -> None:
    hidden = hide(exchange, 1.0, 1.0)
    step = Step(computing=1.0, exchange=exchange, hidden=hidden)
    assert step.seconds == pytest.approx(max(1.0, 1 - BACKWARD + exchange), abs=1e-15)
    assert hide(exchange, 1.0, 0.0) == 0


@pytest.mark.parametrize(("workers", "exact"), [(1, 0.0), (2, 0.56419), (4, 1.02938), (10, 1.53875), (100, 2.50759)])
def test_the_expected_largest_of_normal_values(workers: int, exact: float) -> None:
    """Exact values: Harter, Biometrika 48, 1961."""
    assert largest_of(workers) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_expected_largest_of_what_was_seen(workers: int) -> None:
    assert expected_largest([0.0, 1.0], workers) == pytest.approx(1 - 0.5**workers, abs=1e-15)
    drawn = np.random.default_rng(0).choice([1.0, 2.0, 5.0], (20_000, workers)).max(1).mean()
    assert expected_largest([1.0, 2.0, 5.0], workers) == pytest.approx(drawn, rel=0.02)
    assert expected_largest([1.0, 2.0, 5.0], workers + 1) > expected_largest([1.0, 2.0, 5.0], workers)


def weak(counts: tuple[int, ...], rates: tuple[float, ...], **more: float) -> Series:
    return Series(counts=counts, rates=rates, scaling=WEAK, per_host=8, **more)  # type: ignore[arg-type]


def test_one_row_foretells_and_each_further_one_tells_more() -> None:
    counts, rates = (1, 2, 4, 8), (100.0, 192.0, 380.0, 750.0)
    made = [Simulator(System(), weak(counts[:rows], rates[:rows])).at([16])[0] for rows in (1, 2, 4)]
    widths = [one.high / one.low for one in made]
    assert widths[0] > widths[1] > widths[2]
    assert all(one.low < one.rate < min(one.high, 1600) for one in made)


def test_what_is_sent_costs_nothing_where_nobody_else_is() -> None:
    one, two, across = Simulator(System(bytes=1e8, step=64, inside=1e10, between=1e9), weak((1,), (100.0,))).at(
        [1, 8, 16]
    )
    assert one.step.exchange == 0 == one.step.waiting
    assert 0 < two.step.exchange < across.step.exchange
    assert one.rate == pytest.approx(100.0, rel=1e-3)


def test_a_slower_link_costs_what_its_bytes_take() -> None:
    """Of 2 hosts: a ring sends each number once over either link, 2 (H − 1)/H · bytes; none of it hidden."""

    def exchange(between: float) -> float:
        system = System(bytes=1e9, step=10, inside=1e15, between=between, hidden=0)
        return float(Simulator(system, weak((1,), (1.0,))).at([16])[0].step.exchange)

    latency = exchange(1e15)
    assert exchange(1e9) - latency == pytest.approx(1.0, rel=0.02)
    assert exchange(5e8) - latency == pytest.approx(2.0, rel=0.02)


def test_a_largest_tensor_that_no_servers_divide_ends_the_scaling() -> None:
    system = System(way=SERVER, bytes=1e8, step=64, between=1e9)
    counts = (1, 2, 4)
    servers = tuple((n, n) for n in (1, 2, 4, 64, 1024))

    def rate(largest: float, count: int) -> float:
        known = weak(counts, (100.0, 198.0, 392.0), largest=largest)
        return Simulator(system, known, servers).at([count])[0].rate

    assert rate(0.3, 1024) < 1.05 * rate(0.3, 512), "all wait for one server"
    assert rate(0.0, 1024) > 1.8 * rate(0.0, 512)


def test_strong_scaling_ends_at_what_is_not_divided() -> None:
    known = Series(counts=(1, 2, 4), rates=tuple(1 / (0.1 + 0.9 / n) for n in (1, 2, 4)), scaling=STRONG, per_host=8)
    (far,) = Simulator(System(), known).at([512])
    assert 5 < far.rate < 11


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: System(way="ring"), "choose allreduce or server"),
        (lambda: System(step=0), "above 0"),
        (lambda: System(between=-1), "between = -1"),
        (lambda: System(hidden=2), "0 to 1"),
        (lambda: Simulator(System(way=SERVER), weak((1,), (1.0,))), "how many servers"),
        (lambda: Simulator(System(), weak((1,), (1.0,))).at([0]), "1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(wrong: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()  # type: ignore[operator]


def test_published_tables_are_foretold_as_well_as_readme_says() -> None:
    assert all(row.holds for row in scored.rows())


def test_the_score_finds_a_simulator_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cooptim_lab.scaling.systems.PRIORS", dict.fromkeys(scored_priors(), (1e-6, 1.01)))
    assert not all(row.holds for row in scored.rows())


def scored_priors() -> list[str]:
    from cooptim_lab.scaling.systems import PRIORS

    return list(PRIORS)


def test_every_published_system_says_where_it_is_from() -> None:
    from json import loads

    from cooptim_lab.scaling.published import TABLES

    tables = loads(TABLES.read_text(encoding="utf-8"))["tables"]
    assert all("system" in tables[each.table] for each in published() if each.system.bytes)
