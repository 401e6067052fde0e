"""npgpt serve."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

from npgpt.cli.common import (
    CacheDtype,
    ModelPath,
    OptionalTokenizer,
    OptionalWeights,
    announce_compilation,
    default,
    load,
    load_speculation,
    model_path,
    needs_extra,
)
from npgpt.errors import InputError
from npgpt.system.terminal import printable_line

KEY = "NPGPT_API_KEY"


@dataclass(kw_only=True)
class Serve:
    """Serve a model by OpenAI's completions protocol, to any number of clients at once.

    POST /v1/completions and GET /v1/models, as the openai package sends them. If the environment
    variable NPGPT_API_KEY is set, clients must send it as their API key. Ctrl-C ends the server.

    Parameters
    ----------
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    weights
        Storage type of the weight matrices. bfloat16 and int8 are faster to read and less exact.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    name
        Name of the model, which clients send as "model".
    host
        Address to listen on. 0.0.0.0 lets other machines in: then set NPGPT_API_KEY.
    port
        Port to listen on.
    batch_size
        Number of texts that are continued together. Further ones wait.
    speculate
        While one text is continued alone, verify several tokens in one pass: those that followed
        when the last few tokens occurred before in it. No text changes.
    draft
        Verify instead the tokens that this smaller model proposes. Its tokenizer must be the same.
    cache_dtype
        Storage type of keys and values. bfloat16 takes half of the memory, and is less exact.
    """

    model: ModelPath = None
    weights: OptionalWeights = None
    tokenizer: OptionalTokenizer = None
    name: Annotated[Optional[str], default("the last part of the model's path", "TEXT")] = None  # noqa: UP045
    host: str = "127.0.0.1"
    port: int = 8000
    batch_size: int = 32
    speculate: bool = False
    draft: Annotated[Optional[Path], default("the text itself", "MODEL")] = None  # noqa: UP045
    cache_dtype: CacheDtype = "float32"

    def run(self) -> int:
        """Serve until Ctrl-C; return the exit status."""
        with needs_extra("serve"):
            from npgpt.serve import server
        from npgpt.model import quantize
        from npgpt.performance import precompile

        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, but must be at least 1")
        path = model_path(self.model)
        model, tokenizer = load(path, self.weights, self.tokenizer)
        speculation = load_speculation(self.speculate, self.draft, model, self.weights)
        listening = server.bind(self.host, self.port)
        with announce_compilation():
            kind = quantize.kind_of(model.params)
            precompile.compile_kernels("batches", kind, cache_dtype=self.cache_dtype)
            local = self.host in server.LOOPBACK
            key = os.environ.get(KEY) or None
            name = self.name or (path.parent if path.name == "checkpoint.h5" else path).name
            service = server.Service(
                model, tokenizer, name, size=self.batch_size, key=key, local_only=local,
                speculate=speculation, cache_dtype=self.cache_dtype,
            )  # fmt: skip
            if not local and key is None:
                print(f"Anyone who reaches {self.host} may use the model: set {KEY}",
                      file=sys.stderr)  # fmt: skip
            host = f"[{self.host}]" if ":" in self.host else self.host
            address = f"http://{host}:{listening.getsockname()[1]}/v1"
            print(printable_line(f"{name} is served at {address} (Ctrl-C ends it)"), flush=True)
            with suppress(KeyboardInterrupt):
                server.serve(service, listening)
        return 0
