"""Comparisons of two models, and of this program with the numbers in the book."""
