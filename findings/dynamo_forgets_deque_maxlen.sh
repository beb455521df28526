#!/usr/bin/env bash
# torch 2.13.0 (CPU): a compiled function appends to a deque with a maxlen that was there before tracing.
# Expected: as without compiling, the oldest entry falls out: deque([2, 3], maxlen=2), and d[0] is 2.
# Seen: the trace treats the deque as one without a limit, with fullgraph=True and no warning; what is computed from
# it is silently another number:
#   eager 2.0   compiled 1.0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" && "$folder/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
from collections import deque

import torch

seen = {}
for name in ("eager", "compiled"):
    window = deque([1, 2], maxlen=2)

    def oldest(x):
        window.append(3)
        return x + window[0]

    call = torch.compile(oldest, backend="eager", fullgraph=True) if name == "compiled" else oldest
    seen[name] = call(torch.zeros(())).item()
print(seen)
assert seen == {"eager": 2.0, "compiled": 1.0}, "the behaviour has changed"
PYTHON
