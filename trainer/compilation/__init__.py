"""What `trainer.compile` does."""
