"""In which order tests run.

Files that compile the most kernels are at the front, and those that compile none at the back. One
process begins at the front and another at the back (see schedule.py), so that neither waits for a
kernel that the other one is compiling.
"""

import random
import re

FRONT = "kernels", "ops", "model", "api", "training", "inference", "performance", "parity", "cli"
BACK = "data", "docs", "project", "download", "reference", "weights"
LONGEST = "test_book.py", "test_compiling.py"  # first, so that no process waits for it in the end
DATA = re.compile(r"os\.environ.*\b(NPGPT_DATA|TIKTOKEN_CACHE_DIR)\b")  # without those fixtures
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
    order.sort(key=lambda tests: tests[0].path.name not in LONGEST)
    items[:] = [item for tests in order for item in tests]


def halve(items: list, seed: int) -> list:
    """Keep the files of a random half, and the tests that take data. Return the others."""
    paths = sorted({item.path for item in items})
    kept = set(random.Random(seed).sample(paths, (len(paths) + 1) // 2))
    kept |= {path for path in paths if DATA.search(path.read_text())}
    others = [item for item in items if item.path not in kept and not takes_data(item)]
    items[:] = [item for item in items if item.path in kept or takes_data(item)]
    return others


def takes_data(item) -> bool:
    """Return True if a fixture of conftest.py gives the test what is not part of npgpt."""
    return not {"data", "bpe"}.isdisjoint(item.fixturenames)
