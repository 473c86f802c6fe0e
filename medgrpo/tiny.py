"""The tiny base model: a small Llama, its tokenizer, and some seconds of teaching on the built-in questions.

It knows the answer grammar and gives mostly wrong answers, so that GRPO has something to improve within seconds.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.answer import DEFAULT_SYSTEM_PROMPT, messages, render_gold, render_question
from medgrpo.data.clinical import generate
from medgrpo.types import Example

if TYPE_CHECKING:
    from medgrpo.base_models import TinyBase

SEED = 0
TAUGHT_TOPICS = ("blood-count", "blood-chemistry", "ion-disorder", "mean-arterial-pressure")
BATCH = 16
LEARNING_RATE = 3e-3
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(base: "TinyBase", folder: Path) -> None:
    """Write the model and its tokenizer to a folder; the same bytes each time on one machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    lessons = generate(400, SEED, TAUGHT_TOPICS)
    tokenizer = _tokenizer(lessons, base.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=base.hidden_size,
                intermediate_size=2 * base.hidden_size,
                num_hidden_layers=base.layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        _teach(model, tokenizer, lessons, base.lessons)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(lessons: list[Example], vocabulary: int) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    texts = [DEFAULT_SYSTEM_PROMPT, *(render_question(e) + "\n" + render_gold(e) for e in lessons)]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def _teach(model: Any, tokenizer: Any, lessons: list[Example], steps: int) -> None:
    """Next-token training on worked answers; prompts are not scored."""
    import torch

    rows = [_lesson(tokenizer, example) for example in lessons]
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        batch = [rows[(step * BATCH + place) % len(rows)] for place in range(BATCH)]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _lesson(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Token ids of a chat with its gold completion, and the labels: -100 over the prompt."""
    chat = messages(DEFAULT_SYSTEM_PROMPT, (), render_question(example))
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    completion = tokenizer(render_gold(example), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return prompt + completion, [-100] * len(prompt) + completion
