#!/usr/bin/env bash
# torch 2.13.0, CPU: torch.utils.flop_counter.FlopCounterMode counts no operation of an nn.LSTM, and those of nn.RNN and
# nn.GRU of the same sizes in full. Seen: RNN 15360, GRU 46080 (three gates), LSTM 0 (four gates: 61440 would be it).
# An LSTM reaches a fused kernel on the CPU that has no formula, and an operation without one counts 0, without a word.
source "$(dirname "$0")/common.sh" torch==2.13.0 numpy==2.4.6
python - <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

def flops(kind):
    layer, x = kind(8, 16, batch_first=True), torch.randn(4, 5, 8)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()

found = {kind.__name__: flops(kind) for kind in (nn.RNN, nn.GRU, nn.LSTM)}
print(torch.__version__, found)
assert found == {"RNN": 15360, "GRU": 46080, "LSTM": 0}, found
PY
