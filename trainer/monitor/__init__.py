"""What a run shows and leaves behind: terminal, TensorBoard, summary."""
