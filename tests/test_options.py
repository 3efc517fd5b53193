"""The options refuse what no stage could use, at construction and by name, and keep plain Python values."""

import enum
import inspect
import math
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx.config import Config
from ocr_onnx.engine import Engine
from ocr_onnx.errors import OptionError
from ocr_onnx.options import (
    ClsOptions,
    CropOptions,
    DetOptions,
    InputOptions,
    ModelOptions,
    Options,
    RecOptions,
    RuntimeOptions,
)
from ocr_onnx.validation import Range

SECTIONS: dict[str, type] = {
    "models": ModelOptions,
    "runtime": RuntimeOptions,
    "input": InputOptions,
    "det": DetOptions,
    "crop": CropOptions,
    "cls": ClsOptions,
    "rec": RecOptions,
}
FIELDS = [
    (section, name, annotation)
    for section, options_type in SECTIONS.items()
    for name, annotation in get_type_hints(options_type, include_extras=True).items()
]


def given_as(section: str, name: str, value: object) -> object:
    """Return what the section's options store for `value`."""
    return getattr(SECTIONS[section](**{name: value}), name)


@pytest.mark.parametrize(
    ("key", "value", "problem", "remedy"),
    [
        ("det.thresh", "0.5", "is the text '0.5'", "give a number"),
        ("det.thresh", None, "is empty", "give a number"),
        ("det.thresh", True, "is true", "give a number"),
        ("det.thresh", math.nan, "nan is out of range", "give a number between 0 and 1"),
        ("det.thresh", np.float32("nan"), "nan is out of range", "give a number between 0 and 1"),
        ("det.thresh", np.zeros(1), "is a value of type ndarray", "give a number"),
        ("det.thresh", 1j, "is a value of type complex", "give a number"),
        ("det.thresh", -(10**400), "-inf is out of range", "give a number between 0 and 1"),
        ("input.dpi", "200", "is the text '200'", "give a whole number"),
        ("input.dpi", 200.0, "is the number 200.0", "give a whole number"),
        ("input.timeout_s", math.nan, "nan is out of range", "give a number at least 0.001"),
        ("crop.turn_ratio", math.nan, "nan is out of range", "give a number at least 1"),
        ("det.max_candidates", 10.5, "is the number 10.5", "give a whole number"),
        ("det.max_candidates", math.inf, "is the number inf", "give a whole number"),
        ("det.max_candidates", 0, "0 is out of range", "give a number at least 1"),
        ("det.limit_side_px", 960.5, "is the number 960.5", "give a whole number"),
        ("det.limit_side_px", 31, "31 is out of range", "give a number between 32 and 16384"),
        ("det.dilate", "no", "is the text 'no'", "give true or false"),
        ("det.dilate", 1, "is the number 1", "give true or false"),
        ("det.score_mode", "quick", "'quick' is not a choice", "give one of fast, slow"),
        ("det.score_mode", ["fast"], "is a list", "give one of fast, slow"),
        ("rec.batch_size", 2.5, "is the number 2.5", "give a whole number"),
        ("rec.batch_size", True, "is true", "give a whole number"),
        ("input.pages", 1, "is the number 1", "give text, in quotes"),
        ("input.password", b"secret", "has the wrong type", "give text, in quotes"),
        ("input.password", "s\ud800", "is no valid Unicode", "give the text as it is"),
        ("runtime.threads", 1.5, "is the number 1.5", "give a whole number"),
        ("runtime.device", None, "is empty", "give text, in quotes"),
        ("models.name", {}, "is a mapping", "give text, in quotes"),
    ],
)
def test_a_bad_value_is_refused_with_key_problem_and_remedy(
    key: str, value: object, problem: str, remedy: str
) -> None:
    section, name = key.split(".")
    with pytest.raises(OptionError) as caught:
        given_as(section, name, value)
    assert (caught.value.subject, caught.value.problem, caught.value.remedy) == (key, problem, remedy)


@pytest.mark.parametrize(("section", "name", "annotation"), FIELDS)
@pytest.mark.parametrize("value", [None, b"1", [1], {"a": 1}, 1j, object(), np.ones(1)])
def test_no_field_takes_what_is_neither_number_nor_text(
    section: str, name: str, annotation: object, value: object
) -> None:
    with pytest.raises(OptionError) as caught:
        given_as(section, name, value)
    assert caught.value.subject == f"{section}.{name}", annotation


awkward: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([])
)


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from([entry for entry in FIELDS if entry[1] != "dictionary"]), value=awkward)
def test_a_value_is_stored_with_the_declared_type_or_refused(
    field: tuple[str, str, Any], value: object
) -> None:
    section, name, annotation = field
    declared = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    kind = declared if isinstance(declared, type) else str
    try:
        stored = given_as(section, name, value)
    except OptionError as error:
        assert error.subject == f"{section}.{name}"  # noqa: PT017 - both outcomes are right for some value
    else:
        assert type(stored) is kind
        assert stored == value
        assert not isinstance(value, bool) or kind is bool


def test_every_number_has_a_range_which_keeps_nan_out() -> None:
    for section, name, annotation in FIELDS:
        kind, *bounds = get_args(annotation) or (annotation,)
        if kind in (int, float):
            assert [type(bound) for bound in bounds] == [Range], f"{section}.{name}"
            low, high = bounds[0]
            assert given_as(section, name, kind(low)) == low
            if math.isfinite(high):
                assert given_as(section, name, kind(high)) == high


@pytest.mark.parametrize(
    ("section", "name", "value", "stored"),
    [
        ("rec", "batch_size", np.int64(4), 4),
        ("rec", "batch_size", np.uint8(4), 4),
        ("det", "thresh", 1, 1.0),
        ("det", "thresh", np.float32(0.5), 0.5),
        ("det", "thresh", np.float64(0.5), 0.5),
        ("det", "thresh", np.int32(1), 1.0),
        ("det", "thresh", Fraction(1, 4), 0.25),
        ("models", "name", np.str_("server"), "server"),
        ("det", "limit_type", np.str_("min"), "min"),
    ],
)
def test_numbers_and_texts_of_other_types_become_plain(
    section: str, name: str, value: object, stored: object
) -> None:
    found = given_as(section, name, value)
    assert found == stored
    assert type(found) is type(stored)


def test_members_of_text_enums_become_their_values() -> None:
    class Limit(str, enum.Enum):  # noqa: UP042 - its str() is the member's name, unlike a StrEnum's
        SHORT = "min"

    found: str = DetOptions(limit_type=Limit.SHORT).limit_type  # type: ignore[arg-type]
    assert type(found) is str
    assert found == "min"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Options(det=RecOptions()),  # type: ignore[arg-type]
        lambda: Options(det=DetOptions),  # type: ignore[arg-type]
        lambda: replace(Options(), det=None),  # type: ignore[arg-type]
    ],
)
def test_a_stage_takes_only_its_own_options(make: Callable[[], Options]) -> None:
    with pytest.raises(OptionError, match=r"^options\.det: is .*; give an object of type DetOptions$"):
        make()


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(OptionError, match=r"^det\.thresh: 2\.0 is out of range"):
        replace(DetOptions(), thresh=2)


def test_a_dictionary_needs_a_rec_model() -> None:
    with pytest.raises(OptionError, match=r"models\.dictionary: was given without a rec model"):
        ModelOptions(dictionary="d.txt")
    assert ModelOptions(rec="r.onnx", dictionary="d.txt").dictionary == "d.txt"


def test_options_survive_pickling_compare_and_hash() -> None:
    wanted = Options(input=InputOptions(password="s3cret"), det=DetOptions(thresh=0.2))
    copied = pickle.loads(pickle.dumps(wanted))
    assert copied == wanted
    assert hash(copied) == hash(wanted)
    assert wanted != Options(det=DetOptions(thresh=0.2))


def test_a_password_is_never_shown() -> None:
    chosen = InputOptions(password="s3cret")
    engine = Engine(det=_never, rec=_never, charset=(), options=Options(input=chosen))
    for shown in (chosen, Options(input=chosen), Config(input=chosen), engine):
        assert "s3cret" not in repr(shown)
        assert "dpi=200" in repr(shown)
    with pytest.raises(OptionError) as caught:
        InputOptions(password=31337)  # type: ignore[arg-type]
    assert "31337" not in str(caught.value)


def _never(*_: object) -> Any:
    raise AssertionError("no network runs here")


@pytest.mark.parametrize("options_type", [*SECTIONS.values(), Options])
def test_every_field_is_documented(options_type: Any) -> None:
    _, _, attributes = inspect.cleandoc(options_type.__doc__).partition("Attributes\n----------\n")
    headings = [line for line in attributes.splitlines() if not line.startswith(" ")]
    documented = [name for heading in headings for name in heading.split(", ")]
    assert documented == [option.name for option in fields(options_type)]
