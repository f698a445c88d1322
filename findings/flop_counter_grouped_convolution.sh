#!/usr/bin/env bash
# torch 2.13.0, CPU: FlopCounterMode counts the forward pass of a convolution of g groups right (1/g of one without), and
# its backward pass as (1 + g) times the forward one, where it is 2 times for every g: the weight's gradient is counted g
# times. Seen for 16 channels, g = 1, 2, 4, 16: backward / forward = 2, 3, 5, 17. A depthwise network looks far dearer to
# train than it is.
source "$(dirname "$0")/common.sh" torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

def ratio(groups):
    layer = nn.Conv2d(16, 16, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 589824 // groups
    return backward.get_total_flops() / forward.get_total_flops()

found = {groups: ratio(groups) for groups in (1, 2, 4, 16)}
print(torch.__version__, found)
assert found == {1: 2.0, 2: 3.0, 4: 5.0, 16: 17.0}, found
PY
