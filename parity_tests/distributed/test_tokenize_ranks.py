"""`npgpt tokenize` on several ranks, which are threads here."""

import pytest

from npgpt.cli.tokenize import Tokenize
from npgpt.distributed.world import World
from npgpt.errors import InputError, RunError
from parity_tests.support import thread_ranks


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.txt").write_text(f"The lamp of the lighthouse, night {i}.\n" * (i + 1))
    return str(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [2, 3])
def test_the_files_do_not_depend_on_the_ranks(size, texts, tmp_path, capsys):
    def command(name):
        return Tokenize(sources=[texts], to=tmp_path / name, tokenizer="byte", workers=1)

    assert command("one").run_on(World()) == 0
    alone = capsys.readouterr()
    assert thread_ranks.run(size, command("many").run_on) == [0] * size
    many = capsys.readouterr()
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert many.out == alone.out.replace("one", "many") and many.err == alone.err


def test_a_directory_of_another_machine_is_an_error(texts, tmp_path):
    def program(here):
        to = tmp_path / f"machine-{here.rank}"
        return Tokenize(sources=[texts], to=to, tokenizer="byte", workers=1).run_on(here)

    with pytest.raises(RunError, match="machine-0 lacks the parts of other ranks: all machines"):
        thread_ranks.run(2, program)


def test_a_part_of_ranks_is_refused(texts, tmp_path):
    command = Tokenize(sources=[texts], to=tmp_path / "to", tokenizer="byte", part="1/2")
    with pytest.raises(InputError, match="--part is 1/2, but each of 3 ranks encodes a part"):
        command.run_on(World(size=3))
