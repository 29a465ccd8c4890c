"""How a text becomes what a server is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.errors import InputError
from limbeck.imports import portrait

__all__ = ["Message", "Prompt", "Prompting"]

Message = Mapping[str, Any]
Prompt = str | Callable[[str], str | Sequence[Message]]
"""A text with ``{text}`` in it, or a function that returns a prompt (or, for a chat, messages)."""


@dataclass(frozen=True)
class Prompting:
    """Makes the prompt of a request.

    Attributes:
        chat: whether it is sent as messages.
        prompt: see :data:`Prompt`.
        system: a first message, in chats.

    >>> Prompting(True, "Is this good? {text}").body("Nice {day}.")
    {'messages': [{'role': 'user', 'content': 'Is this good? Nice {day}.'}]}
    """

    chat: bool
    prompt: Prompt = "{text}"
    system: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str) and "{text}" not in self.prompt:
            raise InputError(
                f"the prompt {self.prompt!r} without a place for the text",
                expected="{text} in it, or a function of the text",
                consequence="Every sample would get the same answer.",
            )
        if self.system is not None and not self.chat:
            raise InputError(
                "a system message for a server with chat=False",
                remedy="Write it into the prompt, in the model's chat format.",
            )

    def body(self, text: str) -> dict[str, Any]:
        """Return ``{"messages": [...]}`` in a chat, else ``{"prompt": "..."}``."""
        whole = self.prompt(text) if callable(self.prompt) else self.prompt.replace("{text}", text)
        if not self.chat:
            return {"prompt": whole}
        own = [{"role": "user", "content": whole}] if isinstance(whole, str) else list(whole)
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {"messages": [*first, *own]}

    def fingerprint(self) -> str:
        """Return a text that changes when the prompts would."""
        return portrait((self.chat, self.system)) + portrait(self.prompt)
