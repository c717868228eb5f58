from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.toy_base import change_json, write_toy_base
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse import twin_process

UNREADABLE: dict[str, dict[str, Any]] = {
    "num_hidden_layers": {"num_hidden_layers": "three"},
    "rope": {"rope_scaling": "yes"},
    "ZeroDivisionError": {"num_attention_heads": 0},
    "layer_types": {"layer_types": ["another"]},
    "model type": {"model_type": "another"},
}


@pytest.mark.parametrize("says", UNREADABLE)
def test_configuration_that_makes_no_sense_is_refused(tmp_path: Path, says: str) -> None:
    """Whatever transformers raises for a config.json, the base is named as the cause, with what transformers says."""
    change_json(write_toy_base(tmp_path), "config.json", **UNREADABLE[says])
    with pytest.raises(StageError, match=says) as caught:
        twin_process._compared(tmp_path)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BaseUnreadable")
