"""Write small tokenizers with the `tokenizers` library, in the files that models have beside them.

bpe(text)                      a byte-level BPE like GPT-2's, trained on a text
write(folder, bpe(text))       tokenizer.json
write_pair(folder, bpe(text))  vocab.json and merges.txt
gpt2_files(folder)             GPT-2's own vocabulary and merges
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from npgpt.data import gpt2_bpe

END = "<|endoftext|>"


def bpe(text, vocab_size=300, *, end=END, special=()):
    """Return a byte-level BPE of `vocab_size` tokens. The end of a text is the first of them."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator([text], trainer)
    return found


def metaspace(text, vocab_size=80):
    """Return a BPE whose tokens depend on their neighbours, as SentencePiece's."""
    found = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + vocab_size, special_tokens=special, show_progress=False
    )
    found.train_from_iterator([text], trainer)
    return found


def small():
    """Return tokenizers of some 50 tokens, whose files have all kinds of parts."""
    text = "the lamp is lit at dusk, and the keeper writes the hour in the book " * 3
    plain, parts = tokenizers.Tokenizer(models.BPE()), tokenizers.Tokenizer(models.BPE())
    words = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    scores = tokenizers.Tokenizer(models.Unigram())
    for found in (plain, parts):
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = decoders.ByteLevel()
    parts.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex("a+"), "a")]
    )
    pattern = tokenizers.Regex(" ?[a-z]+|.")
    parts.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    scores.pre_tokenizer, scores.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    options = dict(vocab_size=50, show_progress=False)
    special = ["<unk>", END]
    for found in (plain, parts):
        found.train_from_iterator([text], trainers.BpeTrainer(special_tokens=[END], **options))
    words.train_from_iterator([text], trainers.WordPieceTrainer(special_tokens=special, **options))
    trainer = trainers.UnigramTrainer(special_tokens=special, unk_token="<unk>", **options)
    scores.train_from_iterator([text], trainer)
    return [plain, parts, words, scores, metaspace(text, 20)]


def write(folder, tokenizer, **config):
    """Write tokenizer.json, and tokenizer_config.json with the values in `config`, if any."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def write_pair(folder, tokenizer, *, names=("vocab.json", "merges.txt"), **config):
    """Write a vocabulary and its merges, as the files of older models."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / names[0]).write_text(json.dumps(model["vocab"]), "utf-8")
    (folder / names[1]).write_text("\n".join(lines), "utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def gpt2():
    """Return GPT-2's tokenizer as the library computes it, from the published merges."""
    lines = gpt2_bpe.download_merges().decode().split("\n")[1:-1]
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = [*gpt2_bpe.BYTE_OF, *map("".join, merges), END]
    found = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    return found
