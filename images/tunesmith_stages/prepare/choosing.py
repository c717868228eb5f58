"""Which chat template is trained with: the tokenizer's own, one of ours, or the job's; with the job's choices in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jinja2

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import ChatTemplate, limited
from tunesmith_stages.prepare.named_templates import NAMED, named_template
from tunesmith_stages.prepare.served_template import with_choices, without_generation_tags
from tunesmith_stages.prepare.template_errors import explained
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZERS_OWN, JOBS_OWN = "tokenizer", "jinja"
"""Names of templates that have no name."""


def chosen_template(tokenizer: PreTrainedTokenizerBase, wanted: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the Jinja text of the template that `chatTemplate` asks for.

    Raises:
        StageError: there is none, or the tokenizer lacks its tokens.
    """
    if wanted.get("jinja"):
        return JOBS_OWN, wanted["jinja"]
    if name := wanted.get("name"):
        return name, named_template(name, tokenizer.get_added_vocab(), thinking=wanted.get("enableThinking"))
    given = tokenizer.chat_template
    if isinstance(given, Mapping) and isinstance(given.get("default"), str):
        given = given["default"]
    if not isinstance(given, str):
        what = f"several chat templates ({', '.join(given)}), none called `default`" if given else "no chat template"
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the base model's tokenizer has {what}",
            reason="TemplateMissing",
            hint="Give one in `model.chatTemplate`: `name` takes one that comes with Tunesmith, `jinja` your own.",
        )
    return TOKENIZERS_OWN, given


def with_job_choices(
    source: str, tokenizer: PreTrainedTokenizerBase, name: str, wanted: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Return the template to serve, and the same with ``{% generation %}`` blocks or None if it has none.

    What `chatTemplate` says about a default system message and thinking is in the text, and that a template does not
    think, if it would without being told. So are, in a template of ours, the texts of control tokens that it takes from
    the tokenizer: a server may know them otherwise.

    Raises:
        StageError: the template does not ask whether to think, is no Jinja, or takes too much.
    """
    with limited(), explained(()):
        reads = ChatTemplate(source, {}).variables
        plain = without_generation_tags(source)
    variables: dict[str, str | bool] = {}
    if name in NAMED and "eos_token" in reads:
        variables["eos_token"] = tokenizer.eos_token
    thinking = wanted.get("enableThinking")
    if thinking is not None:
        if "enable_thinking" not in reads:
            raise StageError(
                ExitCode.BAD_CONFIG,
                "`model.chatTemplate.enableThinking` is given, but the chat template does not read `enable_thinking`",
                reason="ThinkingNotInTemplate",
                hint="Take `enableThinking` out, or use a thinking model's template, such as `name: qwen`.",
            )
        variables["enable_thinking"] = thinking
    elif "enable_thinking" in reads and _thinks_only_when_told(source, tokenizer):
        variables["enable_thinking"] = False
    system = wanted.get("defaultSystem")
    served = with_choices(plain, variables, system)
    return served, None if plain == source else with_choices(source, variables, system)


def _thinks_only_when_told(source: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether a template's prompt without a word about thinking is the one without thinking.

    Servers tell a template to think unless a request says otherwise. What is trained must be what is served then.
    """
    question = [{"role": "user", "content": "Hello"}]
    prompts = []
    told: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": False}, {"enable_thinking": True})
    for more in told:
        template = ChatTemplate(source, {**tokenizer.special_tokens_map, **more})
        try:
            with limited():
                prompts.append(template.render(question, ask=True))
        except (
            jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
            MemoryError
        ):  # fmt: skip
            return False  # whatever it is, the first rendering of all tells it
    silent, off, on = prompts
    return silent == off != on
