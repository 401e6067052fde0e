from npgpt import fused as fused
from npgpt import mixed as mixed
from npgpt import ops as ops
from npgpt.config import Config as Config
from npgpt.config import TrainingConfig as TrainingConfig
from npgpt.data.loader import Loader as Loader
from npgpt.data.tokenizer import tokenizer as tokenizer
from npgpt.errors import ConfigError as ConfigError
from npgpt.errors import DownloadError as DownloadError
from npgpt.errors import DropoutWarning as DropoutWarning
from npgpt.errors import IgnoredTensorsWarning as IgnoredTensorsWarning
from npgpt.errors import InputError as InputError
from npgpt.errors import KernelCacheWarning as KernelCacheWarning
from npgpt.errors import RunError as RunError
from npgpt.errors import WeightFileError as WeightFileError
from npgpt.errors import WeightFileWarning as WeightFileWarning
from npgpt.gpt import GPT as GPT
from npgpt.inference.evaluate import evaluate as evaluate
from npgpt.inference.generate import generate as generate
from npgpt.loading import load as load
from npgpt.model.params import named as named
from npgpt.model.params import zeros_like as zeros_like
from npgpt.preset import Preset as Preset
from npgpt.preset import presets as presets
from npgpt.rng import Generator as Generator
from npgpt.training.optim import SGD as SGD
from npgpt.training.optim import Adam as Adam
from npgpt.training.optim import AdamW as AdamW
from npgpt.training.optim import Muon as Muon
from npgpt.training.optim import RMSprop as RMSprop
from npgpt.training.schedule import clip_gradients as clip_gradients
from npgpt.training.schedule import global_norm as global_norm
from npgpt.training.schedule import learning_rate as learning_rate
from npgpt.training.trainer import Trainer as Trainer

__version__: str
__all__: list[str]
