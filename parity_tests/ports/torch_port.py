"""A GPT-2 in PyTorch that another person could have written: a clean port for `npgpt diagnose`.

    python -m parity_tests.ports.torch_port PROBE_DIR DUMP.npz [--only loss,grad] [--bug NAME]

Weights are (out, in) as in nn.Linear, and queries, keys and values have a matrix each. Nothing is
imported from npgpt. parity_tests/ports/bugs.py plants bugs into this text.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from parity_tests.ports import files


class FastGELU(torch.autograd.Function):
    """The tanh form of GELU. It keeps its input alone for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))

    @staticmethod
    def backward(ctx, grad_out):
        (x,) = ctx.saved_tensors
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        t = torch.tanh(inner)
        d_inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        return grad_out * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * d_inner)


class Norm(nn.Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        var = x.var(dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class Dropout(nn.Module):
    """Dropout that remembers its last mask."""

    def __init__(self, p):
        super().__init__()
        self.p, self.mask = p, None

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        self.mask = torch.rand(x.shape) >= self.p
        return x * self.mask / (1 - self.p)


class SelfAttention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        width = cfg["n_embd"]
        self.heads, self.head_dim = cfg["n_head"], width // cfg["n_head"]
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.attn_drop = Dropout(cfg["dropout"])

    def split(self, x):
        B, T, _ = x.shape
        return x.view(B, T, self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x, tape, cache=None):
        B, T, C = x.shape
        q = tape("q_proj", self.q_proj(x))
        k = tape("k_proj", self.k_proj(x))
        v = tape("v_proj", self.v_proj(x))
        q, k, v = self.split(q), self.split(k), self.split(v)
        past = 0
        if cache is not None:
            if cache:
                past = cache["k"].size(2)
                k = torch.cat([cache["k"], k], dim=2)
                v = torch.cat([cache["v"], v], dim=2)
            cache["k"], cache["v"] = k, v
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        future = torch.ones(T, past + T, dtype=torch.bool).triu(past + 1)
        scores = scores.masked_fill(future, float("-inf"))
        probs = tape("probs", F.softmax(scores, dim=-1))
        probs = self.attn_drop(probs)
        y = probs @ v
        y = tape("heads", y.transpose(1, 2).reshape(B, T, C))
        return tape("out_proj", self.out_proj(y))


class FeedForward(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.fc1 = nn.Linear(cfg["n_embd"], 4 * cfg["n_embd"])
        self.fc2 = nn.Linear(4 * cfg["n_embd"], cfg["n_embd"])

    def forward(self, x, tape):
        x = tape("fc1", self.fc1(x))
        x = tape("act", FastGELU.apply(x))
        return tape("fc2", self.fc2(x))


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.norm1 = Norm(cfg["n_embd"])
        self.attn = SelfAttention(cfg)
        self.norm2 = Norm(cfg["n_embd"])
        self.ffn = FeedForward(cfg)
        self.drop1 = Dropout(cfg["dropout"])
        self.drop2 = Dropout(cfg["dropout"])

    def forward(self, x, tape, cache=None):
        h = tape("norm1", self.norm1(x))
        x = tape("resid1", x + self.drop1(self.attn(h, tape.at("attn"), cache)))
        h = tape("norm2", self.norm2(x))
        x = tape("resid2", x + self.drop2(self.ffn(h, tape.at("ffn"))))
        return x


class LanguageModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["n_embd"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["n_embd"])
        self.drop = Dropout(cfg["dropout"])
        self.layers = nn.ModuleList([Layer(cfg) for _ in range(cfg["n_layer"])])
        self.norm = Norm(cfg["n_embd"])
        self.head = nn.Linear(cfg["n_embd"], cfg["vocab_size"], bias=False)
        if cfg["tied"]:
            self.head.weight = self.tok_emb.weight

    def forward(self, tokens, tape, cache=None):
        T = tokens.size(1)
        start = cache[0]["k"].size(2) if cache and cache[0] else 0
        positions = torch.arange(start, start + T)
        x = self.tok_emb(tokens) + self.pos_emb(positions)
        x = tape("embed", self.drop(x))
        for i, layer in enumerate(self.layers):
            x = layer(x, tape.at(f"layers.{i}"), cache[i] if cache is not None else None)
        x = tape("norm", self.norm(x))
        return self.head(x)

    def load(self, weights):
        """Copy GPT-2's checkpoint, whose matrices are (in, out), into this model."""
        own = self.state_dict()
        own["tok_emb.weight"] = weights["wte.weight"]
        own["pos_emb.weight"] = weights["wpe.weight"]
        own["norm.weight"], own["norm.bias"] = weights["ln_f.weight"], weights["ln_f.bias"]
        own["head.weight"] = weights.get("lm_head.weight", weights["wte.weight"])
        for i in range(self.cfg["n_layer"]):
            theirs, mine = f"h.{i}.", f"layers.{i}."
            for kind in ("weight", "bias"):
                qkv = weights[theirs + "attn.c_attn." + kind]
                q, k, v = qkv.chunk(3, dim=-1)
                own[mine + "attn.q_proj." + kind] = q.t() if q.ndim == 2 else q
                own[mine + "attn.k_proj." + kind] = k.t() if k.ndim == 2 else k
                own[mine + "attn.v_proj." + kind] = v.t() if v.ndim == 2 else v
                own[mine + "norm1." + kind] = weights[theirs + "ln_1." + kind]
                own[mine + "norm2." + kind] = weights[theirs + "ln_2." + kind]
            own[mine + "attn.out_proj.weight"] = weights[theirs + "attn.c_proj.weight"].t()
            own[mine + "attn.out_proj.bias"] = weights[theirs + "attn.c_proj.bias"]
            own[mine + "ffn.fc1.weight"] = weights[theirs + "mlp.c_fc.weight"].t()
            own[mine + "ffn.fc1.bias"] = weights[theirs + "mlp.c_fc.bias"]
            own[mine + "ffn.fc2.weight"] = weights[theirs + "mlp.c_proj.weight"].t()
            own[mine + "ffn.fc2.bias"] = weights[theirs + "mlp.c_proj.bias"]
        self.load_state_dict(own)


class Tape:
    """The activations by name, with their gradients after the backward pass."""

    def __init__(self, found=None, prefix=""):
        self.found, self.prefix = found, prefix

    def __call__(self, name, x):
        if self.found is not None:
            x.retain_grad()
            self.found[self.prefix + name] = x
        return x

    def at(self, name):
        return Tape(self.found, f"{self.prefix}{name}.")


SILENT = Tape()


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def make_optimizer(model, settings):
    return torch.optim.AdamW(
        model.parameters(),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )


def train_step(model, optimizer, tokens, targets, settings):
    """One step on the whole batch, in micro-batches whose losses weigh as many targets as each."""
    counted = (targets != -100).sum()
    optimizer.zero_grad()
    parts = settings["accumulation"]
    for part, wanted in zip(tokens.tensor_split(parts), targets.tensor_split(parts), strict=True):
        weight = (wanted != -100).sum() / counted
        loss = loss_of(model(part, SILENT), wanted)
        (loss * weight).backward()
    if settings["grad_clip"]:
        nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
    optimizer.step()


def run(probe, kinds=files.KINDS, dtype="float32"):
    """Return the dump: everything that was computed for the probe, by this port's own names."""
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    settings = probe.settings
    model = LanguageModel({**probe.config, "dropout": settings["dropout"]})
    model.load({name: torch.tensor(w.astype(dtype)) for name, w in probe.weights.items()})
    tokens, targets = torch.tensor(probe.tokens), torch.tensor(probe.targets)
    dump = {"tokens": tokens, "targets": targets}
    dump |= {f"param/{name}": p.detach().clone() for name, p in model.named_parameters()}

    model.train()
    found = {}
    logits = model(tokens, Tape(found))
    logits.retain_grad()
    loss = loss_of(logits, targets)
    loss.backward()
    dump |= {"loss": loss, "logits": logits, "dact/logits": logits.grad}
    dump |= {f"act/{name}": x for name, x in found.items()}
    dump |= {f"dact/{name}": x.grad for name, x in found.items() if x.grad is not None}
    dump |= {f"grad/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    dump |= {f"mask/{name}": m.mask for name, m in model.named_modules()
             if isinstance(m, Dropout) and m.mask is not None}  # fmt: skip
    dump = {name: x.detach().clone() for name, x in dump.items()}

    if "logits_again" in kinds or "cached_logits" in kinds:
        model.eval()
        with torch.no_grad():
            if settings["dropout"]:  # the logits above are of training
                dump["logits"] = model(tokens, SILENT)
            dump["logits_again"] = model(tokens, SILENT)
            cache = [{} for _ in model.layers]
            steps = [model(tokens[:, t : t + 1], SILENT, cache) for t in range(tokens.size(1))]
            dump["cached_logits"] = torch.cat(steps, dim=1)
    if "after" in kinds:
        model.train()
        model.zero_grad()
        optimizer = make_optimizer(model, settings)
        for step in range(1, settings["steps"] + 1):
            train_step(model, optimizer, tokens, targets, settings)
            for name, p in model.named_parameters():
                dump[f"after{step}/{name}"] = p.detach().clone()
    torch.set_default_dtype(torch.float32)
    arrays = {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy()
              for name, x in dump.items()}  # fmt: skip
    return files.keep(arrays, kinds, probe)


if __name__ == "__main__":
    files.main("torch_port")
