"""What is trained of a base."""

from __future__ import annotations

import pytest

from support.prepared import tiny_llama
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.model import freeze_but_last


def test_no_more_layers_are_trained_than_there_are() -> None:
    """All of them can be; one more is refused with the number that there is, and nothing is frozen."""
    model = tiny_llama()
    with pytest.raises(StageError, match=r"trainableLayers` is 3, but the base has 2 layers") as caught:
        freeze_but_last(model, 3)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TooManyLayers")
    assert all(value.requires_grad for value in model.parameters())
    freeze_but_last(model, 2)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".layers." in name}
