#!/usr/bin/env bash
# torch 2.13.0 (CPU): GradScaler skips the first step of a fused SGD with momentum, as its gradient overflowed.
# Expected: as with fused=False, nothing happens, and the next finite step gives 1 - 0.1 * 1 = 0.9.
# Seen: the skipped step makes the momentum buffer and never writes to it, so the next step multiplies memory that
# was never initialised into the parameters (deterministic mode fills such memory with NaN, which shows it):
#   fused=False [0.9]   fused=True [nan]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" && "$folder/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
import torch

torch.use_deterministic_algorithms(True)
seen = {}
for fused in (False, True):
    p = torch.nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor in (float("inf"), 1.0):
        sgd.zero_grad()
        scaler.scale(p.sum() * factor).backward()
        scaler.step(sgd)
        scaler.update()
    seen[fused] = p.item()
print(seen)
assert abs(seen[False] - 0.9) < 1e-6 and seen[True] != seen[True], "the behaviour has changed"
PYTHON
