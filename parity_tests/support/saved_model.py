"""A small model in a file."""

import npgpt

CONFIG = npgpt.Config(vocab_size=257, context_length=12, n_layer=2, n_head=2, n_embd=6)


def saved(path, change=None, **changes):
    """Return a model of one seed, of which `change` may change parameters before it is saved."""
    config = npgpt.Config(**vars(CONFIG) | changes)
    model = npgpt.GPT(config, seed=7, tokenizer="byte", scheme="book")
    if change is not None:
        change(model.params)
    model.save(path)
    return model
