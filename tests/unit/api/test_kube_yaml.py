"""YAML as kubectl reads and writes it."""

from __future__ import annotations

import pytest
import yaml

from tunesmith.api.kube_yaml import KubeLoader, dump


@pytest.mark.parametrize(
    "text",
    [
        "a\nb",
        "a\nb\n",
        "a\n\n\n",
        "\n",
        " \n",
        " indented\nfirst\n",
        "\ttab\nfirst",
        "blank at the end \nof a line",
        "# no comment\n---\nno document\n",
        "carriage\r\nreturn",
        "next line\x85\n",
        "line separator\u2028\n",
        "😀\nü",
        f"{'long ' * 100}\n{'x' * 300}",
    ],
)
def test_texts_of_several_lines(text: str) -> None:
    """A text of several lines is read back as it was, whatever is in it."""
    assert yaml.load(dump({"list": [text], "key": text}), KubeLoader) == {"list": [text], "key": text}  # noqa: S506 - plain data only


def test_lines_are_written_as_lines() -> None:
    """People can read a text of several lines, such as a file in a ConfigMap."""
    assert dump({"data": {"stage.json": '{\n  "a": 1\n}\n'}}) == 'data:\n  stage.json: |\n    {\n      "a": 1\n    }\n'
