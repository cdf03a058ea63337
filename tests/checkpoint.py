"""What a run saved, for tests that look into it."""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp

from uniadgen.train.loop import checkpoints


def saved(folder: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint of a run, by name."""
    reader = dcp.FileSystemReader(checkpoints(folder)[-1][1])
    entries = reader.read_metadata().state_dict_metadata
    state = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, storage_reader=reader)
    return state
