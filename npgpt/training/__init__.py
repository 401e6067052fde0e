"""Training: optimiser, loop, runs and what they leave in their directory."""
