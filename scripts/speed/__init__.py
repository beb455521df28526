"""Parts of the benchmarks of speed; the commands are in `scripts/`."""
