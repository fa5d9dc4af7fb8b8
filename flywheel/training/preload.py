"""The heavy libraries, imported once by the forkserver so that no worker has to.

The names are pulled out of their lazy packages on purpose: importing ``trl`` alone loads nothing.
No CUDA call may happen here; the workers fork from this process.
"""

import threading

import accelerate  # noqa: F401
import datasets
import peft  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch.distributed.elastic  # noqa: F401
import tqdm  # type: ignore[import-untyped]
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401

import flywheel.engines.transformers
import flywheel.training.train  # noqa: F401

transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
# Transformed data sets are rebuilt from committed rows: an on-disk cache of them would only grow.
datasets.disable_caching()
# Left alone, each worker would make a system-wide semaphore for its progress bars and leave it behind.
tqdm.tqdm.set_lock(threading.RLock())
