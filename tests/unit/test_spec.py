"""Options: their bounds, their choices, and what is said when they are not kept."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cooptim_lab.training.spec import WAYS, Baseline, Sharded, Subnets, make_spec
from tests.support import refused


@pytest.mark.parametrize("kind", WAYS.values(), ids=WAYS)
class TestEveryWay:
    def test_defaults_are_allowed_and_are_json(self, kind):
        spec = make_spec(kind, {})
        assert make_spec(kind, json.loads(json.dumps(spec.options()))) == spec

    def test_every_option_has_a_help(self, kind):
        assert all(item.metadata["help"] for item in dataclasses.fields(kind))

    def test_it_cannot_be_changed(self, kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            make_spec(kind, {}).epochs = 3

    @pytest.mark.parametrize(("name", "least"), [("epochs", 1), ("batch", 1), ("seed", 0), ("workers", 1)])
    def test_bounds(self, kind, name, least):
        assert getattr(make_spec(kind, {name: least}), name) == least
        for value in (least - 1, -7):
            with refused(f"{name} = {value}", f"must be {least} or more"):
                make_spec(kind, {name: value})

    @pytest.mark.parametrize("value", [True, 2.0, "2", None, float("nan")])
    def test_a_whole_number_is_a_whole_number(self, kind, value):
        with refused(f"epochs = {value!r}", "whole number"):
            make_spec(kind, {"epochs": value})

    def test_an_unknown_option_is_refused_with_what_was_meant(self, kind):
        with refused(kind.way, "epoch", "did you mean epochs?"):
            make_spec(kind, {"epoch": 3})

    def test_an_option_like_no_other_is_refused_with_all_that_there_are(self, kind):
        with refused(kind.way, "zzz", "allowed:", "epochs", "batch", "seed"):
            make_spec(kind, {"zzz": 3})


def test_the_network_as_it_is_trains_on_one_rank():
    with refused("workers = 2", "1", "sharded"):
        make_spec(Baseline, {"workers": 2})


@pytest.mark.parametrize("value", [0, -1, True, 2.5])
def test_bounds_of_the_number_of_subnets(value):
    with refused(f"subnets = {value}"):
        make_spec(Subnets, {"subnets": value})


@pytest.mark.parametrize(
    ("kind", "name", "allowed"),
    [(Subnets, "split", "replicas"), (Subnets, "fuse", "mean"), (Sharded, "aggregate", "server, allreduce")],
)
@pytest.mark.parametrize("value", ["none of them", 3, None, []])
def test_choices(kind, name, allowed, value):
    with refused(f"{name} = {value!r}", "choose one of", allowed):
        make_spec(kind, {name: value})
