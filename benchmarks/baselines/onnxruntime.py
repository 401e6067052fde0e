"""ONNX Runtime: a GPT-2 built from its fused operations, with keys and values in place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from npgpt.config import Config
from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.weight_file import WeightFile

OWN = "com.microsoft"  # ONNX Runtime's own operations
GROUP = 32  # of int8 numbers with one scale


class OnnxRuntime:
    """A session. GroupQueryAttention appends to the cache that it reads, without a copy."""

    def __init__(self, path: Path, threads: int, weights: str):
        source = read_huggingface(path / "model")
        file = path / "onnxruntime.onnx"
        onnx.save_model(Graph(source, weights).model(), file)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.config, self.version = source.config, ort.__version__
        matrices = {"float32": "", "int8": ", int8 products of groups of 32"}[weights]
        self.settings = f"cache float32, written in place{matrices}"

    def start(self, rows: int, length: int) -> None:
        """Prepare a cache for `rows` texts of `length` tokens."""
        c = self.config
        shape = rows, c.n_head, length, c.n_embd // c.n_head
        self.cache = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for name in cache_names(c)
        }
        self.read = 0

    def next(self, tokens: np.ndarray, output: str) -> np.ndarray:
        """(B, T) -> `output` of the last position: "logits" (B, V), or "chosen" (B, 1)"""
        B, T = tokens.shape
        self.read += T
        binding = self.session.io_binding()
        binding.bind_cpu_input("ids", tokens)
        binding.bind_cpu_input("positions", np.arange(self.read - T, self.read)[None].repeat(B, 0))
        binding.bind_cpu_input("last", np.full(B, self.read - 1, np.int32))
        binding.bind_cpu_input("total", np.array(self.read, np.int32))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"{name}_out", value)
        binding.bind_output(output)
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        self.start(1, len(prompt) + len(forced))
        given = prompt[None], *forced[:, None, None]
        return np.concatenate([self.next(tokens, "logits") for tokens in given])

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        self.start(len(tokens), tokens.shape[1] + count)
        made = []
        for _ in range(count):
            tokens = self.next(tokens, "chosen")
            made.append(tokens)
            after()
        return np.concatenate(made, axis=1)


def cache_names(config: Config) -> list[str]:
    return [f"{kind}{i}" for i in range(config.n_layer) for kind in ("k", "v")]


class Graph:
    """Nodes and constants of the model."""

    def __init__(self, source: WeightFile, weights: str):
        self.source, self.weights = source, weights
        self.nodes, self.constants = [], {}

    def constant(self, name: str, array: np.ndarray) -> str:
        made = onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        self.constants.setdefault(name, made)
        return name

    def parameter(self, name: str) -> str:
        return self.constant(name, self.source.array(name))

    def add(self, op: str, *inputs: str, outputs=None, domain="", **attributes) -> str:
        """Add a node; return the name of its first output."""
        outputs = outputs or [f"{op}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, name: str, *, transposed=False) -> str:
        """Multiply by a matrix (in, out), or by the transpose of (out, in)."""
        if self.weights == "float32":
            weight = self.parameter(name)
            if transposed:
                return self.add("Gemm", x, weight, transB=1)
            return self.add("MatMul", x, weight)
        array = self.source.array(name)
        array = array if transposed else array.T
        N, K = array.shape
        groups = array.reshape(N, K // GROUP, GROUP)
        scale = np.abs(groups).max(-1) / np.float32(127)
        values = np.rint(groups / scale[..., None]).astype(np.int16) + 128
        inputs = [
            self.constant(f"{name}.int8", values.astype(np.uint8)),
            self.constant(f"{name}.scale", scale.ravel()),
        ]
        sizes = dict(N=N, K=K, bits=8, block_size=GROUP, accuracy_level=4)  # 4: int8 products
        return self.add("MatMulNBits", x, *inputs, domain=OWN, **sizes)

    def norm(self, x: str, name: str, added: str | None, bias: str | None) -> tuple[str, str]:
        """LayerNorm of x, or of x + added + bias; return it and the sum."""
        scale, shift = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        if added is None:
            made = self.add("LayerNormalization", x, scale, shift, epsilon=1e-5, axis=-1)
            return made, x
        names = [f"{name}.out", "", "", f"{name}.sum"]
        given = x, added, scale, shift, self.parameter(bias)
        made = self.add("SkipLayerNormalization", *given, outputs=names, domain=OWN, epsilon=1e-5)
        return made, names[-1]

    def model(self) -> onnx.ModelProto:
        """Return the model: the logits of the last position, and the most likely token."""
        config = self.source.config
        rows = [self.add("Gather", self.parameter("wte.weight"), "ids")]
        rows.append(self.add("Gather", self.parameter("wpe.weight"), "positions"))
        x, added, bias = self.add("Add", *rows), None, None
        heads = dict(num_heads=config.n_head, kv_num_heads=config.n_head)
        for i in range(config.n_layer):
            block = f"h.{i}"
            normed, x = self.norm(x, f"{block}.ln_1", added, bias)
            qkv = self.product(normed, f"{block}.attn.c_attn.weight")
            qkv = self.add("Add", qkv, self.parameter(f"{block}.attn.c_attn.bias"))
            inputs = qkv, "", "", f"k{i}", f"v{i}", "last", "total"
            outputs = [f"attention{i}", f"k{i}_out", f"v{i}_out"]
            y = self.add("GroupQueryAttention", *inputs, outputs=outputs, domain=OWN, **heads)
            added, bias = (
                self.product(y, f"{block}.attn.c_proj.weight"),
                f"{block}.attn.c_proj.bias",
            )
            normed, x = self.norm(x, f"{block}.ln_2", added, bias)
            wide = self.product(normed, f"{block}.mlp.c_fc.weight")
            wide = self.add("FastGelu", wide, self.parameter(f"{block}.mlp.c_fc.bias"), domain=OWN)
            added, bias = (
                self.product(wide, f"{block}.mlp.c_proj.weight"),
                f"{block}.mlp.c_proj.bias",
            )
        normed, _ = self.norm(x, "ln_f", added, bias)
        last = self.add("Gather", normed, self.constant("end", np.array(-1)), axis=1)
        logits = self.product(last, "wte.weight", transposed=True)
        self.add("Identity", logits, outputs=["logits"])
        self.add("ArgMax", logits, outputs=["chosen"], axis=-1, keepdims=1)
        return self.finished(config)

    def finished(self, config: Config) -> onnx.ModelProto:
        """Return the nodes as a model with its inputs and outputs."""
        integers = {"ids": ["B", "T"], "positions": ["B", "T"]}
        inputs = [tensor(name, TensorProto.INT64, shape) for name, shape in integers.items()]
        inputs += [tensor("last", TensorProto.INT32, ["B"]), tensor("total", TensorProto.INT32, [])]
        outputs = [
            tensor("logits", TensorProto.FLOAT, ["B", config.vocab_size]),
            tensor("chosen", TensorProto.INT64, ["B", 1]),
        ]
        shape = ["B", config.n_head, "S", config.n_embd // config.n_head]
        for name in cache_names(config):
            inputs.append(tensor(name, TensorProto.FLOAT, shape))
            outputs.append(tensor(f"{name}_out", TensorProto.FLOAT, shape))
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "gpt2", inputs, outputs, constants)
        versions = [helper.make_opsetid("", 21), helper.make_opsetid(OWN, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=10)


def tensor(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
