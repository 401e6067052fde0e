"""Hugging Face's transformers, generating with its key/value cache."""

import warnings

import numpy as np


class Transformers:
    """GPT2LMHeadModel from a folder. `next_logits` continues after the tokens since `restart`."""

    def __init__(self, path: str, threads: int):
        import torch
        import transformers

        warnings.simplefilter("ignore", FutureWarning)  # past_key_values is getting another name
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self.model = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
        self.tensor, self.version = torch.tensor, transformers.__version__

    def restart(self) -> None:
        """Drop the cached tokens."""
        self.kv_cache = None

    def next_logits(self, tokens: np.ndarray) -> np.ndarray:
        """(1, T) -> the logits (V,) of the next token"""
        given = dict(past_key_values=self.kv_cache, use_cache=True, logits_to_keep=1)
        made = self.model(self.tensor(tokens), **given)
        self.kv_cache = made.past_key_values
        return made.logits[0, -1].numpy()

    def generate(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        tokens = self.tensor(tokens)
        chosen = dict(max_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0)
        made = self.model.generate(tokens, attention_mask=tokens * 0 + 1, **chosen)
        return made[:, tokens.shape[1] :].numpy()
