"""Bugs planted into parity_tests/ports/numpy_port.py: steps, dropout, cache and precision."""

from functools import partial

from parity_tests.ports import bugs

Bug = partial(bugs.Bug, port="numpy_port")
ACCUMULATE = (("accumulation", 3),)
DROP = (("dropout", 0.25),)
STEP = """\
            self.w[name] -= self.lr * self.wd * self.w[name]
            self.m"""

BUGS = (
    # optimizer
    Bug(
        name="adam_no_bias_correction",
        edits=((" / (1 - self.b1**self.t)", ""), (" / (1 - self.b2**self.t)", "")),
        says="AdamW without bias correction",
        first=("after1/",),
    ),
    Bug(
        name="adam_step_per_parameter",
        edits=(("        self.t += 1\n        for name, g in grads.items():\n",
                "        for name, g in grads.items():\n            self.t += 1\n"),),
        says="the step counter advances with every parameter",
        first=("after1/",),
    ),
    Bug(
        name="adam_eps_inside",
        edits=(("(np.sqrt(vhat) + self.eps)", "np.sqrt(vhat + self.eps)"),),
        says="AdamW adds eps inside the root",
        first=("after1/",),
    ),
    Bug(
        name="adam_eps_before_correction",
        edits=(
            ("vhat = self.v[name] / (1 - self.b2**self.t)", "root = np.sqrt(1 - self.b2**self.t)"),
            ("(np.sqrt(vhat) + self.eps)", "(np.sqrt(self.v[name]) + self.eps) * root"),
        ),
        says="eps is added to sqrt(v) before the bias correction (TensorFlow's form)",
        first=("after1/",),
    ),
    Bug(
        name="adam_betas_swapped",
        edits=(('self.b1, self.b2 = settings["betas"]', 'self.b2, self.b1 = settings["betas"]'),),
        says="beta1 and beta2 are swapped",
        first=("after2/",),
    ),
    Bug(
        name="adam_second_moment_of_gradient",
        edits=(("(1 - self.b2) * g**2", "(1 - self.b2) * g"), ("np.sqrt(vhat)", "np.abs(vhat)")),
        says="the second moment is a mean of the gradients, not of their squares",
        first=("after2/",),
    ),
    Bug(
        name="decay_without_lr",
        edits=(("-= self.lr * self.wd * self.w[name]", "-= self.wd * self.w[name]"),),
        says="weight decay is not multiplied by the learning rate",
        first=("after1/",),
    ),
    Bug(
        name="decay_in_gradient",
        edits=((STEP, "            g = g + self.wd * self.w[name]\n            self.m"),),
        says="weight decay is added to the gradient (L2)",
        first=("after1/",),
    ),
    Bug(
        name="decay_forgotten",
        edits=((STEP, "            self.m"),),
        says="no weight decay",
        first=("after1/",),
    ),
    Bug(
        name="decay_after_update",
        edits=(
            (STEP, "            self.m"),
            ("(np.sqrt(vhat) + self.eps)\n", "(np.sqrt(vhat) + self.eps)\n"
             "            self.w[name] -= self.lr * self.wd * self.w[name]\n"),
        ),
        says="weight decay is applied to the parameter after its step",
        first=("after1/",),
    ),
    # clipping and accumulation
    Bug(
        name="clip_square",
        edits=(("norm = np.sqrt(sum((g**2).sum() for g in grads.values()))",
                "norm = sum((g**2).sum() for g in grads.values())"),),
        says="the squared norm is compared with the limit",
        first=("after1/",),
    ),
    Bug(
        name="clip_always",
        edits=(("factor = min(1.0, limit / norm)", "factor = limit / norm"),),
        says="the gradient is scaled to the limit even if its norm is below it",
        first=("after1/",),
        settings=(("grad_clip", 100.0),),
    ),
    Bug(
        name="clip_by_largest",
        edits=(("np.sqrt(sum((g**2).sum() for g in grads.values()))",
                "max(np.sqrt((g**2).sum()) for g in grads.values())"),),
        says="the norm is the largest of the parameters' norms",
        first=("after1/",),
    ),
    Bug(
        name="accumulation_last_part",
        edits=(("            total[name] += g\n", "            total[name] = g\n"),),
        says="the last micro-batch's gradient replaces the others",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    Bug(
        name="accumulation_divided_by_parts",
        edits=(("share = (targets[rows] != IGNORE).sum() / counted", "share = 1 / parts"),),
        says="micro-batches weigh the same though their numbers of targets differ",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    # dropout
    Bug(
        name="dropout_back_unscaled",
        edits=(("dy * keep / (1 - rate)", "dy * keep"),),
        says="dropout's backward does not divide by 1 - rate",
        first=("dact/h.1.mlp.c_proj",),
        settings=DROP,
    ),
    Bug(
        name="dropout_back_forgotten",
        edits=(("return dy if keep is None else dy * keep / (1 - rate)", "return dy"),),
        says="the gradient passes dropout unchanged",
        first=("dact/h.1.mlp.c_proj",),
        settings=DROP,
    ),
    Bug(
        name="dropout_values_back_undropped",
        edits=(('"bhts,bthd->bhsd", dropped, dz)', '"bhts,bthd->bhsd", p, dz)'),),
        says="the values' gradient uses the probabilities before dropout",
        first=("dact/h.1.attn.c_attn",),
        settings=DROP,
    ),
    # cache
    Bug(
        name="cache_excludes_self",
        edits=(('K[i, :, :, : t + 1]) / np.sqrt(D)', 'K[i, :, :, : max(t, 1)]) / np.sqrt(D)'),
               ("V[i, :, :, : t + 1])\n", "V[i, :, :, : max(t, 1)])\n")),
        says="a cached token does not see its own key and value",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_sees_empty",
        edits=(('K[i, :, :, : t + 1]) / np.sqrt(D)', 'K[i]) / np.sqrt(D)'),
               ("V[i, :, :, : t + 1])\n", "V[i])\n")),
        says="the cache's empty slots, zeros, are attended to",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_position_next",
        edits=(('w["P"][t]', 'w["P"][t + 1]'),),
        says="a cached token has the position of the next one",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_shared_by_layers",
        edits=(
            ("K[i, :, :, t : t + 1] =", "K[0, :, :, t : t + 1] ="),
            ("V[i, :, :, t : t + 1] =", "V[0, :, :, t : t + 1] ="),
            ("K[i, :, :, : t + 1]", "K[0, :, :, : t + 1]"),
            ("V[i, :, :, : t + 1]", "V[0, :, :, : t + 1]"),
        ),
        says="all layers write to and read from one cache",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_unscaled",
        edits=(("K[i, :, :, : t + 1]) / np.sqrt(D)", "K[i, :, :, : t + 1])"),),
        says="the cached path does not divide the scores by sqrt(D)",
        first=("cached_logits",),
    ),
    # precision
    Bug(
        name="products_in_half",
        edits=(("return x @ W.T + b", "return (x.astype(np.float16) @ W.T.astype(np.float16) + b)"
                ".astype(x.dtype)"),),
        says="the products of the matrices are computed in float16",
        first=("act/h.0.attn.c_proj",),
    ),
)  # fmt: skip
