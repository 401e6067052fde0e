"""What several commands do."""

from pathlib import Path


def latest_or(path: Path | None) -> Path:
    """The path, or the newest run's under ./runs."""
    if path is not None:
        return path
    from npgpt import folder

    return folder.latest()


def load(path: Path | None):
    """The model at `path`, or the newest under ./runs."""
    from npgpt import gpt

    return gpt.load(latest_or(path))


def watched(items, total: int, *, quiet: bool = False, description: str = ""):
    """`items`, with a bar and the time left on a terminal."""
    if quiet:
        return items
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return items
    return track(items, total=total, console=console, description=description, transient=True)
