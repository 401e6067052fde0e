"""Profiles, estimates, and the lower bounds that the machine sets."""
