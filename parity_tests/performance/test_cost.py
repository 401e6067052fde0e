"""Operations of a model, compared with PyTorch's count of the reference implementation."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from npgpt.config import Config
from npgpt.model.params import named, shapes
from npgpt.performance import flops
from reference import gpt2

SIZES = dict(vocab_size=97, context_length=16, n_layer=3, n_head=4, n_embd=24)
B, T = 2, 11
# PyTorch's matrices of scores are whole: what is masked away is multiplied too
MASKED = 3 * 4 * B * T * (T - 1) // 2 * 24


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def config(request):
    return Config(**SIZES, tied=request.param)


def counted(config, backward):
    model = gpt2.GPT2(gpt2.Config(**SIZES, tied=config.tied))
    tokens = torch.arange(B * T).reshape(B, T)
    with FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def test_a_pass_and_a_step_cost_what_pytorch_counts(config):
    assert flops.forward(config, B, T) == counted(config, backward=False) - MASKED
    assert flops.training_step(config, B, T) == counted(config, backward=True) - 3 * MASKED


def test_a_prompt_read_in_two_parts_costs_as_much_as_in_one():
    whole = flops.attention(24, B, T)
    assert whole == flops.attention(24, B, 4) + flops.attention(24, B, T - 4, start=4)
    assert whole == sum(flops.attention(24, B, 1, start) for start in range(T))


def test_a_prompt_needs_the_head_and_the_end_of_the_last_block_once(config):
    saved = flops.forward(config, B, T) - flops.forward(config, B, T, scored=1)
    assert saved == 2 * B * (T - 1) * (24 * 97 + 9 * 24 * 24)


def test_a_token_reads_every_weight_but_the_other_embeddings(config):
    sizes = {name: shape[0] * (shape[1] if len(shape) > 1 else 1)
             for name, shape in named(shapes(config))}  # fmt: skip
    rows = {"wpe.weight"} if config.tied else {"wpe.weight", "wte.weight"}
    assert flops.token_bytes(config) == 4 * sum(
        24 if name in rows else size for name, size in sizes.items()
    )
    assert flops.token_bytes(config, 2) == flops.token_bytes(config) / 2
