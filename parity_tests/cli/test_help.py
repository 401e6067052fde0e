"""Help, options that do not exist, and npgpt info."""

import re
import subprocess
import sys

import pytest

import npgpt
from npgpt.cli.help_output import wrap
from npgpt.cli.main import COMMANDS, class_of, main
from npgpt.performance import system_info


def test_info_says_what_it_runs_on(npgpt_):
    said = npgpt_("info").out
    for word in ("npgpt ", "Python ", "numpy ", "numba ", "h5py ", "tiktoken ", "BLAS ", "threads",
                 "layer", "CPU ", "cores ", "memory ", "cache", "MPI  ",
                 "MPI's launcher"):  # fmt: skip
        assert word in said, word
    assert f"npgpt            {npgpt.__version__}\n" in said


def test_info_warns_of_what_is_slow():
    openblas, one = (
        system_info.BlasPool("openblas", "openblas 0.3", 4),
        system_info.BlasPool("mkl", "mkl 2", 1),
    )
    assert system_info.blas_warnings([openblas], 4) == []
    assert "1 thread for 4 cores" in system_info.blas_warnings([one], 4)[0]
    assert system_info.blas_warnings([one], 1) == []
    assert (
        "slower" in system_info.blas_warnings([system_info.BlasPool("blas", "blas 3.9", 1)], 1)[0]
    )
    assert system_info.thread_warnings(4, 4) == []
    assert "1 thread for 4 cores" in system_info.thread_warnings(1, 4)[0]
    good = {"GOMP_SPINCOUNT": "1000", "OPENBLAS_THREAD_TIMEOUT": "4"}
    assert system_info.setting_warnings(good) == []
    assert (
        "GOMP_SPINCOUNT is not set"
        in system_info.setting_warnings(good | {"GOMP_SPINCOUNT": "not set"})[0]
    )
    assert "AVX-512" in system_info.kernel_warnings("Haswell", ["avx512f"])[0]
    assert (
        system_info.kernel_warnings("Haswell", ["avx2"])
        == system_info.kernel_warnings(None, ["avx512f"])
        == []
    )
    assert system_info.memory_warnings(3 * 2**30) == system_info.memory_warnings(None) == []
    assert "1.0 GiB of memory" in system_info.memory_warnings(2**30)[0]
    assert "AVX2" in system_info.feature_warnings("x86_64", ["fma"])[0]
    assert (
        system_info.feature_warnings("x86_64", ["avx2"])
        == system_info.feature_warnings("arm64", [])
        == []
    )
    assert system_info.cache_warnings("/x (writable)") == []
    assert "NUMBA_CACHE_DIR" in system_info.cache_warnings("nowhere")[0]


FLAGS = {
    "": "train tokenize generate evaluate plot book download export quantize inspect compare "
    "probe diagnose learn profile estimate info",
    "train": (
        "--preset --data --val-data --tokenizer --epochs --steps --batch-size --context-length "
        "--stride --lr "
        "--weight-decay --warmup-steps --initial-lr --min-lr --grad-clip --grad-accumulation "
        "--dropout --eval-every --eval-batches --prompt --seed --dtype "
        "{float32,float64,bfloat16} --ops {fused,numpy} --out --resume --init-from"
    ),
    "tokenize": (
        "--to --tokenizer --workers --part --val-fraction --val --first-shard --format "
        "{llmc,nanogpt} --shard-tokens --stdin {text,jsonl}"
    ),
    "generate": (
        "--model --weights --prompt --prompts --max-new-tokens --stop --temperature --top-k "
        "--top-p --min-p --repetition-penalty --logit-bias --seed --num-samples --beams --keep "
        "--batch-size --jsonl --log-probs"
    ),
    "evaluate": "--model --weights --data --context-length --stride",
    "download": "{gpt2-small,gpt2-medium,gpt2-large,gpt2-xl} --source {huggingface,openai} --to",
    "export": "--model --to {huggingface,gguf,llm.c,npgpt} --out "
    "--dtype {float32,float16,bfloat16,int8}",
    "quantize": "PATH --to --weights {int8,bfloat16}",
    "inspect": "PATH --json --verify",
    "compare": "PATH --prompt --weights",
    "probe": "--out --model --seed --tied --ignored",
    "diagnose": "PATH --map MINE=THEIRS --json",
    "learn": "{init,check,watch,hint,solution,list} NAME --dir",
    "plot": "--out",
    "profile": (
        "--preset --batch-size --context-length --vocab-size --n-layer --n-head --n-embd --dropout "
        "--tied --dtype {float32,float64,bfloat16} --ops {fused,numpy} --generate --position "
        "--rounds --json"
    ),
    "estimate": "--preset --batch-size --context-length --n-layer --tokens --json",
    "info": "--help",
}


@pytest.mark.parametrize("verb", FLAGS)
def test_help_names_every_flag(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([*verb.split(), "--help"])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "\x1b" not in said.out
    assert [word for word in FLAGS[verb].split() if word not in said.out] == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_no_empty_defaults_and_no_broken_lines(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "(default: )" not in capsys.readouterr().out
    # tyro begins a new line where a line of a docstring does not begin with a letter
    described = class_of(verb).__doc__.partition("Parameters\n")[2]
    wrapped = re.findall(r"(?m)^        (\S.*)\n        (\S.*)", described)
    assert [pair for pair in wrapped if not pair[1][0].isalpha()] == []


@pytest.mark.parametrize("columns", [60, 80])
def test_no_line_of_a_help_is_wider_than_the_terminal(columns, capsys, monkeypatch):
    """Nor does a break lose a word."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for verb in ("", "compare", "tokenize"):
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= columns
        if verb:
            text = class_of(verb).__doc__.partition("Parameters\n")[0]
            assert " ".join(text.split()) in " ".join(said.split())
        else:
            assert ",".join(COMMANDS) in said.replace("\n", "")
            assert "Exit status" not in said  # of each command, only the first sentences


def test_a_number_is_not_broken_at_its_comma():
    assert wrap("at most 1,024 texts", 11) == "at most\n1,024 texts"
    assert wrap("a line that fits", 16) == "a line that fits"


def test_help_shows_the_defaults_of_a_preset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--preset", "book", "--help"])
    said = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "(default: book)" in said
    assert re.search(r"--context-length INT [^(]*\(default: 256\)", said)
    assert re.search(r"--tokenizer {byte,gpt2,PATH}.*?\(default: (\w+)\)", said)[1] == "gpt2"


def test_help_and_flags_wait_for_nothing_slow():
    program = (
        "import sys\nfrom npgpt.cli import main as cli\n"
        "loaded = lambda *names: [name for name in names if name in sys.modules]\n"
        "cli.parse(['generate', '--prompt', 'a', '--stop', 'b', '--top-k', '3'])\n"
        "print(loaded('typeguard', 'npgpt.cli.train', 'npgpt.cli.serve'))\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(loaded('numba', 'h5py', 'tiktoken', 'matplotlib'))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = said.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")
