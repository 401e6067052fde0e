"""Mistakes in GELU."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.gelu:forward", "npgpt.ops.gelu:backward"

page = Page("docs/backprop/gelu.md")
wrong = page.add

TANH = "t = np.tanh(SCALE * (x + CUBIC * (x * x * x)))"
OUT = "0.5 * x * (1 + t)"
INNER = "inner_slope = SCALE * (1 + 3 * CUBIC * (x * x))"
SLOPE = "slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope"

PHI = "math.erf(value / 2**0.5) for value in x.ravel().tolist()"
EXACT = f"import math\n    t = np.array([{PHI}], x.dtype).reshape(x.shape)"
SIGMOID = "t = 1 / (1 + np.exp(-x))"

SEEN = {
    "gelu-exact": ("nntile/nntile#370", "OpenNMT/CTranslate2#1658"),
    "relu": ("OpenNMT/OpenNMT-py#1971",),
}

# name, line, forward's t, forward's result, slope
for name, says, t, out, slope in (
    (
        "gelu-exact",
        "GELU is the exact one, with erf; GPT-2's is the tanh approximation",
        EXACT,
        OUT,
        "0.5 * (1 + t) + x * np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5",
    ),
    (
        "gelu-erf-without-sqrt-2",
        "GELU is 0.5 x (1 + erf(x)): x is not divided by sqrt(2)",
        EXACT.replace("value / 2**0.5", "value"),
        OUT,
        "0.5 * (1 + t) + x * np.exp(-x * x) / np.pi**0.5",
    ),
    (
        "gelu-quick",
        "GELU is x * sigmoid(1.702 x), the quick one",
        "t = 1 / (1 + np.exp(-1.702 * x))",
        "x * t",
        "t + 1.702 * x * t * (1 - t)",
    ),
    ("silu", "SiLU (swish) in the place of GELU", SIGMOID, "x * t", "t + x * t * (1 - t)"),
    ("sigmoid", "a sigmoid in the place of GELU", SIGMOID, "t", "t * (1 - t)"),
    ("tanh", "tanh in the place of GELU", "t = np.tanh(x)", "t", "1 - t * t"),
    ("relu", "ReLU in the place of GELU", "t = (x > 0).astype(x.dtype)", "x * t", "t"),
    (
        "relu-squared",
        "the square of ReLU in the place of GELU",
        "t = np.maximum(x, 0)",
        "t * t",
        "2 * t",
    ),
    (
        "leaky-relu",
        "leaky ReLU, 0.01 x below 0, in the place of GELU",
        "t = np.where(x > 0, x.dtype.type(1), x.dtype.type(0.01))",
        "x * t",
        "t",
    ),
    (
        "gelu-without-x",
        "GELU is not multiplied with x: 0.5 (1 + tanh)",
        TANH,
        "0.5 * (1 + t)",
        "0.5 * (1 - t * t) * inner_slope",
    ),
    ("gelu-missing", "the MLP has no activation function", "t = np.ones_like(x)", "x * t", "t"),
):
    wrong(
        "forward",
        name,
        says,
        (FORWARD, TANH, t),
        (FORWARD, OUT, out),
        (BACKWARD, TANH, t),
        (BACKWARD, SLOPE, f"slope = {slope}"),
        seen=SEEN.get(name, ()),
    )
wrong(
    "forward",
    "gelu-not-halved",
    "GELU lacks the factor 0.5",
    (FORWARD, OUT, "x * (1 + t)"),
    (BACKWARD, SLOPE, "slope = 1 + t + x * (1 - t * t) * inner_slope"),
)
wrong(
    "forward",
    "gelu-cubic-typo",
    "GELU's constant is 0.44715 instead of 0.044715",
    (FORWARD, "CUBIC", "0.44715"),
    (BACKWARD, "x + CUBIC", "x + 0.44715"),
    (BACKWARD, "3 * CUBIC", "3 * 0.44715"),
)
for right, number, name in (
    ("CUBIC", "0.0447", "gelu-constant-0-0447"),
    ("CUBIC", "0.004715", "gelu-constant-0-004715"),
    ("SCALE", "0.8", "gelu-scale-0-8"),
    ("SCALE", "0.798", "gelu-scale-0-798"),
    ("SCALE", "0.7978", "gelu-scale-0-7978"),
):
    wrong(
        "forward",
        name,
        f"GELU's constant is {number} instead of "
        + ("0.044715" if right == "CUBIC" else "sqrt(2 / pi) = 0.79788456"),
        (FORWARD, right, number),
        (BACKWARD, f"x + {right}" if right == "CUBIC" else f"np.tanh({right}",
         f"x + {number}" if right == "CUBIC" else f"np.tanh({number}"),
        (BACKWARD, f"3 * {right}" if right == "CUBIC" else f"inner_slope = {right}",
         f"3 * {number}" if right == "CUBIC" else f"inner_slope = {number}"),
    )  # fmt: skip
wrong(
    "forward",
    "gelu-without-cubic-term",
    "GELU lacks the cubic term: tanh of sqrt(2 / pi) x",
    (FORWARD, "x + CUBIC * (x * x * x)", "x"),
    (BACKWARD, "x + CUBIC * (x * x * x)", "x"),
    (BACKWARD, INNER, "inner_slope = SCALE"),
)
wrong(
    "forward",
    "gelu-square-not-cube",
    "GELU has a square in the place of the cube",
    (FORWARD, "(x * x * x)", "(x * x)"),
    (BACKWARD, "(x * x * x)", "(x * x)"),
    (BACKWARD, INNER, "inner_slope = SCALE * (1 + 2 * CUBIC * x)"),
)
wrong(
    "forward",
    "gelu-2-over-pi",
    "GELU's factor is 2 / pi, without the square root",
    (FORWARD, "SCALE", "2 / np.pi"),
    (BACKWARD, "np.tanh(SCALE", "np.tanh(2 / np.pi"),
    (BACKWARD, "inner_slope = SCALE", "inner_slope = 2 / np.pi"),
)
wrong(
    "forward",
    "gelu-sqrt-2-over-pi",
    "GELU's factor is sqrt(2) / pi: the root ends before the division",
    (FORWARD, "SCALE", "2**0.5 / np.pi"),
    (BACKWARD, "np.tanh(SCALE", "np.tanh(2**0.5 / np.pi"),
    (BACKWARD, "inner_slope = SCALE", "inner_slope = 2**0.5 / np.pi"),
)
wrong(
    "forward",
    "gelu-pi-over-2",
    "GELU's factor is sqrt(pi / 2), not sqrt(2 / pi)",
    (FORWARD, "SCALE", "(1 / SCALE)"),
    (BACKWARD, "np.tanh(SCALE", "np.tanh((1 / SCALE)"),
    (BACKWARD, "inner_slope = SCALE", "inner_slope = (1 / SCALE)"),
)
wrong(
    "forward",
    "gelu-cubic-outside",
    "GELU's cubic term is not multiplied with sqrt(2 / pi): a misplaced parenthesis",
    (FORWARD, "SCALE * (x + CUBIC * (x * x * x))", "SCALE * x + CUBIC * (x * x * x)"),
    (BACKWARD, "SCALE * (x + CUBIC * (x * x * x))", "SCALE * x + CUBIC * (x * x * x)"),
    (BACKWARD, INNER, "inner_slope = SCALE + 3 * CUBIC * (x * x)"),
)
for name, says, slope in (
    (
        "gelu-slope-first-term",
        "the slope of GELU lacks the second term of the product rule",
        "0.5 * (1 + t)",
    ),
    (
        "gelu-slope-second-term",
        "the slope of GELU lacks the first term of the product rule",
        "0.5 * x * (1 - t * t) * inner_slope",
    ),
    (
        "gelu-slope-without-inner",
        "the slope of GELU lacks the derivative of the inner function",
        "0.5 * (1 + t) + 0.5 * x * (1 - t * t)",
    ),
    ("gelu-slope-of-tanh", "the slope of GELU has 1 - tanh for 1 - tanh^2",
     "0.5 * (1 + t) + 0.5 * x * (1 - t) * inner_slope"),
    ("gelu-slope-subtracted", "the slope of GELU subtracts the second term of the product rule",
     "0.5 * (1 + t) - 0.5 * x * (1 - t * t) * inner_slope"),
    ("gelu-slope-second-term-doubled", "the second term of GELU's slope lacks its factor 0.5",
     "0.5 * (1 + t) + x * (1 - t * t) * inner_slope"),
    ("gelu-slope-first-term-doubled", "the first term of GELU's slope lacks its factor 0.5",
     "1 + t + 0.5 * x * (1 - t * t) * inner_slope"),
    ("gelu-slope-doubled", "the slope of GELU lacks the factor 0.5",
     "1 + t + x * (1 - t * t) * inner_slope"),
    ("gelu-slope-without-x", "the second term of GELU's slope lacks the factor x",
     "0.5 * (1 + t) + 0.5 * (1 - t * t) * inner_slope"),
    ("gelu-slope-of-1-plus-tanh-squared", "the slope of GELU has 1 + tanh^2 for 1 - tanh^2",
     "0.5 * (1 + t) + 0.5 * x * (1 + t * t) * inner_slope"),
    ("gelu-slope-of-quick", "the slope is that of the quick GELU, and forward has tanh",
     "(s := 1 / (1 + np.exp(-1.702 * x))) + 1.702 * x * s * (1 - s)"),
    ("gelu-slope-missing", "the gradient passes GELU unchanged", "np.ones_like(x)"),
    ("gelu-slope-of-relu", "the slope of ReLU is used for GELU", "(x > 0).astype(x.dtype)"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, SLOPE, f"slope = {slope}"))
wrong(
    "backward",
    "gelu-inner-without-3",
    "the derivative of the cube in GELU lacks its factor 3",
    (BACKWARD, "3 * CUBIC", "CUBIC"),
)
wrong(
    "backward",
    "gelu-slope-of-exact",
    "the slope is that of the exact GELU, with erf, and forward has the tanh approximation",
    (BACKWARD, TANH, EXACT),
    (BACKWARD, SLOPE, "slope = 0.5 * (1 + t) + x * np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5"),
)
wrong(
    "backward",
    "gelu-slope-at-output",
    "the slope of GELU is taken at its output, not at its input",
    (BACKWARD, "(x,) = cache", "x, _ = forward(cache.x)"),
)
wrong(
    "backward",
    "gelu-slope-input-overwritten",
    "the slope of GELU uses its output for x, which forward has overwritten; tanh is that of x",
    (BACKWARD, TANH, f"{TANH}\n    x = {OUT}"),
)
wrong(
    "backward",
    "gelu-inner-constant",
    "the derivative of GELU's inner function is sqrt(2 / pi) alone",
    (BACKWARD, INNER, "inner_slope = SCALE"),
)
for name, says, right, text in (
    ("gelu-inner-with-x", "the derivative of the cube in GELU is 3 x, not 3 x^2",
     "(1 + 3 * CUBIC * (x * x))", "(1 + 3 * CUBIC * x)"),
    ("gelu-inner-without-scale", "the derivative of GELU's inner function lacks sqrt(2 / pi)",
     "SCALE * (1 + 3", "(1 + 3"),
    ("gelu-inner-without-1", "the derivative of GELU's inner function lacks the 1",
     "(1 + 3 * CUBIC * (x * x))", "(3 * CUBIC * (x * x))"),
    ("gelu-inner-2-not-3", "the derivative of the cube in GELU has the factor 2, not 3",
     "3 * CUBIC", "2 * CUBIC"),
    ("gelu-inner-cubic-typo", "the derivative in GELU has 0.44715, and forward 0.044715",
     "3 * CUBIC", "3 * 0.44715"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, right, text))
