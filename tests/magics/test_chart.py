"""The live view as a plain object: what it would send, without a kernel and without a browser."""

from __future__ import annotations

import numpy as np
import pytest
import traitlets
from cooptim_magics.chart import LiveChart
from cooptim_magics.curves import MOST_POINTS, Curve, thin


@pytest.fixture
def chart():
    """A LiveChart on a comm that notes each message instead of sending it: `chart.sent` holds (data, buffers)."""
    widget = LiveChart()
    widget.sent = []
    widget.comm.send = lambda data=None, metadata=None, buffers=None: widget.sent.append((data, buffers))
    yield widget
    widget.close()


def decode(chart: LiveChart) -> dict[str, np.ndarray]:
    """Reads `points` the way live.js does: name to an array of shape (count, columns)."""
    at, found = 0, {}
    for curve in chart.curves:
        shape = (curve["count"], curve["columns"])
        if "span" in curve:
            steps = np.frombuffer(chart.points, "<u2", 2 * curve["count"], at).reshape(-1, 2)
            first, last, low, high = curve["span"]
            x, y = first + steps[:, 0] / 65534 * (last - first), low + steps[:, 1] / 65534 * (high - low)
            y = np.where(steps[:, 1] == 65535, np.nan, 10**y if curve["log"] else y)
            with np.errstate(over="ignore"):
                found[curve["name"]] = np.stack([x, y], axis=1).astype("f4")  # as live.js keeps them
            at += 4 * curve["count"]
        else:
            found[curve["name"]] = np.frombuffer(chart.points, "<f4", shape[0] * shape[1], at).reshape(shape)
            at += 4 * shape[0] * shape[1]
    assert at == len(chart.points), "points holds something that no curve lays claim to"
    return found


def test_a_label_travels_with_its_curve(chart):
    chart.show([Curve("a", [1.0], [2.0], kind="marker", label="0, 2"), Curve("b", [1.0], [2.0])], log_x=True)
    assert [curve.get("label") for curve in chart.curves] == ["0, 2", None]
    assert chart.log_x


def test_curves_survive_the_round_trip(chart):
    chart.show(
        [
            Curve("loss", [0, 1, 2], [2.5, 1.25, 0.5]),
            Curve("measured", [1, 2], [1.0, 1.75], lo=[0.9, 1.5], hi=[1.1, 2.0], kind="marker"),
            Curve("ideal", [1, 2], [1, 2], kind="ideal"),
            Curve("nothing yet", [], [], kind="faint"),
        ]
    )
    found = decode(chart)
    np.testing.assert_allclose(found["loss"], [[0, 2.5], [1, 1.25], [2, 0.5]], atol=1e-4)
    np.testing.assert_allclose(found["measured"], [[1, 1, 0.9, 1.1], [2, 1.75, 1.5, 2]], rtol=1e-7)
    assert found["ideal"].tolist() == [[1, 1], [2, 2]]
    assert found["nothing yet"].shape == (0, 2)
    assert [curve["kind"] for curve in chart.curves] == ["line", "marker", "ideal", "faint"]


@pytest.mark.parametrize(
    "y",
    [
        2.3 + 1e-4 * np.sin(np.arange(200)),  # a plateau keeps its shape
        np.geomspace(1e-7, 1e3, 200),  # small values keep their figures
        np.linspace(-5, 5, 200),
        np.full(200, 0.7),
        np.where(np.arange(200) % 50 == 7, np.inf, np.geomspace(1, 1e6, 200)),
        np.full(200, np.nan),
    ],
)
def test_an_eye_could_not_tell_what_is_sent_from_what_is(chart, y):
    x = np.linspace(3.0, 17.0, 200)
    chart.show([Curve("loss", x, y)])
    sent = decode(chart)["loss"]
    finite = np.isfinite(y)
    assert (np.isfinite(sent[:, 1]) == finite).all()
    np.testing.assert_allclose(sent[:, 0], x, atol=14 / 65534)
    if finite.any():
        known, kept = y[finite], sent[finite, 1]
        pixel = 1e-3  # a third of one, of a plot of 330
        assert (np.abs(kept - known) <= pixel * (np.ptp(known) or 1.0)).all()
        if known.min() > 0:
            decades = np.log10(known.max() / known.min()) or 1.0
            assert (np.abs(np.log10(kept / known)) <= pixel * max(decades, 1e-4)).all()


def test_many_curves_share_the_points_and_keep_their_extremes(chart):
    y = np.random.default_rng(0).normal(size=(8, 1000))
    chart.show([Curve(f"c{place}", np.arange(1000), each) for place, each in enumerate(y)])
    assert len(chart.points) <= 6000
    for place, each in enumerate(y):
        sent = decode(chart)[f"c{place}"][:, 1]
        np.testing.assert_allclose([sent.min(), sent.max()], [each.min(), each.max()], atol=1e-4)


def test_a_mapping_is_drawn_as_lines(chart):
    chart.show({"train": ([0, 1], [3, 2]), "held out": ([0, 1], [4, 3])})
    assert [(curve["name"], curve["kind"]) for curve in chart.curves] == [("train", "line"), ("held out", "line")]


def test_what_is_unknown_is_never_zero(chart):
    chart.show({"loss": ([0, 1, 2, 3, 4], [1.0, None, np.nan, np.inf, 1e39])})  # 1e39 is too large for float32
    y = decode(chart)["loss"][:, 1]
    assert np.isfinite(y).tolist() == [True, False, False, False, False]


def test_show_is_one_message(chart):
    x = np.arange(300)
    chart.show({"a": (x, x), "b": (x, 2 * x)}, title="digits", state="running", fraction=0.5, status="epoch 1/2")
    assert len(chart.sent) == 1
    data, buffers = chart.sent[0]
    assert data["method"] == "update"
    assert data["buffer_paths"] == [["points"]] and len(buffers[0]) == 2 * 300 * 4
    assert set(data["state"]) == {"curves", "title", "state", "fraction", "status"}


def test_only_what_changed_is_sent_and_never_the_script(chart):
    for step in range(1, 4):
        chart.show({"a": (range(step), range(step))}, title="digits", state="running")
    states = [data["state"] for data, _ in chart.sent]
    assert set(states[0]) == {"curves", "title", "state"} and set(states[1]) == {"curves"}
    assert not any({"_esm", "_css"} & set(state) for state in states)


def test_showing_the_same_again_sends_nothing(chart):
    chart.show({"a": ([1], [2])}, state="done", fraction=1.0)
    chart.sent.clear()
    chart.show({"a": ([1], [2])}, state="done", fraction=1.0)
    assert chart.sent == []


def test_traits_alone_leave_the_curves_as_they_are(chart):
    chart.show({"a": ([1], [2])})
    chart.show(status="stopped by hand", state="stopped", table=[["way", "seconds"], ["as it is", "1.4"]])
    assert decode(chart)["a"].tolist() == [[1, 2]]
    assert set(chart.sent[-1][0]["state"]) == {"status", "state", "table"}


def test_an_unknown_fraction_is_none(chart):
    assert chart.fraction is None
    chart.show(fraction=0.25)
    chart.show(fraction=None)
    assert chart.sent[-1][0]["state"] == {"fraction": None}


def test_mistakes_are_named(chart):
    with pytest.raises(TypeError, match=r"cannot set .*'_esm'"):
        chart.show(_esm="alert(1)")
    with pytest.raises(traitlets.TraitError, match="state"):
        chart.show(state="asleep")
    with pytest.raises(ValueError, match=r"'loss'.*one length"):
        chart.show({"loss": ([1, 2, 3], [1, 2])})
    with pytest.raises(ValueError, match="both lo and hi"):
        chart.show([Curve("speedup", [1], [1], lo=[1])])
    with pytest.raises(ValueError, match="'dotted' is not one of line, faint, ideal, marker"):
        chart.show([Curve("speedup", [1], [1], kind="dotted")])


def test_a_long_curve_is_sent_thin(chart):
    n = 200_000
    chart.show({"loss": (np.arange(n), np.sin(np.arange(n) / 1e4))})
    sent = decode(chart)["loss"]
    assert len(sent) <= MOST_POINTS and sent[0, 0] == 0 and sent[-1, 0] == n - 1


@pytest.mark.parametrize("n", [601, 602, 1000, 1199, 1201, 123_457])
def test_thinning_keeps_the_ends_and_every_spike(n):
    rng = np.random.default_rng(n)
    y = rng.normal(size=n)
    spikes = rng.choice(n, size=2, replace=False)
    y[spikes] = [50.0, -50.0]
    keep = thin(y)
    assert len(keep) <= MOST_POINTS
    assert keep[0] == 0 and keep[-1] == n - 1
    assert (np.diff(keep) > 0).all()
    assert set(spikes) <= set(keep)
    # In every stretch the envelope is kept, not only in the whole: what one pixel column would show.
    width = -(-n // ((MOST_POINTS - 2) // 2))
    for start in range(0, n, width):
        own = keep[(keep >= start) & (keep < start + width)]
        assert y[own].min() == y[start : start + width].min()
        assert y[own].max() == y[start : start + width].max()


def test_taking_every_kth_point_would_lose_the_spike():
    """The breakage beside the identity: shows that the test above can fail."""
    y = np.zeros(10_000)
    y[1234] = 1.0
    assert y[:: len(y) // MOST_POINTS].max() == 0
    assert y[thin(y)].max() == 1


def test_thinning_leaves_a_short_curve_alone():
    assert thin(np.arange(MOST_POINTS)).tolist() == list(range(MOST_POINTS))
    assert thin([]).tolist() == []


def test_thinning_keeps_gaps():
    y = np.arange(5000.0)
    y[2000:3000] = np.nan
    y[4000] = -np.inf
    keep = thin(y)
    kept = y[keep]
    assert len(keep) <= MOST_POINTS
    assert np.isnan(kept).any() and np.isneginf(kept).any()
    inside = (keep > 2000) & (keep < 3000)
    assert inside.any() and not np.isfinite(kept[inside]).any()
    assert np.nanmax(kept) == 4999


def test_thinning_a_curve_of_nothing_but_gaps():
    keep = thin(np.full(5000, np.nan))
    assert len(keep) <= MOST_POINTS and keep[0] == 0 and keep[-1] == 4999


def test_thinning_refuses_what_cannot_be_kept():
    with pytest.raises(ValueError, match="at least 4 points"):
        thin(np.arange(10.0), most=3)
