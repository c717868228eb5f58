"""Reads rows whose parts stand in columns of their own: Alpaca, prompt and completion, plain text."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesmith_stages.prepare.conversations import Conversation, Message, opened, optional_text, required_text
from tunesmith_stages.prepare.row import Row
from tunesmith_stages.prepare.tool_calls import tools_of
from tunesmith_stages.prepare.turns import Turns, require_answer


@dataclass(frozen=True)
class Alpaca:
    """Names of Alpaca's columns; None for one that is not used."""

    prompt: str = "instruction"
    query: str | None = "input"
    response: str = "output"
    system: str | None = "system"
    history: str | None = "history"
    tools: str | None = None

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind.
        """
        messages: list[Message] = []
        if system := optional_text(row, self.system, "system"):
            messages.append({"role": "system", "content": system})
        for asked, answered in self._history(row):
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        query = optional_text(row, self.query, "query")
        read_prompt = optional_text if query.strip() and self.prompt in row.data else required_text
        prompt = read_prompt(row, self.prompt, "prompt")
        messages.append({"role": "user", "content": "\n".join(part for part in (prompt, query) if part)})
        messages.append({"role": "assistant", "content": required_text(row, self.response, "response")})
        return Conversation(row.place, messages, tools_of(row, self.tools))

    def _history(self, row: Row) -> list[list[str]]:
        turns = opened(row, self.history, row.data.get(self.history)) if self.history else None
        turns = turns or []
        pairs = isinstance(turns, list) and all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) and text.strip() for text in turn)
            for turn in turns
        )
        if not pairs:
            row.refuse(f"`{self.history}` must be a list of [user, assistant] pairs of texts, none empty")
        return list(turns)  # type: ignore[call-overload,no-any-return]  # it is a list: see above


@dataclass(frozen=True)
class PromptCompletion:
    """Names of the columns of prompt and completion: texts, or lists of messages as TRL has them."""

    prompt: str = "prompt"
    completion: str = "completion"
    tools: str | None = "tools"
    turns: Turns = field(default_factory=lambda: Turns(""))

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row. Of lists of messages the completion's answers alone are learnt.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind.
        """
        if not isinstance(row.data.get(self.prompt), list):
            asked = required_text(row, self.prompt, "prompt")
            answered = required_text(row, self.completion, "response")
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
            return Conversation(row.place, messages, tools_of(row, self.tools))
        before, _ = self.turns.messages(row, self.prompt)
        after, ignored = self.turns.messages(row, self.completion)
        ignored = {index + len(before) for index in ignored}
        ignored |= {index for index, message in enumerate(before) if message["role"] == "assistant"}
        require_answer(row, self.completion, [*before, *after], ignored)
        return Conversation(row.place, [*before, *after], tools_of(row, self.tools), ignored=frozenset(ignored))


@dataclass(frozen=True)
class Text:
    """The name of the column with a plain text."""

    column: str = "text"

    def read(self, row: Row) -> Conversation:
        """Return the text of a row.

        Raises:
            StageError: there is none.
        """
        return Conversation(row.place, (), text=required_text(row, self.column, "text"))
