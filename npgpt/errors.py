"""What npgpt raises when the fault is not its own; the command line says it in one line."""


class InputError(ValueError):
    """What was given cannot be used: a file, a flag, a token. The command line exits with 2."""


class RunError(RuntimeError):
    """Something failed under way: a loss that is no number, a disk that is full. Exits with 1."""
