"""Mistakes in the optimizers' steps."""

from npgpt.parity.mistakes.mistake import Page

ADAMW, ADAM = "npgpt.ops.adamw:update", "npgpt.ops.adam:update"
SGD, RMSPROP, MUON = "npgpt.ops.sgd:update", "npgpt.ops.rmsprop:update", "npgpt.ops.muon:update"
MAKE = "npgpt.parity.steps:make_optimizer"

page = Page("docs/backprop/optimizers.md")
wrong = page.add

DECAY = "p *= 1 - lr * weight_decay"
M, V = "m += (1 - beta1) * (grad - m)", "v += (1 - beta2) * (grad * grad)"
DENOMINATOR = "denominator = np.sqrt(v) / (1 - beta2**step) ** 0.5 + eps"
STEP = "p -= lr / (1 - beta1**step) * (m / denominator)"
BETAS = "beta1, beta2 = betas"
MADE = "return optim.make(p, training, ops=ops)"

SEEN = {
    "adam-correction-multiplied": ("karpathy/convnetjs#107",),
    "adam-eps-before-correction": (
        "karpathy/nanochat#304",
        "tensorflow/tensorflow#9047",
        "pytorch/pytorch#22628",
    ),
}

# of AdamW and Adam: name, line, right text, wrong text
for name, says, right, text in (
    ("adam-without-bias-correction", "Adam's moments are not divided by 1 - beta^step",
     f"{DENOMINATOR}\n    {STEP}",
     "denominator = np.sqrt(v) + eps\n    p -= lr * (m / denominator)"),
    ("adam-first-moment-not-corrected", "Adam's first moment is not divided by 1 - beta1^step",
     STEP, "p -= lr * (m / denominator)"),
    ("adam-second-moment-not-corrected", "Adam's second moment is not divided by 1 - beta2^step",
     DENOMINATOR, "denominator = np.sqrt(v) + eps"),
    ("adam-second-correction-without-sqrt",
     "Adam divides sqrt(v) by 1 - beta2^step, not by its root",
     "(1 - beta2**step) ** 0.5", "(1 - beta2**step)"),
    ("adam-correction-multiplied", "Adam multiplies with the bias corrections instead of dividing",
     f"{DENOMINATOR}\n    {STEP}", "denominator = np.sqrt(v) * (1 - beta2**step) ** 0.5 + eps\n"
     "    p -= lr * (1 - beta1**step) * (m / denominator)"),
    ("adam-step-from-2", "Adam's bias corrections use step + 1",
     BETAS, f"{BETAS}\n    step += 1"),
    ("adam-step-always-1", "Adam's bias corrections always use step 1",
     BETAS, f"{BETAS}\n    step = 1"),
    ("adam-eps-inside-sqrt", "Adam's eps is added inside the square root",
     DENOMINATOR, "denominator = np.sqrt(v / (1 - beta2**step) + eps)"),
    ("adam-eps-before-correction",
     "Adam's eps is added before the bias correction, as in TensorFlow",
     DENOMINATOR, "denominator = (np.sqrt(v) + eps) / (1 - beta2**step) ** 0.5"),
    ("adam-eps-1e-8", "Adam's eps is 1e-8, not the one given",
     "** 0.5 + eps", "** 0.5 + 1e-8"),
    ("adam-betas-exchanged", "Adam's betas are exchanged", BETAS, "beta2, beta1 = betas"),
    ("adam-default-betas", "Adam's betas are 0.9 and 0.999, not those given",
     BETAS, "beta1, beta2 = 0.9, 0.999"),
    ("adam-gpt-3-betas", "Adam's betas are 0.9 and 0.95, not those given",
     BETAS, "beta1, beta2 = 0.9, 0.95"),
    ("adam-first-moment-sum", "Adam's first moment is a sum: beta1 * m + grad",
     M, "m *= beta1\n    m += grad"),
    ("adam-second-moment-sum", "Adam's second moment is a sum: beta2 * v + grad^2",
     V, "v += grad * grad"),
    ("adam-first-moment-weights-exchanged", "Adam's first moment is (1 - beta1) * m + beta1 * grad",
     M, "m += beta1 * (grad - m)"),
    ("adam-second-moment-not-squared", "Adam's second moment is a mean of gradients, not squared",
     f"{V}\n    {DENOMINATOR}", "v += (1 - beta2) * grad\n    "
     "denominator = np.abs(v) / (1 - beta2**step) + eps"),
    ("adam-second-moment-of-m", "Adam's second moment is of the first moment, not of the gradient",
     V, "v += (1 - beta2) * (m * m)"),
    ("adam-second-moment-corrected-by-beta1",
     "Adam's second moment is divided by 1 - beta1^step, not by 1 - beta2^step",
     "(1 - beta2**step)", "(1 - beta1**step)"),
    ("adam-without-sqrt", "Adam divides by the second moment, without the square root",
     "np.sqrt(v) / (1 - beta2**step) ** 0.5", "v / (1 - beta2**step)"),
    ("adam-moments-not-kept", "the optimizer is made anew for each step: its moments begin at 0",
     BETAS, f"{BETAS}\n    step = 1\n    m[:] = v[:] = 0"),
    ("adam-without-first-moment", "Adam steps along the gradient, not along its mean",
     STEP, "p -= lr * (grad / denominator)"),
    ("adam-first-moment-corrected-by-beta2",
     "Adam's first moment is divided by 1 - beta2^step, not by 1 - beta1^step",
     "(1 - beta1**step)", "(1 - beta2**step)"),
    ("adam-corrections-exchanged", "Adam's bias corrections are exchanged",
     f"{DENOMINATOR}\n    {STEP}", "denominator = np.sqrt(v) / (1 - beta1**step) ** 0.5 + eps\n"
     "    p -= lr / (1 - beta2**step) * (m / denominator)"),
    ("adam-both-beta1", "Adam's second moment has beta1 for beta2, in its correction too",
     BETAS, "beta1, _ = betas\n    beta2 = beta1"),
    ("adam-both-beta2", "Adam's first moment has beta2 for beta1, in its correction too",
     BETAS, "_, beta2 = betas\n    beta1 = beta2"),
    ("adam-second-moment-decays-by-beta1", "Adam's second moment is beta1 * v + (1 - beta2) grad^2",
     "v *= beta2", "v *= beta1"),
    ("adam-second-moment-weights-exchanged",
     "Adam's second moment is (1 - beta2) * v + beta2 * grad^2",
     f"v *= beta2\n    {V}", "v *= 1 - beta2\n    v += beta2 * (grad * grad)"),
    ("adam-second-moment-without-decay", "Adam's second moment does not decay by beta2",
     "v *= beta2", "pass"),
    ("adam-corrected-moments-kept", "Adam keeps the moments that are divided by 1 - beta^step",
     f"{DENOMINATOR}\n    {STEP}", "m /= 1 - beta1**step\n    v /= 1 - beta2**step\n"
     "    p -= lr * (m / (np.sqrt(v) + eps))"),
    ("adam-step-from-0", "Adam's bias corrections use step - 1, and none in the first step",
     f"{DENOMINATOR}\n    {STEP}", "first, second = (1 - b ** (step - 1) or 1 for b in betas)\n"
     "    denominator = np.sqrt(v) / second**0.5 + eps\n    p -= lr / first * (m / denominator)"),
    ("adam-eps-squared", "Adam's eps is squared in the square root: sqrt(v + eps^2)",
     DENOMINATOR, "denominator = np.sqrt(v / (1 - beta2**step) + eps * eps)"),
    ("adam-beta-of-step-times", "Adam's corrections are 1 - beta * step, not 1 - beta^step",
     f"{DENOMINATOR}\n    {STEP}", "first, second = (abs(1 - b * step) for b in betas)\n"
     "    denominator = np.sqrt(v) / second**0.5 + eps\n    p -= lr / first * (m / denominator)"),
    ("adam-nesterov", "Adam steps ahead along its first moment (NAdam)",
     STEP, "m_ahead = beta1 * m / (1 - beta1 ** (step + 1))\n"
     "    m_ahead += (1 - beta1) * grad / (1 - beta1**step)\n"
     "    p -= lr * (m_ahead / denominator)"),
    ("adam-is-momentum", "Adam does not divide by the second moment",
     STEP, "p -= lr / (1 - beta1**step) * m"),
    ("adam-is-sgd", "the optimizer is plain gradient descent, not Adam", STEP, "p -= lr * grad"),
    ("adam-is-sign", "Adam steps by the sign of its first moment",
     STEP, "p -= lr * np.sign(m)"),
    ("adam-is-rmsprop", "the optimizer is RMSprop, not Adam: without first moment and corrections",
     f"{DENOMINATOR}\n    {STEP}", "p -= lr * (grad / (np.sqrt(v) + eps))"),
    ("adam-ascends", "parameters move along the gradient, not against it",
     STEP, STEP.replace("-=", "+=")),
):  # fmt: skip
    edits = (ADAMW, right, text), (ADAM, right, text)
    wrong("step", name, says, *edits, seen=SEEN.get(name, ()))
wrong(
    "step",
    "adamw-is-adam",
    "weight decay is added to the gradient (Adam's L2), not applied to the parameter (AdamW)",
    (ADAMW, DECAY, "grad = grad + weight_decay * p"),
)
wrong("step", "adamw-without-decay", "there is no weight decay", (ADAMW, DECAY, "pass"))
wrong(
    "step",
    "adamw-decay-without-lr",
    "weight decay is not multiplied with the learning rate",
    (ADAMW, DECAY, "p *= 1 - weight_decay"),
)
wrong(
    "step",
    "adamw-decay-after-step",
    "weight decay follows the step: it decays the new parameter",
    (ADAMW, DECAY, "pass"),
    (ADAMW, STEP, f"{STEP}\n    {DECAY}"),
    seen=("huggingface/transformers#14539",),
)
wrong(
    "step",
    "adamw-decay-twice",
    "weight decay is applied twice: to the gradient and to the parameter",
    (ADAMW, DECAY, f"grad = grad + weight_decay * p\n    {DECAY}"),
)
wrong(
    "step",
    "adamw-decay-divided",
    "weight decay is divided by sqrt(v) with the gradient's mean",
    (ADAMW, DECAY, "pass"),
    (ADAMW, "(m / denominator)", "((m + weight_decay * p) / denominator)"),
)
wrong(
    "step",
    "decay-of-matrices",
    "weight decay applies to matrices only, not to all parameters",
    (MAKE, "decay=settings.decay", 'decay="matrices"'),
)
wrong(
    "step",
    "decay-of-all",
    "weight decay applies to biases and LayerNorms too, not to matrices only",
    (MAKE, "decay=settings.decay", 'decay="all"'),
)
wrong(
    "step",
    "adamw-decay-grows",
    "weight decay has the wrong sign: parameters grow",
    (ADAMW, DECAY, "p *= 1 + lr * weight_decay"),
)
wrong(
    "step",
    "decay-of-all-but-biases",
    "weight decay applies to LayerNorm's weights too: only names with bias are left out",
    (
        MAKE,
        MADE,
        """optimizer = optim.make(p, training, ops=ops)
    optimizer.decays = lambda name, array: "bias" not in name
    return optimizer""",
    ),
)
wrong(
    "step",
    "decay-not-of-embeddings",
    "weight decay applies to matrices, but not to the embeddings",
    (
        MAKE,
        MADE,
        """optimizer = optim.make(p, training, ops=ops)
    optimizer.decays = lambda name, array: array.ndim > 1 and name[:3] not in ("wte", "wpe")
    return optimizer""",
    ),
)
wrong(
    "step",
    "lr-of-1e-3",
    "the learning rate is 1e-3, not the one given",
    (MAKE, "lr=settings.lr", "lr=1e-3"),
)
wrong(
    "step",
    "decay-of-1e-2",
    "weight decay is 0.01, PyTorch's default, not the one given",
    (MAKE, "weight_decay=settings.weight_decay", "weight_decay=0.01"),
)
wrong(
    "step",
    "adam-is-adamw",
    "weight decay is applied to the parameter (AdamW), not added to the gradient (Adam)",
    (ADAM, "grad = grad + weight_decay * p", "p -= lr * weight_decay * p"),
)
wrong(
    "step",
    "sgd-dampening",
    "momentum is a mean: momentum * m + (1 - momentum) * grad",
    (SGD, "m += grad", "m += (1 - momentum) * grad"),
)
wrong(
    "step",
    "sgd-nesterov",
    "momentum is Nesterov's",
    (SGD, "grad = grad + momentum * m if nesterov else m", "grad = grad + momentum * m"),
)
wrong(
    "step",
    "sgd-momentum-after-step",
    "the step uses the momentum of before: the gradient is added afterwards",
    (SGD, "m += grad\n        grad = grad + momentum * m if nesterov else m",
     "m += grad\n        grad = m - grad"),
)  # fmt: skip
wrong(
    "step",
    "sgd-without-momentum",
    "there is no momentum",
    (SGD, "if m is not None", "if False"),
)
wrong(
    "step",
    "sgd-decay-of-parameter",
    "weight decay is applied to the parameter, not added to the gradient",
    (SGD, "grad = grad + weight_decay * p", "p -= lr * weight_decay * p"),
)
wrong(
    "step",
    "rmsprop-eps-inside-sqrt",
    "RMSprop's eps is added inside the square root",
    (RMSPROP, "np.sqrt(v) + eps", "np.sqrt(v + eps)"),
)
wrong(
    "step",
    "rmsprop-without-sqrt",
    "RMSprop divides by the mean square, without the square root",
    (RMSPROP, "np.sqrt(v) + eps", "v + eps"),
)
wrong(
    "step",
    "muon-without-nesterov",
    "Muon orthogonalizes the mean gradient, without Nesterov's step ahead",
    (MUON, "u = grad + momentum * (m - grad)", "u = m.copy()"),
)
wrong(
    "step",
    "muon-of-fused-qkv",
    "Muon orthogonalizes queries, keys and values as one matrix",
    (MUON, "np.split(p, parts, 1), np.split(u, parts, 1)", "[p], [u]"),
)
wrong(
    "step",
    "muon-momentum-sum",
    "Muon's momentum is a sum: momentum * m + grad",
    (MUON, "m += (1 - momentum) * (grad - m)", "m *= momentum\n    m += grad"),
)
for name, update in (("adam", ADAM), ("sgd", SGD), ("rmsprop", RMSPROP)):
    wrong(
        "step",
        f"{name}-without-decay",
        "there is no weight decay",
        (update, "if weight_decay:", "if False:"),
    )
for rate in ("3e-4", "6e-4", "1e-4"):
    wrong(
        "step",
        f"lr-of-{rate}",
        f"the learning rate is {rate}, not the one given",
        (MAKE, "lr=settings.lr", f"lr={rate}"),
    )
STEPS = """optimizer = optim.make(p, training, ops=ops)
    right = optimizer._update
    names = [name for name, _ in params.named(p)]

    def update(name, *rest, **numbers):
        steps = optimizer.steps
        optimizer.steps = (steps - 1) * len(names) + names.index(name) + 1
        right(name, *rest, **numbers)
        optimizer.steps = steps

    optimizer._update = update
    return optimizer"""
wrong(
    "step",
    "adam-step-per-parameter",
    "Adam's step is counted with each parameter, not once for all",
    (MAKE, MADE, STEPS),
    seen=(
        "flashlight/flashlight#143",
        "DiffSharp/DiffSharp#292",
    ),
)
wrong(
    "step",
    "tied-weight-stepped-twice",
    "the tied wte is stepped twice, as embedding and as head",
    (
        MAKE,
        MADE,
        """optimizer = optim.make(p, training, ops=ops)
    right = optimizer._update

    def update(name, *rest, **numbers):
        for _ in range(2 if name == "wte.weight" else 1):
            right(name, *rest, **numbers)

    optimizer._update = update
    return optimizer""",
    ),
)
for name, says, names in (
    ("biases-not-stepped", "biases are not updated", 'name.endswith(".bias")'),
    ("layernorms-not-stepped", "LayerNorms are not updated", '"ln_" in name'),
    ("embeddings-not-stepped", "wte and wpe are not updated", 'name[:3] in ("wte", "wpe")'),
    ("positions-not-stepped", "wpe is not updated", 'name[:3] == "wpe"'),
):
    wrong(
        "step",
        name,
        says,
        (
            MAKE,
            MADE,
            f"""optimizer = optim.make(p, training, ops=ops)
    right = optimizer._update
    optimizer._update = lambda name, *rest, **numbers: (
        None if {names} else right(name, *rest, **numbers)
    )
    return optimizer""",
        ),
    )
