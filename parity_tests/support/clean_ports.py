"""Dumps of ports without a bug, none of which may raise an alarm.

    python -m parity_tests.support.clean_ports

The two ports of parity_tests/ports, as they are and with harmless edits; the PyTorch port through
npgpt.testing.capture; and GPT2LMHeadModel of transformers. float32 and float64, lively and initial
weights, and tied and untied heads.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from npgpt.model.params import named
from npgpt.parity import diagnosis, probe
from npgpt.parity.dump import Dump, make
from npgpt.parity.probe import Probe
from npgpt.testing import capture
from parity_tests.ports import bugs, files
from parity_tests.ports.odd_bugs import HARMLESS
from parity_tests.support.planted_bugs import GRADIENTS, files_of, probe_of

DTYPES = "float32", "float64"
TRAINING = {
    "accumulation": {"accumulation": 3},
    "dropout": {"dropout": 0.25},
    "no clipping": {"grad_clip": None, "decay": "all", "weight_decay": 0.0},
}


def probes() -> Iterator[tuple[str, Probe]]:
    """Yield probes with a title for each."""
    lively = probe_of("lively")
    yield "lively", lively
    yield "initial", probe_of("initial")
    yield "untied", probe.make(tied=False)
    yield "another seed", probe.make(5)
    for title, settings in TRAINING.items():
        yield title, replace(lively, settings=replace(lively.settings, **settings))


def dumps() -> Iterator[tuple[str, Probe, Dump]]:
    """Yield a title, the probe and the dump of every clean port."""
    for title, made in probes():
        kinds, few = files.KINDS, GRADIENTS
        if made.settings.dropout:  # each step has masks of its own, which are not dumped
            kinds, few = {*kinds} - {"after"}, {*few, "mask"}
        for dtype in DTYPES:
            for port in ("torch_port", "numpy_port"):
                found = bugs.plant(port).run(files_of(made), kinds, dtype)
                yield f"{port}, {title}, {dtype}", made, make(found)
                found = files.keep(found, few, files_of(made))
                yield f"{port}, {title}, {dtype}, loss and gradients", made, make(found)
    for edit in HARMLESS:
        made = probe_of("lively")
        for dtype in DTYPES:
            found = bugs.plant(edit.port, edit.name).run(files_of(made), dtype=dtype)
            yield f"{edit.port}, {edit.name}, {dtype}", made, make(found)
    for title, made in [*probes()][:3]:
        for dtype in DTYPES:
            yield f"torch_port, captured, {title}, {dtype}", made, of_capture(made, dtype)
            if importlib.util.find_spec("transformers"):
                yield f"transformers, {title}, {dtype}", made, of_transformers(made, dtype)


def of_capture(made: Probe, dtype: str) -> Dump:
    """Return the dump of the PyTorch port that npgpt.testing records."""
    import torch

    port = bugs.plant("torch_port")
    with torch_dtype(dtype):
        model = port.LanguageModel({**vars(made.config)})
        model.load({name: torch.tensor(w.astype(dtype)) for name, w in named(made.params)})
        tokens, targets = torch.tensor(made.tokens), torch.tensor(made.targets)
        with capture(model) as dump:
            loss = port.loss_of(model(tokens, port.SILENT), targets)
            loss.backward()
    return with_batch(dump, made, loss)


def of_transformers(made: Probe, dtype: str) -> Dump:
    """Return the dump of transformers' GPT-2 that npgpt.testing records."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    c = made.config
    config = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=c.tied, attn_implementation="eager",
    )  # fmt: skip
    weights = {name: torch.tensor(w.astype(dtype)) for name, w in named(made.params)}
    own = {name if name.startswith("lm_head") else f"transformer.{name}": w
           for name, w in weights.items()}  # fmt: skip
    with torch_dtype(dtype):
        model = GPT2LMHeadModel(config)
        model.load_state_dict(own, strict=not c.tied)
        model.tie_weights()
        with capture(model) as dump:
            logits = model(torch.tensor(made.tokens), use_cache=False).logits
            targets = torch.tensor(made.targets).flatten()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
            loss.backward()
    return with_batch(dump, made, loss)


def with_batch(dump: Dump, made: Probe, loss) -> Dump:
    """Return a captured dump with the batch and the loss."""
    batch = {"tokens": made.tokens, "targets": made.targets, "loss": loss.detach().numpy()}
    return replace(dump, tensors=dump.tensors | batch, meta={"n_head": made.config.n_head})


@contextlib.contextmanager
def torch_dtype(dtype: str):
    """Make new tensors of this dtype within the block."""
    import torch

    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def main():
    alarms = count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, made, dump in dumps():
            count += 1
            try:
                said = diagnosis.diagnose(dump, made)
            except Exception as error:
                alarms += 1
                print(f"{title:62} ERROR {type(error).__name__}: {error}")
                continue
            largest = max((one.factor for one in said.findings), default=np.nan)
            print(f"{title:62} {len(said.findings):4} compared, at most {largest:.2f} budgets"
                  f"{', unused ' + ' '.join(said.unused[:3]) if said.unused else ''}")  # fmt: skip
            if not said.agrees:
                alarms += 1
                print(f"    ALARM: {said.first_wrong}")
    print(f"{alarms} alarms in {count} clean ports")


if __name__ == "__main__":
    main()
