"""llama.cpp, through llama-cpp-python, generating from a GGUF file (written by gguf.py)."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import llama_cpp as llama
import numpy as np

from npgpt.weights.huggingface import read_huggingface

UBATCH = 512  # tokens of a prompt that are multiplied at once: llama.cpp's default


class LlamaCpp:
    """A GGUF file's model, with llama.cpp's own cache of float16 numbers."""

    def __init__(self, path: Path, threads: int, weights: str):
        warnings.simplefilter("ignore", ResourceWarning)  # it opens /dev/null and leaves it so
        self.threads, self.version = threads, llama.__version__
        self.settings = "cache float16, all sequences in one batch"
        self.config = read_huggingface(path / "model").config
        self.silent = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self.silent, None)
        llama.llama_backend_init()
        file = path / "model.gguf"
        self.model = llama.llama_model_load_from_file(
            str(file).encode(), llama.llama_model_default_params()
        )
        if not self.model:
            sys.exit(f"llama.cpp does not read {file}")
        self.contexts = {}

    def start(self, rows: int) -> None:
        """Take an empty context for `rows` sequences."""
        if rows not in self.contexts:
            settings = llama.llama_context_default_params()
            length = self.config.context_length
            settings.n_ctx = length if rows == 1 else rows * length // 4
            settings.n_seq_max, settings.kv_unified = rows, False
            settings.n_batch, settings.n_ubatch = rows * length, UBATCH
            settings.n_threads = settings.n_threads_batch = self.threads
            self.contexts[rows] = llama.llama_init_from_model(self.model, settings)
            if not self.contexts[rows]:
                sys.exit(f"llama.cpp makes no context for {rows} sequences")
        self.context, self.read = self.contexts[rows], 0
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def next_logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) -> (B, V), of the next token of each sequence"""
        B, T = tokens.shape
        batch = llama.llama_batch_init(tokens.size, 0, 1)
        batch.n_tokens = tokens.size
        for i, token in enumerate(tokens.ravel().tolist()):
            row, position = divmod(i, T)
            batch.token[i], batch.pos[i] = token, self.read + position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            batch.logits[i] = position == T - 1
        failed = llama.llama_decode(self.context, batch)
        llama.llama_batch_free(batch)
        if failed:
            sys.exit(f"llama.cpp did not read the tokens: {failed}")
        self.read += T
        logits = llama.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (B, self.config.vocab_size))

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        self.start(1)
        given = prompt[None], *forced[:, None, None]
        return np.concatenate([self.next_logits(tokens).copy() for tokens in given])

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        self.start(len(tokens))
        made = []
        for _ in range(count):
            tokens = self.next_logits(tokens).argmax(axis=1, keepdims=True)
            made.append(tokens)
            after()
        return np.concatenate(made, axis=1)
