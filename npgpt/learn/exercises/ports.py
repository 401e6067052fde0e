"""Eight broken ports: a whole GPT-2 in one file, with one mistake in it to find and repair."""

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise
from npgpt.learn.sizes import Sizes, V

N_LAYER, N_HEAD, C, T_MAX = 2, 3, 6, 7
MATRICES = {"attn.c_attn": 3 * C, "attn.c_proj": C, "mlp.c_fc": 4 * C, "mlp.c_proj": C}


def parameters(rng: np.random.Generator) -> dict[str, Array]:
    """Return the parameters of a tiny model, none of which is 0 or 1."""
    p = {"wte.weight": sizes.normal(rng, V, C), "wpe.weight": sizes.normal(rng, T_MAX, C)}
    norms = ["ln_f", *(f"h.{i}.ln_{j}" for i in range(N_LAYER) for j in (1, 2))]
    for name in norms:
        p[f"{name}.weight"] = sizes.positive(rng, C)
        p[f"{name}.bias"] = 0.3 * sizes.normal(rng, C)
    for i in range(N_LAYER):
        for name, outputs in MATRICES.items():
            inputs = 4 * C if name == "mlp.c_proj" else C
            p[f"h.{i}.{name}.weight"] = 0.5 * sizes.normal(rng, inputs, outputs)
            p[f"h.{i}.{name}.bias"] = 0.3 * sizes.normal(rng, outputs)
    return p


def port_cases(_: Sizes) -> list[Case]:
    """Return a forward pass, a backward pass, the first step and the third one."""
    rng = sizes.rng("ports")
    p, shape = parameters(rng), {"n_head": N_HEAD, "n_layer": N_LAYER}
    tokens, targets = sizes.tokens(rng), sizes.targets(rng)

    def step(number: int, scale: float) -> Arguments:
        some = {name: p[name] for name in ("wte.weight", "ln_f.weight", "h.0.mlp.c_fc.bias")}
        drawn = {key: {name: sizes.normal(rng, *one.shape) for name, one in some.items()}
                 for key in "gmv"}  # fmt: skip
        m = {name: scale * one for name, one in drawn["m"].items()}
        v = {name: scale * one**2 for name, one in drawn["v"].items()}
        return {"p": some, "g": drawn["g"], "m": m, "v": v, "step": number, "lr": 0.05}

    batch = {"p": p, "tokens": tokens, **shape}
    return [
        Case(batch),
        Case(batch | {"targets": targets}, function="loss_and_gradients"),
        Case(step(1, 0.0), function="adamw", about="the first step"),
        Case(step(3, 1.0), function="adamw", about="the third step"),
    ]


def port(number: int, title: str) -> Exercise:
    """Return the exercise of one broken port."""
    return Exercise(
        name=f"port_{number}",
        title=title,
        source="port",
        broken=True,
        results={
            "logits": ("logits",),
            "loss_and_gradients": ("loss", "g"),
            "adamw": ("p", "m", "v"),
        },
        axes={"logits": "B T V"},
        cases=port_cases,
        changes=("p", "m", "v"),
        factors="13/15 B T B*T",
    )


PORTS = (
    port(1, "The loss is too good"),
    port(2, "GPT-2's own weights do not work"),
    port(3, "Ignored targets slow it down"),
    port(4, "Worse from block to block"),
    port(5, "Rare tokens are learned badly"),
    port(6, "Right until a token repeats"),
    port(7, "A slow start"),
    port(8, "Gradients vanish"),
)
