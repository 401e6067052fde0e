"""Exercises in backpropagation: stubs to fill, and a check that names the cause of a wrong answer.

`python -m npgpt learn` is the only user. A learner's file runs in a process of its own
(`runner.py`), which imports NumPy and nothing of npgpt.
"""
