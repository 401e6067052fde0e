"""Matrix products of bfloat16 numbers with float32 sums: npgpt/fused/_matmul.py, other panels."""

from functools import partial

import numpy as np

from npgpt.fused import _matmul

PAIRS = np.uint32  # two bfloat16 numbers: terms 2k and 2k + 1 of a sum

matmul = partial(_matmul.matmul, panels=PAIRS)
