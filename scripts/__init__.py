"""Command lines that measure, compare and report."""
