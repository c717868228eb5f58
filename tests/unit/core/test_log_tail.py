"""The last lines of a log, as a status holds them."""

from __future__ import annotations

import json

import pytest

from tunesmith.core.log_tail import LINES, MOST_BYTES, tail_of

EVENT = json.dumps({"stage": "train", "done": 3, "total": 10})


def test_the_last_lines_in_their_order() -> None:
    """Of a long log the end is kept, without empty lines."""
    log = "\n\n".join(f"line {number}" for number in range(100))
    assert tail_of(log).splitlines() == [f"line {number}" for number in range(100 - LINES, 100)]


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param(f"{EVENT}\nlast words\n{EVENT}\n", "last words", id="progress, which the status has"),
        pytest.param('{"loss": 1}', '{"loss": 1}', id="another JSON"),
        pytest.param("\x1b[31mred\x1b[0m\x07 bell", "red  bell", id="what controls a terminal"),
        pytest.param("10 %\r20 %\r30 %", "30 %", id="a progress bar"),
        pytest.param("half\ud800", "half ", id="half of a surrogate pair"),
    ],
)
def test_what_is_shown(log: str, wanted: str) -> None:
    """Lines for people, as they are shown."""
    assert tail_of(log) == wanted.rstrip()


@pytest.mark.parametrize("letter", ["x", "é", "語", "😀"])
@pytest.mark.parametrize("lines", [1, 5, 50])
def test_it_is_bounded(letter: str, lines: int) -> None:
    """However long the lines are and whatever they are written in, a status holds it; the newest lines go first."""
    tail = tail_of("\n".join([letter * 3000] * lines + ["the end"]))
    assert len(tail.encode()) <= MOST_BYTES
    assert len(tail.splitlines()) <= LINES
    assert tail.endswith("the end")
    assert letter in tail


HF = "hf_" + "a" * 34
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
SECRETS = [
    (f"using token {HF}", "aaaaaaaaaa"),
    ("GET https://tom:hunter22@mirror.example/x failed", "hunter22"),
    ("Authorization: Bearer abcdef0123456789", "abcdef0123"),
    ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpw"),
    (f"mounted {JWT} there", "c2lnbmF0dXJl"),
    ("HF_TOKEN=opensesame1 python", "opensesame1"),
    ('{"password": "opensesame1", "user": "tom"}', "opensesame1"),
    ("api_key: opensesame1", "opensesame1"),
    ("https://mirror.example/x?access_token=opensesame1&a=b", "opensesame1"),
]


@pytest.mark.parametrize(("line", "secret"), SECRETS)
def test_secrets_are_hidden(line: str, secret: str) -> None:
    """More people may read a FineTuneJob than its Secrets: what looks like one is not shown, the line is."""
    assert secret in line
    shown = tail_of(line)
    assert secret not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "line",
    [
        "`tokenizer.json` has 32000 tokens, and config.json says 32001",
        "ValueError: token 99 is beyond the embedding (64)",
        "12.3 tokens/s: 400 of 1000",
        "RevisionNotFound: a/b has no revision 0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    """Tokens of a text are no tokens of a hub."""
    assert tail_of(line) == line
