"""What a GGUF itself says a prompt is. The server's tokens are code points; token 1 is the BOS."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.program import StageError
from tunesmith_stages.register.gguf_reference import GgufReference

PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if enable_thinking %}T{% endif %}"
)


class Tokens(BaseHTTPRequestHandler):
    """Speaks llama-server's protocol; a BOS is added if the server's `adds_bos` says so."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        added = asked["add_special"] and self.server.adds_bos  # type: ignore[attr-defined]
        body = json.dumps({"tokens": [1] * added + [ord(character) for character in asked["content"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[True, False], ids=["the server adds BOS", "it does not"])
def server(request: pytest.FixtureRequest) -> Iterator[LlamaServer]:
    listening = HTTPServer(("127.0.0.1", 0), Tokens)
    listening.adds_bos = request.param  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield LlamaServer(listening.server_port, "adds" if request.param else "")
    listening.shutdown()
    thread.join()
    listening.server_close()


def write_gguf(folder: Path, template: str) -> Path:
    """Write a GGUF without tensors, whose tokens are `<unk>`, `<s>` and `</s>`."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    keys = [
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("<unk>") + text("<s>") + text("</s>"),
        text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 1),
    ]
    (folder / "model.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(keys)) + b"".join(keys))
    return folder


def test_prompt_is_what_the_file_says(tmp_path: Path, server: LlamaServer) -> None:
    """The file's Jinja renders with its own tokens; a BOS that the tokenizer adds itself is not there twice."""
    reference = GgufReference(write_gguf(tmp_path, PLAIN), server)
    prompt = reference.prompt([{"role": "user", "content": "hé"}], None)
    thinking = reference.prompt([{"role": "user", "content": "hé"}], True)
    assert prompt is not None
    assert thinking is not None
    assert prompt.text == ("" if server.key else "<s>") + "[user]hé"
    assert prompt.tokens == len("[user]hé") + (1 if server.key else 3)
    assert thinking.text == prompt.text + "T"
    assert [probe["messages"][-1]["role"] for probe in reference.probes] == ["user"] * 3
    assert len(reference.probes[0]["ids"]) == len("[user]Who are you?") + (1 if server.key else 3)


def test_shapes_that_the_template_refuses_are_passed_over(tmp_path: Path, server: LlamaServer) -> None:
    """A template that raises has no prompt for that conversation; one that always does is no template to talk with."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"
    reference = GgufReference(write_gguf(tmp_path, refusing), server)
    assert reference.prompt([{"role": "system", "content": "y"}], None) is None
    assert len(reference.probes) == 2
    with pytest.raises(StageError) as caught:
        GgufReference(write_gguf(tmp_path, "{{ raise_exception('no') }}"), server)
    assert caught.value.reason == "GgufWithoutTemplate"
