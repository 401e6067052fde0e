"""The pictures of docs/ops are drawn from formulas, and the formulas compute what the ops compute.

A graph of docs/graphs is run forward and backward in float64 and compared with npgpt/ops, output
and every gradient; then its picture is drawn again and compared byte for byte.
"""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from docs.graphs import network, ops
from docs.graphs.__main__ import GRAPHS, IMAGES
from docs.graphs.draw import draw
from docs.graphs.graph import Graph, Node, leaf
from npgpt import Config
from npgpt import ops as npgpt_ops
from npgpt.model import block, params, transformer
from parity_tests.support.harness import Masks

# No gradient flows through decode and random; AdamW's graph stands for the other optimizers.
OPS = sorted(set(npgpt_ops.__all__) - {"adam", "decode", "muon", "random", "rmsprop", "sgd"})
SVG = "{http://www.w3.org/2000/svg}"
each_graph = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)


def assert_same(actual, expected):
    """Compare arrays, or trees of them, to a few roundings of float64."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b)
        return
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)


def ran(graph, upstream, **given):
    """Return the output of a graph and the gradients of its nodes."""
    values = graph.forward(**given)
    return values[graph.output.name], graph.backward(values, upstream)


def test_linear(rng):
    x, dout = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    p = npgpt_ops.linear.Params(rng.normal(size=(3, 4)), rng.normal(size=4))
    g = npgpt_ops.linear.Params(np.empty((3, 4)), np.empty(4))
    out, gradients = ran(ops.LINEAR, dout, x=x, weight=p.weight, bias=p.bias)
    expected, cache = npgpt_ops.linear.forward(x, p)
    assert_same(out, expected)
    assert_same(gradients["x"], npgpt_ops.linear.backward(dout, cache, g))
    assert_same((gradients["weight"], gradients["bias"]), tuple(g))


def test_lora(rng):
    x, dout = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    arrays = [rng.normal(size=size) for size in ((3, 4), (3, 2), (2, 4))]
    p = npgpt_ops.lora.Params(arrays[0], None, *arrays[1:], scale=0.7)
    g = npgpt_ops.lora.Params(None, None, *map(np.empty_like, arrays[1:]))
    given = dict(weight=p.weight, lora_a=p.lora_a, lora_b=p.lora_b, scale=0.7)
    out, gradients = ran(ops.LORA, dout, x=x, **given)
    expected, cache = npgpt_ops.lora.forward(x, p)
    assert_same(out, expected)
    assert_same(gradients["x"], npgpt_ops.lora.backward(dout, cache, g))
    assert_same((gradients["lora_a"], gradients["lora_b"]), (g.lora_a, g.lora_b))


def test_gelu(rng):
    op = npgpt_ops.gelu
    x, dout = rng.normal(size=(2, 3, 7), scale=2)
    out, gradients = ran(ops.GELU, dout, x=x, SCALE=op.SCALE, CUBIC=op.CUBIC)
    expected, cache = op.forward(x)
    assert_same(out, expected)
    assert_same(gradients["x"], op.backward(dout, cache))


def test_dropout(rng):
    x, dout = rng.normal(size=(2, 4, 5))
    keep = rng.random((4, 5)) < 0.6
    out, gradients = ran(ops.DROPOUT, dout, x=x, keep=keep, scale=1 / 0.6)
    expected, cache = npgpt_ops.dropout.forward(x, rate=0.4, rng=Masks([keep]))
    assert_same(out, expected)
    assert_same(gradients["x"], npgpt_ops.dropout.backward(dout, cache))


def test_embedding(rng):
    tokens, dout = rng.integers(6, size=(4, 3)), rng.normal(size=(4, 3, 2))
    p = npgpt_ops.embedding.Params(rng.normal(size=(6, 2)), rng.normal(size=(5, 2)))
    g = npgpt_ops.embedding.Params(np.zeros((6, 2)), np.empty((5, 2)))
    out, gradients = ran(ops.EMBEDDING, dout, tokens=tokens, wte=p.wte, wpe=p.wpe, T=3)
    expected, cache = npgpt_ops.embedding.forward(tokens, p)
    npgpt_ops.embedding.backward(dout, cache, g)
    assert_same(out, expected)
    assert_same((gradients["wte"], gradients["wpe"]), tuple(g))


def test_layernorm(rng):
    x, dout = rng.normal(size=(2, 4, 6), loc=1)
    p = npgpt_ops.layernorm.Params(*rng.normal(size=(2, 6)))
    g = npgpt_ops.layernorm.Params(*np.empty((2, 6)))
    given = {"x": x, "weight": p.weight, "bias": p.bias, "C": 6, "eps": 0.01}
    out, gradients = ran(ops.LAYERNORM, dout, **given)
    expected, cache = npgpt_ops.layernorm.forward(x, p, eps=0.01)
    assert_same(out, expected)
    assert_same(gradients["x"], npgpt_ops.layernorm.backward(dout, cache, g))
    assert_same((gradients["weight"], gradients["bias"]), tuple(g))


def test_linear_cross_entropy(rng):
    op = npgpt_ops.linear_cross_entropy
    x, weight, targets = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.integers(7, size=5)
    given = {"x": x, "weight": weight, "onehot": np.eye(7)[targets], "N": 5}
    out, gradients = ran(ops.LINEAR_CROSS_ENTROPY, 0.5, **given)
    expected, cache = op.forward(x, weight, targets)
    g = np.empty_like(weight)
    assert_same(out, expected)
    assert_same(gradients["x"], op.backward(0.5, cache, g))
    assert_same(gradients["weight"], g)


def test_attention(rng):
    B, T, H, D = 2, 4, 3, 2
    qkv, dout = rng.normal(size=(B, T, 3 * H * D)), rng.normal(size=(B, T, H * D))
    keep = rng.random((B, H, T, T)) < 0.7
    given = {"qkv": qkv, "keep": keep, "scale": 1 / 0.7, "mask": np.tri(T, dtype=bool)}
    out, gradients = ran(ops.ATTENTION, dout, H=H, D=D, **given)
    expected, cache = npgpt_ops.attention.forward(qkv, n_head=H, rate=0.3, rng=Masks([keep]))
    assert_same(out, expected)
    assert_same(gradients["qkv"], npgpt_ops.attention.backward(dout, cache))


def test_softmax(rng):
    x, dp = rng.normal(size=(2, 3, 5))
    p, gradients = ran(ops.SOFTMAX, dp, x=x)
    assert_same(p, npgpt_ops.attention.softmax(x))
    assert_same(gradients["x"], p * (dp - (dp * p).sum(-1, keepdims=True)))


def test_adamw(rng):
    p, grad, m, v = rng.normal(size=(4, 3, 2))
    v **= 2
    settings = {"lr": 0.1, "weight_decay": 0.2, "eps": 1e-3}
    values = ops.ADAMW.forward(p=p, grad=grad, m=m, v=v, beta1=0.9, beta2=0.99, step=3, **settings)
    p, m, v = p.copy(), m.copy(), v.copy()
    npgpt_ops.adamw.update(p, grad, m, v, step=3, betas=(0.9, 0.99), **settings)
    assert_same((values["p_new"], values["m_new"], values["v_new"]), (p, m, v))


CONFIG = Config(vocab_size=7, context_length=6, n_layer=2, n_head=2, n_embd=4)


def tree(rng):
    """Return the parameters of a small model, and a tree for their gradients."""
    p, g = params.zeros(CONFIG, np.float64), params.zeros(CONFIG, np.float64)
    for _, array in params.named(p):
        array[...] = rng.normal(size=array.shape)
    return p, g


def layers(p):
    """Return the parameters of a block in the order of the graph's nodes."""
    return p.ln_1, p.attn.c_attn, p.attn.c_proj, p.ln_2, p.mlp.c_fc, p.mlp.c_proj


def test_block(rng):
    B, T, C, H, rate = 2, 3, CONFIG.n_embd, CONFIG.n_head, 0.25
    p, g = tree(rng)
    x, dout = rng.normal(size=(2, B, T, C))
    probs, attn, mlp = masks = [rng.random(s) < 0.75 for s in [(B, H, T, T), *[(B, T, C)] * 2]]

    class Same(Masks):
        """The node of attention runs more than once."""

        def __init__(self):
            super().__init__([probs] * 9)

    graph = network.block(n_head=H, rate=rate, rng=Same())
    names = [node.name for node in graph.nodes if node.kind == "parameter"]
    given = dict(zip(names, layers(p.h[0]), strict=True))
    scale = 1 / (1 - rate)
    out, gradients = ran(graph, dout, x=x, attn_mask=attn * scale, mlp_mask=mlp * scale, **given)
    expected, cache = block.forward(x, p.h[0], n_head=H, rate=rate, rng=Masks(masks), ops=npgpt_ops)
    assert_same(out, expected)
    assert_same(gradients["x"], block.backward(dout.copy(), cache, g.h[0], ops=npgpt_ops))
    assert_same([gradients[name] for name in names], layers(g.h[0]))


def test_model(rng):
    p, g = tree(rng)
    tokens, targets = rng.integers(CONFIG.vocab_size, size=(2, 3, 5))
    given = {"tokens": tokens, "targets": targets, "wte": p.wte.weight, "wpe": p.wpe.weight}
    given |= {"h_0": layers(p.h[0]), "h_1": layers(p.h[1]), "ln_f": p.ln_f, "embd_mask": 1.0}
    out, gradients = ran(network.model(CONFIG.n_head), 1.0, **given)
    expected, cache = transformer.loss(p, tokens, targets, CONFIG, ops=npgpt_ops)
    transformer.backward(cache, g, ops=npgpt_ops)
    assert_same(out, expected)
    assert_same((gradients["wte"], gradients["wpe"]), (g.wte.weight, g.wpe.weight))
    assert_same((gradients["h_0"], gradients["h_1"]), (layers(g.h[0]), layers(g.h[1])))
    assert_same(gradients["ln_f"], tuple(g.ln_f))


@each_graph
def test_the_picture_is_drawn_from_the_graph(graph):
    """`python -m docs.graphs` draws them."""
    assert (IMAGES / f"{graph.name}.svg").read_text("utf-8") == draw(graph)


def test_no_picture_is_left_over():
    assert {path.name for path in IMAGES.iterdir()} == {f"{graph.name}.svg" for graph in GRAPHS}


@each_graph
def test_the_picture_shows_every_node_and_edge(graph):
    root = ElementTree.fromstring(draw(graph))
    title, described = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert graph.name in title.text
    assert root.get("aria-labelledby") == f"{title.get('id')} {described.get('id')}"
    count = {
        kind: len(root.findall(f".//*[@class='{kind}-head']")) for kind in ("forward", "gradient")
    }
    vjps = sum(len(node.vjps) for node in graph.nodes)
    assert count["forward"] == len(graph.edges()) + 1  # the legend has one
    ends = graph.picture.get("compact", False) and any(n.kind == "input" for n in graph.nodes)
    assert count["gradient"] == (vjps + 2 + ends if vjps else 0)  # upstream, legend, downstream
    sent = [name for node in graph.nodes for name in node.vjps]
    adding = sum(sent.count(name) > 1 for name in set(sent))
    assert len(root.findall(".//*[@class='sum']")) == adding + (adding > 0)
    shown = {text.text for text in root.iter(f"{SVG}text")}
    for node in graph.nodes:
        assert (node.title or node.name) in shown
        assert graph.picture.get("compact") or not node.formula or f"= {node.formula}" in shown


def test_texts_are_neither_cut_off_nor_hidden():
    """Every text lies on the card, none over another text or half over a box."""
    for graph in GRAPHS:
        root = ElementTree.fromstring(draw(graph))
        left, top, w, h = map(float, root.get("viewBox").split())
        taken = []
        boxes = [
            [float(box.get(key)) for key in ("x", "y", "width", "height")]
            for box in root.iter(f"{SVG}rect")
            if box.get("class").startswith("box")
        ]
        for text in root.iter(f"{SVG}text"):
            size = 13 if text.get("class") == "name" else 11.5
            width = 0.6 * size * len(text.text)
            shift = {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            x0, y = float(text.get("x")) - shift * width, float(text.get("y"))
            x1, y0, y1 = x0 + width, y - 0.7 * size, y + 0.2 * size
            assert left < x0 and x1 < left + w and top < y0 and y1 < top + h, text.text
            for other, (a0, a1, b0, b1) in taken:
                assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0, (text.text, other)
            for a0, b0, wide, high in boxes:
                inside = a0 < x0 and x1 < a0 + wide and b0 < y0 and y1 < b0 + high
                outside = x1 <= a0 or a0 + wide <= x0 or y1 <= b0 or b0 + high <= y0
                assert inside or outside, (graph.name, text.text)
            taken.append((text.text, (x0, x1, y0, y1)))


@pytest.mark.parametrize("op", OPS)
def test_every_page_shows_its_graph(op):
    page = (IMAGES.parents[1] / "ops" / f"{op}.md").read_text("utf-8")
    assert re.search(rf"!\[[^\]]+\]\(\.\./images/graphs/{op}\.svg\)", page)


def test_a_graph_must_have_a_gradient_for_every_edge():
    x, y = leaf("x", "()"), Node("y", "()", "2 * x", {"x": "2 * dy"})
    with pytest.raises(ValueError, match=r"must have a VJP for each of \['x', 'y'\]"):
        Graph("half", [x, y, Node("z", "()", "x * y", {"x": "dz * y"})], {})
    with pytest.raises(ValueError, match="y must follow its inputs"):
        Graph("upside down", [y, x], {})


def test_gradients_of_several_edges_add():
    x, y = leaf("x", "()"), Node("y", "()", "3 * x", {"x": "3 * dy"})
    graph = Graph("3 x^2", [x, y, Node("z", "()", "x * y", {"x": "dz * y", "y": "dz * x"})], {})
    assert graph.backward(graph.forward(x=2.0), 1.0) == {"z": 1, "y": 2, "x": 12}
