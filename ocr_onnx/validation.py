"""A dataclass of options in; its fields as plain Python values of the declared types, or an `OptionError`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ocr_onnx.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Range(NamedTuple):
    """Bounds of a number, both allowed: `Annotated[float, Range(0, 1)]`."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        low = f"{self.low:g}"
        return f"at least {low}" if math.isinf(self.high) else f"between {low} and {self.high:g}"


def check_fields(options: "DataclassInstance", section: str) -> None:
    """Check every field against its annotation, and store plain Python values (an int for a NumPy one).

    Annotations are bool, int, float, str, a Literal of texts, a class, or `Annotated` with a `Range`.
    Whole numbers pass as floats, booleans as no number, NaN as no range. To be called from
    `__post_init__`, of frozen classes too. Raises OptionError about "section.field".
    """
    annotations = _annotations(type(options))
    for option in fields(options):
        key, value = f"{section}.{option.name}", getattr(options, option.name)
        shown = f"is {described(value)}" if option.repr else "has the wrong type"  # repr=False: a secret
        plain = _checked(key, value, annotations[option.name], shown)
        object.__setattr__(options, option.name, plain)


def described(value: object) -> str:
    """Describe a value in words that suit YAML and Python: "true", "the number 3", "a list"."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:40]!r}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a value of type {type(value).__name__}"


@cache
def _annotations(options_type: type) -> Mapping[str, Any]:
    return get_type_hints(options_type, include_extras=True)


def _checked(key: str, value: object, annotation: Any, shown: str) -> object:
    """Return `value` as the plain type that `annotation` declares; `shown` says what was given instead."""
    declared, *bounds = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    choices = get_args(declared) if get_origin(declared) is Literal else ()
    kind = str if choices else declared
    accepted, plain, wanted = _KINDS.get(kind) or _Kind(kind, _same, f"an object of type {kind.__name__}")
    if choices:
        wanted = f"one of {', '.join(choices)}"
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise OptionError(key, shown, f"give {wanted}")
    checked = plain(value)
    if choices and checked not in choices:
        raise OptionError(key, f"{checked!r} is not a choice", f"give {wanted}")
    for bound in bounds:
        if not bound.low <= checked <= bound.high:  # so that NaN is outside
            raise OptionError(key, f"{checked!r} is out of range", f"give a number {bound}")
    return checked


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number with more than 308 digits
        return math.inf if value > 0 else -math.inf


def _same(value: object) -> object:
    return value


class _Kind(NamedTuple):
    """What passes for a declared type, how it becomes exactly that type, and how messages call it."""

    accepted: type
    plain: Callable[[Any], Any]
    wanted: str


_KINDS: Mapping[type, _Kind] = {
    bool: _Kind(bool, bool, "true or false"),
    int: _Kind(Integral, int, "a whole number"),
    float: _Kind(Real, _float, "a number"),
    str: _Kind(str, str.__str__, "text, in quotes"),  # not str(): an enum member would become its name
}
