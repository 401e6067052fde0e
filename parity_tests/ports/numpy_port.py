"""A GPT-2 in NumPy with a backward pass by hand: a second clean port, by a second hand.

    python -m parity_tests.ports.numpy_port PROBE_DIR DUMP.npz [--only loss,grad] [--bug NAME]

Each head has matrices of its own, (H, D, C), and every other matrix is (out, in). Nothing is
imported from npgpt. parity_tests/ports/bugs.py plants bugs into this text.
"""

import numpy as np

from parity_tests.ports import files

IGNORE = -100


def affine(x, W, b):
    return x @ W.T + b


def affine_back(dy, x, W, grads, name):
    grads[name + ".W"] += np.einsum("bto,bti->oi", dy, x)
    grads[name + ".b"] += dy.sum((0, 1))
    return dy @ W


def layer_norm(x, gain, shift, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    var = (centred**2).mean(-1, keepdims=True)
    inv = 1 / np.sqrt(var + eps)
    xhat = centred * inv
    return gain * xhat + shift, (xhat, inv, gain)


def layer_norm_back(dy, saved, grads, name):
    xhat, inv, gain = saved
    grads[name + ".gain"] += (dy * xhat).sum((0, 1))
    grads[name + ".shift"] += dy.sum((0, 1))
    d = dy * gain
    d = d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True)
    return d * inv


def gelu(u):
    th = np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))
    return 0.5 * u * (1 + th), (u, th)


def gelu_back(da, saved):
    u, th = saved
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * u**2)
    return da * (0.5 * (1 + th) + 0.5 * u * (1 - th**2) * slope)


def drop(x, rate, rng):
    if rate == 0 or rng is None:
        return x, None
    keep = (rng.random(x.shape) >= rate).astype(x.dtype)
    return x * keep / (1 - rate), keep


def drop_back(dy, keep, rate):
    return dy if keep is None else dy * keep / (1 - rate)


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def project(x, W, b):
    """(B, T, C) -> (B, H, T, D), a matrix per head."""
    return np.einsum("btc,hdc->bhtd", x, W) + b[:, None, :]


def attention(x, w, name, rate, rng):
    q = project(x, w[name + ".Wq"], w[name + ".bq"])
    k = project(x, w[name + ".Wk"], w[name + ".bk"])
    v = project(x, w[name + ".Wv"], w[name + ".bv"])
    B, H, T, D = q.shape
    s = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(D)
    s = np.where(np.tril(np.ones((T, T), bool)), s, -np.inf)
    p = softmax(s)
    dropped, keep = drop(p, rate, rng)
    z = np.einsum("bhts,bhsd->bthd", dropped, v).reshape(B, T, H * D)
    return z, (x, q, k, v, p, dropped, keep)


def attention_back(dz, saved, w, grads, name, rate):
    x, q, k, v, p, dropped, keep = saved
    B, H, T, D = q.shape
    dz = dz.reshape(B, T, H, D)
    dv = np.einsum("bhts,bthd->bhsd", dropped, dz)
    dp = np.einsum("bthd,bhsd->bhts", dz, v)
    dp = drop_back(dp, keep, rate)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True))
    ds = ds / np.sqrt(D)
    dq = np.einsum("bhts,bhsd->bhtd", ds, k)
    dk = np.einsum("bhts,bhtd->bhsd", ds, q)
    dx = np.zeros_like(x)
    for one, d in (("q", dq), ("k", dk), ("v", dv)):
        grads[f"{name}.W{one}"] += np.einsum("bhtd,btc->hdc", d, x)
        grads[f"{name}.b{one}"] += d.sum((0, 2))
        dx += np.einsum("bhtd,hdc->btc", d, w[f"{name}.W{one}"])
    return dx, {"probs": dp, "q": dq, "k": dk, "v": dv}


def forward(w, cfg, tokens, rate=0.0, rng=None):
    """Return the logits, the activations by name, and what the backward pass needs."""
    T = tokens.shape[1]
    a, saved, masks = {}, {}, {}
    x = w["E"][tokens] + w["P"][:T]
    x, masks["x0"] = drop(x, rate, rng)
    a["x0"] = x
    for i in range(cfg["n_layer"]):
        n = f"block{i}"
        a[n + ".n1"], saved[n + ".n1"] = layer_norm(x, w[n + ".n1.gain"], w[n + ".n1.shift"])
        a[n + ".z"], saved[n + ".att"] = attention(a[n + ".n1"], w, n + ".att", rate, rng)
        _, a[n + ".q"], a[n + ".k"], a[n + ".v"], a[n + ".probs"], _, masks[n + ".probs"] = saved[
            n + ".att"
        ]
        a[n + ".o"] = affine(a[n + ".z"], w[n + ".att.o.W"], w[n + ".att.o.b"])
        h, masks[n + ".o"] = drop(a[n + ".o"], rate, rng)
        x = x + h
        a[n + ".mid"] = x
        a[n + ".n2"], saved[n + ".n2"] = layer_norm(x, w[n + ".n2.gain"], w[n + ".n2.shift"])
        a[n + ".up"] = affine(a[n + ".n2"], w[n + ".up.W"], w[n + ".up.b"])
        a[n + ".gelu"], saved[n + ".gelu"] = gelu(a[n + ".up"])
        a[n + ".down"] = affine(a[n + ".gelu"], w[n + ".down.W"], w[n + ".down.b"])
        h, masks[n + ".down"] = drop(a[n + ".down"], rate, rng)
        x = x + h
        a[n + ".out"] = x
    a["nf"], saved["nf"] = layer_norm(x, w["nf.gain"], w["nf.shift"])
    logits = a["nf"] @ w["U" if "U" in w else "E"].T
    return logits, a, (saved, masks)


def cross_entropy(logits, targets):
    """Return the mean loss over the targets that count, and the gradient of the logits."""
    p = softmax(logits)
    counts = targets != IGNORE
    b, t = np.nonzero(counts)
    right = targets[b, t]
    loss = -np.log(p[b, t, right]).mean()
    dlogits = p.copy()
    dlogits[b, t, right] -= 1
    dlogits[~counts] = 0
    return loss, dlogits / counts.sum()


def backward(w, cfg, tokens, dlogits, a, kept, rate=0.0):
    """Return the gradients of all weights, and those of the activations by name."""
    saved, masks = kept
    grads = {name: np.zeros_like(value) for name, value in w.items()}
    d = {"logits": dlogits}
    U = "U" if "U" in w else "E"
    grads[U] += np.einsum("btv,btc->vc", dlogits, a["nf"])
    d["nf"] = dlogits @ w[U]
    dx = layer_norm_back(d["nf"], saved["nf"], grads, "nf")
    for i in reversed(range(cfg["n_layer"])):
        n = f"block{i}"
        d[n + ".out"] = dx
        d[n + ".down"] = drop_back(dx, masks[n + ".down"], rate)
        d[n + ".gelu"] = affine_back(
            d[n + ".down"], a[n + ".gelu"], w[n + ".down.W"], grads, n + ".down"
        )
        d[n + ".up"] = gelu_back(d[n + ".gelu"], saved[n + ".gelu"])
        d[n + ".n2"] = affine_back(d[n + ".up"], a[n + ".n2"], w[n + ".up.W"], grads, n + ".up")
        dx = dx + layer_norm_back(d[n + ".n2"], saved[n + ".n2"], grads, n + ".n2")
        d[n + ".mid"] = dx
        d[n + ".o"] = drop_back(dx, masks[n + ".o"], rate)
        d[n + ".z"] = affine_back(d[n + ".o"], a[n + ".z"], w[n + ".att.o.W"], grads, n + ".att.o")
        d[n + ".n1"], inside = attention_back(
            d[n + ".z"], saved[n + ".att"], w, grads, n + ".att", rate
        )
        d |= {f"{n}.{name}": value for name, value in inside.items()}
        dx = dx + layer_norm_back(d[n + ".n1"], saved[n + ".n1"], grads, n + ".n1")
    d["x0"] = dx
    dx = drop_back(dx, masks["x0"], rate)
    np.add.at(grads["E"], tokens, dx)
    grads["P"][: tokens.shape[1]] += dx.sum(0)
    return grads, d


def decode(w, cfg, tokens):
    """Return the logits of the tokens, read one at a time with the keys and values kept."""
    B, T = tokens.shape
    L, (H, D, _) = cfg["n_layer"], w["block0.att.Wq"].shape
    K = np.zeros((L, B, H, T, D), w["E"].dtype)
    V = np.zeros((L, B, H, T, D), w["E"].dtype)
    out = []
    for t in range(T):
        x = w["E"][tokens[:, t : t + 1]] + w["P"][t]
        for i in range(L):
            n = f"block{i}"
            h, _ = layer_norm(x, w[n + ".n1.gain"], w[n + ".n1.shift"])
            q = project(h, w[n + ".att.Wq"], w[n + ".att.bq"])
            K[i, :, :, t : t + 1] = project(h, w[n + ".att.Wk"], w[n + ".att.bk"])
            V[i, :, :, t : t + 1] = project(h, w[n + ".att.Wv"], w[n + ".att.bv"])
            s = np.einsum("bhtd,bhsd->bhts", q, K[i, :, :, : t + 1]) / np.sqrt(D)
            z = np.einsum("bhts,bhsd->bthd", softmax(s), V[i, :, :, : t + 1])
            x = x + affine(z.reshape(B, 1, H * D), w[n + ".att.o.W"], w[n + ".att.o.b"])
            h, _ = layer_norm(x, w[n + ".n2.gain"], w[n + ".n2.shift"])
            h, _ = gelu(affine(h, w[n + ".up.W"], w[n + ".up.b"]))
            x = x + affine(h, w[n + ".down.W"], w[n + ".down.b"])
        h, _ = layer_norm(x, w["nf.gain"], w["nf.shift"])
        out.append(h @ w["U" if "U" in w else "E"].T)
    return np.concatenate(out, axis=1)


class AdamW:
    def __init__(self, w, settings):
        self.w, self.lr, self.eps = w, settings["lr"], settings["eps"]
        self.b1, self.b2 = settings["betas"]
        self.wd = settings["weight_decay"]
        self.m = {name: np.zeros_like(value) for name, value in w.items()}
        self.v = {name: np.zeros_like(value) for name, value in w.items()}
        self.t = 0

    def step(self, grads):
        self.t += 1
        for name, g in grads.items():
            self.w[name] -= self.lr * self.wd * self.w[name]
            self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            mhat = self.m[name] / (1 - self.b1**self.t)
            vhat = self.v[name] / (1 - self.b2**self.t)
            self.w[name] -= self.lr * mhat / (np.sqrt(vhat) + self.eps)


def clip(grads, limit):
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    factor = min(1.0, limit / norm)
    return {name: g * factor for name, g in grads.items()}


def mean_gradients(w, cfg, tokens, targets, parts, rate, rng):
    """Return the gradients of the batch, computed in parts."""
    counted = (targets != IGNORE).sum()
    total = {name: np.zeros_like(value) for name, value in w.items()}
    for rows in np.array_split(np.arange(len(tokens)), parts):
        logits, a, kept = forward(w, cfg, tokens[rows], rate, rng)
        _, dlogits = cross_entropy(logits, targets[rows])
        share = (targets[rows] != IGNORE).sum() / counted
        grads, _ = backward(w, cfg, tokens[rows], dlogits * share, a, kept, rate)
        for name, g in grads.items():
            total[name] += g
    return total


def load(weights, cfg):
    """Return the checkpoint's weights in this port's layout."""
    H, C = cfg["n_head"], cfg["n_embd"]
    D = C // H
    w = {"E": weights["wte.weight"], "P": weights["wpe.weight"]}
    for i in range(cfg["n_layer"]):
        n, h = f"block{i}", f"h.{i}"
        fused, bias = weights[h + ".attn.c_attn.weight"], weights[h + ".attn.c_attn.bias"]
        for j, one in enumerate("qkv"):
            part = slice(j * C, (j + 1) * C)
            w[f"{n}.att.W{one}"] = fused[:, part].T.reshape(H, D, C)
            w[f"{n}.att.b{one}"] = bias[part].reshape(H, D)
        for mine, theirs in (("att.o", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
            w[f"{n}.{mine}.W"] = weights[f"{h}.{theirs}.weight"].T
            w[f"{n}.{mine}.b"] = weights[f"{h}.{theirs}.bias"]
        for mine, theirs in (("n1", "ln_1"), ("n2", "ln_2")):
            w[f"{n}.{mine}.gain"] = weights[f"{h}.{theirs}.weight"]
            w[f"{n}.{mine}.shift"] = weights[f"{h}.{theirs}.bias"]
    w["nf.gain"], w["nf.shift"] = weights["ln_f.weight"], weights["ln_f.bias"]
    if not cfg["tied"]:
        w["U"] = weights["lm_head.weight"]
    return {name: np.array(value) for name, value in w.items()}


def run(probe, kinds=files.KINDS, dtype="float32"):
    """Return the dump: everything that was computed for the probe, by this port's own names."""
    cfg, settings, tokens, targets = probe.config, probe.settings, probe.tokens, probe.targets
    rate, rng = settings["dropout"], np.random.default_rng(0)
    w = load({name: value.astype(dtype) for name, value in probe.weights.items()}, cfg)
    dump = {"tokens": tokens, "targets": targets}
    dump |= {f"param/{name}": value.copy() for name, value in w.items()}

    logits, a, kept = forward(w, cfg, tokens, rate, rng)
    loss, dlogits = cross_entropy(logits, targets)
    grads, d = backward(w, cfg, tokens, dlogits, a, kept, rate)
    dump |= {"loss": np.asarray(loss), "logits": logits}
    dump |= {f"act/{name}": value for name, value in a.items()}
    dump |= {f"dact/{name}": value for name, value in d.items()}
    dump |= {f"grad/{name}": value for name, value in grads.items()}
    dump |= {f"mask/{name}": m for name, m in kept[1].items() if m is not None}
    if "logits_again" in kinds or "cached_logits" in kinds:
        if rate:  # the logits above are of training
            dump["logits"] = forward(w, cfg, tokens)[0]
        dump["logits_again"] = forward(w, cfg, tokens)[0]
        dump["cached_logits"] = decode(w, cfg, tokens)
    if "after" in kinds:
        optimizer = AdamW(w, settings)
        for step in range(1, settings["steps"] + 1):
            total = mean_gradients(w, cfg, tokens, targets, settings["accumulation"], rate, rng)
            if settings["grad_clip"]:
                total = clip(total, settings["grad_clip"])
            optimizer.step(total)
            dump |= {f"after{step}/{name}": value.copy() for name, value in w.items()}
    return files.keep(dump, kinds, probe)


if __name__ == "__main__":
    files.main("numpy_port")
