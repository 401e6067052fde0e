"""Bugs planted into parity_tests/ports/numpy_port.py: the forward pass and the loss."""

from functools import partial

from parity_tests.ports import bugs

Bug = partial(bugs.Bug, port="numpy_port")

BUGS = (
    # forward
    Bug(
        name="softmax_denominator_of_all",
        edits=(
            ("    s = np.where(np.tril(np.ones((T, T), bool)), s, -np.inf)\n    p = softmax(s)",
             "    p = softmax(s) * np.tril(np.ones((T, T), bool))"),
        ),
        says="the probabilities are masked after the softmax",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="mask_upper",
        edits=(("np.tril(np.ones((T, T), bool))", "np.triu(np.ones((T, T), bool))"),),
        says="the mask is the upper triangle: a position sees itself and what follows",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="mask_excludes_self",
        edits=(("np.tril(np.ones((T, T), bool)), s, -np.inf)",
                "np.tril(np.ones((T, T), bool), -1), s, -1e9)"),),
        says="a position does not see itself",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="heads_interleaved",
        edits=(
            ("fused[:, part].T.reshape(H, D, C)",
             "fused[:, part].T.reshape(D, H, C).swapaxes(0, 1)"),
            ("bias[part].reshape(H, D)", "bias[part].reshape(D, H).T"),
        ),
        says="channels are dealt to the heads in turn, D by H, not H by D",
        first=("param/h.0.attn.c_attn.weight", "act/h.0.attn.c_attn", "act/h.0.attn.probs"),
    ),
    Bug(
        name="heads_joined_by_channel",
        edits=(
            ('"bhts,bhsd->bthd", dropped, v)', '"bhts,bhsd->btdh", dropped, v)'),
            ("dz = dz.reshape(B, T, H, D)", "dz = dz.reshape(B, T, D, H).swapaxes(2, 3)"),
        ),
        says="the heads are joined channel by channel (D, H), consistently in both passes",
        first=("act/h.0.attn.heads",),
    ),
    Bug(
        name="gelu_constant",
        edits=(("(u + 0.044715 * u**3))", "(u + 0.44715 * u**3))"),
               ("(1 + 3 * 0.044715 * u**2)", "(1 + 3 * 0.44715 * u**2)")),
        says="GELU's constant is 0.44715, a lost zero",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="gelu_root",
        edits=(("th = np.tanh(np.sqrt(2 / np.pi) *", "th = np.tanh(np.sqrt(2) / np.pi *"),
               ("slope = np.sqrt(2 / np.pi) *", "slope = np.sqrt(2) / np.pi *")),
        says="GELU's factor is sqrt(2) / pi in place of sqrt(2 / pi)",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="gelu_quick",
        edits=(
            ("th = np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))",
             "th = np.tanh(0.5 * 1.702 * u)"),
            ("slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * u**2)", "slope = 0.5 * 1.702"),
        ),
        says="u * sigmoid(1.702 u) in place of the tanh form",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="relu",
        edits=(
            ("return 0.5 * u * (1 + th), (u, th)", "return np.maximum(u, 0), (u, th)"),
            ("return da * (0.5 * (1 + th) + 0.5 * u * (1 - th**2) * slope)", "return da * (u > 0)"),
        ),
        says="ReLU in place of GELU",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="norm_over_time",
        edits=(
            ("centred = x - x.mean(-1, keepdims=True)", "centred = x - x.mean(1, keepdims=True)"),
            ("var = (centred**2).mean(-1, keepdims=True)",
             "var = (centred**2).mean(1, keepdims=True)"),
        ),
        says="LayerNorm's statistics are over the positions (the backward's over the channels)",
        first=("act/h.0.ln_1",),
    ),
    Bug(
        name="norm_gain_plus_one",
        edits=(("return gain * xhat + shift, (xhat, inv, gain)",
                "return (1 + gain) * xhat + shift, (xhat, inv, 1 + gain)"),),
        says="LayerNorm multiplies by 1 + gain, as in checkpoints that store gain - 1",
        first=("act/h.0.ln_1",),
    ),
    Bug(
        name="position_by_batch_row",
        edits=(('x = w["E"][tokens] + w["P"][:T]\n',
                'x = w["E"][tokens] + w["P"][: len(tokens), None]\n'),),
        says="the position embedding is indexed by the row of the batch",
        first=("act/embedding",),
    ),
    Bug(
        name="norms_swapped",
        edits=(
            ('(("n1", "ln_1"), ("n2", "ln_2"))', '(("n1", "ln_2"), ("n2", "ln_1"))'),
        ),
        says="the two LayerNorms of a block are swapped when loaded",
        first=("param/h.0.ln_1.weight", "act/h.0.ln_1"),
    ),
    Bug(
        name="norm_shift_forgotten",
        edits=(("return gain * xhat + shift,", "return gain * xhat,"),),
        says="LayerNorm does not add its bias",
        first=("act/h.0.ln_1",),
    ),
    # loss
    Bug(
        name="log_of_padded_probability",
        edits=(("-np.log(p[b, t, right])", "-np.log(p[b, t, right] + 1e-5)"),),
        says="the loss is log(p + 1e-5)",
        first=("loss",),
    ),
    Bug(
        name="loss_of_all_positions",
        edits=(("return loss, dlogits / counts.sum()", "return loss, dlogits / counts.size"),),
        says="the gradient of the logits is divided by all positions, the loss by those that count",
        first=("dact/logits",),
    ),
    Bug(
        name="logits_gradient_summed",
        edits=(("return loss, dlogits / counts.sum()", "return loss, dlogits"),),
        says="the gradient is that of the sum of the losses, the loss is their mean",
        first=("dact/logits",),
    ),
    Bug(
        name="ignored_keep_gradient",
        edits=(("    dlogits[~counts] = 0\n", ""),),
        says="ignored positions keep a gradient: the softmax itself",
        first=("dact/logits",),
    ),
    Bug(
        name="wrong_class_kept",
        edits=(("    dlogits[b, t, right] -= 1\n", "    dlogits[b, t, right] = -1\n"),),
        says="the gradient at the right token is -1, not p - 1",
        first=("dact/logits",),
    ),
)  # fmt: skip
