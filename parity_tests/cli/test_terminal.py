"""No control character of a file, a server or a model reaches a terminal."""

import io
import json
import sys

import numpy as np
import pytest

from npgpt.cli.main import fail
from npgpt.errors import InputError
from npgpt.system.terminal import printable_line, printable_text
from parity_tests.support.weight_files import CONFIG, numbers, write_huggingface

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
CLIPBOARD = "\x1b]52;c;aGVsbG8=\x07"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def harmful(text):
    """The control characters in a text, newline and tab left out."""
    return sorted({char for char in text if ord(char) in CONTROLS} - {"\n", "\t"})


def test_text_keeps_newline_and_tab_alone():
    every = "".join(map(chr, range(0x250))) + "\u2028é\U0001f600"
    kept = [char for char in every if char not in map(chr, CONTROLS) or char in "\n\t"]
    found = printable_text(every)
    assert harmful(found) == []
    assert all(char in found for char in kept)
    assert printable_text("a\x1b[1m\r\nb\x9b2J\x7f") == r"a\x1b[1m\r" "\n" r"b\x9b2J\x7f"
    assert printable_text(every, io.StringIO()) == every
    assert printable_text(every, Terminal()) == found


def test_an_error_is_one_printable_line_of_400_characters(capsys):
    assert fail(InputError("a\nb\x1b[31m\u202e\u2028\udcff, größer\x85"), 2) == 2
    assert capsys.readouterr().err == r"npgpt: a\nb\x1b[31m\u202e\u2028\udcff, größer\x85" "\n"
    fail(InputError("x/" * 4000 + "file is damaged"), 2)
    said = capsys.readouterr().err.removesuffix("\n")
    assert 390 <= len(said) <= 400
    assert said.startswith("npgpt: x/x/")
    assert said.endswith("/file is damaged")
    assert printable_line("x" * 400, 400) == "x" * 400


def speaking(folder, char):
    """A model that says this character, over and over."""
    arrays = numbers(CONFIG) | {"ln_f.weight": np.zeros(8, np.float32)}
    arrays |= {"ln_f.bias": np.eye(8, dtype=np.float32)[0]}
    arrays["wte.weight"][:, 0] = 0
    arrays["wte.weight"][ord(char), 0] = 5
    write_huggingface(folder, CONFIG, arrays)


@pytest.mark.parametrize("samples", ["1", "2"])
def test_what_a_model_says(npgpt_, monkeypatch, samples):
    speaking("model", "\x1b")
    flags = "--max-new-tokens 3 --temperature 0 --prompt hi --num-samples"
    line = f"generate --model model --tokenizer byte {flags} {samples}"
    from npgpt.cli.main import main

    with monkeypatch.context() as patch:  # raw where no terminal obeys it
        patch.setattr(sys, "stdout", io.StringIO())
        assert main(line.split()) == 0
        assert "hi\x1b\x1b\x1b" in sys.stdout.getvalue()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal())
        assert main(line.split()) == 0
        assert r"hi\x1b\x1b\x1b" in sys.stdout.getvalue()
        assert harmful(sys.stdout.getvalue()) == []


def test_the_samples_of_a_run():
    from npgpt.data.tokenizer import tokenizer
    from npgpt.training.events import Sample
    from npgpt.training.progress_bar import ProgressBar

    for stream, raw in ((Terminal(), False), (io.StringIO(), True)):
        with ProgressBar(1, tokenizer("byte"), file=stream) as bar:
            bar.show(Sample(0, 1, [*CLIPBOARD.encode()]))
        assert (CLIPBOARD in stream.getvalue()) == raw
        assert (r"\x1b]52;c;aGVsbG8=\x07" in stream.getvalue()) == (not raw)


def test_names_in_a_file(npgpt_):
    name = f"{CLIPBOARD}\x9b2J\x7f\r"
    extra = {name: np.ones((1, 1), np.float32)}
    write_huggingface("model", CONFIG, numbers(CONFIG), extra=extra)
    said = npgpt_("inspect model")
    assert harmful(said.out + said.err) == []
    assert r"no part of the model: '\x1b]52;c;aGVsbG8=\x07" in said.err
    assert r"\x1b]52;c;aGVsbG8=\x07\x9b2J\x7f\r  1 x 1" in said.out
    said = npgpt_("inspect model --json")
    assert harmful(said.out) == []
    assert name in json.loads(said.out)["tensors"]
