"""OpenVINO: a GPT-2 built from its operations, generating through OpenVINO GenAI."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino import opset13 as op

from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.weight_file import WeightFile

INPUTS = {"input_ids": 2, "attention_mask": 2, "position_ids": 2, "beam_idx": 1}  # dimensions
CACHE = {"float32": "f16", "bfloat16": "f16", "int8": "u8"}  # of keys and values


class OpenVino:
    """GenAI's pipeline, continuous batching. `logits`: the same file without the pipeline."""

    def __init__(self, path: Path, threads: int, weights: str):
        self.path, self.version = path / "openvino", ov.__version__.split("-")[0]
        self.path.mkdir()
        model = build(read_huggingface(path / "model"), weights)
        ov.save_model(model, self.path / "openvino_model.xml", compress_to_fp16=False)
        activations, cache = "f32", CACHE[weights]
        if weights == "bfloat16" and multiplies_bfloat16():
            activations = cache = "bf16"
        self.properties = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": activations,
            "KV_CACHE_PRECISION": cache,
        }
        self.settings = f"cache {cache}, paged attention, continuous batching"
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # each round has the prompts of the one before
        scheduler.max_num_batched_tokens = 1 << 20  # a prompt at once, as by default
        self.pipeline = genai.LLMPipeline(
            self.path, "CPU", scheduler_config=scheduler, **self.properties
        )

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        model = ov.Core().compile_model(self.path / "openvino_model.xml", "CPU", self.properties)
        request, found, read = model.create_infer_request(), [], 0
        for new in (prompt[None], *forced[:, None, None]):
            read += new.size
            given = np.arange(read - new.size, read)[None]
            ones, first = np.ones((1, read), np.int64), np.zeros(1, np.int32)
            inputs = dict(zip(INPUTS, (new, ones, given, first), strict=True))
            found.append(request.infer(inputs)[0][0, -1].copy())
        return np.stack(found)

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        inputs = genai.TokenizedInputs(ov.Tensor(tokens), ov.Tensor(np.ones_like(tokens)))
        # the tokenizer is missing, and with it the end of a text, which is ignored anyway
        config = genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, eos_token_id=0)
        streamer = {"streamer": Streamer(after)} if len(tokens) == 1 else {}
        return np.array(self.pipeline.generate(inputs, config, **streamer).tokens)


def multiplies_bfloat16() -> bool:
    """Return True if this CPU does; on others, GenAI refuses a cache of bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Streamer(genai.StreamerBase):
    """Calls `after` with every new token."""

    def __init__(self, after: Callable[[], None]):
        super().__init__()
        self.after = after

    def write(self, token):
        self.after()
        return genai.StreamingStatus.RUNNING

    def end(self):
        pass


def build(source: WeightFile, weights: str) -> ov.Model:
    """Return the model with its keys and values as states, as GenAI expects it."""
    config = source.config
    H, C = config.n_head, config.n_embd
    ids, mask, positions, beams = inputs = [
        op.parameter([-1] * rank, np.int64 if rank == 2 else np.int32) for rank in INPUTS.values()
    ]
    for node, name in zip(inputs, INPUTS, strict=True):
        node.friendly_name = name
        node.output(0).tensor.set_names({name})

    def vector(name):
        return op.constant(source.array(name).reshape(1, 1, -1))

    def linear(x, name):
        weight = matrix(source.array(f"{name}.weight").T, weights)
        return op.add(op.matmul(x, weight, False, True), vector(f"{name}.bias"))

    def norm(x, name):
        x = op.mvn(x, integers([-1]), True, 1e-5, "inside_sqrt")
        return op.add(op.multiply(x, vector(f"{name}.weight")), vector(f"{name}.bias"))

    def heads(x):  # (B, T, C) -> (B, H, T, D)
        return op.transpose(op.reshape(x, integers([0, 0, H, C // H]), True), swap)

    def cached(new, name):
        info = ov.op.util.VariableInfo()
        info.data_shape = ov.PartialShape([-1, H, -1, C // H])
        info.data_type, info.variable_id = ov.Type.f32, name
        state = ov.op.util.Variable(info)
        past = op.read_value(op.broadcast(op.constant(np.float32(0)), empty), state)
        all_ = op.concat([op.gather(past, beams, zero), new], 2)
        assigned.append(op.assign(all_, state))
        return all_

    zero, swap, assigned = integers(0), integers([0, 2, 1, 3]), []
    batch = op.gather(op.shape_of(ids), integers([0]), zero)
    empty = op.concat([batch, integers([H, 0, C // H])], 0)
    seen = op.unsqueeze(visible(ids, mask), integers([1]))
    wte, wpe = matrix(source.array("wte.weight"), weights), op.constant(source.array("wpe.weight"))
    x = op.add(op.gather(wte, ids, zero), op.gather(wpe, positions, zero))
    for i in range(config.n_layer):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = map(heads, op.split(qkv, integers(2), 3).outputs())
        # the names that GenAI looks for
        k = cached(k, f"past_key_values.{i}.keypresent.{i}.key")
        v = cached(v, f"past_key_values.{i}.valuepresent.{i}.value")
        y = op.transpose(op.scaled_dot_product_attention(q, k, v, seen), swap)
        x = op.add(x, linear(op.reshape(y, integers([0, 0, C]), True), f"h.{i}.attn.c_proj"))
        wide = op.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), "tanh")
        x = op.add(x, linear(wide, f"h.{i}.mlp.c_proj"))
    logits = op.result(op.matmul(norm(x, "ln_f"), wte, False, True))
    logits.output(0).tensor.set_names({"logits"})
    return ov.Model([logits], assigned, inputs, "gpt2")


def visible(ids, mask):
    """Return (B, T, S) bool: the keys up to each query's position that the mask (B, S) has."""
    zero, one = integers(0), integers(1)
    T, S = (op.gather(op.shape_of(x), one, zero) for x in (ids, mask))
    keys = op.range(zero, S, one, "i64")
    queries = op.range(op.subtract(S, T), S, one, "i64")
    causal = op.less_equal(op.unsqueeze(keys, zero), op.unsqueeze(queries, one))
    return op.logical_and(causal, op.unsqueeze(op.convert(mask, "boolean"), one))


def matrix(array: np.ndarray, weights: str):
    """(out, in) -> a constant of float32 numbers that are stored as `weights`"""
    array = np.ascontiguousarray(array)
    if weights == "float32":
        return op.constant(array)
    if weights == "bfloat16":
        return op.convert(op.constant(array, dtype=ov.Type.bf16), "f32")
    scale = np.abs(array).max(axis=1, keepdims=True) / np.float32(127)
    values = op.constant(np.rint(array / scale).astype(np.int8))
    return op.multiply(op.convert(values, "f32"), op.constant(scale))


def integers(values):
    return op.constant(np.array(values, np.int64))
