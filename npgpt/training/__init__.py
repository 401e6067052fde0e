"""Training: the optimizer, the training loop, and runs with their output directories."""
