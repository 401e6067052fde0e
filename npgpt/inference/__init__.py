"""Generation, sampling and evaluation with a trained model."""
