"""Fine-tuning for a task: classes of texts, and instructions."""
