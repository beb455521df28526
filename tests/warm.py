"""What every run does first, done once by the server that forks: imports, and what Hydra's parser learns."""

from __future__ import annotations

import gc

from equipoise.trainer.configuration.compose import compose
from tests.conftest import TOY

compose([*TOY, "trainer.eval_every=2"])
gc.freeze()  # its children need not copy what their garbage collector would only look at
