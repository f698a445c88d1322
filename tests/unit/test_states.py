"""Networks sent as flat arrays arrive bit for bit, whatever dtypes they are made of."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from cooptim_lab.subnets.states import fill, mean_of, pack, state_of, unpack


def networks():
    """Of several dtypes, the integer of BatchNorm among them; the second is narrower, the third has a layer twice."""
    made = []
    for width in (3, 2):
        half = nn.Linear(width, 5).bfloat16()
        made.append(nn.Sequential(nn.Linear(7, width), nn.BatchNorm1d(width), half, nn.Linear(5, 1).double()))
    layer = nn.Linear(4, 4)
    return [*made, nn.Sequential(layer, nn.Tanh(), layer)]


def states(of):
    return [state_of(network) for network in of]


def equal(some, others):
    pairs = zip(states(some), states(others), strict=True)
    return all(torch.equal(value, other[name]) for one, other in pairs for name, value in one.items())


def test_what_is_unpacked_is_what_was_packed():
    torch.manual_seed(0)
    sent = networks()
    sent[1][1].num_batches_tracked += 5
    received = networks()
    assert not equal(sent, received)
    backwards = [dict(reversed(state.items())) for state in states(sent)]  # names decide, not their order
    unpack(pickle.loads(pickle.dumps(pack(backwards))), states(received))
    assert equal(sent, received)


def test_packing_copies():
    sent = networks()
    kept, packed = copy.deepcopy(sent), pack(states(sent))
    with torch.no_grad():
        sent[0][0].weight.zero_()
    unpack(packed, states(sent))
    assert equal(sent, kept)


def test_a_network_is_filled_with_copies():
    one, other = networks()[:2], networks()[:2]
    for network, state in zip(other, states(one), strict=True):
        fill(network, state)
    assert equal(one, other)
    with torch.no_grad():
        one[0][0].weight.zero_()
    assert not equal(one, other)


def test_breakage_networks_of_other_shapes_are_not_filled():
    with pytest.raises(RuntimeError, match="split"):
        unpack(pack([state_of(nn.Linear(7, 3))]), [state_of(nn.Linear(7, 4))])


@pytest.mark.parametrize(
    ("one", "other", "mean"),
    [
        (torch.tensor([1 + 2j, 3j]), torch.tensor([3 - 4j, 1j]), torch.tensor([2 - 1j, 2j], dtype=torch.complex128)),
        (torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1.5], dtype=torch.float64)),
        (torch.tensor([1]), torch.tensor([4]), torch.tensor([2.0], dtype=torch.float64)),
    ],
    ids=["complex", "float", "whole"],
)
def test_a_mean_keeps_what_its_numbers_are(one, other, mean):
    assert torch.equal(mean_of([{"a": one}, {"a": other}], "a"), mean)
