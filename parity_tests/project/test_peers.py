"""The programs that npgpt is compared with: their environments, answers and turns. No times."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npgpt
from benchmarks import generation, harness, peers, readme, training_step
from npgpt import ops

ROOT = Path(__file__).parents[2]


class Racer:
    """A Runner that takes the same time whenever it is asked."""

    def __init__(self, name, **seconds):
        self.name, self.seconds, self.result = name, seconds, {"works": list(seconds)}
        self.closed = False

    def measure(self, work):
        assert not self.closed
        return {"seconds": self.seconds[work]}

    def close(self):
        self.closed = True


def test_programs_far_behind_are_measured_once(monkeypatch):
    monkeypatch.setattr(harness, "PAUSE", 0)
    racers = [
        Racer("npgpt", a=9.0, b=1.0),
        Racer("quick", a=1.0, b=9.0),
        Racer("near", a=1.2),
        Racer("far", a=1.3, b=1.0),
        Racer("bound", a=8.0),
    ]
    found = harness.race(racers, ["a", "b"], 3, always=("npgpt", "bound"))
    counts = {work: {name: len(s) for name, s in taken.items()} for work, taken in found.items()}
    assert counts == {
        "a": {"npgpt": 3, "quick": 3, "near": 3, "far": 1, "bound": 3},
        "b": {"npgpt": 3, "quick": 1, "far": 3},
    }
    assert all(racer.closed for racer in racers)


def test_what_libraries_print_is_no_answer():
    """The process prints to the file that its libraries call standard output, then it serves."""
    code = """if True:
        from benchmarks import harness
        out = harness.own_stdout()
        print("hello")
        harness.serve({"works": []}, lambda work="all": {"asked": work}, out)
    """
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input="\nread\n", capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert said.stdout == '{"works": []}\n{"asked": "all"}\n{"asked": "read"}\n'
    assert said.stderr == "hello\n"


def test_the_loop_that_is_timed_is_readmes():
    """Its two lines; README computes 50 steps of them, the benchmark a step for each loss."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    (shown,) = (node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.For))
    timed = ast.parse(inspect.getsource(training_step.readme_loop)).body[0].body[-1]
    assert isinstance(timed, ast.While)
    *lines, last = map(ast.unparse, timed.body)
    assert last == "yield loss"
    arguments = "(tokens, targets, rng)"
    written = [ast.unparse(line) for line in shown.body]
    assert [re.sub(r"\(\[.*\]\)$", arguments, line) for line in written] == lines
    assert arguments in lines[0]


def test_the_loop_takes_a_step_for_each_loss():
    config = npgpt.Config(vocab_size=40, context_length=8, n_layer=1, n_head=2, n_embd=8)
    model = npgpt.GPT(config, seed=1, ops=ops)
    tokens = np.arange(8).reshape(2, 4)
    loop = training_step.readme_loop(model, tokens, tokens + 1, adamw={"lr": 1e-2})
    first, second = next(loop), next(loop)
    assert second < first == npgpt.GPT(config, seed=1, ops=ops).loss(tokens, tokens + 1)[0]


def test_environments_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("NPGPT_PEERS", raising=False)
    assert peers.python_of("jax") == sys.executable
    monkeypatch.setenv("NPGPT_PEERS", str(tmp_path))
    assert peers.python_of("jax") == sys.executable
    python = tmp_path / "jax" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert peers.python_of("jax") == str(python)
    missing = peers.Environment("no_such_package", "")
    monkeypatch.setitem(peers.ENVIRONMENTS, "jax", missing)
    monkeypatch.setitem(peers.ENVIRONMENTS, "torch", missing)
    see = "has no package no_such_package: set NPGPT_PEERS (docs/performance.md)"
    assert peers.missing("jax") == f"{python} {see}"
    assert peers.missing("torch") == f"{sys.executable} {see}"
    monkeypatch.setitem(peers.ENVIRONMENTS, "jax", peers.Environment("json", ""))
    assert peers.missing("jax") is None


def test_every_program_has_its_line_of_pip_in_the_docs():
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for name, environment in peers.ENVIRONMENTS.items():
        assert f"\n{name + ':':<14} pip install {environment.requirements}\n" in page
    for name, program in generation.PROGRAMS.items():
        assert program.environment in peers.ENVIRONMENTS
        module, function = program.location.split(":")
        source = (ROOT / "benchmarks" / "baselines" / f"{module}.py").read_text("utf-8")
        assert f"class {function}:" in source, name


def test_another_programs_logits_are_looked_at():
    class Answer:
        def __init__(self, name, logits, generated=generation.NEW, first=(5, 6, 7)):
            self.name, said = name, dict.fromkeys(("version", "settings"), "")
            self.result = said | {"logits": logits, "generated": generated}
            self.result["first"] = {"batch_8": list(first)}

    def validate(logits, weights="float32", **options):
        ours, other = Answer("npgpt", [[1.0, 2.0]]), Answer("transformers", logits, **options)
        generation.validate([ours, other], weights)

    validate([[1.0, 2.00001]], first=(5, 6, 0))
    validate([[1.0, 2.001]], "bfloat16")
    with pytest.raises(SystemExit, match=r"transformers: logits 5\.0e-0. of the largest apart"):
        validate([[1.0, 2.001]])
    with pytest.raises(SystemExit, match="transformers: logits nan"):
        validate([[1.0, np.nan]])
    with pytest.raises(SystemExit, match="transformers generated 3 tokens, not 128"):
        validate([[1.0, 2.0]], generated=3)
    with pytest.raises(SystemExit, match="transformers: 1 of 3 first tokens are npgpt's"):
        validate([[1.0, 2.0]], first=(5, 0, 0))


def test_programs_that_take_part(monkeypatch, capsys):
    monkeypatch.setattr(peers, "missing", lambda name: "why" if name == "llamacpp" else None)
    programs = ["OpenVINO GenAI", "llama.cpp", "CTranslate2", "PyTorch, compiled"]
    assert generation.names("bfloat16", programs, ["generate", "late"]) == [
        "npgpt", "npgpt float32", "OpenVINO GenAI", "PyTorch, compiled",
    ]  # fmt: skip
    assert generation.names("float32", programs, ["late"]) == [
        "npgpt", "OpenVINO GenAI", "CTranslate2",
    ]  # fmt: skip
    assert capsys.readouterr().out == "llama.cpp is skipped: why\n" * 2
    reading, products = generation.BOUNDS
    assert generation.bounds(["generate", "batch_8", "late"]) == [reading, products]
    assert generation.bounds(["generate", "late"]) == [reading]


def test_the_target_of_a_work_is_beside_the_quickest_program():
    bound = "lower bound: weights at the rate of reading"
    found = {
        "generate": {"npgpt": [2.0], "llama.cpp": [3.0], "transformers": [4.0], bound: [1.0]},
        "late": {"npgpt": [1.0], "llama.cpp": [2.0]},
    }
    results = {name: {"bytes": 1e9} for name in ("npgpt", "llama.cpp", "transformers")}
    made = generation.comparisons_of(found, results, "int8")
    assert [(c["work"], c["beside"], c["at_most"], c["unit"]) for c in made] == [
        ("128 tokens after a prompt of 32, int8 weights", "llama.cpp", 0.75, "s"),
        ("128 tokens after a prompt of 32, int8 weights", "transformers", None, "s"),
        ("128 tokens after a prompt of 32, int8 weights", bound, 1.10, "s"),
        ("16 tokens after position 1,000, int8 weights", "llama.cpp", None, "s"),
        ("memory of 128 tokens after a prompt of 32, int8 weights", "llama.cpp", None, "GB"),
        ("memory of 128 tokens after a prompt of 32, int8 weights", "transformers", None, "GB"),
    ]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A function that writes a benchmark's comparisons: (work, program, its time or memory)."""
    machine = dict.fromkeys(("cpu", "torch", "numpy", "numba", "commit"), "x") | {"cores": 2}
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    starts = {
        name: {"seconds": 1.0}
        for name in ("npgpt train, from cold", "import npgpt", "npgpt --help")
    }
    (tmp_path / "start_up.json").write_text(json.dumps({"machine": machine, **starts}))

    def write(name, *rows, unit="s"):
        made = [harness.comparison(work, who, [2.0], [took], unit=unit) for work, who, took in rows]
        path = tmp_path / f"{name}.json"
        found = json.loads(path.read_text())["comparisons"] if path.exists() else []
        path.write_text(json.dumps({"machine": machine, "comparisons": found + made}))

    return write


def test_readme_shows_the_best_program_of_each_work_won_or_lost(results):
    step = "training step, 2 x 256 tokens"
    results("training_step_2x256", (step, "PyTorch", 5.0), (step, "JAX", 4.0), (step, "npgpt", 1.0))
    results("training_step_2x256", (f"memory of a {step}", "JAX", 8.0), unit="GB")
    results("training_step_2x256_bfloat16", (f"{step}, bfloat16", "PyTorch bfloat16", 4.0))
    late = "16 tokens after position 1,000"
    results(
        "generation_int8", *((f"{late}, int8 weights", *row) for row in (("A", 1.0), ("B", 1.6)))
    )
    results("generation", (readme.LONG_PROMPT, "A", 1.0), (late, "lower bound: x", 1.0))
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in readme.speed().split("\n\n")[0].splitlines()
    ]
    assert head == ["124M shape", "float32", "bfloat16", "int8"]
    assert rows == [
        [step, "2.00 s; 0.50 of JAX", "2.00 s; 0.50 of PyTorch", ""],
        [late, "", "", "2.00 s; **2.00** of A"],
    ]
    lost = readme.losses().splitlines()[2:]
    assert [line.strip("| ").split("|")[0].strip() for line in lost] == [
        readme.LONG_PROMPT,
        f"{late}, int8 weights",
    ]
    assert readme.losses().count("2.00") == 4
