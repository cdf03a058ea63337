"""nano's own tokenizer: byte-level BPE learnt from AdWorld's words; any text of any user can be written in it."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from uniadgen.data.prompt import SPECIAL_TOKENS

BASE_TOKENS = ("<pad>", "<bos>", "<eos>")
# A space belongs to the word after it; hyphens and connecting words split, so that a phrase has the same tokens in
# every text that it stands in.
_SPLIT = Regex(
    r" ?[A-Za-z]+| ?[0-9]+|与|现有|更有|(?:(?!与|现有|更有)[\u4e00-\u9fff])+| ?[^\sA-Za-z0-9\u4e00-\u9fff]|\s+"
)


def learn_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with at most `vocab_size` entries, special tokens first. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*BASE_TOKENS, *SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )
