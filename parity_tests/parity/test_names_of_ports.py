"""Names of a port's tensors, read by conventions and by their words."""

import pytest

from npgpt.parity import probe as probes
from npgpt.parity.matching import axes, names

PROBE = probes.make()
SIZES = axes.sizes_of(PROBE.config, PROBE.tokens)
PARAMETERS = {  # names of no convention
    "model.decoder.layers.1.self_attn_layer_norm.weight": "h.1.ln_1.weight",
    "model.decoder.layers.1.final_layer_norm.bias": "h.1.ln_2.bias",
    "layers.0.attention.wq.weight": "h.0.attn.c_attn.q.weight",
    "layers.0.feed_forward.w2.weight": "h.0.mlp.c_proj.weight",
    "transformer.h.1.post_attention_layernorm.weight": "h.1.ln_2.weight",
    "encoder.layer.1.attention.output.dense.bias": "h.1.attn.c_proj.bias",
    "encoder.layer.1.intermediate.dense.weight": "h.1.mlp.c_fc.weight",
    "gpt/~/h1_ln_2/offset": "h.1.ln_2.bias",
    "blocks.1.attn.W_O": "h.1.attn.c_proj.weight",
    "blocks.1.mlp.b_in": "h.1.mlp.c_fc.bias",
    "embed.W_E": "wte.weight",
    "pos_embed.W_pos": "wpe.weight",
    "layer1_gamma2": "h.1.ln_2.weight",
    "h.0.heads.1.q.weight": "h.0.attn.c_attn.q.weight or h.0.attn.c_attn.q.1.weight",
    "gpt/~/h0_mlp/linear_1/w": "h.0.mlp.c_fc.weight or h.0.mlp.c_proj.weight",
    "nothing.known": "",
}
ACTIVATIONS = {
    "h.0.ln_1.in": "embedding", "h.1.ln_1.in": "h.0.after_mlp", "ln_f.in": "h.1.after_mlp",
    "transformer.drop": "embedding", "transformer.wte": "None", "lm_head.in": "ln_f",
    "lm_head": "logits", "transformer.h.1": "h.1.after_mlp", "h.1.attn": "h.1.attn.c_proj",
    "h.0.attn.attn_dropout": "h.0.attn.probs", "h.0.attn.resid_dropout": "h.0.attn.c_proj",
    "trf_blocks.0.ff.layers.1": "h.0.mlp.gelu", "trf_blocks.0.att": "h.0.attn.c_proj",
    "trf_blocks.1.att.W_query": "h.1.attn.c_attn.q", "blocks.0.mlp.act": "h.0.mlp.gelu",
    "blocks.1.hook_resid_pre": "h.0.after_mlp", "blocks.1.hook_resid_mid": "h.1.after_attn",
    "blocks.1.attn.hook_z": "h.1.attn.heads", "blocks.1.attn.hook_pattern": "h.1.attn.probs",
    "blocks.1.mlp.hook_pre": "h.1.mlp.c_fc", "blocks.1.mlp.hook_post": "h.1.mlp.gelu",
    "blocks.0.ln2.hook_normalized": "h.0.ln_2", "residual2": "h.#.after_attn",
    "att": "h.#.attn.probs",
    "h.7.ln_1": "", "nothing.known": "", "h.0.attn.c_proj.in": "h.0.attn.heads",
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_words_of_a_parameter(name):
    found = names.parameters(name, "", SIZES)
    assert " or ".join(str(one.slot) for one in found) == PARAMETERS[name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_words_of_an_activation(name):
    found = names.activation(name, "nanoGPT", {}, SIZES)
    assert (str(found.slot) if found else "") == ACTIVATIONS[name]
