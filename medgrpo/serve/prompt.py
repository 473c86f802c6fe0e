"""A chat as token ids, the same for every engine, or why it can't be one."""

from jinja2 import TemplateError

from medgrpo.policy import Policy
from medgrpo.serve.engine import RequestRefused


def fitting_prompt(policy: Policy, chat: list[dict[str, str]], max_tokens: int, room: int) -> list[int]:
    """Token ids of a chat, as evaluation renders it.

    Args:
        max_tokens: longest completion.
        room: tokens that prompt and completion may have together.

    Raises:
        RequestRefused: the template refuses it, or there is no room for it and the completion.
    """
    try:
        prompt = policy.prompt_tokens(chat)
    except TemplateError as error:
        raise RequestRefused(
            "the model's chat template refuses this order of roles: alternate user and assistant, user last",
            "messages",
            "invalid_messages",
        ) from error
    if len(prompt) + max_tokens > room:
        raise RequestRefused(
            f"the prompt has {len(prompt)} tokens and the completion may have {max_tokens}: more than the "
            f"{room} of the model's context here. Shorten the messages or lower max_tokens",
            "messages",
            "context_length_exceeded",
        )
    return prompt
