"""What `train` reads of a method."""

from __future__ import annotations

from typing import Any

import pytest

from support.prepared import PARAMS, RUNTIME
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError
from tunesmith_stages.train.methods import Method, Preference
from tunesmith_stages.train.settings import read_settings

READ: dict[str, tuple[dict[str, Any], Preference | None]] = {
    "none": ({}, None),
    "DPO": (
        {"method": "DPO", "preference": {"beta": "0.2", "sftWeight": "0.5"}},
        Preference(Method.DPO, beta=0.2, sft_weight=0.5),
    ),
    "ORPO": ({"method": "ORPO", "preference": {"beta": "0.1"}}, Preference(Method.ORPO, beta=0.1)),
    "KTO": (
        {"method": "KTO", "preference": {"beta": "0.1", "desirableWeight": "1", "undesirableWeight": "1.5"}},
        Preference(Method.KTO, beta=0.1, undesirable_weight=1.5),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_reads_the_method(name: str) -> None:
    """Each method comes with its numbers; without one it is supervised fine-tuning."""
    given, wanted = READ[name]
    assert read_settings({**PARAMS, **given}, RUNTIME).preference == wanted


@pytest.mark.parametrize("given", [{"method": "PPO", "preference": {"beta": "1"}}, {"method": "DPO"}])
def test_refuses_what_it_does_not_know(given: dict[str, Any]) -> None:
    """A method of a later version, or one without its numbers, is not taken for another one."""
    with pytest.raises(StageError) as caught:
        read_settings({**PARAMS, **given}, RUNTIME)
    assert caught.value.code is ExitCode.BAD_CONFIG


def test_only_orpo_knows_no_base() -> None:
    """DPO and KTO compare with the base."""
    assert {method for method in Method if Preference(method, 0.1).has_reference} == {Method.DPO, Method.KTO}
