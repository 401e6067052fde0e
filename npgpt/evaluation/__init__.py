"""Evaluation tasks with published results: LAMBADA, HellaSwag, WikiText."""
