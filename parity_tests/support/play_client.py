"""The page's server in this process: requests to its ASGI application, without a port."""

import asyncio
import json
import re
from types import SimpleNamespace

import numpy as np

import npgpt
from npgpt.data.tokenizer import Tokenizer
from npgpt.play import frames, server
from npgpt.play.computation import Runner
from npgpt.play.session import Session

TOKEN = "secret"
HEADERS = {
    "host": "127.0.0.1:8124",
    "origin": "http://127.0.0.1:8124",
    "content-type": "application/json",
    "x-npgpt-token": TOKEN,
}


def byte_model(**options):
    """A small model of the byte tokenizer, on the NumPy backend."""
    config = npgpt.Config(vocab_size=257, context_length=16, n_layer=2, n_head=2, n_embd=8)
    return npgpt.GPT(config, ops="numpy", tokenizer="byte", **options)


class Client:
    """A server with a model that is loaded."""

    def __init__(self, model=None, prepare=None):
        model = byte_model() if model is None and prepare is None else model
        loaded = model, npgpt.tokenizer("byte"), "runs/tiny-1"
        self.runner = Runner()
        self.session = Session(prepare or (lambda report: loaded))
        self.app = server.make_app(self.session, self.runner, TOKEN)
        if prepare is None:
            self.session.load()

    def close(self):
        self.session.stopped.set()
        self.runner.close()

    def request(self, method, path, body=b"", headers=(), **other):
        """The answer to one request: status, headers, body. `headers`: (name, value), ..."""
        return asyncio.run(self.answer(method, path, body, headers, **other))

    async def answer(self, method, path, body, headers, *, chunks=1, leaves=None):
        size = -(-len(body) // chunks) or 1
        parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        messages = [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
        sent, gone = [], leaves or asyncio.Event()

        async def receive():
            if messages:
                return messages.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "scheme": "http", "client": ("127.0.0.1", 5000), "server": ("127.0.0.1", 8124),
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers],
        }  # fmt: skip
        await self.app(scope, receive, send)
        start, *rest = sent
        return SimpleNamespace(
            status=start["status"],
            headers={k.decode(): v.decode() for k, v in start["headers"]},
            body=b"".join(message.get("body", b"") for message in rest),
        )

    def post(self, name, fields, **changed):
        """The answer to a call of the page; `changed`: headers, None to leave one out."""
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return self.request("POST", f"/api/{name}", body, given(changed))

    def call(self, name, **fields):
        """The last frame of the answer to a call of the page."""
        answer = self.post(name, fields)
        assert answer.status == 200, answer.body
        return decode(answer.body)[-1]


def given(changed):
    """The headers of the page, with those that are changed; None leaves one out."""
    named = {name.replace("_", "-"): value for name, value in changed.items()}
    return [(k, v) for k, v in (HEADERS | named).items() if v is not None]


def decode(content):
    """The frames in the body of an answer, arrays under their names."""
    found = []
    while content:
        length = int.from_bytes(content[:4], "little")
        frame = json.loads(content[4 : 4 + length])
        content = content[4 + length :]
        for name, (code, shape) in frame.get("arrays", {}).items():
            dtype = np.dtype(frames.DTYPES[code]).newbyteorder("<")
            size = int(np.prod(shape)) * dtype.itemsize
            frame[name] = np.frombuffer(content[:size], dtype).reshape(shape)
            content = content[size:]
        found.append(frame)
    return found


SCRIPT = "<script>document.title = 'owned'</script>"
IMAGE = '<img src=x onerror="document.title=1">'
# The tokens of the page's model: what markup, spreadsheets and terminals would take for more
WORDS = [
    b"a", b"b", b" the", b"\n", b"\xe2\x80", b"\x94", SCRIPT.encode(), IMAGE.encode(), b"=1+1",
    b'"quoted", and', b"\x1b[31m", b"&amp;", b"\xe2\x80\xae", b"",
    *(f" word{i}".encode() for i in range(60)),
]  # fmt: skip


class WordTokenizer(Tokenizer):
    """Markup and characters that are tokens are encoded; all other characters are words."""

    origin, n_vocab, eot_token = "words", len(WORDS), None

    def _bytes_of(self, token):
        return WORDS[token] or None

    def _encode(self, text):
        known = {word: i for i, word in enumerate(WORDS)}
        pieces = re.findall(f"{re.escape(SCRIPT)}|{re.escape(IMAGE)}|(?s:.)", text)
        return [known.get(piece.encode(), 14 + ord(piece[0]) % 60) for piece in pieces]
