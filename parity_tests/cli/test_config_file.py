"""npgpt train --config: what a file may say, what overrides it, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from npgpt.cli.main import parse
from npgpt.cli.strict_yaml import parse_yaml
from npgpt.errors import InputError
from parity_tests.support.runs import evaluations, final

ROOT = Path(__file__).parents[2]


def settings_of(text, flags=""):
    """The settings of a run with this configuration file and these flags."""
    Path("file").write_text(text)
    return parse(["train", "--config", "file", *flags.split()]).settings


def test_the_documented_example():
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/settings.md").read_text(), re.S)
    found = settings_of(example)
    training = found.training
    assert (found.preset, found.data, found.tokenizer) == ("book", "my.txt", "gpt2")
    assert (found.config.n_layer, found.config.n_embd, training.batch_size) == (6, 768, 2)
    assert (training.lr, training.min_lr, training.warmup_steps) == (3e-4, 3e-5, 20)
    assert (training.max_tokens, training.prompt) == (2_000_000, "Once upon a time")


def test_a_preset_is_overridden_by_the_file_and_the_file_by_flags():
    text = "preset: book\nlr: 3e-5\nn-head: 8\nqkv_bias: true\nmin_lr: null\n"
    assert settings_of(text).training.lr == 3e-5
    found = settings_of(text, "--lr 1 --n_head 4 --no-qkv-bias")
    assert (found.training.lr, found.config.n_head, found.config.qkv_bias) == (1, 4, False)
    assert settings_of(text, "--preset tiny").config.n_embd == 128
    assert settings_of("n_head: 5", "--n-embd 100").config.n_embd == 100  # valid only together


def test_a_length_of_the_file_replaces_the_presets_and_a_flag_the_files():
    for flags, lengths in {
        "": (None, 9),
        "--steps 3": (3, None),
        "--epochs 2": (None, None),
    }.items():
        training = settings_of("max_tokens: 9", flags).training
        assert (training.steps, training.max_tokens) == lengths


def test_the_vocabulary_is_that_of_the_tokenizer():
    assert settings_of("tokenizer: gpt2").config.vocab_size == 50257
    assert settings_of("tokenizer: gpt2\nvocab_size: 50304").config.vocab_size == 50304
    both = settings_of("tokenizer: gpt2\nvocab_size: 50304", "--tokenizer byte")
    assert (both.tokenizer, both.config.vocab_size) == ("byte", 257)


def test_the_config_json_of_a_run_repeats_it(npgpt_, run):
    npgpt_("train --config run/config.json --out again")
    assert final("again") == final("run")
    first, second = (json.loads(Path(f"{d}/config.json").read_text()) for d in ("run", "again"))
    assert first | {"directory": None} == second | {"directory": None}
    npgpt_("train --config run/config.json --steps 3 --out short")
    assert len(evaluations("short")) == 2


def test_a_file_with_resume_counts_as_flags(npgpt_, refused, run):
    npgpt_("train --resume run --config run/config.json")
    Path("more.yaml").write_text("epochs: 3")
    npgpt_("train --resume run --config more.yaml")
    assert final("run")[1]["step"] == 33
    Path("other.yaml").write_text("n_embd: 32")
    refused("train --resume run --config other.yaml", says="--n-embd 32 does not fit: run was made")


def test_a_file_with_init_from(run):
    found = settings_of("init_from: run\nlr: 1e-3")
    assert (found.config.n_embd, found.training.lr) == (16, 1e-3)
    with pytest.raises(InputError, match="--n-embd 32 does not fit: run was made with 16"):
        settings_of("init_from: run\nn_embd: 32")


NEAR = {
    "learning_rate": "lr",
    "max_iters": "steps",
    "btach_size": "batch_size",
    "n-layers": "n_layer",
}
REFUSED = {
    "lr: fast": "file: lr is 'fast', but must be a number",
    "lr: null": "file: lr is None, but must be a number",
    "lr: true": "file: lr is True, but must be a number",
    "steps: 2.5": "file: steps is 2.5, but must be an integer or null",
    "qkv_bias: no": "file: qkv_bias is 'no', but must be true or false",
    "ops: torch": "file: ops is 'torch', but must be fused or numpy",
    "lr: -1": "lr is -1, but must be at least 0",
    "lr: 1e999": "lr is inf, but must be a number",
    "n_layer: " + "9" * 400: "n_layer is an integer of 1329 bits",
    "n_layer: " + "9" * 5000: "file is not valid YAML",
    "steps: 1\nmax_tokens: 2": "steps is 1 and max_tokens is 2: give one of them",
    "lr: 1\nlr: 1": "file is not valid YAML (line 2: the key 'lr' occurs twice)",
    "lr: 1\ntraining: {lr: 1}": "file has the setting 'lr' twice",
    "n_layer: 1\nn-layer: 1": "file has the setting 'n_layer' twice",
    '{"lr": 1, "lr": 1}': "file is not JSON (a name occurs twice)",
    '{"lr": NaN}': "file is not JSON (it contains NaN)",
    '{"lr": 1': "file is not JSON",
    "training: 3": "file: training is 3, but must be several settings",
    "lr: &a 1\neps: *a": "(line 2: aliases are not read)",
    "lr: !!python/object/apply:os.getcwd []": "(line 1: tags are not read)",
    "<<: {lr: 1}": "file has the unknown setting '<<'",
    "3: 4": "(line 1: the key 3 is no string)",
    "lr: [": "file is not valid YAML (line 1: ",
    "a: " + "[" * 60_000: "file is not valid YAML (",
    "a: " + "x" * 70_000: "file has 70,003 characters; at most 65,536 of YAML are read",
    "{" + " " * (1 << 20) + "}": "file has 1,048,578 bytes; at most 1,048,576 are read",
    "lr: 1\n---\nlr: 2": "file is not valid YAML (line 2: ",
    "lr: 1\x00": "file is not valid YAML (",
    "- lr": "file is ['lr'], but must have lines such as lr: 5e-5",
    "": "file is None, but must have lines",
    "out: x": "file has the unknown setting 'out': it is a flag only, --out",
    "zzzz: 1": "file has the unknown setting 'zzzz': see npgpt train --help",
} | {f"{name}: 1": f"has the unknown setting {name.replace('-', '_')!r}: did you mean {near}?"
     for name, near in NEAR.items()}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_bad_file_is_one_line(refused, text):
    Path("file").write_text(text)
    refused("train --config file", says=REFUSED[text])


def test_files_that_cannot_be_read(refused):
    refused("train --config none.yaml", says="there is no file none.yaml")
    refused("train --config .", says="it is a directory, not a file")
    Path("file").write_text("lr: 1", "utf-16")
    refused("train --config file", says="file is not UTF-8 (invalid start byte at byte 0)")


def test_scalars_are_those_of_yaml_1_2():
    text = "[5e-5, .5, 1., 1_000, -3, 010, 1:30, 0x10, 2020-01-01, no, on, true, ~, null, '1']"
    found = parse_yaml(text, "text")
    assert found == [
        5e-5, 0.5, 1.0, 1000, -3, 10.0, "1:30", "0x10", "2020-01-01", "no", "on", True, None, None,
        "1",
    ]  # fmt: skip
    assert isinstance(found[3], int)
