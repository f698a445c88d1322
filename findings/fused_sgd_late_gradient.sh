#!/usr/bin/env bash
# torch 2.13.0, CPU: SGD(momentum=..., fused=True) and a parameter whose first gradient comes in a later step than the
# others' (a branch of the network that was not taken before). Documented: "fused" chooses an implementation, the
# default one takes such a parameter. Seen: the default trains; the fused one raises in that later step, because the
# parameter has no momentum buffer yet while the others have theirs. Adam's fused implementation gives the same as its
# default.
source "$(dirname "$0")/common.sh" torch==2.13.0 numpy==2.4.6

python - <<'PYTHON'
import torch

assert torch.__version__.startswith("2.13.0"), torch.__version__

def train(kind, fused, **settings):
    torch.manual_seed(0)
    early, late = (torch.nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(2))
    optimizer = kind([early, late], lr=0.1, fused=fused, **settings)
    for step in range(5):
        optimizer.zero_grad()
        loss = early.square().sum() + (late.square().sum() if step >= 2 else 0)
        loss.backward()
        optimizer.step()
    return torch.cat([early, late]).detach()

sgd, adam = torch.optim.SGD, torch.optim.Adam
print("SGD, default:", train(sgd, False, momentum=0.9).norm().item())
try:
    train(sgd, True, momentum=0.9)
except TypeError as error:
    print("SGD, fused:", type(error).__name__, error)
else:
    raise SystemExit("changed: fused SGD takes a parameter whose first gradient comes late")
assert torch.equal(train(adam, True), train(adam, False)) or (train(adam, True) - train(adam, False)).abs().max() < 1e-12
print("Adam: fused and default agree")
PYTHON
