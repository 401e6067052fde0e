"""Quantities as text."""

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "years": 365.25 * 86400}


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that makes it at least two."""
    name = next((n for n, size in reversed(UNITS.items()) if seconds >= 2 * size), "seconds")
    return f"{seconds / UNITS[name]:,.1f} {name}"
