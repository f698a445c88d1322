"""Cutting a network along its hidden units, and putting it together: identities 1 and 8, for every make of network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.subnets.finding import find_units
from cooptim_lab.subnets.fuse import FUSIONS, MeanFusion
from cooptim_lab.subnets.split import divide
from cooptim_lab.subnets.states import state_of
from cooptim_lab.subnets.units import Axis, Units
from tests.networks import MIXING, NETWORKS, make
from tests.support import refused

EXACT = 1e-12
MIXED = ("words",)
"""Attention that is written out has as many heads in a part, of fewer units each: see `test_oracle`."""


def shuffled(seed=3):
    return torch.Generator().manual_seed(seed)


def parts_of(name, count):
    model, x = make(name)
    units = find_units(model, x)
    parts = units.deal(count, shuffled())
    return model, x, units, parts, [units.narrow(part).eval() for part in parts]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_parts_partition_every_layer(name, count):
    _, _, units, parts, _ = parts_of(name, min(count, 2) if name == "words" else count)
    for number, layer in enumerate(units.layers):
        dealt = torch.cat([part[number] for part in parts])
        assert torch.equal(dealt.sort().values, torch.arange(layer.size))
        sizes = [len(part[number]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 2])
def test_put_together_again_it_is_the_network_bit_for_bit(name, count):
    model, _, units, parts, subnets = parts_of(name, count)
    whole = state_of(model)
    joined = units.join(whole, [state_of(subnet) for subnet in subnets], parts)
    assert all(torch.equal(joined[key], whole[key]) for key in whole)
    if count == 2:  # breakage: parts that are taken for each other's do not give it back
        swapped = units.join(whole, [state_of(subnet) for subnet in subnets], parts[::-1])
        assert not all(torch.equal(swapped[key], whole[key]) for key in whole)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_only_part_is_the_network(name):
    model, x, _, _, (subnet,) = parts_of(name, 1)
    assert torch.equal(subnet(x), model(x))
    assert repr(subnet) == repr(model)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in MIXING])
def test_a_part_computes_what_the_network_does_with_its_other_units_dead(name):
    model, x, units, parts, subnets = parts_of(name, 2)
    nothing = {key: torch.zeros_like(value) for key, value in state_of(model).items()}
    for part, subnet in zip(parts, subnets, strict=True):
        dead = copy.deepcopy(model)
        dead.load_state_dict(units.join(nothing, [state_of(subnet)], [part]))
        assert (dead(x) - subnet(x)).abs().max() < EXACT
        assert (model(x) - subnet(x)).abs().max() > 1e-3  # the other units do something


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in MIXED])
@pytest.mark.parametrize("count", [2, 3])
def test_block_diagonal_is_the_mean_of_the_outputs(name, count):
    model, x = make(name)
    division = divide(Task(model=model, data=([0, 0], [0, 0])), x, count, split="replicas", seed=0)
    subnets = division.make()
    for subnet in subnets:
        subnet(x)  # BatchNorm's statistics differ from subnet to subnet
        subnet.eval()
    merged = FUSIONS["merge"](subnets, division, range(count)).eval()
    assert [p.shape for p in merged.parameters()] == [p.shape for p in model.parameters()]
    difference = (merged(x) - MeanFusion(subnets)(x)).abs().max()
    if name in MIXING:
        assert difference > 1e-3  # LayerNorm over all units is not one for each part: which is why it is told
    else:
        assert difference < EXACT
        out = next(w for key, w in state_of(merged).items() if division.units.leads_out(key) is not None)
        out *= count  # breakage: the sum in place of the mean
        assert (merged(x) - MeanFusion(subnets)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_replicas_are_fresh_and_neurons_are_the_networks_own(name):
    model, x = make(name)
    task = Task(model=model, data=([0, 0], [0, 0]))
    own = {key: set(value.flatten().tolist()) for key, value in model.named_parameters() if value.dim() > 1}
    for split, is_own in (("neurons", True), ("replicas", False)):
        if is_own and name in MIXED:
            continue
        subnet = divide(task, x, 2, split=split, seed=1).make([1])[0]
        for key, value in subnet.named_parameters():
            if value.dim() > 1 and key != "place":  # which no layer initialises
                assert (set(value.flatten().tolist()) <= own[key]) == is_own, key


def test_a_frozen_parameter_stays_frozen_and_a_buffer_a_buffer():
    model, x = make("convolutional")
    model.first.requires_grad_(False)
    subnet = find_units(model, x).narrow(find_units(model, x).deal(2)[0])
    assert {key for key, p in subnet.named_parameters() if not p.requires_grad} == {"first.weight", "first.bias"}
    assert set(dict(subnet.named_buffers())) == set(dict(model.named_buffers()))


def test_settings_say_what_the_tensors_are():
    model, x = make("depthwise")
    units = find_units(model, x)
    subnet = units.narrow(units.deal(2)[0])
    assert (subnet.each.groups, subnet.norm.num_groups, subnet.norm.num_channels) == (4, 2, 4)
    assert (subnet.mix.in_channels, subnet.mix.out_channels, subnet.last.in_features) == (4, 6, 6)
    attention = make("transformer")
    units = find_units(*attention)
    part = units.narrow(units.deal(2)[0]).encoder
    assert (part.self_attn.num_heads, part.self_attn.embed_dim, part.norm1.normalized_shape) == (2, 8, (8,))


@pytest.mark.parametrize(
    ("name", "count", "what"),
    [("transformer", 5, "self_attn has 4 heads"), ("depthwise", 5, "4 groups"), ("perceptron", 11, "10 units")],
)
def test_more_parts_than_heads_or_groups_are_refused(name, count, what):
    units = find_units(*make(name))
    with refused(f"subnets = {count}", what, "give at most"):
        units.deal(count)


def test_attention_of_another_kind_is_named():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
            self.look = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)

        def forward(self, x):
            h = self.into(x)
            return self.last(self.look(h, x, x)[0].mean(1))

    with refused("layer look", "define subnet(i)"):
        find_units(Other(), torch.randn(2, 5, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_joined_what_belongs_to_nobody_alone_is_the_mean_of_those_who_have_it(dtype):
    """A weight over three hidden units and two inputs: the third unit is lost with its part."""
    made, axis = nn.Linear(5, 2, bias=False, dtype=dtype), Axis.of_none(5)
    axis.mark(torch.arange(3), 0, torch.arange(3))
    units = Units(made, axes={"weight": {1: axis}})
    parts = [[torch.tensor([1])], [torch.tensor([0])]]
    states = [{"weight": torch.randn(2, 3, dtype=dtype)} for _ in parts]
    one, other = (state["weight"] for state in states)
    joined = units.join(state_of(made), states, parts)["weight"]
    expected = torch.stack([other[:, 0], one[:, 0], made.weight[:, 2].detach(), *(one + other)[:, 1:].t() / 2], 1)
    assert (joined - expected).abs().max() < 1e-15
