"""The command line, from the flags to what lies on the disk afterwards."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import matplotlib.image
import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.cli.common import COMPILING
from npgpt.cli.main import main
from npgpt.model.params import named
from npgpt.performance import system_info
from npgpt.system.files import atomic_write
from npgpt.weights import checkpoint, hdf5
from parity_tests.weights.test_checkpoint import unsealed

TINY = (
    "--n-layer 1 --n-embd 16 --n-head 2 --context-length 16 --batch-size 4 --stride 16 "
    "--eval-every 2 --sample-tokens 3 --warmup-steps 1"
).split()
FILES = {"config.json", "metrics.jsonl", "samples.txt", "loss.png", "checkpoint.h5"}
TEXT = "The lamp is lit at dusk, and the keeper writes the hour in the book. " * 12  # 828 bytes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    Path("text.txt").write_text(TEXT)


@pytest.fixture
def npgpt_(capsys):
    """`npgpt_("train --steps 3", code=0)` -> what it prints; not that it compiles, if it does."""

    def command(line, *more, code=0):
        capsys.readouterr()
        assert main([*line.split(), *more]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        said = said._replace(err=re.sub(rf"{COMPILING}.*\n", "", said.err))
        assert "\x1b" not in said.out + said.err  # nobody is at a terminal
        return said

    return command


@pytest.fixture
def run(npgpt_):
    """A run of 6 steps, two epochs, in the folder `run`."""
    return npgpt_("train --data text.txt --out run --epochs 2", *TINY)


def on_disk():
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def final(path):
    """The state of a run, but for how fast it was."""
    model, saved = checkpoint.read_training(Path(path) / "checkpoint.h5")
    for point in saved.state["progress"]["history"]:
        del point["tokens_per_s"]
    trees = (model.params, saved.m, saved.v)
    arrays = [(name, a.tobytes()) for tree in trees for name, a in named(tree)]
    return arrays, saved.state["progress"], saved.random_state.tobytes(), saved.order.tolist()


# A run and its folder


def test_train_leaves_a_whole_folder(run):
    assert {path.name for path in Path("run").iterdir()} == FILES
    config = json.loads(Path("run/config.json").read_text())
    assert config["config"]["n_embd"] == 16
    assert config["training"]["batch_size"] == 4
    assert config["preset"] == "tiny"
    assert config["tokens_per_epoch"] == 11 * 4 * 16
    assert config["total_steps"] == 22
    assert len(config["data_sha256"]) == 64

    metrics = lines("run/metrics.jsonl")
    keys = ["step", "epoch", "tokens_seen", "train_loss", "val_loss", "lr", "tokens_per_s"]
    assert all(list(point) == keys for point in metrics)
    assert [point["step"] for point in metrics] == list(range(0, 22, 2))
    assert [point["tokens_seen"] for point in metrics] == [64 * (i + 1) for i in range(0, 22, 2)]

    samples = Path("run/samples.txt").read_text()
    assert re.findall(r"^--- epoch (\d+), step (\d+)\nThe lighthouse", samples, re.M) == [
        ("1", "10"),
        ("2", "21"),
    ]
    assert Path("run/loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    picture = matplotlib.image.imread("run/loss.png")
    assert picture.shape[:2] == (675, 1050)
    assert 0.01 < (picture[..., :3].min(-1) < 0.9).mean() < 0.3  # neither blank nor black
    model = npgpt.load("run/checkpoint.h5")
    assert model.config.n_embd == 16
    assert model.tokenizer == "byte"


def test_train_says_what_it_does_and_where_everything_is(run):
    said = run.out.splitlines()
    assert run.err == ""
    assert said[0] == (
        "11,792 parameters (1 layers, 2 heads, 16 wide, context 16), "
        "745 tokens to train on, 83 to validate, 22 steps -> run"
    )
    losses = [line for line in said if line.startswith("Ep ")]
    pattern = r"Ep [12] \(Step 0000\d\d\): Train loss \d\.\d{3}, Val loss \d\.\d{3}"
    assert all(re.fullmatch(pattern, line) for line in losses)
    for line, point in zip(losses, lines("run/metrics.jsonl"), strict=True):
        assert line == (
            f"Ep {point['epoch']} (Step {point['step']:06d}): "
            f"Train loss {point['train_loss']:.3f}, Val loss {point['val_loss']:.3f}"
        )
    assert sum(line.startswith("The lighthouse") for line in said) == 2
    for name in FILES:
        assert any(line.startswith(f"run/{name} ") for line in said), name
    assert said[-1] == 'Go on with: npgpt generate --model run --prompt "The lighthouse"'


def test_runs_are_numbered_and_the_newest_is_the_default(npgpt_):
    for number in (1, 2):
        npgpt_("train --data text.txt --steps 1", *TINY, "--seed", str(number))
        assert Path(f"runs/tiny-{number}/checkpoint.h5").exists()
    os.utime("runs/tiny-1/checkpoint.h5", (2e9, 2e9))
    said = npgpt_("generate --prompt The --max-new-tokens 5")
    assert said == npgpt_("generate --prompt The --max-new-tokens 5 --model runs/tiny-1")
    assert said != npgpt_("generate --prompt The --max-new-tokens 5 --model runs/tiny-2")


def test_the_bundled_text_is_what_trains_by_default(npgpt_):
    said = npgpt_("train --steps 1 --out run", *TINY)
    assert "18,227 tokens to train on, 2,026 to validate" in said.out


def test_both_backends_and_dtypes(npgpt_):
    seen = {}
    for backend in ("fused", "numpy"):
        for dtype in ("float32", "float64"):
            out = f"{backend}-{dtype}"
            flags = f"train --data text.txt --steps 3 --ops {backend} --dtype {dtype} --out {out}"
            npgpt_(flags, *TINY)
            assert npgpt.load(f"{out}/checkpoint.h5").dtype == dtype
            seen[out] = lines(f"{out}/metrics.jsonl")[-1]["val_loss"]
    assert max(seen.values()) - min(seen.values()) < 1e-4


def test_a_vocabulary_larger_than_the_tokenizers(npgpt_, monkeypatch):
    """Ids that no text has show as U+FFFD, in the samples as in what is generated."""
    from npgpt.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "sample", lambda self: [84, 3999, 104, 256])
    said = npgpt_("train --data text.txt --epochs 1 --vocab-size 4000 --out run", *TINY)
    shown = "T\ufffdh<|endoftext|>\n"
    assert shown in said.out
    assert Path("run/samples.txt").read_text("utf-8").endswith(shown)
    assert "\ufffd" in npgpt_("generate --prompt The --model run --temperature 5").out


# Going on


def interrupt_after(monkeypatch, step):
    """Ctrl-C in the middle of that step."""
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def with_ctrl_c(self, *batch):
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", with_ctrl_c)


@pytest.mark.parametrize("step", [0, 4, 10, 15])
def test_an_interrupted_run_resumes_to_the_same_bits(npgpt_, run, monkeypatch, step):
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs tests behind itself
    with monkeypatch.context() as patched:
        interrupt_after(patched, step)
        said = npgpt_(f"train --data {'text.txt'} --out cut --epochs 2", *TINY, code=130)
    assert said.err == "\nFinishing this step, then saving ...\n"
    assert said.out.splitlines()[-2:] == [
        f"Stopped after step {step}; everything is saved in cut",
        "Go on with: npgpt train --resume cut",
    ]
    Path("cut/.checkpoint.h5.1.part").write_bytes(b"what a kill would leave")
    with open("cut/metrics.jsonl", "a") as file:
        file.write('{"step": 99}\n')  # of steps after the last checkpoint
    npgpt_("train --resume cut")
    assert final("cut") == final("run")
    cut, whole = ([{**p, "tokens_per_s": 0} for p in lines(f"{d}/metrics.jsonl")]
                  for d in ("cut", "run"))  # fmt: skip
    assert cut == whole
    assert Path("cut/samples.txt").read_bytes() == Path("run/samples.txt").read_bytes()
    assert {path.name for path in Path("cut").iterdir()} == FILES
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_from_another_folder_and_into_another(npgpt_, run, monkeypatch):
    Path("away").mkdir()
    monkeypatch.chdir("away")
    before = Path("../run/checkpoint.h5").read_bytes()
    npgpt_("train --resume ../run/checkpoint.h5 --data ../text.txt --epochs 3 --out longer")
    assert len(lines("longer/metrics.jsonl")) == 17
    assert Path("../run/checkpoint.h5").read_bytes() == before
    Path("alone.h5").write_bytes(before)
    npgpt_("train --resume alone.h5 --data ../text.txt --steps 23")
    assert {path.name for path in Path("runs/tiny-1").iterdir()} == FILES


def test_a_finished_run_has_nothing_to_do_and_more_epochs_give_more(npgpt_, run):
    before = final("run")
    npgpt_("train --resume run")
    assert final("run") == before
    npgpt_("train --resume run --epochs 3")
    assert final("run")[1]["step"] == 33
    assert [p["step"] for p in lines("run/metrics.jsonl")] == list(range(0, 33, 2))


def test_checkpoints_come_every_so_many_steps(npgpt_, monkeypatch):
    from npgpt.training.run_dir import RunDir

    saved, save = [], RunDir.save
    monkeypatch.setattr(
        RunDir, "save", lambda self, run: saved.append(run.progress.step) or save(self, run)
    )
    npgpt_("train --data text.txt --epochs 2 --out each", *TINY)
    npgpt_("train --data text.txt --steps 8 --checkpoint-every 3 --out three", *TINY)
    assert saved == [11, 22, 3, 6, 8]


@pytest.mark.parametrize("flag", ["--init-from", "--init_from"])
def test_init_from_takes_shape_tokenizer_and_weights_over(npgpt_, run, flag):
    npgpt_("train --data text.txt --steps 1 --lr 0 --initial-lr 0 --out next", flag, "run")
    first, second = (npgpt.load(f"{d}/checkpoint.h5") for d in ("run", "next"))
    assert second.config.n_embd == 16
    for (name, a), (_, b) in zip(named(first.params), named(second.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_ctrl_c_in_a_process_of_its_own():
    program = [sys.executable, "-m", "npgpt", "train", "--data", "text.txt", "--epochs", "9999"]
    process = subprocess.Popen(
        [*program, "--out", "run", *TINY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not process.stdout.readline().startswith("Ep 1 (Step 000002)"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "\nFinishing this step, then saving ...\n"
    assert out.endswith("Go on with: npgpt train --resume run\n")
    step = final("run")[1]["step"]
    assert f"Stopped after step {step - 1};" in out
    assert main(["train", "--resume", "run", "--steps", str(step + 2)]) == 0
    assert final("run")[1]["step"] == step + 2


# The other verbs


def test_generate_is_decided_by_its_seed(npgpt_, run):
    command = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 1"
    first = npgpt_(command)
    assert first.err == ""
    assert first.out.startswith("Lamp")
    assert first.out.endswith("\n")
    assert len(first.out) > 5
    assert npgpt_(command + " --seed 123").out == first.out
    assert npgpt_(command + " --seed 124").out != first.out
    greedy = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 0"
    assert npgpt_(greedy).out == npgpt_(greedy + " --seed 9").out
    assert npgpt_(command + " --top-k 1").out == npgpt_(greedy).out
    assert npgpt_(command + " --top-p 1e-9").out == npgpt_(greedy).out
    assert npgpt_("generate --model run --prompt Lamp --max-new-tokens 0").out == "Lamp\n"


def test_generate_several_samples(npgpt_, run):
    command = "generate --model run --prompt Lamp --max-new-tokens 20 --temperature 1"
    said = npgpt_(command + " --num-samples 3").out
    parts = re.split(r"--- sample (\d) of 3\n", said)
    assert parts[0] == ""
    assert parts[1::2] == ["1", "2", "3"]
    assert all(text.startswith("Lamp") for text in parts[2::2])
    assert len(set(parts[2::2])) > 1


def test_generate_stops_at_the_end_of_the_text(npgpt_):
    """A model that gives nothing but the end of a text, and one that gives one letter."""
    model = npgpt.GPT(npgpt.Config(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4),
                      ops=ops, tokenizer="byte")  # fmt: skip
    for id, expected in ((256, "Lamp\n"), (ord("z"), "Lampzzzzz\n")):
        model.params.ln_f.weight.fill(0)
        model.params.ln_f.bias.fill(1)
        model.params.wte.weight.fill(0)
        model.params.wte.weight[id] = 1
        model.save("one.h5")
        command = "generate --model one.h5 --prompt Lamp --max-new-tokens 5 --temperature 0"
        assert npgpt_(command).out == expected
        three = npgpt_(command + " --num-samples 2").out
        assert three == "".join(f"--- sample {i} of 2\n{expected}" for i in (1, 2))


def test_generate_streams(npgpt_, run, monkeypatch):
    """Each token is printed before the next one is made."""
    from npgpt import generate as made

    seen = []
    written = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda text: seen.append(text) or written(text))

    def slowly(*args, **kwargs):
        for ids in made(*args, **kwargs):
            seen.append(None)
            yield ids

    monkeypatch.setattr(sys.modules["npgpt.inference.generate"], "generate", slowly)
    npgpt_("generate --model run --prompt Lamp --max-new-tokens 6 --temperature 0")
    made_at = [i for i, text in enumerate(seen) if text is None]
    assert len(made_at) == 6
    assert all(b - a > 1 for a, b in itertools.pairwise(made_at))


def test_evaluate_is_the_mean_over_all_tokens(npgpt_, run):
    said = npgpt_("evaluate --model run --data text.txt").out
    loss, perplexity = map(
        float, re.match(r"loss (\S+) nats per token, perplexity (\S+)\n", said).groups()
    )
    assert said.endswith("over 827 tokens (byte) in windows of 16\n")
    model = npgpt.load("run/checkpoint.h5")
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(int)
    total = 0.0
    for i in range(0, 827, 16):
        x, y = tokens[i : i + 16][: 827 - i], tokens[i + 1 : i + 17]
        total += float(model.evaluate([x], [y])) * len(y)
    assert loss == pytest.approx(total / 827, abs=1e-4)
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-3)
    assert npgpt_("evaluate --model run --data text.txt --batch-size 7").out == said
    Path("short.txt").write_text("ab")
    assert "over 1 tokens" in npgpt_("evaluate --model run --data short.txt").out


def test_plot_one_run_and_several(npgpt_, run):
    Path("run/loss.png").unlink()
    assert npgpt_("plot run").out == "run/loss.png\n"
    npgpt_("train --data text.txt --steps 3 --out other", *TINY)
    assert npgpt_("plot run other").out == "loss.png\n"
    assert npgpt_("plot run other --out both.png").out == "both.png\n"
    sizes = [matplotlib.image.imread(p).shape for p in ("run/loss.png", "loss.png", "both.png")]
    assert len(set(sizes)) == 1
    assert Path("loss.png").read_bytes() == Path("both.png").read_bytes()
    assert Path("loss.png").read_bytes() != Path("run/loss.png").read_bytes()


def test_info_says_what_it_runs_on(npgpt_):
    said = npgpt_("info").out
    for word in ("npgpt ", "Python ", "numpy ", "numba ", "h5py ", "tiktoken ", "BLAS ", "threads",
                 "layer", "CPU ", "cores ", "memory ", "cache"):  # fmt: skip
        assert word in said, word
    assert f"npgpt            {npgpt.__version__}\n" in said


def test_info_warns_of_what_is_slow():
    openblas, one = (
        system_info.Pool("openblas", "openblas 0.3", 4),
        system_info.Pool("mkl", "mkl 2", 1),
    )
    assert system_info.blas_warnings([openblas], 4) == []
    assert "1 thread for 4 cores" in system_info.blas_warnings([one], 4)[0]
    assert system_info.blas_warnings([one], 1) == []
    assert "slower" in system_info.blas_warnings([system_info.Pool("blas", "blas 3.9", 1)], 1)[0]
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
    "": "train generate evaluate plot book download export quantize inspect compare profile "
    "estimate info",
    "train": (
        "--preset --data --tokenizer --epochs --steps --batch-size --context-length --stride --lr "
        "--weight-decay --warmup-steps --initial-lr --min-lr --grad-clip --grad-accumulation "
        "--dropout --eval-every --eval-batches --prompt --seed --dtype "
        "{float32,float64,bfloat16} --ops {fused,numpy} --out --resume --init-from"
    ),
    "generate": (
        "--model --weights --prompt --max-new-tokens --temperature --top-k --top-p --seed "
        "--num-samples"
    ),
    "evaluate": "--model --weights --data --context-length --stride",
    "download": "{gpt2-small,gpt2-medium,gpt2-large,gpt2-xl} --source {huggingface,openai} --to",
    "export": "--model --to {huggingface,llm.c,npgpt} --out --dtype {float32,float16,bfloat16}",
    "quantize": "PATH --to --weights {int8,bfloat16}",
    "inspect": "PATH --json --verify",
    "compare": "PATH --prompt --weights",
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


def test_help_shows_the_defaults_of_a_preset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--preset", "book", "--help"])
    said = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "(default: book)" in said
    assert re.search(r"--context-length INT [^(]*\(default: 256\)", said)
    assert re.search(r"--tokenizer {byte,gpt2}.*?\(default: (\w+)\)", said)[1] == "gpt2"


def test_help_and_mistyped_flags_do_not_wait_for_numba():
    program = (
        "import sys\nfrom npgpt.cli import main as cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numba', 'h5py', 'tiktoken', 'matplotlib') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.splitlines()[-1] == "[]"


# Bad input


BAD_TEXTS = {
    "missing.txt": (None, "there is no text file missing.txt"),
    "empty.txt": (b"", "empty.txt is empty"),
    "blank.txt": (b" \n\t\n", "blank.txt is empty"),
    "binary.txt": (b"ab\0cd" * 99, "binary.txt is not text: byte 2 is zero"),
    "latin.txt": (b"caf\xe9 " * 99, "latin.txt is not UTF-8: byte 3 is 0xe9"),
    "short.txt": (b"The keeper", "the training split has 9 tokens, but one window of context "
                  "length 16 needs 17"),
}  # fmt: skip

BAD_FLAGS = {
    "--train-fraction 1": "the validation split has 0 tokens, but one window of context length 16",
    "--vocab-size 9": "the tokenizer byte has 257 tokens, more than the model's vocabulary of 9",
    "--n-head 3": "n_embd is 16 and n_head is 3",
    "--n-layer 0": "n_layer is 0, but has to be at least 1",
    "--dropout 1": "dropout is 1.0, but has to be in [0, 1)",
    "--batch-size 0": "batch_size is 0, but has to be at least 1",
    "--batch-size 9999": "the training split makes 46 windows",
    "--stride 0": "stride is 0, but has to be at least 1",
    "--lr -1": "lr is -1.0, but has to be at least 0",
    "--lr nan": "lr is nan, but has to be a number",
    "--grad-clip 0": "grad_clip is 0.0, but has to be above 0",
    "--grad-clip nan": "grad_clip is nan, but has to be above 0",
    "--seed -1": "seed is -1, but has to be in [0, 2**64)",
    "--epochs 0": "epochs is 0, but has to be at least 1",
    "--steps 0": "steps is 0, but has to be at least 1",
    "--prompt=": "the prompt is empty",
    "--init-from no.h5": "there is no checkpoint no.h5",
    "--resume no": "there is no file no",
    "--out text.txt": "the folder text.txt cannot be made: File exists",
    "--out text.txt/run": "the folder text.txt/run cannot be made: Not a directory",
    "--data runs": "there is no text file runs",
}


@pytest.fixture
def refused(npgpt_):
    """One line on stderr that says so, nothing on stdout, everything on the disk as it was."""

    def command(line, *more, says, code=2, out=""):
        before = on_disk()
        said = npgpt_(line, *more, code=code)
        assert said.err.count("\n") == 1
        assert said.err.startswith("npgpt: ")
        assert says in said.err
        assert said.out.startswith(out)
        assert bool(said.out) == bool(out)
        assert on_disk() == before

    return command


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_cannot_be_used(refused, name):
    content, says = BAD_TEXTS[name]
    if content is not None:
        Path(name).write_bytes(content)
    refused(f"train --out run --data {name}", *TINY, says=says)
    assert not Path("run").exists()
    if name != "short.txt":
        npgpt.GPT(npgpt.Config(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4),
                  ops=ops, tokenizer="byte").save("model.h5")  # fmt: skip
        refused(f"evaluate --model model.h5 --data {name}", says=says)


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_flag_that_cannot_be_used(refused, flag):
    data = [] if "--data" in flag else ["--data", "text.txt"]
    refused("train", *data, *TINY, *flag.split(" "), says=BAD_FLAGS[flag])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--temperature -0.1", "temperature is -0.1, but has to be 0 (greedy) or above"),
        ("--temperature nan", "temperature is nan"),
        ("--top-k 0", "top_k is 0, but at least 1 token has to be left"),
        ("--top-p 0", "top_p is 0.0, but has to be in (0, 1]"),
        ("--top-p 1.01", "top_p is 1.01, but has to be in (0, 1]"),
        ("--num-samples 0", "num_samples is 0, but has to be at least 1"),
        ("--max-new-tokens -1", "max_new_tokens is -1, but has to be at least 0"),
        ("--seed -1", "seed = -1: it must lie between 0 and 18446744073709551615"),
        ("--prompt=", "the prompt is empty"),
    ],
)
def test_generate_refuses(refused, run, flags, says):
    refused("generate --model run --prompt The", *flags.split(" "), says=says)


def test_a_prompt_outside_the_vocabulary(refused):
    model = npgpt.GPT(npgpt.Config(vocab_size=100, context_length=8, n_layer=1, n_head=1, n_embd=4),
                      ops=ops, tokenizer="byte")  # fmt: skip
    model.save("model.h5")
    says = "token id 122 is outside the vocabulary of 100 (0 to 99)"
    refused("generate --model model.h5 --prompt z", says=says)
    Path("z.txt").write_text("zz")
    refused("evaluate --model model.h5 --data z.txt", says=says)


def broken(kind):
    """The checkpoint of the run, made bad."""
    path = Path("run/checkpoint.h5")
    raw = path.read_bytes()
    if kind == "cut":
        path.write_bytes(raw[: len(raw) // 2])
        return "is cut, or not a checkpoint"
    if kind == "text":
        path.write_bytes(b"hello")
        return "begins with b'hello'"
    path.write_bytes(unsealed(raw))
    with h5py.File(path, "r+") as file:
        if kind == "version":
            file.attrs["version"] = 7
        else:
            del file["parameters/wpe.weight"]
            file["parameters/wpe.weight"] = np.zeros((2, 16), np.float32)
    hdf5.seal(path)
    if kind == "version":
        return "is of format version 7; this npgpt reads 1"
    return "wpe.weight has shape (2, 16), its config asks for (16, 16)"


@pytest.mark.parametrize("kind", ["cut", "text", "version", "shape"])
def test_a_checkpoint_that_cannot_be_read(refused, run, kind):
    says = broken(kind)
    refused("generate --model run --prompt The", says=says)
    refused("generate --model run/checkpoint.h5 --prompt The", says=says)
    refused("evaluate --model run --data text.txt", says=says)
    refused("train --resume run", says=says)
    refused("train --init-from run --data text.txt", says=says)


def test_a_damaged_number_is_not_trained_on(npgpt_, refused, run):
    path = Path("run/checkpoint.h5")
    raw, number = path.read_bytes(), npgpt.load("run").params.wte.weight[3, 1]
    at = raw.index(number.tobytes())
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    says = "is damaged: what is in its bytes"
    refused("inspect run --verify", says=says)
    refused("train --resume run", says=says)
    refused("train --init-from run --data text.txt --out other", says=says)
    npgpt_("inspect run")  # which shows what can be shown
    path.write_bytes(raw)
    npgpt_("inspect run --verify")


def test_a_folder_without_a_run(refused):
    Path("none").mkdir()
    refused("generate --prompt The", says="there is no run under ./runs yet")
    refused("generate --model none --prompt The", says="the folder none holds no model")
    refused("train --resume none", says="there is no file none/checkpoint.h5")
    refused("plot none", says="none/config.json cannot be read: No such file or directory")
    refused("plot", says="name at least one folder of a run")


def test_a_folder_that_holds_a_run(refused, run):
    says = "run already holds a run: choose another --out, or go on with it by --resume run"
    refused("train --data text.txt --out run", *TINY, says=says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--lr 1", "--lr 1.0 does not fit: run was made with 0.005"),
        ("--n-embd 32", "--n-embd 32 does not fit: run was made with 16"),
        ("--preset book", "--preset book does not fit: run was made with tiny"),
        ("--dtype float64", "--dtype float64 does not fit: run was made with float32"),
        ("--data other.txt", "the text other.txt is not the one this run was trained on"),
        ("--out taken", "taken already holds a run"),
    ],
)
def test_a_run_that_does_not_fit_is_not_resumed(refused, run, flags, says):
    Path("other.txt").write_text(TEXT.upper())
    Path("taken").mkdir()
    Path("taken/config.json").write_text("{}")
    refused("train --resume run", *flags.split(), says=says)


def test_weights_that_do_not_fit_are_not_started_from(refused, run):
    says = "--n-layer 4 does not fit: run was made with 1"
    refused("train --data text.txt --init-from run --n-layer 4", says=says)
    says = "--tokenizer gpt2 does not fit: run was made with byte"
    refused("train --data text.txt --init-from run --tokenizer gpt2", says=says)
    npgpt.load("run/checkpoint.h5").save("model.h5")
    says = "model.h5 holds a model but no run: use --init-from to start from it"
    refused("train --data text.txt --resume model.h5", says=says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", "{", "run/config.json is not JSON"),
        ("config.json", "[]", "run/config.json has no tokens_per_epoch"),
        ("config.json", '{"tokens_per_epoch": 0}', "run/config.json has no tokens_per_epoch"),
        ("metrics.jsonl", "", "run/metrics.jsonl is empty"),
        ("metrics.jsonl", "{}\n", "run/metrics.jsonl, line 1: expected numbers"),
        ("metrics.jsonl", "\xff\n", "run/metrics.jsonl is not JSON"),
    ],
)
def test_a_run_that_cannot_be_plotted(refused, run, name, content, says):
    Path("run", name).write_text(content, encoding="latin1")
    refused("plot run", says=says)


# What fails under way


def test_a_loss_that_becomes_nan_keeps_the_last_good_checkpoint(npgpt_, monkeypatch):
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def poisoned(self, *batch):
        if self.progress.step == 13:
            self.model.params.ln_f.bias[0] = np.nan
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", poisoned)
    said = npgpt_("train --data text.txt --epochs 2 --out run", *TINY, code=1)
    assert said.err == (
        "npgpt: the loss became nan at step 13. Try a lower --lr, a longer warmup, or "
        "--grad-clip 1. The last good checkpoint is run/checkpoint.h5\n"
    )
    assert final("run")[1]["step"] == 11
    assert Path("run/loss.png").exists()
    monkeypatch.setattr(Trainer, "update", update)
    npgpt_("train --resume run")
    assert final("run")[1]["step"] == 22


@pytest.mark.parametrize("backend", ["fused", "numpy"])
def test_a_learning_rate_without_measure(npgpt_, backend):
    flags = "--lr 1e38 --initial-lr 1e38 --min-lr 1e38 --grad-clip None --warmup-steps 0"
    said = npgpt_(f"train --data text.txt --out run --ops {backend}", *TINY, *flags.split(), code=1)
    assert re.fullmatch(r"npgpt: the \S+ ?loss became (nan|inf) at step \d\. Try .*\n", said.err)


FULL = """
import resource, sys
from npgpt.cli import main as cli
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("limit", "file"), [(100, "config.json"), (2000, "metrics.jsonl"), (100_000, "checkpoint.h5")]
)
def test_a_full_disk(run, limit, file):
    """A run goes on where nothing above `limit` bytes can be written."""
    before = on_disk()
    more = ["train", "--resume", "run", "--epochs", "3"]
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *more], capture_output=True, text=True
    )
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert re.search(rf"npgpt: run/{file} could not be written: File too large", said.stderr)
    after = on_disk()
    assert after["run/checkpoint.h5"] == before["run/checkpoint.h5"]
    assert after.keys() == before.keys()


def test_too_little_memory(refused, monkeypatch):
    def greedy(*args, **kwargs):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr("npgpt.model.params.zeros", greedy)
    says = "npgpt: not enough memory: Unable to allocate 8 TiB"
    refused("train --data text.txt --out run", *TINY, says=says, code=1)


def test_a_reader_that_has_seen_enough(run):
    """npgpt generate | head -c 1: no traceback, no complaint."""
    command = [sys.executable, "-m", "npgpt", "generate", "--model", "run", "--prompt", "The"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "3000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(1) == b"T"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_text_that_the_terminal_cannot_show(run):
    """A prompt that is no Unicode, and an output that knows ASCII only."""
    command = [
        sys.executable,
        "-m",
        "npgpt",
        "generate",
        "--model",
        "run",
        "--prompt",
        b"\xff\xc3\xa9",
    ]
    said = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(b"??")
    assert said.stderr == b""


def test_a_flag_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--epoch", "3"])
    assert left.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file():
    Path("file").write_text("old")
    with pytest.raises(ValueError, match="half-way"), atomic_write("file") as temporary:
        temporary.write_text("new")
        raise ValueError("half-way")
    assert on_disk() == {"file": b"old", "text.txt": TEXT.encode()}
