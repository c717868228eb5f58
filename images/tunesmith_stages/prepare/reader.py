"""Reads conversations from batches of rows, in the way that was recognised."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tunesmith_stages.prepare.content import MEDIA_HINT
from tunesmith_stages.prepare.conversations import Conversation, Shape
from tunesmith_stages.prepare.formats import PREFERENCE_DATA, looks_like
from tunesmith_stages.prepare.row import BadRow, Batch, Row
from tunesmith_stages.prepare.rows import parse
from tunesmith_stages.program import StageError

_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_LISTS_OF_MEDIA = ("images", "videos", "audios")
"""Columns in which datasets list pictures and the like."""

_MEDIA = ("image", "video", "audio")
"""Columns with one of them, if they hold no text: Parquet files of hubs have an object of bytes and path there."""


@dataclass(frozen=True)
class Reader:
    """How the rows of one dataset are read. It can be sent to another process."""

    format: str
    """``Alpaca``, ``ShareGPT``, ``Messages``, ``PromptCompletion`` or ``Text``."""
    found: str
    """A sentence: what was recognised, and why."""
    shape: Shape
    substitutions: Mapping[str, str]
    num_samples: int | None = None
    """How many rows a dataset_info.json asks for."""
    preferences: str | None = None
    """``Pairs`` or ``Labels``: what the rows are read as, where it is not one answer to learn."""

    def read(self, row: Row) -> Conversation:
        """Return the conversation of a row.

        Raises:
            StageError: the row lacks something or holds something of the wrong kind.
        """
        for column in (*_LISTS_OF_MEDIA, *_MEDIA):
            value = row.data.get(column)
            if value and (column in _LISTS_OF_MEDIA or isinstance(value, dict | bytes)):
                row.refuse(f"`{column}` holds media, which cannot be trained on", hint=MEDIA_HINT, reason="MediaData")
        try:
            conversation = self.shape.read(row)
        except StageError as error:
            other = looks_like(row.data)
            expected = {"", self.format, PREFERENCE_DATA if self.preferences else ""}
            if error.reason != "BadRow" or other in expected:
                raise
            hint = f"This row looks like {other}, but the dataset is {self.found} Give each format its own dataset."
            raise StageError(error.code, error.message, reason=error.reason, hint=hint) from None
        return self._substituted(conversation) if self.substitutions else conversation

    def _substituted(self, conversation: Conversation) -> Conversation:
        def put(text: str) -> str:
            return _PLACEHOLDER.sub(lambda found: self.substitutions.get(found[1], found[0]), text)

        messages = [{**message, "content": put(message["content"])} for message in conversation.messages]
        text = None if conversation.text is None else put(conversation.text)
        rejected = None if conversation.rejected is None else self._substituted(conversation.rejected)
        return replace(conversation, messages=messages, text=text, rejected=rejected)


def read_conversations(batch: Batch, reader: Reader) -> Iterator[Conversation | BadRow]:
    """Yield the conversation of each row of a batch, or why there is none."""
    for row in parse(batch):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield reader.read(row)
        except StageError as error:
            yield BadRow(row.place, error.message, error.reason, error.hint)
