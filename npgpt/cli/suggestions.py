"""Suggestions for mistyped commands and flags, and for those of other programs."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from npgpt.errors import InputError, show

COMMANDS_ELSEWHERE = {
    "finetune": "train --init-from MODEL",
    "sample": "generate",
    "eval": "evaluate",
    "convert": "export",
    "pretrain": "train",
    "prepare": "tokenize",
    "resume": "train --resume DIRECTORY",
    "benchmark": "profile",
    "help": "--help",
    "version": "--version",
}
# By the flag here: the names in transformers, nanoGPT, llm.c, lit-gpt and llama.cpp. A command has
# some of the flags: the first one that it has is suggested.
NAMES_ELSEWHERE = {
    "lr": "learning-rate max-lr",
    "min-lr": "learning-rate-min",
    "steps": "max-steps max-iters num-steps num-iterations iterations iters",
    "epochs": "epoch num-epochs num-train-epochs max-epochs n-epochs",
    "max-tokens": "num-tokens train-tokens",
    "max-new-tokens": "max-tokens max-length n-predict num-tokens",
    "batch-size": "per-device-train-batch-size train-batch-size micro-batch-size batch bs",
    "grad-accumulation": "gradient-accumulation-steps accumulation-steps grad-accum",
    "grad-clip": "max-grad-norm clip-grad gradient-clip-val gradient-clip",
    "context-length": "block-size seq-len seq-length sequence-length max-seq-len max-seq-length "
    "n-positions n-ctx context ctx-size",
    "n-layer": "num-layers num-hidden-layers layers n-layers depth",
    "n-head": "num-heads num-attention-heads heads n-heads",
    "n-embd": "d-model hidden-size embed-dim embd-dim n-embed n-embedding",
    "qkv-bias": "bias",
    "beta1": "adam-beta1",
    "beta2": "adam-beta2",
    "eps": "adam-epsilon epsilon",
    "warmup-steps": "warmup warmup-iters num-warmup-steps warmup-iterations",
    "optimizer": "optim",
    "dropout": "dropout-rate drop-rate",
    "eval-every": "eval-interval eval-steps eval-freq val-loss-every",
    "eval-batches": "eval-iters eval-iter val-max-steps",
    "checkpoint-every": "save-steps save-every save-interval checkpoint-interval",
    "sample-tokens": "genlength",
    "init-from": "pretrained model model-name-or-path finetune from-pretrained",
    "model": "checkpoint ckpt model-path init-from model-name-or-path",
    "out": "out-dir output-dir output run-dir to",
    "to": "out-dir output-dir output out",
    "data": "dataset train-file train-data input input-bin data-dir",
    "val-data": "validation-data val-file validation-file input-val-bin eval-data",
    "resume": "resume-from-checkpoint resume-from",
    "seed": "random-seed random-state",
    "dtype": "precision torch-dtype",
    "ops": "backend",
    "temperature": "temp",
    "num-samples": "num-return-sequences n-samples samples",
    "prompt": "start text",
    "workers": "num-workers num-proc nproc",
}
TEXTS = "--prompt", "--predict", "--stop"  # flags whose values may be empty


def check_command(arguments: Sequence[str], commands: Iterable[str]) -> None:
    """Raise InputError if the first argument is no command and does not ask for help."""
    first = next(iter(arguments), "--help")
    if first in ("-h", "--help", *commands):
        return
    if first.startswith("-"):
        raise InputError(f"unknown flag {show(first)}: flags follow a command. See npgpt --help")
    known = COMMANDS_ELSEWHERE.get(first.lower().replace("-", "").replace("_", ""))
    near = known or nearest(first, commands)
    advice = f"did you mean npgpt {near}?" if near else f"expected {', '.join(commands)}"
    raise InputError(f"unknown command {show(first)}: {advice}")


def check_flags_exist(arguments: Sequence[str], kind: type) -> None:
    """Raise InputError, with the nearest flag, if an argument is no flag of the command `kind`."""
    command, *rest = arguments
    names = {"help", *flag_names(kind)}
    for text in rest:
        flag = text.split("=")[0]
        name = flag[2:].replace("_", "-")
        if not flag.startswith("--") or {name, name.removeprefix("no-")} & {"", *names}:
            continue
        near = nearest(name.lower(), names)
        advice = f"did you mean --{near}?" if near else f"see npgpt {command} --help"
        raise InputError(f"unknown flag {show(flag)} of npgpt {command}: {advice}")


def check_not_empty(arguments: Sequence[str]) -> None:
    """Raise InputError for an empty argument that is no text: an empty path would be the working
    directory."""
    flag = ""
    for text in arguments:
        name, given, value = text.partition("=") if text.startswith("--") else ("", "", text)
        flag = name or flag
        if not value and (given or not name) and flag not in TEXTS:
            what = flag or "an argument"
            raise InputError(f"{what} is empty: give it a value. Is a variable of the shell unset?")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is called `name` elsewhere, or is spelled most like it."""
    import difflib

    names = list(names)
    for ours, elsewhere in NAMES_ELSEWHERE.items():
        if ours in names and name in elsewhere.split():
            return ours
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def flag_names(kind: type) -> Iterator[str]:
    """Yield the names of the flags of a command, without dashes in front."""
    for field in dataclasses.fields(kind):
        nested = next((t for t in get_args(field.type) or (field.type,) if is_class(t)), None)
        if nested is not None:
            yield from flag_names(nested)
        elif "Positional" not in str(field.type):
            yield field.name.replace("_", "-")


def is_class(kind: Any) -> bool:
    """Return True if this is a dataclass, whose fields are flags of their own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
