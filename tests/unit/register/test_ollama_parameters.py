from __future__ import annotations

from typing import Any

import pytest

from tunesmith.api.finetunejob import OllamaParameters
from tunesmith_stages.ollama_parameters import PARAMETERS, ParameterError, typed


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("temperature", "0.7", 0.7),
        ("temperature", 1, 1.0),
        ("top_p", "1e-1", 0.1),
        ("presence_penalty", "-0.5", -0.5),
        ("num_ctx", 4096, 4096),
        ("num_ctx", "4096", 4096),
        ("seed", -1, -1),
        ("use_mmap", True, True),
        ("use_mmap", "false", False),
        ("stop", "###", ["###"]),
        ("stop", ["a", "b"], ["a", "b"]),
    ],
)
def test_values_get_the_type_that_ollama_wants(name: str, given: Any, meant: Any) -> None:
    """A decimal string becomes a number, a whole number stays whole, a single stop text becomes a list."""
    value = typed({name: given})[name]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temprature": "0.7"}, "did you mean `temperature`"),
        ({"numCtx": 1}, "did you mean `num_ctx`"),
        ({"zzz": 1}, "known are"),
        ({"typical_p": "0.5"}, "not a parameter"),
        ({"temperature": "warm"}, "must be a decimal number, got 'warm'"),
        ({"temperature": True}, "must be a decimal number"),
        ({"temperature": "nan"}, "must be a decimal number"),
        ({"num_ctx": "4096.5"}, "must be a whole number"),
        ({"num_ctx": 0}, "at least 1"),
        ({"num_ctx": True}, "must be a whole number"),
        ({"use_mmap": 1}, "must be true or false"),
        ({"stop": [1]}, "must be a text or a list of texts"),
        ({"stop": ""}, "must be a text or a list of texts"),
    ],
)
def test_what_ollama_would_drop_or_refuse_is_refused(parameters: dict[str, Any], words: str) -> None:
    """An unknown name or a value of the wrong kind is an error that says what is allowed."""
    with pytest.raises(ParameterError, match=words.replace("(", r"\(")):
        typed(parameters)


def test_every_parameter_of_the_api_is_known() -> None:
    """What a job may say of parameters is what the server is told."""
    assert OllamaParameters.model_fields.keys() <= PARAMETERS.keys()
