"""Published models that we build on: read from a folder, never from the network, and complete."""

import pickle
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from uniadgen.model.shards import refuse_tensors

Model = TypeVar("Model", bound=PreTrainedModel)


def load_base(
    kind: type[Model],
    folder: Path,
    new: tuple[str, ...] = (),
    verdict: str = "this is not the base of the config",
    **options: Any,
) -> Model:
    """A model of that class with the weights of a folder in Hugging Face's layout; parts named `new` may be missing.

    Raises `ValueError` naming the tensors that are missing, not expected or of another shape, and ending in `verdict`.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json, expected a folder in Hugging Face's layout")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would report is checked below
    logging.disable_progress_bar()
    try:
        loaded: Any = kind.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, SafetensorError, StrictDataclassError) as error:  # no weights, or damaged
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{folder}: its weights hold more than tensors, so they are not opened") from None
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    model, info = loaded
    missing = [name for name in info["missing_keys"] if not name.startswith(new)]
    refuse_tensors(folder, missing, info["unexpected_keys"], info["mismatched_keys"], verdict)
    return model
