from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tunesmith_stages.convert.corpus import TEXTS, with_control_tokens
from tunesmith_stages.convert.token_gate import left_out, require_same_prompts, require_same_tokens
from tunesmith_stages.llama_server import LlamaServer
from tunesmith_stages.program import StageError

BOS = 1


class CodePoints(BaseHTTPRequestHandler):
    """Speaks llama-server's protocol; its tokens are code points, and special is a BOS in front."""

    def do_POST(self) -> None:
        """Answer /tokenize."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = [BOS] * asked["add_special"] + [ord(character) for character in asked["content"]]
        body = json.dumps({"tokens": tokens}).encode()
        self.send_response(200 if asked["parse_special"] else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[LlamaServer]:
    listening = HTTPServer(("127.0.0.1", 0), CodePoints)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield LlamaServer(listening.server_port, "")
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_same_tokens_pass(server: LlamaServer) -> None:
    """Texts are compared without anything around them, prompts with what serving adds."""
    require_same_tokens(server, ["ab", "é"], [[97, 98], [233]])
    require_same_prompts(server, ["ab"], [[BOS, 97, 98]])


DIFFERENT = {"another": [97, 99, 99], "shorter": [97, 98], "longer": [97, 98, 99, 100], "none": []}


@pytest.mark.parametrize("name", DIFFERENT)
def test_first_difference_is_shown(server: LlamaServer, name: str) -> None:
    """The text that is split differently is shown with both lists and the place where they part."""
    with pytest.raises(StageError, match="'abc'") as caught:
        require_same_tokens(server, ["x", "abc", "y"], [[120], DIFFERENT[name], [121]])
    place = {"another": 1, "shorter": 2, "longer": 3, "none": 0}[name]
    assert f"part at token {place}" in caught.value.message
    assert "[97, 98, 99] (3)" in caught.value.message
    assert str(DIFFERENT[name]) in caught.value.message
    assert caught.value.reason == "TokenizerMismatch"


def test_second_bos_is_found(server: LlamaServer) -> None:
    """A prompt that begins with BOS and is given another one is not what training saw."""
    with pytest.raises(StageError, match="part at token 1"):
        require_same_prompts(server, ["\x01a"], [[BOS, 97]])


def test_only_decomposed_text_is_left_out_and_only_under_nfc() -> None:
    """What can't be compared is named; everything else is compared."""
    assert left_out(TEXTS, "") == []
    assert left_out(TEXTS, "Lowercase") == []
    assert left_out(TEXTS, "NFC") == [text for text in TEXTS if text.startswith("combining")]


def test_control_tokens_stand_in_every_position() -> None:
    """A control token is compared alone, inside text, before a line break and doubled."""
    assert with_control_tokens(["<e>"]) == ["<e>", "Hi<e>\nthere", "<e><e> again"]
