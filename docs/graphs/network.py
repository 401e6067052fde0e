"""The graphs of one block and of the whole model: nodes are the ops of npgpt, not single formulas.

The gradient that an edge sends back comes from the op's own backward in npgpt/ops. The parameters
of a layer are one node, and so are those of a block.
"""

import numpy as np

from docs.graphs.graph import Graph, Node, constant, leaf, parameter
from npgpt.ops import attention, embedding, gelu, layernorm, linear, linear_cross_entropy


class Layer:
    """An op with parameters: its forward, and its backward in two parts."""

    def __init__(self, op):
        self.op = op

    def __call__(self, x, p):
        return self.op.forward(x, p)[0]

    def backward(self, dout, x, p):
        """Return the gradient of the input and that of the parameters."""
        cache = self.op.forward(x, p)[1]
        g = type(p)(*(np.empty_like(array) for array in p))
        return self.op.backward(dout, cache, g), g

    def dx(self, dout, x, p):
        """Return the gradient of the input."""
        return self.backward(dout, x, p)[0]

    def dp(self, dout, x, p):
        """Return the gradients of the parameters."""
        return self.backward(dout, x, p)[1]


class Function:
    """An op without parameters."""

    def __init__(self, op, **settings):
        self.op, self.settings = op, settings

    def __call__(self, x):
        return self.op.forward(x, **self.settings)[0]

    def dx(self, dout, x):
        """Return the gradient of the input."""
        return self.op.backward(dout, self.op.forward(x, **self.settings)[1])


class Embedding:
    """The embedding, with the gradient of each of its two matrices."""

    def __call__(self, tokens, wte, wpe):
        return embedding.forward(tokens, embedding.Params(wte, wpe))[0]

    def backward(self, dout, tokens, wte, wpe):
        """Return the gradients of both matrices."""
        g = embedding.Params(np.zeros_like(wte), np.zeros_like(wpe))
        embedding.backward(dout, embedding.Cache(tokens), g)
        return g

    def dwte(self, *args):
        """Return the gradient of the token embedding."""
        return self.backward(*args).wte

    def dwpe(self, *args):
        """Return the gradient of the position embedding."""
        return self.backward(*args).wpe


class Loss:
    """The output head and the loss."""

    def __call__(self, x, weight, targets):
        return linear_cross_entropy.forward(x, weight, targets)[0]

    def backward(self, dloss, x, weight, targets):
        """Return the gradients of the last hidden state and of the output head."""
        g = np.empty_like(weight)
        cache = linear_cross_entropy.forward(x, weight, targets)[1]
        return linear_cross_entropy.backward(dloss, cache, g), g

    def dx(self, *args):
        """Return the gradient of the last hidden state."""
        return self.backward(*args)[0]

    def dweight(self, *args):
        """Return the gradient of the output head."""
        return self.backward(*args)[1]


class Block:
    """A block as one node, without dropout: the graph below, run as a whole."""

    def __init__(self, n_head: int):
        self.graph = block(n_head=n_head)
        self.names = [node.name for node in self.graph.nodes if node.kind == "parameter"]

    def values(self, x, p):
        """Return the values of all its nodes."""
        given = dict(zip(self.names, p, strict=True))
        return self.graph.forward(x=x, attn_mask=1.0, mlp_mask=1.0, **given)

    def __call__(self, x, p):
        return self.values(x, p)[self.graph.output.name]

    def dx(self, dout, x, p):
        """Return the gradient of the input."""
        return self.graph.backward(self.values(x, p), dout)["x"]

    def dp(self, dout, x, p):
        """Return the gradients of the parameters, in the order of the nodes."""
        gradients = self.graph.backward(self.values(x, p), dout)
        return [gradients[name] for name in self.names]


FUNCTIONS = {
    "layernorm": Layer(layernorm),
    "linear": Layer(linear),
    "gelu": Function(gelu),
    "embedding": Embedding(),
    "linear_cross_entropy": Loss(),
}


def layer(name: str, shape: str, op: str, x: str, p: str, column: float = 1) -> Node:
    """Return the node of an op with parameters."""
    vjps = {x: f"{op}.dx(d{name}, {x}, {p})", p: f"{op}.dp(d{name}, {x}, {p})"}
    return Node(name, shape, f"{op}({x}, {p})", vjps, column, title=op)


def function(name: str, op: str, x: str) -> Node:
    """Return the node of an op without parameters."""
    return Node(name, "", f"{op}({x})", {x: f"{op}.dx(d{name}, {x})"}, 1, title=op)


def masked(name: str, x: str, mask: str, column: float = 1) -> Node:
    """Return the node of dropout: a product with keep * scale, forward and backward."""
    return Node(name, "", f"{x} * {mask}", {x: f"d{name} * {mask}"}, column, title="dropout")


def residual(name: str, x: str, h: str) -> Node:
    """Return the sum of the residual stream and of what a sublayer adds to it."""
    return Node(name, "", f"{x} + {h}", {x: f"d{name}", h: f"d{name}"}, title=f"{name} = {x} + h")


def weights(name: str, title: str, column: float = 2.05) -> Node:
    """Return the parameters of one layer."""
    return parameter(name, "", column=column, title=title)


def block(**settings) -> Graph:
    """Return the graph of npgpt/model/block.py. `settings` are those of attention."""
    return Graph(
        "block",
        [
            leaf("x", "(B, T, C)"),
            weights("ln_1", "ln_1"),
            layer("h1", "", "layernorm", "x", "ln_1"),
            weights("c_attn", "attn.c_attn"),
            layer("h2", "C → 3C", "linear", "h1", "c_attn"),
            function("h3", "attention", "h2"),
            weights("attn_proj", "attn.c_proj"),
            layer("h4", "C → C", "linear", "h3", "attn_proj"),
            masked("h5", "h4", "attn_mask"),
            residual("mid", "x", "h5"),
            weights("ln_2", "ln_2"),
            layer("h6", "", "layernorm", "mid", "ln_2"),
            weights("c_fc", "mlp.c_fc"),
            layer("h7", "C → 4C", "linear", "h6", "c_fc"),
            function("h8", "gelu", "h7"),
            weights("mlp_proj", "mlp.c_proj"),
            layer("h9", "4C → C", "linear", "h8", "mlp_proj"),
            masked("h10", "h9", "mlp_mask"),
            residual("out", "mid", "h10"),
        ],
        {**FUNCTIONS, "attention": Function(attention, **settings)},
        compact=True,
        column=170,
    )


def model(n_head: int) -> Graph:
    """Return the graph of npgpt/model/transformer.py: two blocks, and a tied output head."""
    return Graph(
        "model",
        [
            constant("tokens", "(B, T)", row=0),
            parameter("wpe", "(T_max, C)", column=-1, row=0),
            parameter("wte", "(V, C)", column=1, row=0),
            Node("x0", "(B, T, C)", "embedding(tokens, wte, wpe)",
                 {"wte": "embedding.dwte(dx0, tokens, wte, wpe)",
                  "wpe": "embedding.dwpe(dx0, tokens, wte, wpe)"}, title="embedding"),
            masked("x1", "x0", "embd_mask", column=0),
            weights("h_0", "h.0", column=-1),
            layer("x2", "", "block", "x1", "h_0", column=0),
            weights("h_1", "h.1", column=-1),
            layer("x3", "", "block", "x2", "h_1", column=0),
            weights("ln_f", "ln_f", column=-1),
            layer("x4", "", "layernorm", "x3", "ln_f", column=0),
            constant("targets", "(B, T)", column=-1.15),
            Node("loss", "", "linear_cross_entropy(x4, wte, targets)",
                 {"x4": "linear_cross_entropy.dx(dloss, x4, wte, targets)",
                  "wte": "linear_cross_entropy.dweight(dloss, x4, wte, targets)"},
                 title="linear_cross_entropy"),
        ],
        {**FUNCTIONS, "block": Block(n_head)},
        compact=True,
        column=190,
    )  # fmt: skip
