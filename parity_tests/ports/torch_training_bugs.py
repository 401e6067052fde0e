"""Bugs planted into parity_tests/ports/torch_port.py: steps, dropout, cache and precision."""

from functools import partial

from parity_tests.ports import bugs

Bug = partial(bugs.Bug, port="torch_port")
ACCUMULATE = (("accumulation", 3),)
DROP = (("dropout", 0.25),)
ADAMW = """\
    return torch.optim.AdamW(
        model.parameters(),
"""
DECAY_GROUPS = """\
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
"""
CACHE = """\
                k = torch.cat([cache["k"], k], dim=2)
                v = torch.cat([cache["v"], v], dim=2)
            cache["k"], cache["v"] = k, v
"""
LAST_ONLY = """\
                k_all = torch.cat([cache["k"], k], dim=2)
                v_all = torch.cat([cache["v"], v], dim=2)
                cache["k"], cache["v"] = k, v
                k, v = k_all, v_all
            else:
                cache["k"], cache["v"] = k, v
"""
CLIP_AND_STEP = """\
    if settings["grad_clip"]:
        nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
    optimizer.step()
"""
STEP_AND_CLIP = """\
    optimizer.step()
    if settings["grad_clip"]:
        nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
"""
BACKWARD = """\
        (loss * weight).backward()
"""
CLIPPED_BACKWARD = """\
        (loss * weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
"""
STEPPED_BACKWARD = """\
        (loss * weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
"""
ZEROED = """\
        optimizer.zero_grad()
        loss = loss_of(model(part, SILENT), wanted)
"""

BUGS = (
    # optimizer
    Bug(
        name="adam_l2",
        edits=(("torch.optim.AdamW(", "torch.optim.Adam("),),
        says="Adam adds the decay to the gradient (L2), not AdamW",
        first=("after1/",),
    ),
    Bug(
        name="no_decay_on_vectors",
        edits=((ADAMW, DECAY_GROUPS),),
        says="weight decay of matrices only, though all was asked for",
        first=("after1/",),
    ),
    Bug(
        name="default_betas",
        edits=(('        betas=tuple(settings["betas"]),\n', ""),),
        says="betas are PyTorch's default, (0.9, 0.999)",
        first=("after2/",),
    ),
    Bug(
        name="no_zero_grad",
        edits=(("    optimizer.zero_grad()\n", ""),),
        says="gradients are not set to zero between steps",
        first=("after2/",),
    ),
    # accumulation and clipping
    Bug(
        name="zero_grad_in_loop",
        edits=(("        loss = loss_of(model(part, SILENT), wanted)\n", ZEROED),),
        says="gradients are set to zero before each micro-batch: only the last counts",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    Bug(
        name="mean_of_micro_batches",
        edits=(("weight = (wanted != -100).sum() / counted", "weight = 1 / parts"),),
        says="each micro-batch weighs the same, though their numbers of targets differ",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    Bug(
        name="sum_of_micro_batches",
        edits=(("(loss * weight).backward()", "loss.backward()"),),
        says="the gradients of micro-batches are added without weights",
        first=("after1/",),
        settings=(*ACCUMULATE, ("grad_clip", None)),
    ),
    Bug(
        name="step_in_loop",
        edits=(("    optimizer.step()\n", ""), (BACKWARD, STEPPED_BACKWARD)),
        says="the optimizer steps after each micro-batch",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    Bug(
        name="clip_in_loop",
        edits=((BACKWARD, CLIPPED_BACKWARD),),
        says="the gradient so far is clipped after each micro-batch",
        first=("after1/",),
        settings=ACCUMULATE,
    ),
    Bug(
        name="clip_by_value",
        edits=(("clip_grad_norm_", "clip_grad_value_"),),
        says="each number of the gradient is clipped, not its norm",
        first=("after1/",),
    ),
    Bug(
        name="clip_each_parameter",
        edits=(
            (
                "        nn.utils.clip_grad_norm_(model.parameters(), settings",
                "        for p in model.parameters():\n"
                "            nn.utils.clip_grad_norm_([p], settings",
            ),
        ),
        says="each parameter is clipped by its own norm",
        first=("after1/",),
    ),
    Bug(
        name="clip_after_step",
        edits=((CLIP_AND_STEP, STEP_AND_CLIP),),
        says="gradients are clipped after the step",
        first=("after1/",),
    ),
    # dropout
    Bug(
        name="dropout_unscaled",
        edits=(("return x * self.mask / (1 - self.p)", "return x * self.mask"),),
        says="dropout does not divide by 1 - p",
        first=("act/embedding",),
        settings=DROP,
    ),
    Bug(
        name="dropout_by_p",
        edits=(("self.mask / (1 - self.p)", "self.mask / self.p"),),
        says="dropout divides by p",
        first=("act/embedding",),
        settings=DROP,
    ),
    Bug(
        name="dropout_on_scores",
        edits=(
            ("        probs = self.attn_drop(probs)\n", ""),
            ("        future = torch.ones", "        scores = self.attn_drop(scores)\n"
             "        future = torch.ones"),
        ),
        says="attention's dropout is applied to the scores, before the softmax",
        first=("act/h.0.attn.probs",),
        settings=DROP,
    ),
    Bug(
        name="eval_forgotten",
        edits=(("        model.eval()\n", ""),),
        says="dropout is on when the model is evaluated",
        first=("logits", "logits_again"),
        settings=DROP,
    ),
    # cache
    Bug(
        name="cache_position_zero",
        edits=(("start = cache[0]", "start = 0 * cache[0]"),),
        says="every cached token is at position 0",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_sees_first_key",
        edits=((".triu(past + 1)", ".triu(1)"),),
        says="the mask of a cached token begins at the first key: it sees that one only",
        first=("cached_logits",),
    ),
    Bug(
        name="cache_last_only",
        edits=((CACHE, LAST_ONLY),),
        says="the cache keeps the keys and values of the last token only",
        first=("cached_logits",),
    ),
    # precision
    Bug(
        name="autocast",
        edits=(
            (
                "    logits = model(tokens, Tape(found))\n",
                '    with torch.autocast("cpu", dtype=torch.bfloat16):\n'
                "        logits = model(tokens, Tape(found))\n",
            ),
        ),
        says="matrix products in bfloat16 (autocast), the loss included",
        first=("act/h.0.attn.c_attn",),
    ),
    Bug(
        name="softmax_in_half",
        edits=(
            ("F.softmax(scores, dim=-1)", "F.softmax(scores.half(), dim=-1).to(scores.dtype)"),
        ),
        says="attention's softmax in float16",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="weights_in_bfloat16",
        edits=(
            ("torch.tensor(w.astype(dtype)) for",
             "torch.tensor(w).bfloat16().to(getattr(torch, dtype)) for"),
        ),
        says="the weights are rounded to bfloat16 when loaded",
        first=("param/", "act/embedding"),
    ),
)  # fmt: skip
