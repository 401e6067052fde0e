"""The order of computation of all tensors that a dump can hold, and the stage of each."""

from collections.abc import Iterable, Iterator

from npgpt.config import Config
from npgpt.model.params import named, shapes

STAGES = ("forward", "loss", "backward", "step", "cache")
LAYERS = ("ln_1", "attn.c_attn", "attn.probs", "attn.heads", "attn.c_proj", "after_attn",
          "ln_2", "mlp.c_fc", "mlp.gelu", "mlp.c_proj", "after_mlp")  # fmt: skip
HAS_PARAMETERS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
INPUTS = ("tokens", "targets", "mask", "param")  # kinds that no port computes
STAGE_OF = {"loss": "loss", "grad": "backward", "dact": "backward", "cached_logits": "cache"}


def stage_of(name: str) -> str:
    """Return the stage that computes a tensor: "forward" for "act/h.0.ln_1"."""
    kind = kind_of(name)
    return "step" if kind.startswith("after") else STAGE_OF.get(kind, "forward")


def kind_of(name: str) -> str:
    """Return the part of a name before the slash: "act" for "act/h.0.ln_1", "loss" for "loss"."""
    return name.partition("/")[0]


def step_of(name: str) -> int:
    """Return k of "after<k>/...", and 0 for the name of another tensor."""
    number = kind_of(name).removeprefix("after")
    return int(number) if number != kind_of(name) and number.isdecimal() else 0


def sort(names: Iterable[str], config: Config) -> list[str]:
    """Return names in the order of computation, without those that GPT-2 does not have."""
    present = set(names)
    steps = max(map(step_of, present), default=0)
    return [name for name in all_names(config, steps) if name in present]


def all_names(config: Config, steps: int) -> Iterator[str]:
    """Yield the names of all tensors in the order of computation, `steps` optimizer steps."""
    parameters = [name for name, _ in named(shapes(config))]
    blocks = [f"h.{i}" for i in range(config.n_layer)]
    yield from ("tokens", "targets")
    yield from (f"param/{name}" for name in parameters)
    yield "act/embedding"
    yield from (f"act/{block}.{layer}" for block in blocks for layer in LAYERS)
    yield from ("act/ln_f", "logits", "logits_again", "loss", "dact/logits")
    if not config.tied:
        yield "grad/lm_head.weight"
    yield "dact/ln_f"
    yield from gradients("ln_f")
    for block in reversed(blocks):
        for layer in reversed(LAYERS):
            yield f"dact/{block}.{layer}"
            if layer in HAS_PARAMETERS:
                yield from gradients(f"{block}.{layer}")
    yield from ("dact/embedding", "grad/wpe.weight", "grad/wte.weight")
    for k in range(1, steps + 1):
        yield from (f"after{k}/{name}" for name in parameters)
    yield "cached_logits"


def mask_names(config: Config) -> list[str]:
    """Return the activations that dropout follows, in the order in which masks are drawn."""
    layers = "attn.probs", "after_attn", "after_mlp"
    return ["embedding", *(f"h.{i}.{layer}" for i in range(config.n_layer) for layer in layers)]


def gradients(layer: str) -> tuple[str, str]:
    """Return the names of the gradients of a layer's parameters."""
    return f"grad/{layer}.weight", f"grad/{layer}.bias"
