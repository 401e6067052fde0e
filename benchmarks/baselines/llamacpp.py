"""llama.cpp, through llama-cpp-python, generating from a GGUF file (written by gguf.py)."""

import subprocess
import sys
import warnings

import numpy as np

from npgpt.config import Config


class LlamaCpp:
    """A GGUF file's model. `next_logits` continues after the tokens since `restart`.

    Keys and values are float32. longest: the most tokens that one call of `next_logits` reads.
    """

    def __init__(self, path: str, threads: int, *, config: Config, longest: int):
        import llama_cpp

        warnings.simplefilter("ignore", ResourceWarning)  # it opens /dev/null and leaves it so
        self.llama, self.version = llama_cpp, llama_cpp.__version__
        self.vocab_size = config.vocab_size
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            sys.exit(f"llama.cpp does not read {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = config.context_length
        settings.n_batch = settings.n_ubatch = longest
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self.context = llama_cpp.llama_init_from_model(self.model, settings)

    def restart(self) -> None:
        """Drop the cached tokens."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def next_logits(self, tokens: np.ndarray) -> np.ndarray:
        """(1, T) -> the logits (V,) of the next token"""
        ids = (self.llama.llama_token * tokens.size)(*tokens.ravel().tolist())
        if self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(ids, tokens.size)):
            sys.exit("llama.cpp did not read the tokens")
        logits = self.llama.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.vocab_size,)).copy()

    def generate(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """(1, T) -> `count` new tokens (1, count), greedily"""
        self.restart()
        new = []
        for _ in range(count):
            tokens = self.next_logits(tokens).argmax(keepdims=True)
            new.append(tokens)
        return np.stack(new, axis=1)


def missing(python: str | None) -> str | None:
    """Return why llama.cpp is skipped with this interpreter, or None if it has llama-cpp-python."""
    if python is None:
        return "--llama-python names no interpreter"
    try:
        said = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, text=True)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return said.stderr.strip().splitlines()[-1] if said.returncode else None
