"""Networks sent as flat arrays arrive bit for bit, whatever dtypes they are made of."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from cooptim_lab.training.states import pack, state_of, unpack


def networks():
    """Of several dtypes, the integer of BatchNorm among them; the second is narrower."""
    made = []
    for width in (3, 2):
        half = nn.Linear(width, 5).bfloat16()
        made.append(nn.Sequential(nn.Linear(7, width), nn.BatchNorm1d(width), half, nn.Linear(5, 1).double()))
    return made


def equal(some, others):
    pairs = zip(map(state_of, some), map(state_of, others), strict=True)
    return all(torch.equal(value, other[name]) for one, other in pairs for name, value in one.items())


def test_what_is_unpacked_is_what_was_packed():
    torch.manual_seed(0)
    sent = networks()
    sent[1][1].num_batches_tracked += 5
    received = networks()
    assert not equal(sent, received)
    unpack(pickle.loads(pickle.dumps(pack(sent))), received)
    assert equal(sent, received)


def test_packing_copies():
    sent = networks()
    kept, packed = copy.deepcopy(sent), pack(sent)
    with torch.no_grad():
        sent[0][0].weight.zero_()
    unpack(packed, sent)
    assert equal(sent, kept)


def test_breakage_networks_of_other_shapes_are_not_filled():
    wide = [nn.Linear(7, 4)]
    with pytest.raises(RuntimeError, match="split"):
        unpack(pack([nn.Linear(7, 3)]), wide)
