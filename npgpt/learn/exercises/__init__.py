"""The exercises by subject: what each is called with, its hints, and known ways to be wrong."""
