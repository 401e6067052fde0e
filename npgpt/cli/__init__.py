"""The commands, one per file: a dataclass whose fields are the flags and whose `run` executes it.

The numpydoc parameters of the class are the help texts. Modules that are slow to import are
imported in `run`, so that --help answers at once.
"""
