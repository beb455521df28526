#!/usr/bin/env bash
# gymnasium 1.4.0: an action of a Dict with an empty Tuple in it, as options without parameters have, goes into
# SyncVectorEnv.step. Expected: it is valid (`sample() in space`), a single environment takes it, so several do.
# Seen: the batched action cannot be taken apart again. The empty part has no rows, and the strict zip over the
# parts ends the step with a ValueError; `spaces.flatten` of such a space fails, too:
#   step: ValueError   flatten: ValueError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" && "$folder/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
import gymnasium
from gymnasium import spaces


class Options(gymnasium.Env):
    observation_space = spaces.Discrete(2)
    action_space = spaces.Dict(force=spaces.Box(-1.0, 1.0, (1,)), nothing=spaces.Tuple(()))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        assert action in self.action_space
        return 0, 0.0, False, False, {}


def outcome(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "fine"


several = gymnasium.vector.SyncVectorEnv([Options, Options])
several.reset(seed=1)
single = Options()
single.action_space.seed(1)
action = single.action_space.sample()
seen = [
    outcome(lambda: single.step(action)),
    outcome(lambda: several.step(several.action_space.sample())),
    outcome(lambda: spaces.flatten(single.action_space, action)),
]
print(seen)
assert seen == ["fine", "ValueError", "ValueError"], "the behaviour has changed"
PYTHON
