"""Plots of runs: every name in the legend, no setting of the user in the way, strict input."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.cli.main import main
from npgpt.cli.plot import MAX_RUNS
from npgpt.errors import InputError, RunError
from npgpt.training import plot as plotting
from npgpt.training.curve import COLUMNS, make_curve, read_curve
from npgpt.training.metrics import MAX_LINE
from npgpt.training.plot import default_style, draw, plot, run_names
from parity_tests.support.runs import FILES, TINY

POINTS = [[0.0, 3.0, 3.5], [5.0, 2.0, 2.5], [10.0, 1.0, 1.5]]  # of three evaluations


def curve(path, points=POINTS, scale=10):
    return make_curve(Path(path), scale, [dict(zip(COLUMNS, row, strict=False)) for row in points])


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


NAMES = {
    "_a": "_a",
    "a$_$b": "a$_$b",
    "$\\frac{": "$\\frac{",
    "跑步-1": r"\u8dd1\u6b65-1",
    "跑步-2": r"\u8dd1\u6b65-2",
    "größer": "größer",
    "a/tiny-1": "a/tiny-1",
    "b/tiny-1": "b/tiny-1",
    "two\nlines\x1b[31m": r"two\nlines\x1b[31m",
    r"two\nlines\x1b[31m": r"two\nlines\x1b[31m",
    "\udcff": r"\udcff",
    "x" * 200: "x" * 24 + " ... " + "x" * 24,
    "x" * 201: "x" * 24 + " ... " + "x" * 24,
    "": "here",  # the name of the current directory
    "/": "/",
}


def test_every_run_is_in_the_legend(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(plotting, "MORE_FONTS", ())
    with default_style():
        figure = draw([curve(name) for name in NAMES])
    figure.savefig(io.BytesIO())  # outside, where a warning is an error: no glyph is missing
    styles = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in styles] == ["training", "validation", "best validation"]
    found = texts(figure)
    assert len(set(found)) == len(NAMES)
    for number, (shown, name) in enumerate(zip(found, NAMES.values(), strict=True), 1):
        assert shown in (f"{name} (best 1.5)", f"{number}: {name} (best 1.5)")
    height, width = figure.canvas.buffer_rgba().shape[:2]
    for text in figure.legends[0].get_texts():
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    colors = {tuple(line.get_color()) for line in figure.axes[0].lines}
    assert len(colors) == len(NAMES)


def test_names_have_the_parts_that_tell_them_apart():
    paths = "a/b/c", "x/b/c", "b/d", "/c"
    with default_style():
        assert run_names([*map(Path, paths)]) == ["a/b/c", "x/b/c", "d", "/c"]


def test_fonts_that_are_installed_are_used(monkeypatch):
    char = "\u1d81"  # matplotlib brings two fonts; the second one has it
    for fonts, name in ((), r"\u1d81"), (("none", "STIXGeneral"), char):
        monkeypatch.setattr(plotting, "MORE_FONTS", fonts)
        with default_style():
            figure = draw([curve(char), curve("b")])
        figure.savefig(io.BytesIO())
        assert texts(figure) == [f"{name} (best 1.5)", "b (best 1.5)"]


@pytest.mark.parametrize("scale", [1, 2**63 - 1])
@pytest.mark.parametrize("points", [[[2**63 - 1, 1e100, -1e100], [1, 1, 1]], [[0, 0, 0]]])
def test_extreme_numbers_are_drawn(tmp_path, points, scale):
    plot([curve("a", points, scale), curve("b", points, 1)], tmp_path / "loss.png")


DRAW = """
import sys
from pathlib import Path
import numpy as np
from npgpt.training.curve import Curve
from npgpt.training.plot import plot

plot([Curve(Path(name), 1, np.ones((3, 6))) for name in ("_a", "a$_$b")], Path(sys.argv[1]))
import matplotlib
print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams._get("backend"))
"""


@pytest.mark.slow
def test_the_users_settings_are_not_in_the_way(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nno colon\naxes.grid: abc\n")
    pictures = []
    for settings, backend in (({}, "agg"), ({"MPLBACKEND": "module://none"}, "")):
        file = tmp_path / f"{len(pictures)}.png"
        folder = tmp_path if settings else tmp_path.parent
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRAW, file],
            cwd=folder, env=os.environ | {"MPLBACKEND": backend} | settings,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split()[0] == str(bool(settings))  # theirs, outside of the plot
        pictures.append(file.read_bytes())
    assert pictures[0] == pictures[1]


def broken_import():
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_a_picture_that_cannot_be_drawn_costs_no_run(npgpt_, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plotting, "import_matplotlib", broken_import)
    said = npgpt_("train --ops numpy --steps 2 --out run", *TINY)
    reason = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert said.err == f"npgpt: run/loss.png could not be drawn: {reason}\n"
    assert Path("run/train.log").read_text() == said.err
    assert "\nNext: npgpt generate --model run" in said.out
    assert {path.name for path in Path("run").iterdir()} == FILES - {"loss.png"} | {"train.log"}
    said = npgpt_("plot run", code=1)
    assert said.err == f"npgpt: run/loss.png could not be drawn: {reason}\n"
    monkeypatch.undo()
    with pytest.raises(RunError, match="could not be written: No such file or directory"):
        plot([curve("run")], tmp_path / "none/loss.png")


CONFIG = '{"tokens_per_epoch": 10}'


def write_run(folder, metrics, config=CONFIG):
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config.encode())
    (folder / "metrics.jsonl").write_bytes(metrics.encode("latin1"))
    return folder


def point(**values):
    return json.dumps({"tokens_seen": 3, "train_loss": 1.5, "val_loss": 2} | values) + "\n"


def raw(value):
    return point(val_loss=7).replace("7", value)


METRICS = {
    "": " is empty: the run has no evaluation yet",
    "{}\n": ", line 1 has no tokens_seen: not a line of a run",
    point() + "{}": ", line 2 has no tokens_seen",
    point() + "[]": ", line 2 is [], but must be a JSON object",
    point() + "\n": ", line 2 is not JSON",
    point() + point()[:30]: ", line 2 is not JSON",
    "\xff\n": ", line 1 is not JSON",
    "[" * 4000: ", line 1 is not JSON",
    "[" * 5000: f", line 1 has more than {MAX_LINE:,} bytes",
    raw("NaN"): ", line 1 is not JSON (it contains NaN)",
    raw("-Infinity"): ", line 1 is not JSON (it contains -Infinity)",
    raw("1e999"): ", line 1 is not JSON (the number 1e999, which is too large)",
    raw("1" + "0" * 400): f", line 1 is not JSON (the number {10**39}, which is too large)",
    raw("1e308"): ", line 1: val_loss is 1e+308, but must be a number",
    raw("true"): ", line 1: val_loss is True, but must be a number",
    raw("null"): ", line 1: val_loss is None, but must be a number",
    point(tokens_seen=-1): ", line 1: tokens_seen is -1, but must be a count",
    point(tokens_seen=2.5): ", line 1: tokens_seen is 2.5, but must be a count",
}
CONFIGS = {
    "{": " is not JSON",
    "[]": " has no tokens_per_epoch",
    '{"tokens_per_epoch": 0}': " has no tokens_per_epoch",
    f'{{"tokens_per_epoch": {10**400}}}': f" is not JSON (the number {10**39}, which is too large)",
    "[" * 100_000: " is not JSON",
}


@pytest.mark.parametrize(
    ("metrics", "config", "says"),
    [(text, CONFIG, f"run/metrics.jsonl{says}") for text, says in METRICS.items()]
    + [(point(), text, f"run/config.json{says}") for text, says in CONFIGS.items()],
)
def test_a_run_that_cannot_be_plotted(tmp_path, monkeypatch, npgpt_, metrics, config, says):
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), metrics, config)
    said = npgpt_("plot run", code=2)
    assert said.err.startswith(f"npgpt: {says}")
    assert said.err.count("\n") == 1


def test_metrics_are_read_with_a_bound(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", point() * 3)
    assert read_curve(folder).points[:, :3].tolist() == [[3.0, 1.5, 2.0]] * 3
    monkeypatch.setattr("npgpt.training.curve.MAX_METRICS", 100)
    with pytest.raises(
        InputError, match=r"metrics.jsonl cannot be read: it has .* bytes; at most 100 are read"
    ):
        read_curve(folder)


def test_runs_are_drawn_once_each_and_not_without_end(tmp_path, monkeypatch, npgpt_):
    monkeypatch.chdir(tmp_path)
    for name in ("a/tiny-1", "b/tiny-1"):
        write_run(Path(name), point() * 3)
    assert npgpt_("plot a/tiny-1 a/../a/tiny-1/").out == "a/tiny-1/loss.png\n"
    monkeypatch.chdir("a/tiny-1")
    assert npgpt_("plot .").out == "loss.png\n"
    assert main(["plot", *map(str, range(MAX_RUNS + 1))]) == 2
