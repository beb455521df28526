"""Parts of the studies over arms and seeds; the commands are in `scripts/`."""
