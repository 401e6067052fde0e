"""Chapter 6 with random weights: the reference's program prints the same losses and accuracies."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError, WeightFileError
from npgpt.finetuning.classification import Accuracy, Classification, last_block
from npgpt.finetuning.classifier import Classifier, cross_entropy
from npgpt.finetuning.labelled_texts import Example, LabelledTexts, encode_splits, split
from npgpt.finetuning.loop import Evaluation, Settings
from npgpt.model import lora, params, trainable, transformer
from npgpt.weights import classifier_file
from parity_tests.support.harness import parameters
from reference import finetuning, gpt2
from reference import lora as theirs_lora

CONFIG = npgpt.Config(vocab_size=257, context_length=24, n_layer=2, n_head=2, n_embd=16)
HAM = "see you at noon", "ok", "on my way home", "call me later", "what is for lunch"
SPAM = "WIN a prize now", "FREE ringtone", "claim your 1000 pounds", "urgent! reply", "txt STOP"
RUN = dict(epochs=2, eval_every=3, eval_batches=2, batch_size=4, lr=3e-3)


def texts(count=21):
    found = [Example(f"{HAM[i % 5]} {i * i}", 0) for i in range(count)]
    return LabelledTexts(
        ("ham", "spam"), found + [Example(f"{SPAM[i % 5]} {i}", 1) for i in range(count)]
    )


@pytest.fixture
def model(rng):
    tree = params.zeros(CONFIG)
    for name, array in parameters(CONFIG, rng, np.float32).items():
        dict(npgpt.named(tree))[name][...] = array
    return npgpt.GPT.from_params(CONFIG, tree, ops=ops, tokenizer="byte")


def theirs(model, patterns, position):
    """The chapter's program in PyTorch: what it logs, and the classifier's parameters by name."""
    byte = npgpt.tokenizer("byte")
    encoded = encode_splits(split(texts().examples), byte, pad_id=256, max_length=24)
    arrays = {name: array.copy() for name, array in npgpt.named(lora.without(model.params))}
    reference = gpt2.from_arrays(gpt2.Config(**asdict(CONFIG)), arrays).requires_grad_(False)
    if adapters := model.adapters:
        theirs_lora.adapt(reference, adapters.rank, adapters.scale * adapters.rank, adapters.layers)
        copies = {name: torch.tensor(array) for name, array in npgpt.named(model.params)}
        reference.load_state_dict(copies)
    torch.manual_seed(123)
    classifier = finetuning.Classifier(reference, 2)
    head = classifier.head.weight.detach().numpy().copy()
    chosen = {} if patterns == ("lm_head",) else trainable.names_of(model.params, patterns)
    for name, parameter in reference.named_parameters():
        parameter.requires_grad_(name in chosen)
    loaders = []
    for i, one in enumerate(encoded):
        ends = one.lengths - 1
        if position == "last":
            ends = np.full_like(ends, one.tokens.shape[1] - 1)
        tensors = map(torch.from_numpy, (one.tokens, ends, one.labels))
        loaders.append(finetuning.make_loader(tuple(tensors), RUN["batch_size"], training=i == 0))
    torch.manual_seed(123)
    before = [finetuning.accuracy(classifier, one, 4) for one in loaders]
    before += [finetuning.mean_loss(classifier, one, 2) for one in loaders]
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RUN["lr"], weight_decay=0.1)
    run = {k: RUN[k] for k in ("epochs", "eval_every", "eval_batches")}
    log = [*finetuning.train(classifier, *loaders[:2], optimizer, **run)]
    final = [finetuning.accuracy(classifier, one) for one in loaders]
    found = {name: p.detach().numpy() for name, p in reference.named_parameters()}
    weight, bias = (p.detach().numpy() for p in classifier.head.parameters())
    return head, before, log, final, found | {"lm_head.weight": weight.T, "lm_head.bias": bias}


def printed(pairs):
    """Losses and accuracies as the chapter prints them."""
    return [f"{100 * a:.2f} {a:.3f} {100 * b:.2f} {b:.3f}" for a, b in pairs]


@pytest.mark.parametrize(
    "position, patterns",
    [
        ("last", ("h.1", "ln_f")),
        ("last-token", ("*",)),
        ("last", ("h.1.attn", "wpe", "h.0.mlp.c_fc.bias")),
        ("last", ("lm_head",)),
        ("last-token", lora.TRAINABLE),
    ],
)
def test_the_log_is_the_references(model, position, patterns):
    if patterns == lora.TRAINABLE:
        model.add_lora(2, 4.0, ("attn",))
    head, before, log, final, parameters = theirs(model, patterns, position)
    frozen = {name: array.copy() for name, array in npgpt.named(model.params)}
    run = Classification(model, texts(), Settings(**RUN, trainable=patterns), position)
    tree = run.classifier.params
    assert (tree.lm_head.weight == head.T).all(), "the head's first numbers"
    accuracies, losses = run.measure()
    assert accuracies == before[:3]
    assert np.allclose(losses, before[3:], rtol=0, atol=2e-6)
    events = [e for e in run.events() if isinstance(e, Evaluation | Accuracy)]
    ours = [tuple(vars(event).values())[-2:] for event in events]
    assert printed(ours) == printed(log) and len(log) == 5 + 2
    assert [run.accuracy(one, run.rng) for one in run.batches] == final
    chosen = trainable.names_of(tree, [*patterns, "lm_head"])
    for name, array in npgpt.named(tree):
        if name in chosen:
            change = array - parameters[name]
            if name.endswith("c_attn.bias"):  # a key's bias has no gradient but rounding
                change = np.delete(change, np.s_[16:32])
            assert np.abs(change).max() < 2e-4, name
        else:
            assert (array == frozen[name]).all(), f"{name} is frozen"
    assert run.trained == sum(parameters[name].size for name in chosen)


def test_the_head_of_gpt2_small_is_the_books():
    """torch.nn.Linear(768, 2) after manual_seed(123)."""
    config = npgpt.Config(vocab_size=9, context_length=2, n_layer=1, n_head=1, n_embd=768)
    model = npgpt.GPT.from_params(config, params.zeros(config), ops=ops)
    settings = classifier_file.HeadSettings(("ham", "spam"), "last", 2, 0)
    head = Classifier.start(model, settings, npgpt.Generator(123, ops=ops)).params.lm_head
    torch.manual_seed(123)
    expected = torch.nn.Linear(768, 2)
    assert (head.weight.T == expected.weight.detach().numpy()).all()
    assert (head.bias == expected.bias.detach().numpy()).all()


def test_a_position_that_is_no_padding_does_not_depend_on_it(model):
    short, long = (classifier_file.HeadSettings(("a", "b"), "last-token", n, 256) for n in (6, 24))
    found = [
        Classifier.start(model, settings, npgpt.Generator(1, ops=ops)).classify(
            ["hello", "x", "y" * 6]
        )
        for settings in (short, long)
    ]
    for (label, chance), (other, again) in zip(*found, strict=True):
        assert label == other and abs(chance - again) < 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("patterns", [("*",), ("h.1.mlp",), ("h.1", "ln_f")])
def test_the_last_block_computes_the_classified_positions_alone(model, dropout, patterns):
    """Loss and gradients are those of all positions, with the same masks."""
    config = replace(CONFIG, dropout=dropout)
    model = npgpt.GPT.from_params(config, params.map_leaves(model.params, np.float64), ops=ops)
    settings = classifier_file.HeadSettings(("a", "b"), "last-token", 6, 256)
    classifier = Classifier.start(model, settings, npgpt.Generator(1, ops=ops))
    tree = classifier.params
    names = trainable.names_of(tree, [*patterns, "lm_head"])
    g, expected = (trainable.select(params.zeros_like(tree), names) for _ in range(2))
    tokens = np.arange(18).reshape(3, 6)
    lengths, labels, rows = np.array([2, 6, 4]), np.array([0, 1, 1]), np.arange(3)
    draw = npgpt.Generator(5, ops=ops)
    loss = classifier.loss_and_gradients(tokens, lengths, labels, g, draw.copy())

    x, cache = transformer.hidden_forward(tree, tokens, config, rng=draw, g=expected, ops=ops)
    logits, head = ops.linear.forward(x[rows, lengths - 1], tree.lm_head)
    right, dlogits = cross_entropy(logits, labels)
    dx = np.zeros_like(x)
    dx[rows, lengths - 1] = ops.linear.backward(dlogits, head, expected.lm_head)
    transformer.hidden_backward(dx, cache, expected, ops=ops)
    assert loss == pytest.approx(right, rel=1e-12)
    for (name, one), (_, other) in zip(npgpt.named(g), npgpt.named(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=name)
    _, cache = classifier.forward(tokens, lengths, g, draw)
    assert cache.hidden.h[1].c_fc.x.shape == (3, 16), "activations of three positions are kept"


def test_cross_entropy_of_large_logits():
    loss, dlogits = cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert loss == 5000 and dlogits.tolist() == [[0, 0], [-0.5, 0.5]]


def test_a_classifier_is_saved_and_loaded(model, tmp_path):
    settings = classifier_file.HeadSettings(("hàm", "spam"), "last", 12, 256)
    saved = Classifier.start(model, settings, npgpt.Generator(1, ops=ops))
    saved.save(tmp_path / "c.h5")
    found = Classifier.load(tmp_path / "c.h5", ops=ops)
    assert found.settings == settings
    assert found.classify([*HAM, *SPAM]) == saved.classify([*HAM, *SPAM])
    whole = npgpt.load(tmp_path / "c.h5", ops=ops)  # a checkpoint of the model, too
    for (name, array), (_, other) in zip(
        npgpt.named(whole.params), npgpt.named(model.params), strict=True
    ):
        assert (array == other).all(), name


@pytest.mark.parametrize(
    "change, says",
    [
        ({"labels": ("a",)}, r"labels are \['a'\], but must be different texts"),
        ({"labels": ("a", "a")}, "labels are"),
        ({"position": "first"}, "position is 'first', not one of"),
        ({"max_length": 25}, "max_length is 25, not in 1 to 24"),
        ({"pad_id": -1}, "pad_id is -1, not in 0 to 256"),
        ({"labels": ("a", "b", "c")}, r"classifier/weight must be float32 of shape \(16, 3\)"),
    ],
)
def test_a_classifier_that_is_not_valid(model, tmp_path, change, says):
    settings = classifier_file.HeadSettings(("a", "b"), "last", 12, 256)._replace(**change)
    head = classifier_file.Head(np.zeros((16, 2), np.float32), np.zeros(2, np.float32), settings)
    classifier_file.write(tmp_path / "c.h5", model, head)
    with pytest.raises(WeightFileError, match=says):
        Classifier.load(tmp_path / "c.h5")


def test_a_checkpoint_without_a_head(model, tmp_path):
    model.save(tmp_path / "c.h5")
    with pytest.raises(WeightFileError, match="has no classification head: npgpt classify writes"):
        Classifier.load(tmp_path / "c.h5")


def test_what_is_not_finite(model):
    settings = classifier_file.HeadSettings(("a", "b"), "last", 12, 256)
    classifier = Classifier.start(model, settings, npgpt.Generator(1, ops=ops))
    classifier.params.lm_head.bias[0] = np.nan
    with pytest.raises(RunError, match=r"lm_head\.bias holds nan"):
        classifier.classify(["x"])
    with pytest.raises(InputError, match="a text is empty"):
        classifier.classify(["x", ""])
    run = Classification(
        model, texts(), Settings(**RUN | {"lr": 1e30}, trainable=last_block(model))
    )
    with pytest.raises(RunError, match="the training loss became nan at step 0"):
        list(run.events())


@pytest.mark.parametrize(
    "change, says",
    [
        ({"epochs": 0}, "epochs is 0, but must be at least 1"),
        ({"lr": -1.0}, "lr is -1.0, but must be at least 0"),
        ({"max_length": 25}, "max_length is 25, but must be at most the model's 24"),
        ({"batch_size": 30}, "29 training examples are fewer than one batch of 30"),
        ({"trainable": ("h.7",)}, "the pattern 'h.7' matches no parameter"),
    ],
)
def test_settings_that_do_not_fit(model, change, says):
    with pytest.raises(InputError, match=says):
        Classification(model, texts(), Settings(**RUN | change))
