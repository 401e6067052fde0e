"""The errors npgpt raises. The command line prints each as one line and sets the exit status."""


class InputError(ValueError):
    """Raised for invalid input: a file, an option or an argument. The exit status is 2."""


class ConfigError(InputError):
    """Raised for a model or training configuration that is not valid."""


class WeightFileError(InputError):
    """Raised for a weight file that is damaged, incomplete or not supported."""


class RunError(RuntimeError):
    """Raised when a run fails: a loss that is not finite, a full disk. The exit status is 1."""


class DownloadError(RunError):
    """Raised when a download fails, or when the downloaded file is not the expected one."""


class WeightFileWarning(UserWarning):
    """Issued when a weight file is read otherwise than its config says."""


class IgnoredTensorsWarning(WeightFileWarning):
    """Issued when a weight file has tensors that are no part of the model: another head, say."""


class DropoutWarning(UserWarning):
    """Issued once per model whose config has dropout, when a loss is given no generator."""


class KernelCacheWarning(UserWarning):
    """Issued when a directory cannot be used, or is not safe, as the cache of compiled kernels."""


def show(value: object) -> str:
    """Return repr(value) for a message: one line of at most 80 characters."""
    try:
        lines = repr(value).splitlines()
    except Exception:  # an integer of more than 4300 digits, a nest of lists, an object's own error
        lines = [f"a value of type {type(value).__name__}"]
    text = " ".join(line.strip() for line in lines)
    return text if len(text) <= 80 else f"{text[:77]}..."


def one_line(error: object) -> str:
    """Return an error's message on one line, at most 200 characters."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
