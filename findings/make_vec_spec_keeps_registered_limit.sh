#!/usr/bin/env bash
# gymnasium 1.4.0: `make_vec(id, max_episode_steps=40)`. Expected: `spec.max_episode_steps` is 40, as with `make`.
# Seen: episodes are cut off after 40 steps, by the environment's own vector class and by copies of the single one, but
# the spec says the registered 500; the 40 is in `spec.kwargs` alone. Whoever takes the time limit from the spec (to
# choose a discount, to normalise, to know truncation) has a wrong one for vectors:
#   make: 40   vector_entry_point: ends at 40, spec 500   sync: ends at 40, spec 500
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" && "$folder/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
import gymnasium, numpy as np

single = gymnasium.make("CartPole-v1", max_episode_steps=40)
print("make:", single.spec.max_episode_steps)
assert single.spec.max_episode_steps == 40
for mode in ("vector_entry_point", "sync"):
    env = gymnasium.make_vec("CartPole-v1", num_envs=64, vectorization_mode=mode, max_episode_steps=40)
    env.action_space.seed(0)
    env.reset(seed=0)
    steps, longest = np.zeros(64, int), 0
    for _ in range(200):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if truncated.any():
            longest = max(longest, int(steps[truncated].max()))
        steps[terminated | truncated] = -1  # the next step only resets
    print(mode, "longest episode:", longest, "spec:", env.spec.max_episode_steps, env.spec.kwargs["max_episode_steps"])
    assert (longest, env.spec.max_episode_steps, env.spec.kwargs["max_episode_steps"]) == (40, 500, 40)
PYTHON
