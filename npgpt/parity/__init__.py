"""Comparisons of two models, and of npgpt with the numbers in the book."""
