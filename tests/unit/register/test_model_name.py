from __future__ import annotations

import pytest

from tunesmith_stages import model_name

ALLOWED = [
    "support-bot",
    "support-bot:v1",
    "support-bot:latest",
    "team/support_bot:v1.2",
    "127.0.0.1:5000/team/m:v1",
    "registry.example.com/team/m",
    "_m",
    "m" * 80,
    "m:" + "t" * 80,
    "cloud",
    "local:v1",
]
REFUSED = {
    "": "empty",
    " m": "blanks",
    "m\n": "blanks",
    "a b": "the model's part",
    "m:": "the tag",
    ":v1": "the model's part",
    "/m": "the namespace",
    "a//m": "the namespace",
    "/a/m": "host",
    "a/b/c/m": "host",
    "-m": "the model's part",
    ".m": "the model's part",
    "m:.v": "the tag",
    "m" * 81: "80",
    "m:" + "t" * 81: "80",
    "na.me/m": "the namespace",
    "m:a:b": "the model's part",
    "m@sha256:00": "the model's part",
    "modèle": "the model's part",
    "../m": "the namespace",
    "http://host/ns/m": "http://",
    "m:cloud": "cloud",
    "m:LOCAL": "cloud",
    "m:v1-Cloud": "cloud",
    "tunesmith-check-m": "tunesmith-check-",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_names_that_ollama_takes_are_allowed(name: str) -> None:
    """A name that the server accepts is not refused by us."""
    assert model_name.problem(name) is None


@pytest.mark.parametrize(("name", "part"), REFUSED.items())
def test_names_that_ollama_refuses_are_explained(name: str, part: str) -> None:
    """A name that the server refuses or misreads is refused, and the text says which part and what it was."""
    problem = model_name.problem(name)
    assert problem is not None
    assert part in problem
    assert repr(name) in problem


@pytest.mark.parametrize(
    ("model", "quantizations", "names"),
    [
        ("support-bot:v1", ["Q4_K_M", "Q8_0"], ["support-bot:v1", "support-bot:v1-q8_0"]),
        ("support-bot", ["Q4_K_M", "Q8_0"], ["support-bot:latest", "support-bot:q8_0"]),
        ("support-bot:latest", ["Q4_K_M", "Q8_0"], ["support-bot:latest", "support-bot:q8_0"]),
        ("h:5000/t/m:v1", ["F16", "Q4_0"], ["h:5000/t/m:v1", "h:5000/t/m:v1-q4_0"]),
        ("h:5000/t/m", ["F16"], ["h:5000/t/m:latest"]),
    ],
)
def test_first_quantization_has_the_models_own_name(model: str, quantizations: list[str], names: list[str]) -> None:
    """The first quantization gets the name that was asked for, the others a tag that tells them apart."""
    assert list(model_name.live_names(model, quantizations).values()) == names


def test_a_tag_that_grows_too_long_is_refused() -> None:
    """A name that is allowed alone is refused if a further quantization's tag would be too long."""
    model = "m:" + "t" * 78
    assert model_name.problem_of_any(model, ["Q4_K_M"]) is None
    problem = model_name.problem_of_any(model, ["Q4_K_M", "Q8_0"])
    assert problem is not None
    assert "Q8_0" in problem


@pytest.mark.parametrize("attempt", ["1", "2026-11-21T10:00:00.123Z", "a/b:c d", "x" * 200, "é"])
def test_throw_away_names_are_names(attempt: str) -> None:
    """Whatever an attempt is called, its throw-away name is one that the server takes and the next attempt finds."""
    name = model_name.check_name("ab" * 32, "cd" * 8, attempt, "Q4_K_M")
    assert name.startswith(model_name.check_prefix("ab" * 32, "cd" * 8))
    assert model_name.problem(name.removeprefix(model_name.CHECK_PREFIX)) is None
    assert len(name.split(":")[0]) <= 80


def test_throw_away_names_of_two_volumes_differ() -> None:
    """The same work on two volumes with one server: neither takes the other's models for ones that it left."""
    one, other = (model_name.check_name("ab" * 32, volume * 16, "1", "Q8_0") for volume in "cd")
    assert not other.startswith(model_name.check_prefix("ab" * 32, "c" * 16))
    assert one != other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "a-long-name-of-a-job-" * 4 + "-register-1234abcd-0-x7k2p",
            "a-long-name-of-a-job-" * 4 + "-register-1234abcd-0-q9z4m",
        ),
        ("one-" * 20 + "the-same-end" * 4, "two-" * 20 + "the-same-end" * 4),
        ("a/b" * 30, "a-b" * 30),
    ],
    ids=["other ends", "other beginnings", "other characters"],
)
def test_throw_away_names_of_long_attempts_differ(one: str, other: str) -> None:
    """A name that is too long is cut in such a way that it stays that attempt's own."""
    names = {model_name.check_name("ab" * 32, "cd" * 8, attempt, "Q8_0") for attempt in (one, other)}
    assert len(names) == 2
    assert all(len(name) == len("q8_0:") + 80 for name in names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("M", "m:latest"),
        ("registry.ollama.ai/library/m:V1", "m:v1"),
        ("library/m:v1", "m:v1"),
        ("h/library/m", "H/library/m:latest"),
    ],
)
def test_one_model_has_one_canonical_name(one: str, other: str) -> None:
    """Spellings that mean one model to the server compare equal."""
    assert model_name.canonical(one) == model_name.canonical(other)


def test_namespaces_stay_apart() -> None:
    """The default namespace of another registry is not left out."""
    assert model_name.canonical("h/library/m") != model_name.canonical("m")


REGISTERED = {"bot:v1": {"digest": "aa"}, "Bot:v1-q8_0": {"digest": "bb"}}


@pytest.mark.parametrize(
    ("there", "still"),
    [
        ({"bot:v1": "aa", "bot:v1-q8_0": "bb", "other:latest": "cc"}, True),
        ({"bot:v1": "aa"}, False),
        ({"bot:v1": "aa", "bot:v1-q8_0": "zz"}, False),
        ({}, False),
    ],
)
def test_registered_models_are_still_there(there: dict[str, str], still: bool) -> None:
    """Every name must be there, in whatever spelling, with the digest that it was registered with."""
    models = {name: {"digest": digest} for name, digest in there.items()}
    assert model_name.still_there(REGISTERED, models) is still
