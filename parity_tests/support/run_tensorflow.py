"""Run TensorFlow on checkpoints in a process of its own: it is slow to import, and warns.

    from parity_tests.support.run_tensorflow import ask
    ask([["save", "arrays.npz", "model.ckpt"], ["load", "model.ckpt", "found.npz"]])

NPGPT_TENSORFLOW_PYTHON may name another Python that has TensorFlow. Arrays are passed as .npz;
bfloat16, which NumPy does not have, as uint16.
"""

import dataclasses
import importlib.util
import json
import os
import sys

import numpy as np

from parity_tests.support.library_process import LibraryProcess, answer

TENSORFLOW = LibraryProcess(__file__, {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})


def available() -> bool:
    """Return True if TensorFlow is installed."""
    named = "NPGPT_TENSORFLOW_PYTHON" in os.environ
    return named or importlib.util.find_spec("tensorflow") is not None


def ask(jobs: list[list]) -> None:
    """Run jobs, [name of a function below, its arguments ...], one after the other."""
    TENSORFLOW.ask(jobs, os.environ.get("NPGPT_TENSORFLOW_PYTHON", sys.executable))


def save(arrays, prefix, shards=1, bfloat16=(), whole=False):
    """Write the arrays in the .npz `arrays` as variables of their names, by TensorFlow's Saver.

    shards: the number of data files. bfloat16: the names of arrays that are bfloat16. whole: also
    write the graph (.meta) and the file `checkpoint`, as in OpenAI's folders.
    """
    import tensorflow as tf

    v1, variables, feed = tf.compat.v1, {}, {}
    with np.load(arrays) as file, v1.Graph().as_default():
        for i, (name, array) in enumerate(file.items()):
            dtype = tf.bfloat16 if name in bfloat16 else tf.as_dtype(array.dtype)
            with v1.device(f"/cpu:{i % shards}"):
                value = v1.placeholder(dtype, array.shape)
                variables[name] = v1.Variable(value, dtype=dtype, use_resource=False)
            feed[value] = array.view(dtype.as_numpy_dtype) if name in bfloat16 else array
        write(prefix, variables, feed, shards=shards, whole=whole)


def save_pieces(prefix):
    """Write "wide", (4, 6) float32, as two pieces (a partitioned variable)."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default():
        v1.get_variable(
            "wide",
            (4, 6),
            initializer=v1.zeros_initializer(),
            partitioner=v1.fixed_size_partitioner(2),
            use_resource=False,
        )
        write(prefix)


def write(prefix, variables=None, feed=None, shards=1, whole=False):
    """Set the graph's variables from `feed` and save them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    saver = v1.train.Saver(variables, sharded=shards > 1, save_relative_paths=True)
    first = v1.global_variables_initializer()
    with v1.Session(config=v1.ConfigProto(device_count={"CPU": shards})) as session:
        session.run(first, feed)
        saver.save(session, prefix, write_meta_graph=whole, write_state=whole)


def load(checkpoint, arrays):
    """Write every variable of a checkpoint into the .npz `arrays`.

    checkpoint: its prefix, or a folder with the file `checkpoint`, such as OpenAI's.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(checkpoint)
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    for name, array in found.items():
        if reader.get_variable_to_dtype_map()[name] == tf.bfloat16:
            found[name] = array.view(np.uint16)
    np.savez(arrays, **found)


def reference(path, found):
    """Load a model by the reference implementation.

    Write its parameters and "config" (JSON) into the .npz `found`, or only "error".
    """
    from reference.gpt2 import GPT2

    try:
        model = GPT2.load(path)
    except Exception as error:
        np.savez(found, error="\n".join([str(error), *error.__notes__]))
    else:
        config = json.dumps(dataclasses.asdict(model.config))
        np.savez(found, config=config, **model.state_dict())


if __name__ == "__main__":
    answer(save, save_pieces, load, reference)
