"""Responses as OpenAI's completions protocol has them: whole, in chunks, and errors."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from npgpt.data.tokenizer import REPLACEMENT, Tokenizer
from npgpt.serve.engine import Choice, Piece, Token


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of one token; bytes that are no text are written as OpenAI's server does."""
    if not tokenizer.is_bytewise:
        return tokenizer.decode([token], unknown=REPLACEMENT)
    content = tokenizer.token_bytes(token)
    if content is None:
        return REPLACEMENT
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def log_probs_object(tokenizer: Tokenizer, tokens: Sequence[Token]) -> dict[str, Any]:
    """Return the field "logprobs" of some tokens."""
    return {
        "tokens": [token_text(tokenizer, one.id) for one in tokens],
        "token_logprobs": [one.log_probability for one in tokens],
        "top_logprobs": [top_object(tokenizer, one) for one in tokens],
        "text_offset": [one.offset for one in tokens],
    }


def top_object(tokenizer: Tokenizer, token: Token) -> dict[str, float] | None:
    """Return the most likely tokens at a position; two of one text keep the larger number."""
    if token.log_probability is None:
        return None
    found: dict[str, float] = {}
    for other, log_prob in token.most_likely:
        found.setdefault(token_text(tokenizer, other), log_prob)
    return found


@dataclass
class Response:
    """The response to one request, which its pieces complete."""

    model: str
    tokenizer: Tokenizer
    choices: Sequence[Choice]
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self) -> dict[str, Any]:
        """Return the fields that every object of this response has."""
        return {
            "id": self.id, "object": "text_completion", "created": self.created,
            "model": self.model,
        }  # fmt: skip

    def choice(self, index: int, text: str, tokens: Sequence[Token], reason: str | None) -> Any:
        """Return a choice, or what a piece adds to it."""
        wanted = self.choices[index].request.log_probs is not None
        log_probs = log_probs_object(self.tokenizer, tokens) if wanted else None
        return {"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason}

    def chunk(self, piece: Piece) -> bytes:
        """Return the server-sent event of a piece."""
        one = self.choice(piece.choice, piece.text, piece.tokens, piece.finish_reason)
        return event({**self.head(), "choices": [one]})

    def usage_chunk(self) -> bytes:
        """Return the server-sent event of the numbers of tokens."""
        return event({**self.head(), "choices": [], "usage": self.usage()})

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the response of all pieces."""
        by_choice: list[list[Piece]] = [[] for _ in self.choices]
        for piece in pieces:
            by_choice[piece.choice].append(piece)
        choices = [
            self.choice(
                index,
                "".join(piece.text for piece in own),
                [token for piece in own for token in piece.tokens],
                own[-1].finish_reason,
            )
            for index, own in enumerate(by_choice)
        ]
        return {**self.head(), "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Return the numbers of tokens; a prompt counts once for all its choices."""
        prompt = sum(len(one.prompt) for one in self.choices[:: self.choices[0].request.n])
        generated = sum(one.generated for one in self.choices)
        return {
            "prompt_tokens": prompt, "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }  # fmt: skip


def event(found: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(found).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"


def error_object(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Return an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
