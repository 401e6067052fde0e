"""Run transformers on folders of weights in a process of its own: it is slow to import, and warns.

from parity_tests.support.run_transformers import ask
ask([["save", "folder", {"n_layer": 2}], ["run", "folder", "tokens.npy", "found.npz"]])
"""

import importlib.util
import json
import os

import numpy as np

from parity_tests.support.library_process import LibraryProcess, answer

ask = LibraryProcess(__file__, {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}).ask


def available() -> bool:
    """Return True if transformers is installed."""
    return importlib.util.find_spec("transformers") is not None


def save(folder, config, dtype="float32", bare=False, shard="5GB"):
    """Save a new model, none of its numbers 0 or 1.

    bare: without its output head, and so without "transformer." before the names. shard: the
    largest size of a file.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**config))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(float(".ln_" in name and "weight" in name), 0.2)
    model.to(getattr(torch, dtype))
    (model.transformer if bare else model).save_pretrained(folder, max_shard_size=shard)


def run(folder, tokens, found):
    """Compute logits, loss and gradients of (2, B, T) tokens and targets, in float32 and float64.

    Written into the .npz `found` as "float32 logits", "float32 loss", "float32 wte.weight", ...
    """
    import torch
    from transformers import GPT2LMHeadModel

    inputs, targets = torch.tensor(np.load(tokens))
    out = {}
    for dtype in (torch.float32, torch.float64):
        model, about = GPT2LMHeadModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        unknown = about.pop("unexpected_keys")
        assert all(name.endswith(".masked_bias") for name in unknown), unknown
        assert not any(about.values()), about
        model = model.to(dtype).eval()
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        arrays = {"logits": logits, "loss": loss} | {
            name.removeprefix("transformer."): p.grad for name, p in model.named_parameters()
        }
        word = str(dtype).removeprefix("torch.")
        out |= {f"{word} {name}": array.detach().numpy() for name, array in arrays.items()}
    np.savez(found, **out)


def save_tied(folder, config):
    """Save a new model with safetensors' save_model, which writes tied matrices once."""
    import torch
    from safetensors.torch import save_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**config))
    model.config.save_pretrained(folder)
    save_model(model, os.path.join(folder, "model.safetensors"))


def read(folder, found):
    """Write the parameters of a model, and the names of the tensors that are not used."""
    from transformers import GPT2LMHeadModel

    model, about = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    unexpected = sorted(about.pop("unexpected_keys"))
    assert not any(about.values()), about
    arrays = {n.removeprefix("transformer."): p for n, p in model.named_parameters()}
    arrays = {name: array.detach().numpy() for name, array in arrays.items()}
    np.savez(found, unexpected=np.array(unexpected, str), **arrays)


def encode(folder, texts, found):
    """Write the ids of texts, and the texts of these ids, as AutoTokenizer of a folder has them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    decoded = [tokenizer.decode(one, clean_up_tokenization_spaces=False) for one in ids]
    with open(found, "w") as opened:
        json.dump({"ids": ids, "texts": decoded, "eos": tokenizer.eos_token_id}, opened)


def generate(folder, prompt, count, found):
    """Write the text of a pipeline, greedily, and of one without a length."""
    from transformers import pipeline

    pipe = pipeline("text-generation", folder, trust_remote_code=False)
    said = pipe(prompt, do_sample=False, max_new_tokens=count), pipe(prompt, do_sample=False)
    with open(found, "w") as opened:
        json.dump([one[0]["generated_text"] for one in said], opened)


def defaults(file):
    """Write the values that a GPT-2's config.json may leave out."""
    from transformers import GPT2Config

    with open(file, "w") as opened:
        json.dump(GPT2Config().to_dict(), opened)


def continue_(folder, prompt, cases, found):
    """Call `generate` once for each case of options. Written into the JSON file `found`: the new
    ids, and the scores of the sequences (beams), or of all tokens in each step.
    """
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(1)
    model, out = GPT2LMHeadModel.from_pretrained(folder).eval(), []
    for case in cases:
        if "sequence_bias" in case:  # keys are tuples, which JSON does not have
            case["sequence_bias"] = {(int(id),): x for id, x in case["sequence_bias"].items()}
        made = model.generate(
            torch.tensor([prompt]), return_dict_in_generate=True, output_scores=True, **case
        )
        beams = getattr(made, "sequences_scores", None)
        scores = torch.cat(made.scores) if beams is None else beams
        out.append([made.sequences[:, len(prompt) :].tolist(), scores.tolist()])
    with open(found, "w") as file:
        json.dump(out, file)


if __name__ == "__main__":
    answer(save, save_tied, run, read, encode, generate, continue_, defaults)
