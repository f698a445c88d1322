"""What a machine can do: figures as JSON, between two sizes, kept by the machine's fingerprint."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from cooptim_lab.costs import known
from cooptim_lab.hardware import ceilings as module
from cooptim_lab.hardware.ceilings import (
    BF16,
    FLOAT32,
    INSIDE,
    Ceiling,
    Ceilings,
    between,
    changes,
    digest,
    fingerprint,
    latest,
)

MACHINE = {"cpu": "a processor", "cpus": 2, "quota": None, "torch": "2.13.0", "mpi": "MPICH 5.0.2"}


def products(values: dict[int, float | None], kind: str = "square", name: str = FLOAT32) -> list[Ceiling]:
    return [
        Ceiling(kind=kind, name=name, size=n, value=v, low=v, high=v, samples=3, why="" if v else "too long")
        for n, v in values.items()
    ]


def made(*rows: Ceiling, **changed) -> Ceilings:
    given = {"fingerprint": MACHINE, "taken": 1e9, "seconds": 6.5, "cpus": 2, "rows": tuple(rows)}
    return Ceilings(**{**given, **changed})


WHOLE = made(
    *products({16: 1.0, 64: 64.0, 1024: 256.0}),
    *products({64: 32.0, 1024: 128.0}, kind="skinny"),
    *products({16: None, 64: None}, name=INSIDE),
    Ceiling(kind="cache", size=1 << 20, value=80.0, low=79.0, high=81.0, samples=3),
    Ceiling(kind="memory", size=1 << 28, value=20.0, low=19.0, high=21.0, samples=3),
    *(
        Ceiling(kind=kind, name="Adam, fused", size=size, value=value, low=value, high=value, samples=3)
        for kind, size, value in (
            ("step of a tensor", 16, 60e-6),
            ("step of tensors", 1024, 60e-6 + 63 * 4e-6),
            ("step of a large tensor", 1 << 20, 60e-6 + (1 << 20) * 1e-9),
        )
    ),
    doubts=("busy",),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COOPTIM_HOME", str(tmp_path))
    return tmp_path


class TestJson:
    def test_there_and_back(self):
        assert Ceilings.from_summary(json.loads(json.dumps(WHOLE.summary()))) == WHOLE

    @pytest.mark.parametrize("value", [None, 3, [], [{}], "x", {}, {"rows": []}, {**WHOLE.summary(), "rows": 3}])
    def test_something_else(self, value):
        with pytest.raises(ValueError, match="not "):
            Ceilings.from_summary(value)

    @pytest.mark.parametrize(
        "change",
        [{"version": 0}, {"more": 1}, {"rows": [{"kind": "speed"}]}, {"rows": [{"kind": "square", "value": math.nan}]},
         {"rows": [{"kind": "square", "value": "much"}]}, {"rows": [{"name": "x"}]}, {"cpus": "two"}, {"taken": None},
         {"rows": [{"kind": "square", "size": "n"}]}, {"fingerprint": 3}],
    )  # fmt: skip
    def test_what_it_may_not_be(self, change):
        with pytest.raises(ValueError, match=r".+"):
            Ceilings.from_summary({**WHOLE.summary(), **change})

    def test_unknown_is_none_and_says_why(self):
        row = WHOLE.rows[5]
        assert (row.value, row.why) == (None, "too long")
        assert WHOLE.find("square", INSIDE) == []
        assert WHOLE.rate(64, INSIDE) is None
        assert WHOLE.peak(BF16) is None


class TestBetween:
    def test_measured_sizes_are_themselves(self):
        for n, value in {16: 1.0, 64: 64.0, 1024: 256.0}.items():
            found = WHOLE.rate(n)
            assert found.value == pytest.approx(value)
            assert found.beyond == ""

    def test_log_log(self):
        assert WHOLE.rate(32).value == pytest.approx(8.0)  # halfway between 1 and 64, as 32 between 16 and 64
        assert WHOLE.rate(256).value == pytest.approx(128.0)
        linear = 1.0 + (32 - 16) / (64 - 16) * 63
        assert WHOLE.rate(32).value != pytest.approx(linear, rel=0.1)

    @pytest.mark.parametrize(("size", "value", "word"), [(8, 1.0, "below"), (4096, 256.0, "above")])
    def test_beyond_is_said(self, size, value, word):
        found = WHOLE.rate(size)
        assert found.value == value
        assert word in found.beyond
        assert str(size) in found.beyond

    def test_one_point(self):
        assert between(products({64: 5.0}), 64, "n").value == 5.0
        assert between(products({64: 5.0}), 65, "n").beyond

    def test_nothing(self):
        assert between([], 64, "n") is None

    def test_gaps_are_bridged(self):
        rows = made(*products({16: 1.0, 32: None, 64: 16.0}))
        assert rows.rate(32).value == pytest.approx(4.0)

    def test_products_that_are_neither_square_nor_skinny(self):
        assert WHOLE.product_rate(64, 64, 64).value == pytest.approx(64.0)
        assert WHOLE.product_rate(1024, 1024, 1024).value == pytest.approx(256.0)
        assert WHOLE.product_rate(64, 1024, 1024).value == pytest.approx(128.0)
        assert WHOLE.product_rate(1024, 64, 1024).value == pytest.approx(128.0)  # whichever side is the least
        middle = WHOLE.product_rate(256, 1024, 1024).value
        assert 128.0 < middle < 256.0
        assert WHOLE.product_rate(8, 4096, 4096).beyond

    def test_bandwidth(self):
        assert WHOLE.bandwidth(1000).value == 80.0
        assert WHOLE.bandwidth(1 << 24).value == pytest.approx(40.0)
        assert WHOLE.bandwidth(1 << 40).value == 20.0
        assert made().bandwidth(10) is None

    def test_an_optimizer(self):
        assert WHOLE.optimizer_costs("Adam, fused") == pytest.approx((56e-6, 4e-6, 1e-9))
        assert WHOLE.optimizer_seconds("Adam, fused", 6, 1000) == pytest.approx(56e-6 + 6 * 4e-6 + 1e-6)
        assert WHOLE.optimizer_seconds("Adam, loop", 6, 1000) is None

    def test_peak(self):
        assert WHOLE.peak() == 256.0

    def test_the_last_of_two_counts(self):
        first, second = products({64: 1.0}) + products({64: 2.0})
        assert latest([first, *products({32: 1.0}), second]) == (second, *products({32: 1.0}))


class TestFingerprint:
    def test_of_this_machine(self):
        now = fingerprint()
        assert now == fingerprint()
        assert json.loads(json.dumps(now)) == now
        assert now["torch"]
        assert now["cpus"] >= 1

    def test_another_machine_has_another(self, tmp_path):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text("model name\t: another\nflags\t\t: avx2\n\n")
        changed = {name for name, value in fingerprint(tmp_path).items() if value != fingerprint()[name]}
        assert {"cpu", "flags"} <= changed

    def test_what_has_changed(self):
        assert list(changes(MACHINE, {**MACHINE, "torch": "2.14.0"})) == ["torch was 2.13.0, is 2.14.0"]
        assert list(changes({"flags": "a"}, {"flags": "a b"})) == ["flags"]
        assert list(changes(MACHINE, MACHINE)) == []


class TestKept:
    def test_kept_and_found(self):
        known.keep(WHOLE)
        assert known.known(MACHINE) == WHOLE
        assert known.last() == WHOLE

    @pytest.mark.parametrize("name", MACHINE)
    def test_not_found_when_anything_has_changed(self, name):
        known.keep(WHOLE)
        assert known.known({**MACHINE, name: "other"}) is None

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"rows": []}', json.dumps(WHOLE.summary()).encode()[:200]]
    )
    def test_a_damaged_file_is_not_there(self, content):
        known.keep(WHOLE)
        known.place(MACHINE).write_bytes(content)
        assert known.known(MACHINE) is None
        assert known.last() is None
        known.keep(WHOLE)
        assert known.known(MACHINE) == WHOLE

    def test_an_older_version_is_not_there(self, monkeypatch):
        known.keep(WHOLE)
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
        assert known.known(MACHINE) is None

    def test_a_file_of_another_machine_under_this_name_is_not_there(self):
        known.keep(WHOLE)
        other = {**MACHINE, "cpus": 64}
        known.place(MACHINE).rename(known.place(other))
        assert known.known(other) is None

    def test_the_last_is_the_newest(self):
        known.keep(WHOLE)
        newer = replace(WHOLE, taken=2e9, fingerprint={**MACHINE, "torch": "3"})
        known.keep(newer)
        assert known.last() == newer
        assert known.known(MACHINE) == WHOLE

    def test_none_yet(self):
        assert known.known(MACHINE) is None
        assert known.last() is None

    def test_a_name_for_a_file(self):
        assert digest(MACHINE) == digest(dict(reversed(MACHINE.items())))
        assert digest(MACHINE) != digest({**MACHINE, "cpus": 3})
