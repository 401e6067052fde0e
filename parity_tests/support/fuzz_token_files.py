"""Random changes of token files and of sources: each is read, or an InputError.

python -m parity_tests.support.fuzz_token_files 1000 [seed]
"""

import gzip
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from npgpt.data.mapped_data import split
from npgpt.data.token_files import open_token_files
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError
from parity_tests.support.fuzz import change_bytes
from parity_tests.support.token_documents import DOCUMENTS, job, write_jsonl


def write_sources(at):
    """Write the documents in several formats; return the paths."""
    lines = write_jsonl(at / "a.jsonl")
    packed, text = at / "b.jsonl.gz", at / "c.txt"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    text.write_text("<|endoftext|>".join(DOCUMENTS))
    found = [lines, packed, text]
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return found
    parquet.write_table(pyarrow.table({"text": DOCUMENTS}), at / "d.parquet")
    return [*found, at / "d.parquet"]


def read(directory):
    """Open token files, compare hashes, read every token."""
    train, val, _ = split(directory, tokenizer("byte"), 0.9, 257)
    train.read(0, len(train))
    val.read(0, len(val))
    for _ in open_token_files(directory).verify(257):
        pass


def fuzz(at, count, seed=0):
    """Make `count` changes; return how many files of each kind were read and refused."""
    rng, outcomes = random.Random(seed), Counter()
    sources, tokens, to = write_sources(at), at / "tokens", at / "to"
    job(sources[:1], tokens, shard_tokens=2000).run()
    files = [*sources, *sorted(tokens.iterdir())]
    originals = {path: path.read_bytes() for path in files}
    for _ in range(count):
        path = rng.choice(files)
        path.write_bytes(change_bytes(originals[path], rng))
        try:
            if path in sources:
                shutil.rmtree(to, ignore_errors=True)
                job([path], to, val_fraction=0).run()
            else:
                read(tokens)
            outcomes[path.name, "read"] += 1
        except InputError as error:
            assert "\n" not in str(error)
            outcomes[path.name, "refused"] += 1
        except BaseException:
            print(f"seed {seed}: {path.name}", json.dumps(path.read_bytes().hex())[:2000])
            raise
        path.write_bytes(originals[path])
    return outcomes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        numbers = [int(text) for text in sys.argv[1:]]
        for outcome, times in sorted(fuzz(Path(name), *numbers).items()):
            print(*outcome, times)
