"""Lines of metrics.jsonl: their fields, and those that a resumed run keeps."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from npgpt.errors import InputError
from npgpt.system import machine
from npgpt.training.curve import make_curve, read_curve
from npgpt.training.events import Evaluation, Step
from npgpt.training.metrics import (
    CLOCK_KEYS,
    MAX_LINE,
    evaluation_line,
    lines_before,
    parse_line,
    read_lines,
    step_line,
)
from npgpt.training.plot import MAX_POINTS, default_style, draw, thin


def step(number, norm=0.5):
    return Step(number, 1, 16 * number + 16, 3.25, 1e-3, norm, 0.5, 32.0, False)


def evaluation(number):
    return Evaluation(number, 1, 16 * number + 16, 3.0, 3.5, 1e-3, 32.0)


def written(numbers, every=4):
    """Return the lines of a run that is evaluated every few steps."""
    found = []
    for number in numbers:
        if number % every == 0:
            found.append(evaluation_line(evaluation(number)).encode())
        found.append(step_line(step(number)).encode())
    return found


def test_the_line_of_a_step():
    before = datetime.now(UTC).replace(microsecond=0)
    line = json.loads(step_line(step(3)))
    assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    memory = line.pop("memory")
    assert memory is None or 10e6 < memory < 100e9
    assert line == {
        "step": 3, "epoch": 1, "tokens_seen": 64, "loss": 3.25, "lr": 1e-3, "norm": 0.5,
        "seconds": 0.5, "tokens_per_s": 32.0,
    }  # fmt: skip
    of_ranks = {"communication": 0.25, "slowest_rank": 2}
    assert json.loads(step_line(replace(step(3), **of_ranks))).items() >= of_ranks.items()
    assert {"time", "memory", "seconds", "tokens_per_s", *of_ranks} == CLOCK_KEYS


def test_memory_is_unknown_where_the_system_does_not_say(monkeypatch):
    def no_file(*_):
        raise FileNotFoundError

    monkeypatch.setattr(machine, "open", no_file, raising=False)
    line = step_line(step(3, norm=None)).encode()
    assert (json.loads(line)["memory"], json.loads(line)["norm"]) == (None, None)
    assert parse_line(line, "")["loss"] == 3.25


HISTORY = [vars(evaluation(number)) for number in (0, 4, 8)]
LONGER = written(range(14))
WHOLE = LONGER[:13]  # ten steps and three evaluations
OTHERS = b"\n", b"{}\n", b'[{"loss": 1}]\n', b'{"step": 2, "loss": 1}\n'
FILES = {
    "as it was written": WHOLE,
    "lines after the checkpoint": LONGER,
    "lines twice": [line for line in WHOLE for _ in range(2)],
    "steps twice": WHOLE + LONGER[6:],
    "evaluations missing": [line for line in WHOLE if b"val_loss" not in line],
    "evaluations of another run": [line.replace(b"3.5", b"9.5") for line in WHOLE],
    "foreign lines": [one for line in WHOLE for one in (*OTHERS, line)],
    "a line without end": [*WHOLE[:3], b"[" * 10_000 + b"\n", *WHOLE[3:]],
    "half a line": [*WHOLE, WHOLE[-1][:-1]],
    "binary": [b"\xff\x00\n", *WHOLE, b"\0" * 9999],
}  # fmt: skip


@pytest.mark.parametrize("lines", FILES.values(), ids=FILES)
def test_a_resumed_run_keeps_the_lines_before_its_checkpoint(lines):
    file = io.BytesIO(b"".join(lines))
    assert list(lines_before(10, HISTORY, file)) == WHOLE


def test_steps_that_are_lost_leave_the_others():
    damaged = [line[:40] if number == 7 else line for number, line in enumerate(WHOLE)]
    file = io.BytesIO(b"".join(damaged))  # which has joined line 7 and 8
    assert list(lines_before(10, HISTORY, file)) == WHOLE[:7] + WHOLE[9:]
    assert list(lines_before(10, HISTORY, io.BytesIO())) == [
        line for line in WHOLE if b"val_loss" in line
    ]
    assert list(lines_before(0, [], io.BytesIO(b"".join(WHOLE)))) == []


def test_lines_are_read_in_bounded_parts():
    lines = list(read_lines(io.BytesIO(b"a\n" + b"x" * 100_000 + b"\nb\n" + b"y" * MAX_LINE)))
    assert lines == [b"a\n", b"x" * (MAX_LINE + 1), b"b\n", b"y" * MAX_LINE]


@pytest.mark.parametrize("name", ["tokens_seen", "loss", "lr", "norm"])
def test_a_step_that_cannot_be_plotted(name):
    line = json.loads(step_line(step(3)))
    for wrong in ("x", True, -1 if name == "tokens_seen" else 1e200):
        with pytest.raises(InputError, match=f"m, line 3: {name} is .*, but must be a"):
            parse_line(json.dumps(line | {name: wrong}).encode(), "m, line 3")
    del line[name]
    missing = "train_loss" if name == "loss" else name
    with pytest.raises(InputError, match=f"m, line 3 has no {missing}: not a line of a run"):
        parse_line(json.dumps(line).encode(), "m, line 3")


def test_each_line_of_a_file_is_in_its_curves(tmp_path):
    (tmp_path / "config.json").write_text('{"tokens_per_epoch": 32}')
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(WHOLE))
    curve = read_curve(tmp_path)
    assert curve.series("val_loss")[1].tolist() == [3.5] * 3
    assert curve.series("loss")[0].tolist() == [0.5 * (i + 1) for i in range(10)]
    assert curve.series("norm")[1].tolist() == [0.5] * 10
    assert len(curve.series("lr")[0]) == 13


def panels(lines):
    """Return the labels of a figure's panels, and the legend of the first."""
    with default_style():
        figure = draw([make_curve("run", 16, lines)])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    return [axes.get_ylabel() for axes in figure.axes], legend


def test_what_is_known_is_drawn():
    parsed = [json.loads(line) for line in WHOLE]
    losses = "loss (nats per token)"
    legend = ["training", "validation", "best validation: 3.5"]
    old = [{k: v for k, v in vars(evaluation(i)).items() if k != "lr"} for i in range(3)]
    assert panels(old) == ([losses], legend)
    assert panels(HISTORY) == ([losses, "learning rate"], legend)
    every = [losses, "learning rate", "gradient norm"]
    assert panels(parsed) == (every, ["each step", *legend])
    parsed = [line | {"norm": None} for line in parsed]
    assert panels(parsed) == (every[:2], ["each step", *legend])
    steps = [line for line in parsed if "loss" in line]
    assert panels(steps)[1] == ["each step", "training", "validation"]


def test_the_best_point_is_the_lowest():
    lines = [
        vars(evaluation(i)) | {"val_loss": loss} for i, loss in enumerate([3.0, 2.0625, 2.0, 4.0])
    ]
    with default_style():
        axes = draw([make_curve("run", 16, lines)]).axes[0]
    (best,) = (line for line in axes.lines if line.get_marker() == "*")
    assert (best.get_xdata(), best.get_ydata()) == ([3.0], [2.0])


def test_a_long_line_keeps_its_peaks():
    x = np.arange(100_000.0)
    y = np.sin(x)
    y[77_777], y[5] = 30, -30
    kept, values = thin(x, y)
    assert len(kept) == MAX_POINTS
    assert (np.diff(kept) >= 0).all()
    assert (values.max(), kept[values.argmax()], values.min()) == (30, 77_777, -30)
    np.testing.assert_array_equal(y[kept.astype(int)], values)
