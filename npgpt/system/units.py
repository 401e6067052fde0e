"""Quantities as text."""

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "years": 365.25 * 86400}


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that makes it at least two."""
    name = next((n for n, size in reversed(UNITS.items()) if seconds >= 2 * size), "seconds")
    return f"{seconds / UNITS[name]:,.1f} {name}"


def in_words(count: float) -> str:
    """Return a count of tokens: 524,288 or 10 billion."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:,.4g} {name}"
    return f"{count:,.0f}"
