"""Files that are no weights: pickles, NumPy's arrays, files that are larger than the memory."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import npgpt
from npgpt.cli.main import main
from npgpt.model.params import named
from npgpt.system import machine
from npgpt.weights.mapped import MappedFile
from parity_tests.support.weight_files import CONFIG, numbers, write_huggingface

# Pickles


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("file", ["model.pt", "gpt2.pth", "pytorch_model.bin", "x.ckpt", "x"])
def test_a_pickle_is_refused_and_never_run(tmp_path, unreadable, file, legacy):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it was run"),)

    torch.save(Bomb(), tmp_path / file, _use_new_zipfile_serialization=not legacy)
    says = f"{file} is a pickle, as torch.save writes it, and is refused: loading it runs any"
    unreadable(tmp_path / file, says)
    if file != "x":
        unreadable(tmp_path, says)
    os.rename(tmp_path / file, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    unreadable(tmp_path, "model.safetensors is a pickle, as torch.save writes it")
    assert not (tmp_path / "it was run").exists()


@pytest.mark.slow
def test_the_advice_to_convert_a_pickle_works(tmp_path, capsys):
    """The code of the message is run. The output head is the embedding itself, and matrices are not
    contiguous."""
    state = {n: torch.from_numpy(np.asfortranarray(a)) for n, a in numbers().items()}
    state["lm_head.weight"] = state["wte.weight"]
    torch.save(state, tmp_path / "model.pt")
    assert main(["inspect", str(tmp_path / "model.pt")]) == 2
    said = capsys.readouterr().err
    code = said[said.index("import torch") :].strip()
    code = code.replace("FILE", repr(str(tmp_path / "model.pt")))
    code = code.replace("model.safetensors", str(tmp_path / "model.safetensors"))
    subprocess.run([sys.executable, "-c", code], check=True)
    write_huggingface(tmp_path / "config", CONFIG, numbers())
    shutil.copy(tmp_path / "config/config.json", tmp_path)
    for name, array in named(npgpt.load(tmp_path).params):
        np.testing.assert_array_equal(array, numbers()[name], err_msg=name)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, np.save])
def test_numpys_arrays_are_no_pickle(tmp_path, unreadable, save):
    path = tmp_path / ("model.npy" if save is np.save else "model.npz")
    save(path, np.ones(3)) if save is np.save else save(path, **numbers())
    unreadable(path, r"holds NumPy's arrays, which have no config\. Save them by GPT-2's names")


# Large files


def test_a_file_larger_than_the_memory_is_mapped(tmp_path):
    """A sparse one; only the pages that are written to need memory."""
    path, size = tmp_path / "large", 4 * (machine.memory()[0] or 1 << 34)
    path.touch()
    os.truncate(path, size)
    file = MappedFile(path)
    assert file.data.size == size
    assert file.data[-1] == 0
    file.data[size // 2] = 1
    assert file.data[size // 2] == 1
    assert MappedFile(path).data[size // 2] == 0
