"""What the objects of the API are built of: their base class, rules over several fields, and values of one field.

Each bound and rule stands here or beside its field, once. pydantic checks it for `tunesmith validate`, and the CRD made
from the same models carries it to the API server: bounds as OpenAPI, rules as CEL.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

BROKEN_RULE = "broken_rule"
"""Type of the errors of rules; their context holds the ``field`` to change, below the object."""

CEL_RULES = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
QUALIFIED_PATTERN = (
    r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"
)
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"
WORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
MODULE_PATTERN = r"^[A-Za-z0-9_.]{1,128}$"
QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


def broken(message: str, *field: str | int, shows: bool = False) -> PydanticCustomError:
    """Return the error of a rule.

    Args:
        message: what must be.
        field: path of the field to change, below the object.
        shows: whether the value that was given is to be told after the message.
    """
    return PydanticCustomError(BROKEN_RULE, "{message}", {"message": message, "field": field, "shows": shows})


@dataclass(frozen=True)
class Rule:
    """What must hold of an object or of one value, for pydantic and for the API server alike.

    It goes into the `RULES` of an object's class, or beside the type of one field (``Annotated[str, Rule(...)]``).
    """

    message: str
    """What must be, for people."""
    holds: Callable[[Any], bool]
    cel: str
    """The same in CEL, over `self`; empty where the schema says it already, and in what no CRD is made from."""
    field: tuple[str, ...] = ()
    """The field to change, below the object."""

    def as_cel(self) -> dict[str, str]:
        """Return the rule as an entry of `x-kubernetes-validations`."""
        path = {"fieldPath": "".join(f".{part}" for part in self.field)} if self.field else {}
        return {"rule": self.cel, "message": self.message, **path}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check a value, beside the type of which the rule stands."""

        def check(value: Any) -> Any:
            if not self.holds(value):
                raise broken(self.message, shows=True)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the rule to a value's schema."""
        schema = handler(core)
        if self.cel:
            schema.setdefault(CEL_RULES, []).append(self.as_cel())
        return schema


@dataclass(frozen=True)
class Once:
    """Every item of a list differs from the others: as a whole, or by one of its fields.

    Kubernetes calls these lists sets and maps, and merges them item by item on apply.
    """

    by: str = ""
    """The field that tells objects apart; empty for a list of texts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check a list, beside the type of which this stands."""

        def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
            seen: set[str] = set()
            for index, item in enumerate(items):
                name = str(getattr(item, self.by) if self.by else item)
                if name in seen:
                    where = (index, self.by) if self.by else (index,)
                    raise broken(f"must differ from the others in this list, got {name!r} again", *where)
                seen.add(name)
            return items

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the kind of list to its schema."""
        schema = handler(core)
        schema[LIST_TYPE] = "map" if self.by else "set"
        if self.by:
            schema[LIST_KEYS] = [self.by]
        return schema


def _add_rules(schema: dict[str, Any], model: type[ApiModel]) -> None:
    rules = [rule.as_cel() for rule in model.RULES if rule.cel]
    if rules:
        schema[CEL_RULES] = rules


def _is_whole(annotation: object) -> bool:
    """Tell whether a field of this type holds a whole number."""
    return annotation is int or any(map(_is_whole, get_args(annotation)))


@cache
def _whole_fields(model: type[ApiModel]) -> frozenset[str]:
    """Return the fields that hold whole numbers, as they are written."""
    fields = model.model_fields.items()
    return frozenset(info.alias or name for name, info in fields if _is_whole(info.annotation))


class ApiModel(BaseModel):
    """What all objects of the API have in common."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        json_schema_extra=_add_rules,
        populate_by_name=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """What must hold over several fields. The first that does not is told."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return the same: it never changes. So a default is there but once, in however many objects it stands."""
        return self

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """Take `1e9` and `2.0` for the whole numbers that they are, as kubectl does."""
        if not isinstance(data, dict):
            return data
        whole = {
            name: int(value)
            for name, value in data.items()
            if isinstance(value, float) and value.is_integer() and name in _whole_fields(cls)
        }
        return {**data, **whole} if whole else data

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                raise broken(rule.message, *rule.field, shows=True)
        return self


# --- numbers ---------------------------------------------------------------------------------------------------------

Int = Annotated[int, Field(strict=True)]
Bool = Annotated[bool, Field(strict=True)]


def _decimal(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'must be a decimal in quotes: "{value}"')
    return value


def _one_form(value: str) -> str:
    """Return the one text of a decimal: `5e-3`, `0.005` and `0.0050` are the same number and must give the same key."""
    return format(decimal.Decimal(value).normalize(), "f")


NOT_NEGATIVE_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
ANY_SIGN_PATTERN = r"^-?[0-9]{1,9}(\.[0-9]{1,12})?([eE]-?[0-9]{1,2})?$"
BELOW_ONE_PATTERN = r"^0(\.[0-9]{1,9})?$"

Fraction = Annotated[
    str, Field(pattern=BELOW_ONE_PATTERN, max_length=11), BeforeValidator(_decimal), AfterValidator(_one_form)
]
"""A decimal from 0 to below 1, as a string."""

Decimal = Annotated[
    str, Field(pattern=NOT_NEGATIVE_PATTERN, max_length=26), BeforeValidator(_decimal), AfterValidator(_one_form)
]
"""A decimal of 0 or more, as a string; exponents are allowed."""

SignedDecimal = Annotated[
    str, Field(pattern=ANY_SIGN_PATTERN, max_length=27), BeforeValidator(_decimal), AfterValidator(_one_form)
]
"""A decimal, as a string; exponents are allowed."""

PositiveDecimal = Annotated[Decimal, Rule("must be above 0", lambda value: float(value) > 0, "double(self) > 0.0")]
"""A decimal above 0, as a string; exponents are allowed."""


def _quantity(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'must be a quantity in quotes: "{value}"')
    return value


Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=27), BeforeValidator(_quantity)]
"""How much of something, as Kubernetes writes it: `500m`, `4`, `16Gi`."""


# --- texts -----------------------------------------------------------------------------------------------------------

_LEADS_UP = r"^/|(^|/)\.\.(/|$)"
_LEADS_UP_HERE = re.compile(_LEADS_UP.replace("$", r"\Z"))  # Python's `$` is also before a line feed at the end

VolumePath = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(
        "must be relative to the volume's root and must not contain '..'",
        lambda path: not _LEADS_UP_HERE.search(path),
        rf"!self.matches(r'{_LEADS_UP}')",
    ),
]
"""A path relative to the volume's root, without ``..``."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
"""A name of Kubernetes that may be a DNS label."""

Subdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN_PATTERN)]
"""A name of Kubernetes that may be a DNS subdomain, as most objects have."""

LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]
