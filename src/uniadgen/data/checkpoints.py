"""Models of others that stages run: a folder, or an id of the Hugging Face Hub that is brought here once."""

import multiprocessing
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from uniadgen.data.plan import digest_of

WORDS, WEIGHTS, PICKLES = ("*.json", "*.txt", "*.model"), "*.safetensors", "*.bin"


def folder_of(name: str) -> Path:
    """The folder of a model. `name`: a folder, or an id of the Hub, whose files are then brought into its cache.

    Raises `ValueError` where it is neither, or the Hub cannot be asked.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*WORDS, WEIGHTS]))
        if not list(folder.glob(WEIGHTS)):
            folder = Path(snapshot_download(name, allow_patterns=[*WORDS, PICKLES]))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise ValueError(
            f"got the model {name!r}, expected a folder, or an id of the Hugging Face Hub that can be reached from "
            f"here or was fetched before ({str(error).splitlines()[0]})"
        ) from None
    return folder


def fingerprint(folder: Path) -> str:
    """A hash of a model's weights, configuration and words: another one where any of them changed."""
    paths = sorted({path for pattern in (*WORDS, WEIGHTS, PICKLES) for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix in (WEIGHTS[1:], PICKLES[1:]) for path in paths):
        raise ValueError(f"{folder}: no weights, expected a model in Hugging Face's layout with {WEIGHTS} or {PICKLES}")
    digest = blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.name} {digest_of(path)}\n".encode())
    return digest.hexdigest()


def num_devices() -> int:
    """How many processes can run models side by side: one for each GPU, or one."""
    return max(1, torch.cuda.device_count())


@lru_cache(maxsize=1)
def device() -> torch.device:
    """Where this process runs models: its own GPU where there are several, the only one, or the CPU."""
    number = multiprocessing.current_process().name.rpartition("-")[2]
    gpus = torch.cuda.device_count()
    return torch.device("cuda", int(number) % gpus if number.isdigit() else 0) if gpus else torch.device("cpu")
