"""Bugs planted into parity_tests/ports/torch_port.py: both passes, loading and the loss."""

from functools import partial

from parity_tests.ports import bugs

Bug = partial(bugs.Bug, port="torch_port")
LAYER = """\
        h = tape("norm1", self.norm1(x))
        x = tape("resid1", x + self.drop1(self.attn(h, tape.at("attn"), cache)))
        h = tape("norm2", self.norm2(x))
        x = tape("resid2", x + self.drop2(self.ffn(h, tape.at("ffn"))))
"""
POST_NORM = """\
        x = x + self.drop1(self.attn(x, tape.at("attn"), cache))
        x = tape("norm1", self.norm1(x))
        x = x + self.drop2(self.ffn(x, tape.at("ffn")))
        x = tape("norm2", self.norm2(x))
"""
LOSS = """\
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
"""
ROW_MEANS = """\
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (losses.sum(1) / (targets != -100).sum(1)).mean()
"""

BUGS = (
    # forward
    Bug(
        name="scores_unscaled",
        edits=(("k.transpose(-2, -1) / math.sqrt(self.head_dim)", "k.transpose(-2, -1)"),),
        says="the scores are not divided by sqrt(D)",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="scores_by_width",
        edits=(("math.sqrt(self.head_dim)", "math.sqrt(C)"),),
        says="the scores are divided by sqrt(C), not by sqrt(D)",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="heads_viewed",
        edits=(
            (
                "x.view(B, T, self.heads, self.head_dim).transpose(1, 2)",
                "x.view(B, self.heads, T, self.head_dim)",
            ),
        ),
        says="a view as (B, H, T, D) splits positions and heads in the wrong order",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="heads_not_transposed_back",
        edits=(("y.transpose(1, 2).reshape(B, T, C)", "y.reshape(B, T, C)"),),
        says="the heads are joined without the transposition back to (B, T, H, D)",
        first=("act/h.0.attn.heads",),
    ),
    Bug(
        name="mask_one_ahead",
        edits=((".triu(past + 1)", ".triu(past + 2)"),),
        says="the causal mask lets a position see the one after it",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="mask_fills_zero",
        edits=(('masked_fill(future, float("-inf"))', "masked_fill(future, 0.0)"),),
        says="later positions get a score of 0 in place of -inf",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="mask_after_softmax",
        edits=(
            ('        scores = scores.masked_fill(future, float("-inf"))\n', ""),
            ("F.softmax(scores, dim=-1)", "F.softmax(scores, dim=-1).masked_fill(future, 0.0)"),
        ),
        says="the mask is applied after the softmax: the rows do not sum to 1",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="softmax_over_queries",
        edits=(("F.softmax(scores, dim=-1)", "F.softmax(scores, dim=-2)"),),
        says="the softmax runs over the queries",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="gelu_erf",
        edits=(("FastGELU.apply(x)", "F.gelu(x)"),),
        says="the exact GELU (erf) in place of the tanh form",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="norm_unbiased",
        edits=((", unbiased=False", ""),),
        says="LayerNorm divides the variance by C - 1",
        first=("act/h.0.ln_1",),
    ),
    Bug(
        name="norm_eps_on_std",
        edits=(("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)"),),
        says="LayerNorm adds eps to the standard deviation, outside the root",
        first=("act/h.0.ln_1",),
    ),
    Bug(
        name="norm_eps_1e_6",
        edits=(("eps=1e-5", "eps=1e-6"),),
        says="LayerNorm's eps is 1e-6",
        first=("act/h.0.ln_1",),
    ),
    Bug(
        name="positions_from_one",
        edits=(("torch.arange(start, start + T)", "torch.arange(start + 1, start + T + 1)"),),
        says="positions count from 1",
        first=("act/embedding",),
    ),
    Bug(
        name="residual_of_normed",
        edits=(('"resid1", x + self.drop1', '"resid1", h + self.drop1'),),
        says="attention is added to the normalized stream, not to the stream",
        first=("act/h.0.after_attn",),
    ),
    Bug(
        name="post_norm",
        edits=((LAYER, POST_NORM),),
        says="LayerNorm comes after each residual sum (post-norm)",
        first=("act/h.0.ln_1", "act/h.0.attn.c_attn"),
    ),
    Bug(
        name="no_final_norm",
        edits=(('        x = tape("norm", self.norm(x))\n', ""),),
        says="the last LayerNorm is not applied",
        first=("logits", "act/ln_f"),
    ),
    Bug(
        name="embedding_scaled",
        edits=(
            ("self.tok_emb(tokens) +", "self.tok_emb(tokens) * math.sqrt(self.cfg['n_embd']) +"),
        ),
        says="token embeddings are multiplied by sqrt(C), as in the first Transformer",
        first=("act/embedding",),
    ),
    # loading
    Bug(
        name="keys_first",
        edits=(("q, k, v = qkv.chunk(3, dim=-1)", "k, q, v = qkv.chunk(3, dim=-1)"),),
        says="c_attn is read as keys, queries, values",
        first=("param/h.0.attn.c_attn.weight", "act/h.0.attn.c_attn", "act/h.0.attn.probs"),
    ),
    Bug(
        name="qkv_by_head",
        edits=(
            (
                "q, k, v = qkv.chunk(3, dim=-1)",
                "q, k, v = (x.flatten(-2) for x in "
                'qkv.unflatten(-1, (self.cfg["n_head"], 3, -1)).unbind(-2))',
            ),
        ),
        says="c_attn is read as a q, k and v for each head, as GPT-NeoX stores it",
        first=("param/h.0.attn.c_attn.weight", "act/h.0.attn.c_attn"),
    ),
    Bug(
        name="out_proj_not_transposed",
        edits=(('"attn.c_proj.weight"].t()', '"attn.c_proj.weight"]'),),
        says="the square matrix after attention is loaded without its transposition",
        first=("param/h.0.attn.c_proj.weight", "act/h.0.attn.c_proj"),
    ),
    # loss
    Bug(
        name="shifted_twice",
        edits=(
            (
                "logits.flatten(0, 1), targets.flatten()",
                "logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()",
            ),
        ),
        says="the targets, shifted already, are shifted again",
        first=("loss",),
    ),
    Bug(
        name="mean_over_all",
        edits=(
            ("ignore_index=-100)", 'ignore_index=-100, reduction="sum") / targets.numel()'),
        ),
        says="the sum of the losses is divided by all B * T targets, the ignored included",
        first=("loss",),
    ),
    Bug(
        name="label_smoothing",
        edits=(("ignore_index=-100)", "ignore_index=-100, label_smoothing=0.1)"),),
        says="label smoothing of 0.1",
        first=("loss",),
    ),
    Bug(
        name="padding_is_token_0",
        edits=(("targets.flatten(), ignore_index=-100", "targets.flatten().clamp(min=0)"),),
        says="ignored targets count as token 0",
        first=("loss",),
    ),
    Bug(
        name="softmax_twice",
        edits=(("logits.flatten(0, 1), targets", "logits.flatten(0, 1).softmax(-1), targets"),),
        says="cross_entropy is given probabilities and applies a second softmax",
        first=("loss",),
    ),
    Bug(
        name="mean_of_rows",
        edits=((LOSS, ROW_MEANS),),
        says="the mean of the rows' means, though rows ignore different numbers of targets",
        first=("loss",),
    ),
    # backward
    Bug(
        name="gelu_backward_no_inner",
        edits=(
            (
                "d_inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)",
                "d_inner = math.sqrt(2 / math.pi)",
            ),
        ),
        says="GELU's backward leaves out the derivative of the cubic term",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="gelu_backward_erf",
        edits=(
            (
                "grad_out * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * d_inner)",
                "grad_out * (0.5 * (1 + torch.erf(x / math.sqrt(2)))"
                " + x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))",
            ),
        ),
        says="GELU's backward is that of the erf form, its forward is the tanh form",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="head_detached",
        edits=(("return self.head(x)", "return F.linear(x, self.head.weight.detach())"),),
        says="the tied head is detached: the embedding gets no gradient from the logits",
        first=("grad/wte.weight",),
    ),
    Bug(
        name="head_cloned",
        edits=(
            (
                "self.head.weight = self.tok_emb.weight",
                "self.head.weight = nn.Parameter(self.tok_emb.weight.clone())",
            ),
        ),
        says="the head is a copy of the embedding, not tied to it",
        first=("grad/wte.weight", "after1/wte.weight"),  # the sum of two gradients is right
    ),
    Bug(
        name="norm_statistics_detached",
        edits=(
            ("mean = x.mean(dim=-1, keepdim=True)", "mean = x.mean(dim=-1, keepdim=True).detach()"),
            ("unbiased=False)", "unbiased=False).detach()"),
        ),
        says="LayerNorm's mean and variance are detached",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="positions_detached",
        edits=(("self.pos_emb(positions)", "self.pos_emb(positions).detach()"),),
        says="the position embedding gets no gradient",
        first=("grad/wpe.weight", "after1/"),  # there is no gradient to dump
    ),
    Bug(
        name="keys_and_values_detached",
        edits=(
            (
                "q, k, v = self.split(q), self.split(k), self.split(v)",
                "q, k, v = self.split(q), self.split(k).detach(), self.split(v).detach()",
            ),
        ),
        says="keys and values are detached, as for the cache",
        first=("dact/h.1.attn.c_attn", "dact/h.1.ln_1", "grad/h.1.attn.c_attn.weight"),
    ),
    Bug(
        name="padding_idx",
        edits=(
            (
                'self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["n_embd"])',
                'self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["n_embd"], padding_idx=0)',
            ),
        ),
        says="padding_idx=0: row 0 of the embedding gets no gradient from the input side",
        first=("grad/wte.weight",),
    ),
)  # fmt: skip
