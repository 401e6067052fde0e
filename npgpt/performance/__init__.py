"""Profiles, estimates and the limits of the machine."""
