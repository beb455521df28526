"""The search for good settings: what `equipoise tune` is made of."""
