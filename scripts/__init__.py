"""Command lines that measure, compare and report; their parts are in folders of their own."""

if __name__ == "scripts":  # `python -m scripts.compare` in the clone, perhaps with a bare interpreter
    from equipoise.prerequisites import require

    require()
