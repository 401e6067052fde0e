"""The model card of an exported directory: README.md, whose YAML head the hub reads."""

from npgpt import __version__
from npgpt.config import Config
from npgpt.data.tokenizer import Tokenizer
from npgpt.model import params

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- npgpt
---

# A GPT-2 of {size:,} parameters

Exported by npgpt {version}.

| | |
|---|---|
| layers | {config.n_layer} |
| heads | {config.n_head} |
| width | {config.n_embd} |
| context length | {config.context_length:,} tokens |
| vocabulary | {config.vocab_size:,} tokens |
| output head | {head} |
| numbers | {dtype} |
| tokenizer | {tokenizer} |

```python
from transformers import pipeline

generate = pipeline("text-generation", "FOLDER")  # the directory of this file
print(generate("Every effort moves you", do_sample=False, max_new_tokens=16))
```

The files do not record the training data, the license or the limits of the model. Add them before
you publish it.
"""
TOKENIZERS = {
    "gpt2": "GPT-2's byte-pair encoding",
    "byte": "one token per byte",
}


def model_card(config: Config, found: Tokenizer | None, *, dtype: str) -> str:
    """Return the text of a model card. It names no path: the card may be published."""
    tokenizer = "its own" if found is None else TOKENIZERS.get(str(found), "its own")
    return CARD.format(
        version=__version__,
        size=params.size(config),
        config=config,
        head="tied to the token embedding" if config.tied else "a matrix of its own",
        dtype=dtype,
        tokenizer="not included" if found is None else tokenizer,
    )
