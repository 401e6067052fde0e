"""One command per file: a dataclass, its fields the flags, `run` what it does.

Whatever takes time to import is imported in `run`, so that --help answers at once.
"""
