"""In which order tests run.

Files that compile the most kernels are at the front, and those that compile none at the back. One
process begins at the front and another at the back (see schedule.py), so that neither waits for a
kernel that the other one is compiling.
"""

import random

FRONT = "kernels", "ops", "model", "api", "training", "inference", "performance", "parity", "cli"
BACK = "data", "docs", "project", "download", "reference", "weights"
FOLDERS = {name: i for i, name in enumerate((*FRONT, "", *BACK))}


def arrange(items: list) -> None:
    """Sort the tests by folder, from those that need kernels to those that need none."""
    items.sort(key=lambda item: FOLDERS.get(item.path.parent.name, FOLDERS[""]))


def shuffle(items: list, seed: int) -> None:
    """Put files, and the tests in each, into a random order."""
    rng, files = random.Random(seed), {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    for tests in files.values():
        rng.shuffle(tests)
    order = list(files.values())
    rng.shuffle(order)
    items[:] = [item for tests in order for item in tests]
