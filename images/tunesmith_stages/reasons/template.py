"""Reasons: it is stalled by the chat template, or by what was prepared with it."""

from __future__ import annotations

from tunesmith_stages.reasons.exit_codes import ExitCode
from tunesmith_stages.reasons.row import Reason

_DATA = ExitCode.BAD_DATA
_CONFIG = ExitCode.BAD_CONFIG
_GATE = ExitCode.GATE_FAILED

TEMPLATE = (
    Reason(
        ("TemplateMissing", "BadTemplate", "UnsafeTemplate"),
        "There is no chat template, or it cannot be rendered.",
        "`model.chatTemplate`: `name` takes one that comes along, `jinja` your own.",
        (_CONFIG,),
    ),
    Reason(
        ("TemplateUnknown", "TemplateTokensMissing"),
        "No template has this name, or the base model's tokenizer lacks the control tokens of that family; they are "
        "named.",
        "`model.chatTemplate.name`: the base model's own family, or `default`.",
        (_CONFIG,),
    ),
    Reason(
        ("TemplateTakesTooMuch",),
        "The chat template runs for ever, or writes or computes something huge.",
        "Mend `model.chatTemplate.jinja`.",
        (_CONFIG,),
    ),
    Reason(
        ("ThinkingNotInTemplate",),
        "`enableThinking` is given, but the chat template knows nothing of thinking.",
        "Take it out, or use a thinking model's template.",
        (_CONFIG,),
    ),
    Reason(
        ("GenerationBlocksConflict",),
        "The template's `{% generation %}` blocks mark something else than answers, or leave out the token that ends "
        "them.",
        "The hint says where a block must begin and end.",
        (_CONFIG,),
    ),
    Reason(
        ("TemplateRefusesRow",),
        "The chat template fails on a conversation.",
        "Mend the row that is named, or the template.",
        (_DATA,),
    ),
    Reason(
        ("TemplateNotSeparable", "NoGenerationPrompt", "NoEndOfTurn", "EndOfTurnNotEog"),
        "With this template it is not certain what the model would learn, or that it would ever stop.",
        "The hint says what the template must do.",
        (_CONFIG, _GATE),
    ),
    Reason(
        ("LabelsNotProven",),
        "The tokenizer does not give back its own text, so that labels cannot be proven.",
        "Report the tokenizer.",
        (_GATE,),
    ),
    Reason(
        ("PreparedDataBroken",),
        "What `prepare` left cannot be read.",
        "Remove the folder that is named, then `retry`.",
        (_DATA,),
    ),
)
