"""Golden tensors of tiny models: what passes, which step is named, and files that are not what they say."""

import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from ocr_onnx import golden, model_store, recognize
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.golden_file import MAX_FILE_BYTES, Answer, Golden, path_beside, read, to_bytes
from ocr_onnx.manifest import Stage
from ocr_onnx.options import RuntimeOptions
from ocr_onnx.runtime import Session

EMBEDDED: dict[str, Stage] = {
    "ppocrv4-mobile-det": "det",
    "ppocrv4-mobile-rec": "rec",
    "ppocr-mobile-v2-cls": "cls",
}
STEPS = ["resize", "normalise", "network", "decode"]


def golden_of(path: Path, stage: Stage) -> Golden:
    """Take a model's own answers for a picture with two dark bars as the truth."""
    picture = np.full((70, 130, 3), (250, 240, 230), np.uint8)
    picture[20:45, 10:60] = picture[25:50, 80:120] = (20, 30, 40)
    if stage != "det":
        picture[:, 10:60] = picture[:, 80:120] = (20, 30, 40)
    session = Session(path, RuntimeOptions())
    charset = recognize.charset_from(session.metadata, "tiny") if stage == "rec" else ()
    blank = Answer(np.zeros((64, 128) if stage == "det" else 2, np.float32), np.zeros(2, np.int64))
    given = golden.rehearse(stage, picture, blank, charset)
    answer = golden.run_network("tiny", session, stage, given.image, given.content_px, len(charset))
    made = golden.rehearse(stage, picture, answer, charset)
    tensor = golden.normalise(stage, given.image, given.content_px)
    return Golden(
        stage=stage,
        truth="itself",
        tolerance=golden.TOLERANCE,
        picture=picture,
        image=given.image,
        content_px=given.content_px,
        tensor=tensor,
        answer=answer,
        quads_px=made.quads_px,
        text=made.text,
    )


@pytest.fixture(params=["det", "rec", "cls"])
def model(request: pytest.FixtureRequest) -> tuple[Stage, Path]:
    stage: Stage = request.param
    path: Path = request.getfixturevalue(f"tiny_{stage}")
    path_beside(path).write_bytes(to_bytes(golden_of(path, stage)))
    return stage, path


def failed(checks: tuple[golden.StageCheck, ...] | None) -> list[str]:
    assert checks is not None
    return [check.stage for check in checks if not check.passed]


def test_a_model_passes_its_own_tensors(model: tuple[Stage, Path]) -> None:
    stage, path = model
    checks = golden.check_file("tiny", stage, path)
    assert checks is not None
    assert [check.stage for check in checks] == STEPS
    assert {(check.model, check.max_abs, check.agreement, check.passed, check.truth) for check in checks} == {
        ("tiny", 0.0, 1.0, True, "itself")
    }


def test_the_tiny_tensors_say_something(tiny_det: Path, tiny_rec: Path, tiny_cls: Path) -> None:
    assert len(golden_of(tiny_det, "det").quads_px) == 2
    assert golden_of(tiny_rec, "rec").text == "aa"
    assert golden_of(tiny_cls, "cls").text == "180"


def test_a_changed_network_is_named(model: tuple[Stage, Path]) -> None:
    stage, path = model
    changed = onnx.load(path)
    weight = next(one for one in changed.graph.initializer if one.name in ("gain", "weight"))
    weight.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(weight), weight.name))
    onnx.save(changed, path)
    checks = golden.check_file("tiny", stage, path)
    assert failed(checks) == ["network"]
    assert checks is not None
    assert checks[2].max_abs > 0.01
    assert checks[2].agreement < 1.0


def change(made: Golden, field: str) -> Golden:
    """Return golden tensors that disagree with this machine in one place."""
    if field == "text":
        return replace(made, text=made.text + "?")
    if field == "content_px":
        return replace(made, content_px=made.content_px - 1)
    if field == "picture":
        return replace(made, picture=255 - made.picture)
    if field == "image":
        return replace(made, image=255 - made.image)
    if field == "tensor":
        return replace(made, tensor=made.tensor + np.float32(1e-3))
    return replace(made, quads_px=made.quads_px + np.float32(3))


@pytest.mark.parametrize(
    ("stage", "field", "steps"),
    [
        ("det", "picture", ["resize"]),
        ("det", "image", ["resize", "normalise", "network"]),
        ("det", "tensor", ["normalise"]),
        ("det", "quads_px", ["decode"]),
        ("rec", "content_px", ["resize", "normalise"]),
        ("rec", "text", ["decode"]),
        ("cls", "text", ["decode"]),
    ],
)
def test_every_step_is_named_by_itself(
    stage: Stage, field: str, steps: list[str], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"tiny_{stage}")
    path_beside(path).write_bytes(to_bytes(change(golden_of(path, stage), field)))
    found = failed(golden.check_file("tiny", stage, path))
    assert found[: len(steps)] == steps
    assert len(found) <= len(steps) + (field == "content_px")  # the last column may count in the network


def test_tolerance_of_the_network(tiny_det: Path) -> None:
    made = golden_of(tiny_det, "det")
    session = Session(tiny_det, RuntimeOptions())

    def off_by(difference: float) -> list[str]:
        probs = made.answer.probs + np.float32(difference)
        moved = replace(made, answer=made.answer._replace(probs=probs))
        return failed(tuple(golden.check("tiny", session, moved)))

    assert off_by(0.9e-3) == []
    assert off_by(1.1e-3) == ["network"]


@pytest.mark.parametrize(
    ("have", "want", "max_abs", "agreement"),
    [
        ([0.2980, 0.9], [0.3020, 0.9], 4e-3, 0.5),
        ([0.2999, 0.9], [0.3001, 0.9], 2e-4, 1.0),  # within the tolerance of the threshold
        ([0.31, 0.9], [0.31, 0.9], 0.0, 1.0),
        ([0.31], [0.31, 0.9], float("inf"), 0.0),
    ],
)
def test_masks_are_compared_where_they_are_cut(
    have: list[float], want: list[float], max_abs: float, agreement: float
) -> None:
    mine, truth = (Answer(np.array([row], np.float32), golden.NO_LABELS) for row in (have, want))
    found = golden.compare_answers("det", mine, truth)
    assert found.max_abs == pytest.approx(max_abs, rel=1e-2)
    assert found.agreement == agreement


def test_an_answer_that_is_not_a_number_fails(tiny_cls: Path) -> None:
    made = golden_of(tiny_cls, "cls")
    broken = Answer(np.array([np.nan, 0.5], np.float32), golden.NO_LABELS)
    assert not golden.compare_answers("cls", broken, made.answer).max_abs <= made.tolerance


def test_texts_count_their_differing_characters() -> None:
    assert golden.compare_texts("abcd", "abce") == (1.0, 0.75)
    assert golden.compare_texts("", "ab") == (2.0, 0.0)
    assert golden.compare_texts("", "") == (0.0, 1.0)


def test_no_golden_tensors(tiny_det: Path) -> None:
    assert golden.check_file("tiny", "det", tiny_det) is None


def test_the_device_is_passed_through(model: tuple[Stage, Path]) -> None:
    stage, path = model
    with pytest.raises(OptionError, match="'abacus' is not a device"):
        golden.check_file("tiny", stage, path, "abacus")


def test_tensors_of_another_stage(tiny_det: Path, tiny_cls: Path) -> None:
    path_beside(tiny_det).write_bytes(to_bytes(golden_of(tiny_cls, "cls")))
    with pytest.raises(ModelError, match="belongs to a cls model, not a det model"):
        golden.check_file("tiny", "det", tiny_det)


def test_tensors_of_a_model_with_more_classes(tiny_rec: Path) -> None:
    made = golden_of(tiny_rec, "rec")
    more = replace(made, answer=made.answer._replace(labels=made.answer.labels + 4))
    path_beside(tiny_rec).write_bytes(to_bytes(more))
    with pytest.raises(ModelError, match="more classes"):
        golden.check_file("tiny", "rec", tiny_rec)


# the file


def test_file_comes_back_and_has_the_same_bytes(model: tuple[Stage, Path]) -> None:
    stage, path = model
    made = golden_of(path, stage)
    back = read(path_beside(path))
    assert to_bytes(back) == to_bytes(made) == path_beside(path).read_bytes()
    assert (back.truth, back.text, back.content_px) == (made.truth, made.text, made.content_px)
    np.testing.assert_array_equal(back.answer.probs, made.answer.probs)
    with np.load(path_beside(path), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["picture"], made.picture)


def test_file_bears_no_date_of_its_making(tiny_det: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(to_bytes(golden_of(tiny_det, "det")))) as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}


def repacked(data: bytes, members: dict[str, bytes]) -> bytes:
    """Return a .npz with the members of `data`, some of them replaced by other bytes."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as before,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as after,
    ):
        for name in before.namelist():
            after.writestr(name, members.get(name.removesuffix(".npy"), before.read(name)))
    return stream.getvalue()


def npy(shape: tuple[int, ...], dtype: str, payload: bytes = b"") -> bytes:
    """Return a .npy whose header may promise anything."""
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + payload


def npz(**arrays: str | float) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{name: np.array(value) for name, value in arrays.items()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda _: b"", "not a zip"),
        (lambda _: b"PK" * 100, "not a zip"),
        (lambda data: data[:-200], "not a zip"),
        (lambda data: data + bytes(MAX_FILE_BYTES), "more than"),
        (lambda _: npz(weights=1.0), "format"),
        (lambda _: npz(format="ocr-onnx golden tensors 2"), "not of the format"),
        (lambda data: repacked(data, {"picture": b""}), "intact"),
        (lambda data: repacked(data, {"picture": npy((1 << 40,), "|u1")}), "does not describe"),
        (lambda data: repacked(data, {"picture": bytes(20_000_000)}), "an array of more than"),
        (lambda data: repacked(data, {"picture": npy((1,), "|O", bytes(8))}), "does not describe"),
        (lambda data: repacked(data, {"picture": npy((0, 4, 3), "|u1")}), "do not fit together"),
        (lambda data: repacked(data, {"probs": npy((2,), "<f8", bytes(16))}), "probs is float64"),
        (lambda data: repacked(data, {"stage": npy((), "<U1", "x".encode("utf-32-le"))}), "stage 'x'"),
        (lambda data: repacked(data, {"text": npy((), "<U1", b"\xff" * 4)}), "intact"),
        (lambda data: repacked(data, {"text": npy((), "<i4", bytes(4))}), "text is no text"),
    ],
)
def test_damaged_and_foreign_files(tiny_rec: Path, spoil: Callable[[bytes], bytes], problem: str) -> None:
    beside = path_beside(tiny_rec)
    beside.write_bytes(spoil(to_bytes(golden_of(tiny_rec, "rec"))))
    with pytest.raises(ModelError, match=problem) as caught:
        golden.check_file("tiny", "rec", tiny_rec)
    assert caught.value.subject == str(beside)
    assert "export the model again" in caught.value.remedy


def test_values_out_of_range(tiny_cls: Path) -> None:
    made = golden_of(tiny_cls, "cls")
    for wrong in (
        replace(made, tolerance=float("nan")),
        replace(made, tolerance=1.0),
        replace(made, truth="\x1b[2J"),
        replace(made, content_px=0),
        replace(made, answer=Answer(np.full(2, np.nan, np.float32), golden.NO_LABELS)),
        replace(made, answer=Answer(np.zeros(3, np.float32), golden.NO_LABELS)),
    ):
        path_beside(tiny_cls).write_bytes(to_bytes(wrong))
        with pytest.raises(ModelError, match="do not fit together"):
            read(path_beside(tiny_cls))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_changed_bytes_are_read_or_refused(tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    data = bytearray((model_store.embedded_dir() / "ppocr-mobile-v2-cls.golden.npz").read_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path / "changed.golden.npz"
    path.write_bytes(bytes(data))
    with suppress(ModelError):  # anything else is a fault of the reader
        assert read(path).stage == "cls"


# the embedded models


@pytest.mark.parametrize(("name", "stage"), EMBEDDED.items())
def test_embedded_models_agree_with_paddle(name: str, stage: Stage) -> None:
    path = model_store.embedded_dir() / f"{name}.onnx"
    checks = golden.check_file(name, stage, path)
    assert failed(checks) == []
    assert checks is not None
    assert checks[0].truth == "paddlepaddle 3.2.2 without oneDNN"
    assert path_beside(path).stat().st_size < 60_000


def test_embedded_tensors_hold_what_was_drawn() -> None:
    folder = model_store.embedded_dir()
    golden_of_stage = {stage: read(folder / f"{name}.golden.npz") for name, stage in EMBEDDED.items()}
    assert len(golden_of_stage["det"].quads_px) == 2
    assert (golden_of_stage["rec"].text, golden_of_stage["cls"].text) == ("INVOICE 2024", "180")
