"""The names that ports give to GPT-2's layers and parameters, one table per convention.

A row says: a name that ends so is this layer or parameter of npgpt. {i} is the number of the layer,
{h} that of the head; q, k and v are parts of c_attn; HQD is the order of the columns of c_attn, for
those that keep queries, keys and values of a head side by side. Before they are compared, names are
split into words (names.py): "ln1", "ln_1" and "LN/1" are the same.
"""

NANOGPT = {  # also GPT-2 in transformers, and the newer minGPT
    "wte": "wte", "wpe": "wpe",
    "h.{i}.ln_1": "h.{i}.ln_1",
    "h.{i}.attn.c_attn": "h.{i}.attn.c_attn",
    "h.{i}.attn.c_proj": "h.{i}.attn.c_proj",
    "h.{i}.ln_2": "h.{i}.ln_2",
    "h.{i}.mlp.c_fc": "h.{i}.mlp.c_fc",
    "h.{i}.mlp.c_proj": "h.{i}.mlp.c_proj",
    "ln_f": "ln_f", "lm_head": "lm_head",
    "h.{i}.attn.bias": "", "h.{i}.attn.masked_bias": "",
}  # fmt: skip
MINGPT = {
    "tok_emb": "wte", "pos_emb": "wpe",
    "blocks.{i}.ln1": "h.{i}.ln_1",
    "blocks.{i}.attn.query": "h.{i}.attn.c_attn q",
    "blocks.{i}.attn.key": "h.{i}.attn.c_attn k",
    "blocks.{i}.attn.value": "h.{i}.attn.c_attn v",
    "blocks.{i}.attn.proj": "h.{i}.attn.c_proj",
    "blocks.{i}.ln2": "h.{i}.ln_2",
    "blocks.{i}.mlp.0": "h.{i}.mlp.c_fc",
    "blocks.{i}.mlp.2": "h.{i}.mlp.c_proj",
    "ln_f": "ln_f", "head": "lm_head",
    "blocks.{i}.attn.mask": "",
}  # fmt: skip
LECTURE = {  # "Let's build GPT", with one matrix per head
    "token_embedding_table": "wte", "position_embedding_table": "wpe",
    "blocks.{i}.ln1": "h.{i}.ln_1",
    "blocks.{i}.sa.heads.{h}.query": "h.{i}.attn.c_attn q {h}",
    "blocks.{i}.sa.heads.{h}.key": "h.{i}.attn.c_attn k {h}",
    "blocks.{i}.sa.heads.{h}.value": "h.{i}.attn.c_attn v {h}",
    "blocks.{i}.sa.proj": "h.{i}.attn.c_proj",
    "blocks.{i}.ln2": "h.{i}.ln_2",
    "blocks.{i}.ffwd.net.0": "h.{i}.mlp.c_fc",
    "blocks.{i}.ffwd.net.2": "h.{i}.mlp.c_proj",
    "ln_f": "ln_f", "lm_head": "lm_head",
    "blocks.{i}.sa.heads.{h}.tril": "",
}  # fmt: skip
BOOK = {  # "Build a Large Language Model (from Scratch)"
    "tok_emb": "wte", "pos_emb": "wpe",
    "trf_blocks.{i}.norm1": "h.{i}.ln_1",
    "trf_blocks.{i}.att.W_query": "h.{i}.attn.c_attn q",
    "trf_blocks.{i}.att.W_key": "h.{i}.attn.c_attn k",
    "trf_blocks.{i}.att.W_value": "h.{i}.attn.c_attn v",
    "trf_blocks.{i}.att.out_proj": "h.{i}.attn.c_proj",
    "trf_blocks.{i}.norm2": "h.{i}.ln_2",
    "trf_blocks.{i}.ff.layers.0": "h.{i}.mlp.c_fc",
    "trf_blocks.{i}.ff.layers.2": "h.{i}.mlp.c_proj",
    "final_norm": "ln_f", "out_head": "lm_head",
    "trf_blocks.{i}.att.mask": "",
}  # fmt: skip
TORCH = {  # torch.nn.TransformerEncoder and TransformerDecoder, with norm_first=True
    "layers.{i}.norm1": "h.{i}.ln_1",
    "layers.{i}.self_attn.in_proj_weight": "h.{i}.attn.c_attn.weight",
    "layers.{i}.self_attn.in_proj_bias": "h.{i}.attn.c_attn.bias",
    "layers.{i}.self_attn.out_proj": "h.{i}.attn.c_proj",
    "layers.{i}.norm2": "h.{i}.ln_2",
    "layers.{i}.linear1": "h.{i}.mlp.c_fc",
    "layers.{i}.linear2": "h.{i}.mlp.c_proj",
    "encoder.norm": "ln_f", "transformer.norm": "ln_f", "decoder.norm": "ln_f",
}  # fmt: skip
NEOX = {
    "embed_in": "wte", "embed_pos": "wpe",
    "layers.{i}.input_layernorm": "h.{i}.ln_1",
    "layers.{i}.attention.query_key_value": "h.{i}.attn.c_attn HQD",
    "layers.{i}.attention.dense": "h.{i}.attn.c_proj",
    "layers.{i}.post_attention_layernorm": "h.{i}.ln_2",
    "layers.{i}.mlp.dense_h_to_4h": "h.{i}.mlp.c_fc",
    "layers.{i}.mlp.dense_4h_to_h": "h.{i}.mlp.c_proj",
    "final_layer_norm": "ln_f", "embed_out": "lm_head",
    "layers.{i}.attention.bias": "", "layers.{i}.attention.masked_bias": "",
}  # fmt: skip
FLAX = {  # modules without names of their own: numbered from 0, by class
    "Embed_0": "wte", "Embed_1": "wpe",
    "Block_{i}.LayerNorm_0": "h.{i}.ln_1",
    "Block_{i}.{attention}.query": "h.{i}.attn.c_attn q",
    "Block_{i}.{attention}.key": "h.{i}.attn.c_attn k",
    "Block_{i}.{attention}.value": "h.{i}.attn.c_attn v",
    "Block_{i}.{attention}.out": "h.{i}.attn.c_proj",
    "Block_{i}.LayerNorm_1": "h.{i}.ln_2",
    "Block_{i}.Dense_0": "h.{i}.mlp.c_fc", "Block_{i}.MLP_0.Dense_0": "h.{i}.mlp.c_fc",
    "Block_{i}.Dense_1": "h.{i}.mlp.c_proj", "Block_{i}.MLP_0.Dense_1": "h.{i}.mlp.c_proj",
    "LayerNorm_0": "ln_f", "Dense_0": "lm_head",
}  # fmt: skip
LLMC = {
    "wte": "wte.weight", "wpe": "wpe.weight",
    "ln1w": "h.{i}.ln_1.weight", "ln1b": "h.{i}.ln_1.bias",
    "qkvw": "h.{i}.attn.c_attn.weight", "qkvb": "h.{i}.attn.c_attn.bias",
    "attprojw": "h.{i}.attn.c_proj.weight", "attprojb": "h.{i}.attn.c_proj.bias",
    "ln2w": "h.{i}.ln_2.weight", "ln2b": "h.{i}.ln_2.bias",
    "fcw": "h.{i}.mlp.c_fc.weight", "fcb": "h.{i}.mlp.c_fc.bias",
    "fcprojw": "h.{i}.mlp.c_proj.weight", "fcprojb": "h.{i}.mlp.c_proj.bias",
    "lnfw": "ln_f.weight", "lnfb": "ln_f.bias",
}  # fmt: skip
KERAS = {  # keras_hub's GPT2Backbone
    "token_embedding": "wte", "position_embedding": "wpe",
    "transformer_layer_{i}.self_attention_layer_norm": "h.{i}.ln_1",
    "transformer_layer_{i}.self_attention.query": "h.{i}.attn.c_attn q",
    "transformer_layer_{i}.self_attention.key": "h.{i}.attn.c_attn k",
    "transformer_layer_{i}.self_attention.value": "h.{i}.attn.c_attn v",
    "transformer_layer_{i}.self_attention.attention_output": "h.{i}.attn.c_proj",
    "transformer_layer_{i}.feedforward_layer_norm": "h.{i}.ln_2",
    "transformer_layer_{i}.feedforward_intermediate_dense": "h.{i}.mlp.c_fc",
    "transformer_layer_{i}.feedforward_output_dense": "h.{i}.mlp.c_proj",
    "layer_norm": "ln_f",
}  # fmt: skip
TENSORFLOW = {  # OpenAI's original; transformers' TFGPT2LMHeadModel has nanoGPT's
    "model.wte": "wte", "model.wpe": "wpe",
    "model.h{i}.ln_1": "h.{i}.ln_1",
    "model.h{i}.attn.c_attn": "h.{i}.attn.c_attn",
    "model.h{i}.attn.c_proj": "h.{i}.attn.c_proj",
    "model.h{i}.ln_2": "h.{i}.ln_2",
    "model.h{i}.mlp.c_fc": "h.{i}.mlp.c_fc",
    "model.h{i}.mlp.c_proj": "h.{i}.mlp.c_proj",
    "model.ln_f": "ln_f",
}  # fmt: skip
CONVENTIONS = {
    "nanoGPT": NANOGPT, "minGPT": MINGPT, "the lecture": LECTURE, "the book": BOOK,
    "torch.nn.Transformer": TORCH, "GPT-NeoX": NEOX, "Flax": FLAX, "llm.c": LLMC, "Keras": KERAS,
    "TensorFlow": TENSORFLOW,
}  # fmt: skip
LEAVES = {  # the last word of a parameter's name
    "weight": "weight", "weights": "weight", "kernel": "weight", "scale": "weight",
    "gamma": "weight", "w": "weight", "g": "weight", "gain": "weight", "embedding": "weight",
    "embeddings": "weight",
    "bias": "bias", "beta": "bias", "be": "bias", "b": "bias", "shift": "bias", "offset": "bias",
    "biases": "bias",
}  # fmt: skip

# For names that no convention has. Words that a name must contain, separated by spaces, as a
# regular expression; the first row that fits counts. The words of a layer follow its number. Two
# layers, where some count from 0 and others from 1: shapes and siblings decide.
WORDS_OF_LAYER = (
    (r"\b(mask|tril|masked bias|rotary|inv freq)\b", ""),
    (r"\b(query key value)\b", "h.{i}.attn.c_attn HQD"),
    (r"\b(c attn|qkv|w ?qkv|qkv ?[wb]|in proj|c qkv)\b", "h.{i}.attn.c_attn"),
    (r"\b([wb] ?)?(q|query|queries|wq|bq)\b", "h.{i}.attn.c_attn q {h}"),
    (r"\b([wb] ?)?(k|keys?|wk|bk)\b", "h.{i}.attn.c_attn k {h}"),
    (r"\b([wb] ?)?(v|values?|wv|bv)\b", "h.{i}.attn.c_attn v {h}"),
    (r"\b(g|be|gamma|beta) ?1\b", "h.{i}.ln_1"),
    (r"\b(g|be|gamma|beta) ?2\b", "h.{i}.ln_2"),
    (r"\b(ln|norm|layer ?norm|n|rms|layer normali[sz]ation|pre) ?(1|a|attn|attention|pre)\b",
     "h.{i}.ln_1"),
    (r"\b(ln|norm|layer ?norm|n|rms|layer normali[sz]ation|pre) ?(2|b|mlp|ffn?|post)\b",
     "h.{i}.ln_2"),
    (r"\b(mlp|ffn?|post( attention)?|feed ?forward|second|final)( layer)? ?(ln|(layer ?)?norm)\b",
     "h.{i}.ln_2"),
    (r"\b(attn|attention|att|pre|input|sa|first)( layer)? ?(ln|norm|layer ?norm)\b", "h.{i}.ln_1"),
    (r"\b(attn?|attention|sa|mha|self attn|mixer)\b.*"
     r"\b(c ?proj|proj|out|o|w ?o|output|dense|linear)\b", "h.{i}.attn.c_proj"),
    (r"^([wb] )?(c )?proj\b", "h.{i}.attn.c_proj, h.{i}.mlp.c_proj"),
    (r"\b(attn?|sa) ?proj\b|\b([wb] ?)?(o|wo|bo)\b|\b(o|out) (proj|w|b)\b|\bto out\b",
     "h.{i}.attn.c_proj"),
    (r"\b(c fc|fc ?in|up|up proj|expand|intermediate|h to 4h|wi|w ?in)\b", "h.{i}.mlp.c_fc"),
    (r"\b(w|b|dense|layer|l|ff|mlp|fc|lin|linear) ?1\b", "h.{i}.mlp.c_fc, h.{i}.mlp.c_proj"),
    (r"\b(down|down proj|contract|4h to h|fc ?out|fc ?proj)\b", "h.{i}.mlp.c_proj"),
    (r"\b(w|b|dense|layer|l|ff|mlp|fc|lin|linear) ?2\b", "h.{i}.mlp.c_proj"),
    (r"\b(mlp|ffn?|ffwd|feed ?forward)\b.*\b(fc|in|0)\b|^fc\b", "h.{i}.mlp.c_fc"),
    (r"\b(mlp|ffn?|ffwd|feed ?forward)\b.*\b(c ?proj|proj|out|output|3)\b", "h.{i}.mlp.c_proj"),
)  # fmt: skip
WORDS = (
    (r"\b(wte|tok|token|tokens|word|embed tokens|vocab embedding)\b", "wte"),
    (r"\b(wpe|pos|position|positions|positional)\b", "wpe"),
    (r"\b(lm head|head|unembed|logits|out head|output|vocab|classifier|embed out|lm)\b", "lm_head"),
    (r"\b(ln ?f|final|ln ?out|norm|ln|layer ?norm|f|[gbn]f)\b", "ln_f"),
    (r"\b(embed|embedding|emb|embeddings)\b|^e\b", "wte"),
    (r"^u\b", "lm_head"),
)

PREVIOUS = "previous"  # the output of the block before, or the embedding
INPUTS = {  # the activation that is the input of a layer: a name with "in" or "input" at its end
    "h.#.attn.c_attn": "h.#.ln_1", "h.#.attn.c_proj": "h.#.attn.heads",
    "h.#.ln_2": "h.#.after_attn", "h.#.mlp.c_fc": "h.#.ln_2", "h.#.mlp.gelu": "h.#.mlp.c_fc",
    "h.#.mlp.c_proj": "h.#.mlp.gelu", "lm_head": "ln_f", "h.#.ln_1": PREVIOUS, "ln_f": PREVIOUS,
    "wte": "ln_f",  # as the tied head: the input of an embedding is no activation
}  # fmt: skip
DROPPED = {  # what a dropout mask is named after: npgpt's activation that has been dropped
    "h.#.attn.c_proj": "h.#.after_attn", "h.#.mlp.c_proj": "h.#.after_mlp",
}  # fmt: skip
LLMC_ACTIVATIONS = {  # stacked over the layers
    "encoded": "embedding", "ln1": "h.#.ln_1", "qkv": "h.#.attn.c_attn", "preatt": "",
    "att": "h.#.attn.probs", "atty": "h.#.attn.heads", "attproj": "h.#.attn.c_proj",
    "residual2": "h.#.after_attn", "ln2": "h.#.ln_2", "fch": "h.#.mlp.c_fc",
    "fch_gelu": "h.#.mlp.gelu", "fcproj": "h.#.mlp.c_proj", "residual3": "h.#.after_mlp",
    "lnf": "ln_f",
}  # fmt: skip

# Activations. The output of a layer with parameters has the layer's name (h.0.attn.c_attn).
# Where several names of a port are one activation, the first row counts.
ACTIVATIONS_OF_LAYER = (
    (r"^(attn|att|attention|self attn|self attention|sa|mha|mixer) in(put)?$", "h.{i}.ln_1"),
    (r"^(mlp|ffn?|ffwd|feed ?forward)( net| layers)? in(put)?$", "h.{i}.ln_2"),
    (r"\b(gelu|act|activation|act fn|nonlinearity|(mlp|ffn?|net|layers) 1) in(put)?$",
     "h.{i}.mlp.c_fc"),
    (r"^in(put)?$|^resid(ual)? ?(pre|0)$", PREVIOUS),
    (r"^(mlp|ffn?) pre$", "h.{i}.mlp.c_fc"),
    (r"^(mlp|ffn?) post$", "h.{i}.mlp.gelu"),
    (r"^(after attn|resid(ual)? ?(1|mid)|x ?1|(x )?mid|h mid)$", "h.{i}.after_attn"),
    (r"\b(heads|atty|y|z|context|ctx|attn vec|attended|heads out|sdpa)$", "h.{i}.attn.heads"),
    (r"\b(probs?|softmax|weights|attn weights|attention weights|pattern|attn probs)$",
     "h.{i}.attn.probs"),
    (r"\b(gelu|act|activation|act fn|hidden act|new gelu|nonlinearity|fch gelu|relu)$",
     "h.{i}.mlp.gelu"),
    (r"\b(mlp|ffn?|ffwd|feed ?forward)( net| layers| seq)? 1$", "h.{i}.mlp.gelu"),
    (r"^((resid(ual)? ?(post|3|out)|after mlp|(x |h )?out|output)?)$", "h.{i}.after_mlp"),
    (r"^(resid(ual)?|x) ?2$", "h.{i}.after_mlp"),
    (r"^(attn|att|attention|self attn|self attention|sa|mha|mixer)( out| output)?$",
     "h.{i}.attn.c_proj"),
    (r"^(mlp|ffn?|ffwd|feed ?forward)( out| output| net| layers)?$", "h.{i}.mlp.c_proj"),
    (r"\b(attn|attention) drop(out)?( in)?$", "h.{i}.attn.probs"),
    (r"^(attn|att|attention) (resid|out|proj) drop(out)?( in)?$", "h.{i}.attn.c_proj"),
    (r"^(mlp|ffn?) drop(out)?( in)?$|^(mlp|ffn?|ffwd) (net )?3( in)?$", "h.{i}.mlp.c_proj"),
    (r"^drop(out)? ?1( in)?$", "h.{i}.attn.c_proj"),
    (r"^drop(out)? ?2( in)?$", "h.{i}.mlp.c_proj"),
)  # fmt: skip
ACTIVATIONS_OUTSIDE = (
    (r"\b(embedding|embeddings|encoded|embed|emb|x ?0|tok ?\+ ?pos|h in)$", "embedding"),
    (r"\b(drop|dropout|drop emb|embd drop)( in)?$", "embedding"),
    (r"\b(ln ?f|nf|norm ?f|final norm|final|norm)$", "ln_f"),
    (r"\b(logits|lm head|head|out head)$", "logits"),
)
