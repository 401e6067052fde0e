"""Mistakes in the key/value cache. They show in logits of tokens that are fed one by one."""

from npgpt.parity.mistakes.mistake import Page

HIDDEN = "npgpt.model.transformer:hidden"
EMBEDDING = "npgpt.ops.embedding:forward"
ATTENTION = "npgpt.ops.attention:forward"
CACHED = "npgpt.parity.steps:cached_logits"
APPEND = "npgpt.model.kv_cache:LayerCache.append"

page = Page("docs/backprop/cache.md")
wrong = page.add

START = "start = past[0].length if past else 0"
RESULT = "return self.k[:, :, : self.length], self.v[:, :, : self.length]"

wrong(
    "cache",
    "cache-position-not-advanced",
    "with a cache, every new token has position 0",
    (HIDDEN, START, "start = 0"),
    seen=("ml-explore/mlx-lm#93",),
)
wrong(
    "cache",
    "cache-position-one-ahead",
    "with a cache, positions are one too large",
    (HIDDEN, START, "start = past[0].length + 1 if past else 0"),
)
wrong(
    "cache",
    "cache-position-one-behind",
    "with a cache, positions are one too small",
    (HIDDEN, START, "start = max(0, past[0].length - 1) if past else 0"),
)
wrong(
    "cache",
    "cache-position-missing",
    "a single token has no position embedding",
    (EMBEDDING, "p.wpe[start : start + T]", "(p.wpe[start : start + T] if T > 1 else 0)"),
    seen=("ml-explore/mlx-lm#93",),
)
wrong(
    "cache",
    "cache-not-appended",
    "a new token attends to itself alone: keys and values are not cached",
    (APPEND, RESULT, "return k, v"),
)
wrong(
    "cache",
    "cache-keys-and-values-exchanged",
    "cached keys and values are exchanged",
    (APPEND, RESULT, "return self.v[:, :, : self.length], self.k[:, :, : self.length]"),
)
wrong(
    "cache",
    "cache-mask-of-first-rows",
    "with a cache, the mask is that of the first positions: a new token sees the first one alone",
    (ATTENTION, "np.tri(T, S, S - T, dtype=bool)", "np.tri(T, S, dtype=bool)"),
    twins=("cache-values-stale",),
    seen=("rasbt/LLMs-from-scratch#1048",),
)
wrong(
    "cache",
    "cache-without-own-position",
    "a new token attends to the cached ones, but not to itself",
    (APPEND, RESULT, "end = max(1, start)\n        return self.k[:, :, :end], self.v[:, :, :end]"),
)
wrong(
    "cache",
    "cache-keys-stale",
    "cached values are of the new tokens, and the keys of the first one",
    (APPEND, "self.k[:, :, start : self.length] = k",
     "self.k[:, :, start : self.length] = k if start == 0 else self.k[:, :, :1]"),
)  # fmt: skip
wrong(
    "cache",
    "cache-values-stale",
    "cached keys are of the new tokens, and the values of the first one",
    (APPEND, "self.v[:, :, start : self.length] = v",
     "self.v[:, :, start : self.length] = v if start == 0 else self.v[:, :, :1]"),
    twins=("cache-mask-of-first-rows",),
)  # fmt: skip
wrong(
    "cache",
    "cache-of-one-row",
    "all sequences of the batch use the cache of the first one",
    (APPEND, RESULT,
     "first = np.zeros(len(k), int)\n"
     "        return self.k[first, :, : self.length], self.v[first, :, : self.length]"),
)  # fmt: skip
wrong(
    "cache",
    "cache-of-last-token",
    "the cache keeps keys and values of the last token only, and the next position is always 1",
    (HIDDEN, START, "start = min(1, past[0].length) if past else 0"),
    (APPEND, RESULT,
     "first = max(0, start - 1)\n"
     "        return self.k[:, :, first : self.length], self.v[:, :, first : self.length]"),
)  # fmt: skip
for name, says, slots in (
    ("cache-empty-slots", "a new token attends to the slots of later ones too, which hold 0",
     "tokens.shape[1]"),
    ("cache-empty-slots-of-context",
     "a new token attends to all slots of the context, of which the empty ones hold 0",
     "config.context_length"),
):  # fmt: skip
    wrong(
        "cache",
        name,
        says,
        (CACHED, "one_by_one =", f"""for layer in past:
        layer.k[:], layer.v[:], layer.backend_state = 0, 0, {slots}
    one_by_one ="""),
        (APPEND, RESULT,
         "slots = self.backend_state\n        return self.k[:, :, :slots], self.v[:, :, :slots]"),
    )  # fmt: skip
wrong(
    "cache",
    "cache-shared-by-layers",
    "all layers write to and read from one cache",
    (CACHED, "one_by_one =", """for layer in past:
        layer.k, layer.v = past[0].k, past[0].v
    one_by_one ="""),
)  # fmt: skip
wrong(
    "cache",
    "cache-of-all-layers",
    "all layers append to one cache ([[]] * n_layer): a layer attends to the others' keys too",
    (HIDDEN, START, "start = past[0].length // len(past) if past else 0"),
    (CACHED, "one_by_one =", """past[0].max_length *= len(past)
    past = past[:1] * len(past)
    one_by_one ="""),
)  # fmt: skip
NEW = "self.k[:, :, start : self.length] = k"
for name, says, old in (
    ("keys-stored-as-values", "keys are stored in the place of values, once the new one is read",
     "self.v[:, :, :start] = self.k[:, :, :start]"),
    ("values-stored-as-keys", "values are stored in the place of keys, once the new one is read",
     "self.k[:, :, :start] = self.v[:, :, :start]"),
    ("exchanged-at-each-token", "keys and values are stored in exchanged places, at each token",
     "old = self.k[:, :, :start].copy(), self.v[:, :, :start].copy()\n"
     "        self.v[:, :, :start], self.k[:, :, :start] = old"),
):  # fmt: skip
    wrong("cache", f"cache-{name}", says, (APPEND, NEW, f"{old}\n        {NEW}"))
for name, says, right, text in (
    ("values-are-keys", "keys are stored as values too, and values nowhere",
     "self.v[:, :, start : self.length] = v", "self.v[:, :, start : self.length] = k"),
    ("keys-are-values", "values are stored as keys too, and keys nowhere", NEW,
     NEW.replace("= k", "= v")),
):  # fmt: skip
    wrong("cache", f"cache-{name}", says, (APPEND, right, text))
for number, says in ((2, "two"), (3, "three"), (4, "four"), (8, "eight")):
    wrong(
        "cache",
        f"cache-of-{number}-tokens",
        f"a new token attends to the last {says} alone",
        (APPEND, RESULT,
         f"first = max(0, self.length - {number})\n"
         "        return self.k[:, :, first : self.length], self.v[:, :, first : self.length]"),
    )  # fmt: skip
wrong(
    "cache",
    "cache-in-reverse-order",
    "new keys and values are put before the cached ones, and cached values behind",
    (APPEND, RESULT,
     "return self.k[:, :, : self.length][:, :, ::-1], self.v[:, :, : self.length]"),
)  # fmt: skip
wrong(
    "cache",
    "cache-scores-not-scaled",
    "with a cache, scores are not divided by sqrt(D)",
    (ATTENTION, " * D**-0.5", " * (D**-0.5 if past is None else 1)"),
)
wrong(
    "cache",
    "cache-last-token-twice",
    "a new token attends to itself twice: as a cached one and as the new one",
    (APPEND, RESULT, "every = [*range(self.length), start]\n"
     "        return self.k[:, :, every], self.v[:, :, every]"),
)  # fmt: skip
wrong(
    "cache",
    "cache-without-first-token",
    "the first token is overwritten in the cache by the second",
    (APPEND, RESULT, "first = min(1, start)\n"
     "        return self.k[:, :, first : self.length], self.v[:, :, first : self.length]"),
)  # fmt: skip
ALL_ROWS = """rows = []
    past = kv_cache.empty_cache(1, config, p.wte.weight.dtype)
    for layer in past:
        layer.max_length, layer.backend_state = tokens.size, tokens.shape[1]
    for row in tokens:
        rows.append([model.logits(p, one[None, None], config, past=past, ops=ops)[0, 0]
                     for one in row])
    return np.array(rows)
    one_by_one ="""
TWICE = """for layer in past:
        layer.max_length, layer.backend_state = 2 * layer.max_length, tokens.shape[1]
    for token in np.split(tokens, tokens.shape[1], axis=1):
        model.logits(p, token, config, past=past, ops=ops)
    one_by_one ="""
FROM_0 = (HIDDEN, START, "start = past[0].length % past[0].backend_state if past else 0")
for name, says, text in (
    ("cache-not-emptied-between-rows", "the cache is not emptied between sequences: a later one "
     "attends to those before", ALL_ROWS),
    ("cache-not-emptied-between-runs", "the cache is not emptied before decoding: it holds the "
     "same tokens from a run before", TWICE),
):  # fmt: skip
    wrong("cache", name, says, (CACHED, "one_by_one =", text), FROM_0)
