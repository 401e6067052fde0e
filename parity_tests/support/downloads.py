"""Contents and digests that the download tests serve and expect."""

import json

import pytest

from npgpt.download.http import Digest
from parity_tests.support.file_server import CONTENT, SHA256

KNOWN = {"sha256": {"digest": Digest("sha256", SHA256)}, "size": {"size": len(CONTENT)},
         "nothing": {}}  # fmt: skip


def interrupted(large, *plan, error=KeyboardInterrupt, **known):
    """Interrupt a download after 100,000 bytes; return the Range that must be requested next."""
    received = []

    def interrupt(done, total):
        received.append(done)
        if done >= 100_000:
            raise error

    with pytest.raises(error):
        large(*plan, progress=interrupt, **known)
    return f"bytes={received[-1]}-"


# GPT-2

SMALL = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
CHECKPOINT = {
    "model.ckpt.data-00000-of-00001": CONTENT,
    "model.ckpt.index": b"index" * 100,
    "checkpoint": b'model_checkpoint_path: "model.ckpt"\n',
    "hparams.json": json.dumps(SMALL).encode(),
}
HUB = {
    "model.safetensors": CONTENT,
    "config.json": json.dumps({**SMALL, "architectures": ["GPT2LMHeadModel"]}).encode(),
}
