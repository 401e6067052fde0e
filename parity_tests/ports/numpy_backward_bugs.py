"""Bugs planted into parity_tests/ports/numpy_port.py: the backward pass."""

from functools import partial

from parity_tests.ports import bugs

Bug = partial(bugs.Bug, port="numpy_port")
ATTENTION_SUM = '        dx = dx + layer_norm_back(d[n + ".n1"], saved[n + ".n1"]'
MLP_SUM = '        dx = dx + layer_norm_back(d[n + ".n2"], saved[n + ".n2"]'

BUGS = (
    Bug(
        name="softmax_back_without_sum",
        edits=(("ds = p * (dp - (dp * p).sum(-1, keepdims=True))", "ds = p * dp"),),
        says="the softmax's backward leaves out the sum over the row",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="softmax_back_diagonal",
        edits=(("ds = p * (dp - (dp * p).sum(-1, keepdims=True))", "ds = dp * p * (1 - p)"),),
        says="the softmax's backward has the diagonal of the Jacobian only",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="softmax_back_wrong_axis",
        edits=(("(dp * p).sum(-1, keepdims=True)", "(dp * p).sum(-2, keepdims=True)"),),
        says="the softmax's backward sums over the queries",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="scores_back_unscaled",
        edits=(("    ds = ds / np.sqrt(D)\n", ""),),
        says="the gradient of the scores is not divided by sqrt(D)",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="keys_back_not_transposed",
        edits=(('dk = np.einsum("bhts,bhtd->bhsd", ds, q)',
                'dk = np.einsum("bhts,bhsd->bhtd", ds, q)'),),
        says="the keys' gradient uses the scores' gradient without transposing it",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="values_back_not_transposed",
        edits=(('dv = np.einsum("bhts,bthd->bhsd", dropped, dz)',
                'dv = np.einsum("bhts,bshd->bhtd", dropped, dz)'),),
        says="the values' gradient uses the probabilities without transposing them",
        first=("dact/h.1.attn.c_attn",),
    ),
    Bug(
        name="input_gradient_of_last_projection",
        edits=(('dx += np.einsum("bhtd,hdc->btc"', 'dx = np.einsum("bhtd,hdc->btc"'),),
        says="only the values' path gives attention's input a gradient (= for +=)",
        first=("dact/h.1.ln_1",),
    ),
    Bug(
        name="norm_back_no_mean",
        edits=(("d = d - d.mean(-1, keepdims=True) - xhat", "d = d - xhat"),),
        says="LayerNorm's backward leaves out the mean of the gradient",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="norm_back_no_variance",
        edits=((" - xhat * (d * xhat).mean(-1, keepdims=True)", ""),),
        says="LayerNorm's backward leaves out the term of the variance",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="norm_back_no_gain",
        edits=(("    d = dy * gain\n", "    d = dy\n"),),
        says="LayerNorm's backward forgets the gain",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="norm_back_gain_late",
        edits=(("    d = dy * gain\n", "    d = dy\n"),
               ("return d * inv", "return d * inv * gain")),
        says="LayerNorm's backward multiplies by the gain after the means, not before",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="norm_back_no_std",
        edits=(("return d * inv", "return d"),),
        says="LayerNorm's backward does not divide by the standard deviation",
        first=("dact/h.1.after_mlp",),
    ),
    Bug(
        name="gain_gradient_of_output",
        edits=(("(dy * xhat).sum((0, 1))", "(dy * (xhat * gain)).sum((0, 1))"),),
        says="the gain's gradient uses gain * xhat in place of xhat",
        first=("grad/ln_f.weight",),
    ),
    Bug(
        name="gelu_back_tanh",
        edits=(("0.5 * u * (1 - th**2) * slope", "0.5 * u * (1 - th) * slope"),),
        says="the derivative of tanh is 1 - tanh, not 1 - tanh^2",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="gelu_back_factor_three",
        edits=(("(1 + 3 * 0.044715 * u**2)", "(1 + 0.044715 * u**2)"),),
        says="the derivative of u^3 lacks the 3",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="gelu_back_of_output",
        edits=(("return 0.5 * u * (1 + th), (u, th)",
                "a = 0.5 * u * (1 + th)\n    return a, (a, th)"),),
        says="GELU's backward reads the output in place of the input (overwritten in place)",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="bias_gradient_mean",
        edits=(('grads[name + ".b"] += dy.sum((0, 1))', 'grads[name + ".b"] += dy.mean((0, 1))'),),
        says="the gradient of a matrix's bias is a mean over B and T",
        first=("grad/h.1.mlp.c_proj.bias",),
    ),
    Bug(
        name="residual_back_lost",
        edits=((ATTENTION_SUM, ATTENTION_SUM.replace("dx + ", "")),),
        says="backward of attention's residual leaves out the skip",
        first=("dact/h.0.after_mlp",),
    ),
    Bug(
        name="residual_back_twice",
        edits=((MLP_SUM, MLP_SUM.replace("dx + ", "dx + dx + ")),),
        says="backward of the MLP's residual adds the skip twice",
        first=("dact/h.1.after_attn",),
    ),
    Bug(
        name="blocks_back_in_order",
        edits=(("    for i in reversed(range(cfg[", "    for i in (range(cfg["),),
        says="backward runs through the blocks from the first to the last",
        first=("dact/h.1.after_mlp", "dact/h.0.after_mlp"),
    ),
    Bug(
        name="embedding_gradient_assigned",
        edits=(('np.add.at(grads["E"], tokens, dx)', 'grads["E"][tokens] += dx'),),
        says="of a token that repeats, one occurrence counts: fancy indexing adds once",
        first=("grad/wte.weight",),
    ),
    Bug(
        name="embedding_gradient_overwrites",
        edits=(('    np.add.at(grads["E"], tokens, dx)',
                '    grads["E"] = np.zeros_like(w["E"])\n    np.add.at(grads["E"], tokens, dx)'),),
        says="the embedding's gradient replaces the tied head's",
        first=("grad/wte.weight",),
    ),
    Bug(
        name="position_gradient_mean",
        edits=(("+= dx.sum(0)", "+= dx.mean(0)"),),
        says="the gradient of the position embedding is a mean over the batch",
        first=("grad/wpe.weight",),
    ),
    Bug(
        name="key_bias_gradient_first_row",
        edits=((".b{one}\"] += d.sum((0, 2))", ".b{one}\"] += d[0].sum(1)"),),
        says="the gradients of q, k and v's biases are those of the batch's first row",
        first=("grad/h.1.attn.c_attn.bias",),
    ),
)  # fmt: skip
