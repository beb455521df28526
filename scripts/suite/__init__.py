"""Parts of `scripts/first_try.py`: tasks that are not ours, and who learns them."""
