"""The frozen causal language model that says how likely a text is."""

import math
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgrpo.policy import Policy

BETWEEN_DOCUMENTS = "<|endoftext|>"
"""The separator of pretraining texts in the SmolLM, Qwen, Phi and GPT families; others use their first token."""

BATCH_TOKENS = 512
"""Tokens of a batch: its logits are what takes memory, one per token and word of the vocabulary."""
DECIMALS = 4
"""Decimals of a mean negative log-likelihood that are kept."""
KNOWN = 4096
"""Texts whose likelihood is remembered; the oldest are forgotten first."""

_known: dict[tuple[str, str, int], float] = {}
"""Scorer, text and limit → mean negative log-likelihood."""
_shared: dict[str, "Policy"] = {}
"""Folder of a base model → the policy that this process trains on it."""

_ways: dict[str, tuple[str, bool]] = {}
"""Folder of a base model → its dtype, and whether it is loaded in 4 bits."""


def mean_nll(scorer: str, text: str, max_tokens: int) -> float:
    """Mean negative log-likelihood per token of one text; see `mean_nlls`."""
    return mean_nlls(scorer, [text], max_tokens)[0]


def mean_nlls(scorer: str, texts: Sequence[str], max_tokens: int) -> list[float]:
    """Mean negative log-likelihood per token of each text's first `max_tokens` tokens, in nats; infinite for none.

    Texts of similar length are scored together. Where a machine's products depend on how many rows they have, that is
    far below the `DECIMALS` that are kept, so that a text's score is its own.

    Args:
        scorer: folder of a causal language model in the transformers layout.

    Raises:
        BaseModelError: the folder can't be read.
        ValueError: the scorer gives NaN.
    """
    missing = [text for text in dict.fromkeys(texts) if (scorer, text, max_tokens) not in _known]
    if missing:
        with frozen(scorer) as policy:
            found = _score(policy, missing, max_tokens)
        for text, nll in zip(missing, found, strict=True):
            if math.isnan(nll):
                raise ValueError(f"the scorer in {scorer} gives NaN for {text[:60]!r}: are its weights damaged?")
            _known[scorer, text, max_tokens] = nll
    nlls = [_known[scorer, text, max_tokens] for text in texts]
    for oldest in list(_known)[: max(0, len(_known) - KNOWN)]:
        del _known[oldest]
    return nlls


def _score(policy: "Policy", texts: Sequence[str], max_tokens: int) -> list[float]:
    start = _start(policy.tokenizer)
    tokens = policy.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = {place: [start, *ids[:max_tokens]] for place, ids in enumerate(tokens) if ids}
    nlls = [math.inf] * len(texts)
    batch: list[int] = []
    for place in sorted(rows, key=lambda place: len(rows[place])):
        if (len(batch) + 1) * len(rows[place]) > BATCH_TOKENS and batch:
            _score_batch(policy, rows, batch, nlls)
            batch = []
        batch.append(place)
    if batch:
        _score_batch(policy, rows, batch, nlls)
    return nlls


def _score_batch(
    policy: "Policy", rows: Mapping[int, Sequence[int]], places: Sequence[int], nlls: MutableSequence[float]
) -> None:
    """Fill in the mean negative log-likelihood of some rows' tokens but the first.

    Rows are filled up at the right, where no token of theirs looks.
    """
    import torch

    width = max(len(rows[place]) for place in places)
    ids = torch.tensor([[*rows[place], *[0] * (width - len(rows[place]))] for place in places])
    ids = ids.to(policy.model.device)
    logits = policy.model(input_ids=ids, use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten(), reduction="none")
    for place, row in zip(places, losses.view(len(places), width).double().cpu(), strict=True):
        nlls[place] = round(float(row[: len(rows[place]) - 1].mean()), DECIMALS)


def next_token_loss(policy: "Policy", rows: list[list[int]], attention: list[list[int]] | None = None) -> float:
    """Mean over all rows and all tokens but each row's first: -log p(token | those before it), in nats.

    Args:
        rows: token ids, equally many in each row. Padding, where there is any, counts like other tokens.
        attention: 1 for tokens that others may look at, 0 for padding; None: all.
    """
    import torch

    model = policy.model
    ids = torch.tensor(rows, device=model.device)
    mask = None if attention is None else torch.tensor(attention, device=model.device)
    return float(model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.detach())


@contextmanager
def frozen(folder: str) -> Iterator["Policy"]:
    """The scorer, ready to be run without gradients; a shared policy is found again exactly as it was."""
    import torch

    policy = load_scorer(folder)
    with torch.no_grad():  # not inference mode: what a layer keeps of this pass must be of use to the training
        if folder not in _shared:
            yield policy
            return
        with _without_adapters(policy.model):
            yield policy


def load_scorer(folder: str) -> "Policy":
    """The policy that this process trains on that base, where it was shared; else loaded, once per process.

    Raises:
        BaseModelError: the folder can't be read.
    """
    return _shared[folder] if folder in _shared else _load(folder)


def load_as(folder: str, dtype: str, load_in_4bit: bool) -> None:
    """Load a folder's scorer as the policy that is trained on it: it takes as much memory, and scores alike."""
    _ways[folder] = (dtype, load_in_4bit)


def share_scorer(folder: str, policy: "Policy") -> None:
    """Score with the policy in training, its adapters switched off, instead of loading its base a second time."""
    forget_scorers()
    _shared[folder] = policy


def forget_scorers() -> None:
    """Let go of every scorer, so that its memory is free for other work."""
    _shared.clear()
    _load.cache_clear()
    _known.clear()


@lru_cache(maxsize=2)
def _load(folder: str) -> "Policy":
    from medgrpo.policy import load_base

    return load_base(folder, *_ways.get(folder, ()))


@contextmanager
def _without_adapters(model: Any) -> Iterator[None]:
    """The base under the adapters, in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [(weights, weights.requires_grad) for weights in model.parameters()]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        # Module by module: a trainer may have parts of a model in evaluation mode. PEFT sets requires_grad on its way.
        for module, mode in modes:
            module.training = mode
        for weights, mode in trained:
            weights.requires_grad_(mode)


def _start(tokenizer: Any) -> int:
    """The token that a text is scored after: the one between documents, which chat tokenizers keep beside their own.

    After the start of a chat turn a base expects 'user', and finds any text's beginning odd.
    """
    between = tokenizer.convert_tokens_to_ids(BETWEEN_DOCUMENTS)
    if between is not None and tokenizer.convert_ids_to_tokens(between) == BETWEEN_DOCUMENTS:
        return int(between)
    start = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if start is None else start)
