#!/usr/bin/env bash
# torch-pruning 1.6.1 with torch 2.13.0: beside a GroupNorm(8, 32) a pruning ratio is met in whole multiples of the
# groups, upwards: asked for 0.1 it removes 8 of 32 channels (0.25), for 0.3 16 (0.5); without the norm 4 and 10. Nothing
# says that more was removed than was asked for.
source "$(dirname "$0")/common.sh" torch==2.13.0 numpy==2.4.6 torch-pruning==1.6.1
python -W ignore - <<'PY'
import torch
import torch_pruning as tp
from torch import nn

def left(ratio, norm):
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1))
    importance = tp.importance.MagnitudeImportance(p=2)
    pruner = tp.pruner.MagnitudePruner(
        net, torch.randn(1, 3, 8, 8), importance=importance, pruning_ratio=ratio, ignored_layers=[net[3]]
    )
    pruner.step()
    return net[0].out_channels

found = {r: (left(r, nn.Identity()), left(r, nn.GroupNorm(8, 32))) for r in (0.1, 0.3)}
print(torch.__version__, tp.__version__, found)
assert found == {0.1: (28, 24), 0.3: (22, 16)}, found
PY
