"""`ocr-onnx export` through its front door: what it makes of every kind of input, and of every bad one."""

import errno
import hashlib
import importlib.util
import io
import re
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from PIL import Image

from ocr_onnx import model_store
from ocr_onnx.errors import ModelError, OptionError
from ocr_onnx.manifest import (
    GateResult,
    Manifest,
    ModelSet,
    ModelSource,
    ModelSpec,
    SourceFile,
    read_manifest,
)
from ocr_onnx.options import ModelOptions, RuntimeOptions
from ocr_onnx.runtime import Session
from ocr_onnx_export import command, from_onnx, precision, publish, reduce, rendered
from ocr_onnx_export.convert import convert
from ocr_onnx_export.paddle_route import PYTHON_VARIABLE
from ocr_onnx_export.rewrite import passes_for
from tests.conftest import Outcome, Run
from tests.export.pir_programs import CHARACTERS, tiny_det, tiny_rec

DEMO = Path(__file__).parents[1] / "data" / "boarding-pass.png"
PIR = ("inference.json", "inference.pdiparams", "inference.yml")
SETTINGS = "Global: {model_name: New_rec}\nPostProcess: {name: CTCLabelDecode, character_dict: [a, b]}\n"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFFLINE", "MIRROR", "MODEL_DIR"):
        monkeypatch.delenv(f"OCR_ONNX_{name}", raising=False)
    monkeypatch.setenv("OCR_ONNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "no-such-python"))
    monkeypatch.setattr(reduce, "GATE_LINES", 16)
    monkeypatch.setattr(reduce, "GATE_PAGES", 1)


@pytest.fixture
def rec_folder(tmp_path: Path) -> Path:
    folder = tiny_rec().save(tmp_path / "My_rec")
    (folder / "keys.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model "new-rec" without a ready file, whose Paddle files lie in the cache, in a set "new"."""
    sources = tmp_path / "cache" / "sources" / "new-rec" / "pir"
    tiny_rec().save(sources)
    (sources / "inference.yml").write_text(SETTINGS, encoding="utf-8")
    files = tuple(SourceFile(name, hashlib.sha256((sources / name).read_bytes()).hexdigest()) for name in PIR)
    spec = ModelSpec(
        "new-rec",
        "rec",
        "new-rec.onnx",
        official="New_rec",
        license="MIT",
        origin="a test",
        precision="fp32",
        classes=4,
        sources=(ModelSource("pir", "http://127.0.0.1:9/", files),),
    )
    ours = model_store.load_manifest()
    mobile = ours.sets[0]
    added = Manifest((spec,), (ModelSet("new", mobile.det, "new-rec", mobile.cls),))
    manifest = ours.overlaid(added)
    monkeypatch.setattr(model_store, "load_manifest", lambda: manifest)
    return spec


def kinds(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of a file's inputs and outputs."""
    session = Session(path, RuntimeOptions())
    return [one.name for one in session.inputs], [one.name for one in session.outputs]


# ---------------------------------------------------------------------------- a folder, a tar


def test_a_path_that_may_not_be_reached(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", locked)
    assert_one_line(run("export", "/locked/model", "--out", out), "/locked/model: can't be read (Permission")


def test_a_folder_comes_out_rewritten(run: Run, rec_folder: Path, out: Path) -> None:
    outcome = run("export", rec_folder, "--out", out)
    assert outcome == (0, f"{out / 'my-rec.onnx'}\n", "")
    assert kinds(out / "my-rec.onnx") == (["image", "valid_w"], ["index", "prob", "probs"])


def test_stock_leaves_the_graph_alone(run: Run, rec_folder: Path, out: Path) -> None:
    assert run("export", rec_folder, "--out", out, "--stock", "--name", "Mine").code == 0
    assert len(kinds(out / "mine.onnx")[0]) == len(kinds(out / "mine.onnx")[1]) == 1


def test_a_tar_archive(run: Run, rec_folder: Path, out: Path, tmp_path: Path) -> None:
    archive = tmp_path / "My_rec_infer.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(rec_folder, "My_rec_infer")
    assert run("export", archive, "--out", out).out == f"{out / 'my-rec.onnx'}\n"


def test_a_dictionary_of_ones_own(run: Run, rec_folder: Path, out: Path, tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("x\ny\n")
    assert run("export", rec_folder, "--out", out, "--dict", letters).code == 0
    assert Session(out / "my-rec.onnx", RuntimeOptions()).metadata["character"] == "x\ny"


@pytest.mark.parametrize("target", [None, "cpu", "gpu", "openvino"])
def test_targets_choose_the_passes(monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(command, "rewrite", lambda _model, passes: seen.append(passes))
    for wanted in ("fp32", "fp16"):
        apply = command.Recipe(target=target, precision=wanted).rewrite
        assert apply is not None
        apply(onnx.ModelProto(), "det")
    default: tuple[Any, ...] = ("cpu", "gpu") if target is None else (target, target)
    assert seen == [passes_for(one, "det") for one in default]


# ---------------------------------------------------------------------------- names


def test_an_official_model_by_either_name(run: Run, official: ModelSpec, out: Path) -> None:
    for name in (official.name, official.official):
        assert run("export", name, "--out", out, "--offline").out == f"{out / 'new-rec.onnx'}\n"
    [made] = read_manifest(out / "manifest.toml").models
    assert (made.name, made.license, made.sources) == (official.name, "MIT", official.sources)
    assert Session(out / "new-rec.onnx", RuntimeOptions()).metadata["source"] == "New_rec"


@pytest.mark.usefixtures("official")
def test_a_set_is_its_models_that_are_not_inside(run: Run, out: Path) -> None:
    assert run("export", "new", "--out", out, "--offline").out == f"{out / 'new-rec.onnx'}\n"
    outcome = run("export", "mobile", "--out", out)
    assert (outcome.code, "all its models are inside the package" in outcome.err) == (2, True)


def test_local_files_of_an_official_model(run: Run, official: ModelSpec, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "anywhere"
    (tmp_path / "cache" / "sources" / "new-rec" / "pir").rename(folder)
    assert run("export", "new-rec", "--out", out, "--source", folder).code == 0
    (folder / "inference.pdiparams").write_bytes(b"other")
    outcome = run("export", official.name, "--out", tmp_path / "second", "--source", folder)
    assert_one_line(outcome, "the manifest says")
    assert not (tmp_path / "second").exists()


def test_files_of_another_model_than_named(official: ModelSpec, out: Path, tmp_path: Path) -> None:
    other = tiny_det().save(tmp_path / "det")
    with pytest.raises(ModelError, match="should be a rec model with 4 classes, but its files are a det"):
        convert(other, out, known=official)
    assert not out.exists()


def test_a_legacy_rec_model_gets_the_dictionary_it_is_published_without(tmp_path: Path) -> None:
    spec = model_store.load_manifest().model("ppocrv4-server-rec")
    folder = tmp_path / "legacy"
    folder.mkdir()
    assert command._lacks_dictionary(spec, folder)
    assert len(command._embedded_characters()) + 2 == spec.classes
    (folder / "keys.txt").touch()
    assert not command._lacks_dictionary(spec, folder)


def test_make_puts_a_model_where_it_is_found(
    run: Run, official: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_ONNX_OFFLINE", "1")
    outcome = run("models", "pull", "new")
    made = model_store.exported_dir() / "new-rec.onnx"
    assert outcome.out.splitlines()[1] == str(made)
    assert outcome.err == "converting: new-rec, once: no ready ONNX file of it is published\n"
    assert run("models", "pull", "new").err == ""
    before = made.stat().st_mtime_ns
    command.make(official)
    assert made.stat().st_mtime_ns == before
    files = model_store.resolve(ModelOptions("new"))
    assert files.rec.path == made
    assert "new-rec" in run("models", "list").out


def test_run_converts_what_its_set_lacks(
    run: Run, official: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCR_ONNX_OFFLINE", "1")
    outcome = run("run", DEMO, "--model-set", "new")
    assert outcome.code == 0
    assert outcome.err.startswith(f"converting: {official.name}, once")
    assert (model_store.exported_dir() / "new-rec.onnx").is_file()


def test_make_without_onnx_names_both_remedies(
    run: Run, official: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    outcome = run("models", "pull", "new")
    assert_one_line(outcome, official.name)
    assert "install 'ocr-onnx[export]'" in outcome.err
    assert "ocr-onnx export new-rec --out DIR" in outcome.err
    assert "install 'ocr-onnx[export]'" in run("export", "new-rec", "--out", "x").err


def test_make_into_a_cache_nobody_may_write(official: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ModelError, match=r"Permission denied.*OCR_ONNX_CACHE_DIR"):
        command.make(official)


# ---------------------------------------------------------------------------- ONNX files


def stock(rec_folder: Path, tmp_path: Path) -> Path:
    return command.export(str(rec_folder), tmp_path / "stock", command.Recipe(stock=True))[0].path


def test_an_onnx_file_comes_out_rewritten(run: Run, rec_folder: Path, out: Path, tmp_path: Path) -> None:
    path = stock(rec_folder, tmp_path)
    assert run("export", path, "--out", out, "--name", "faster").code == 0
    assert kinds(out / "faster.onnx")[0] == ["image", "valid_w"]
    assert Session(out / "faster.onnx", RuntimeOptions()).metadata["character"] == "a\nb"
    files = model_store.resolve(ModelOptions("faster", folder=str(out), offline=True))
    assert files.rec.path == out / "faster.onnx"
    assert "equal to the original" in (out / "reports" / "faster.md").read_text()


def test_an_onnx_file_that_tells_nothing_of_itself(
    run: Run, tiny_det: Path, tiny_cls: Path, tiny_rec: Path, out: Path, tmp_path: Path
) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("a\nb\n")
    for path in (tiny_det, tiny_cls, tiny_rec):
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)
        dictionary = ("--dict", letters) if path == tiny_rec else ()
        assert run("export", path, "--out", out, *dictionary).code == 0
    stages = {model.name: model.stage for model in read_manifest(out / "manifest.toml").models}
    assert stages == {"tiny-det": "det", "tiny-cls": "cls", "tiny-rec": "rec"}
    (letters.parent / "third.txt").write_text("a\nb\nc\n")
    for dictionary in ((), ("--dict", letters.parent / "third.txt")):
        outcome = run("export", tiny_rec, "--out", tmp_path / "second", *dictionary)
        assert_one_line(outcome, "4 classes" if dictionary else "has no dictionary")
    assert not (tmp_path / "second").exists()


def test_a_rewrite_that_changes_answers_is_refused(
    run: Run, rec_folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: onnx.ModelProto, _passes: object) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        weight = next(one for one in changed.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
        values = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.5) * values, weight.name))
        return changed

    path = stock(rec_folder, tmp_path)
    monkeypatch.setattr(command, "rewrite", spoil)
    assert_one_line(run("export", path, "--out", out), "differs from the original")
    assert not out.exists()


def test_an_onnx_file_that_is_none(run: Run, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no model")
    assert_one_line(run("export", path, "--out", out), "can't be opened as an ONNX model")
    assert not out.exists()


# ---------------------------------------------------------------------------- precision


@pytest.mark.parametrize(("wanted", "seed"), [("fp16", 0), ("fp16-storage", 0), ("int8", 2)])
def test_a_lower_precision_tells_its_gate(
    run: Run, rec_folder: Path, out: Path, wanted: str, seed: int
) -> None:
    # of net 0, two classes lie so close together that its gate for int8 stays rightly shut
    tiny_rec(seed).save(rec_folder)
    assert run("export", rec_folder, "--out", out, "--precision", wanted).code == 0
    [model] = read_manifest(out / "manifest.toml").models
    assert (model.name, model.file, model.precision) == ("my-rec", f"my-rec-{wanted}.onnx", wanted)
    assert model.gates == (GateResult("drawn", "equal lines", 16, 1.0, 1.0),)
    assert {path.name for path in out.glob("*.onnx")} == {f"my-rec-{wanted}.onnx"}


def test_real_text_is_a_second_gate(run: Run, rec_folder: Path, out: Path) -> None:
    arguments = ("export", rec_folder, "--out", out, "--precision", "fp16")
    assert run(*arguments, "--gate-images", DEMO.parent).code == 0
    [model] = read_manifest(out / "manifest.toml").models
    assert [(gate.text, gate.measure, gate.mean) for gate in model.gates] == [
        ("drawn", "equal lines", 1.0),
        ("real", "equal lines", 1.0),
    ]
    assert model.gates[1].samples > 10


def test_real_pages_of_a_detector(run: Run, out: Path, tmp_path: Path) -> None:
    folder = tiny_det().save(tmp_path / "my_det")
    arguments = ("export", folder, "--out", out, "--precision", "fp16-storage")
    assert run(*arguments, "--gate-images", DEMO.parent).code == 0
    [model] = read_manifest(out / "manifest.toml").models
    assert [(gate.text, gate.samples) for gate in model.gates] == [("drawn", 1), ("real", 1)]


def test_real_pictures_without_text(run: Run, rec_folder: Path, out: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank"
    blank.mkdir()
    Image.new("RGB", (320, 320), "white").save(blank / "a.png")
    arguments = ("export", rec_folder, "--out", out, "--gate-images", blank)
    assert_one_line(run(*arguments, "--precision", "fp16"), "shows no text")
    assert_one_line(run(*arguments), "is for a lower precision", code=2)
    assert not out.exists()


def test_a_shut_gate_names_its_figures(
    run: Run, rec_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MIN_EQUAL_LINES", 1.5)
    outcome = run("export", rec_folder, "--out", out, "--precision", "fp16")
    assert_one_line(outcome, "is not good enough in fp16: equal lines 1.0000")
    assert not out.exists()


def test_int8_of_a_net_without_matrix_products(run: Run, out: Path, tmp_path: Path) -> None:
    folder = tiny_det().save(tmp_path / "My_det")
    assert_one_line(run("export", folder, "--out", out, "--precision", "int8"), "has no matrix product")
    assert run("export", folder, "--out", out, "--precision", "fp16").code == 0
    [model] = read_manifest(out / "manifest.toml").models
    assert [gate.measure for gate in model.gates] == ["mask IoU"]


def test_rendered_text_is_dark_on_light_and_repeatable() -> None:
    for first, second in (
        (rendered.lines(4, "永字"), rendered.lines(4, "永字")),
        (rendered.pages(1), rendered.pages(1)),
    ):
        np.testing.assert_array_equal(first, second)
        assert first.min() < 120
        assert np.median(first) > 180


# ---------------------------------------------------------------------------- refusals


def assert_one_line(outcome: Outcome, text: str, code: int = 1) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert text in outcome.err


def no_parameters(folder: Path) -> Path:
    (folder / "inference.pdiparams").unlink()
    return folder


def foreign_dictionary(folder: Path) -> Path:
    (folder / "keys.txt").write_text("a\nb\nc\n", encoding="utf-8")
    return folder


def unknown_op(folder: Path) -> Path:
    path = folder / "inference.json"
    path.write_text(path.read_text().replace("1.softmax", "1.hardmax"))
    return folder


def tar_that_leads_outside(folder: Path) -> Path:
    path = folder.with_name("bad.tar")
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("../../inference.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    return path


def nothing_at_all(folder: Path) -> Path:
    return folder.with_name("absent")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_parameters, "but no inference.pdiparams"),
        (foreign_dictionary, "has 4 classes, but a dictionary of 3"),
        (unknown_op, "hardmax"),
        (tar_that_leads_outside, "which leads outside"),
        (nothing_at_all, "neither a file or folder here nor an official model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, rec_folder: Path, out: Path, tmp_path: Path, spoil: Callable[[Path], Path], problem: str
) -> None:
    source = spoil(rec_folder)
    before = set(tmp_path.rglob("*"))
    assert_one_line(run("export", source, "--out", out), problem)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (Path, "write_bytes", OSError(errno.ENOSPC, "No space left on device")),
        (tempfile, "mkdtemp", PermissionError(errno.EACCES, "Permission denied")),
    ],
)
def test_a_folder_that_cant_be_written(
    run: Run,
    rec_folder: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: object,
    name: str,
    error: OSError,
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(place, name, refuse)
    assert_one_line(run("export", rec_folder, "--out", out), f"can't be written ({error.strerror})")
    assert not out.exists()


def test_a_manifest_of_another_hand_is_not_overwritten(run: Run, rec_folder: Path, out: Path) -> None:
    out.mkdir()
    (out / "manifest.toml").write_text("# with comments that must stay\n")
    assert_one_line(run("export", rec_folder, "--out", out), "is not overwritten")
    assert [path.name for path in out.iterdir()] == ["manifest.toml"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("{folder}", "--stock", "--target", "cpu"), "--stock: contradicts --target"),
        (("{folder}", "--source", "x"), "--source: was given"),
        (("new-rec", "--name", "x"), "takes no --name"),
        (("new-rec", "--from-onnx"), "takes no --name, --dict or --from-onnx"),
        (("{onnx}", "--verify"), "is ONNX already"),
        (("{onnx}", "--route", "paddle2onnx"), "is ONNX already"),
    ],
)
@pytest.mark.usefixtures("official")
def test_arguments_that_contradict_each_other(
    run: Run, rec_folder: Path, tiny_det: Path, out: Path, arguments: tuple[str, ...], problem: str
) -> None:
    filled = [one.format(folder=rec_folder, onnx=tiny_det) for one in arguments]
    assert_one_line(run("export", *filled, "--out", out), problem, code=2)
    assert not out.exists()


@pytest.mark.usefixtures("official")
def test_a_name_that_is_also_a_folder_here(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new-rec").mkdir()
    with pytest.raises(OptionError, match=r"write \./new-rec for what is here"):
        command.export("new-rec", out)


@pytest.mark.parametrize("flag", ["--verify", "--route=paddle2onnx"])
def test_paddle_is_missing(run: Run, rec_folder: Path, out: Path, flag: str) -> None:
    assert_one_line(run("export", rec_folder, "--out", out, flag), PYTHON_VARIABLE)
    assert not out.exists()


def test_a_line_model_of_another_height(tiny_cls: Path, out: Path) -> None:
    model = onnx.load(tiny_cls)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 80
    onnx.save(model, tiny_cls)
    with pytest.raises(ModelError, match="takes lines 80 px high"):
        from_onnx.convert_onnx(tiny_cls, out)


def test_the_manifest_with_a_gate_comes_back(tmp_path: Path) -> None:
    gate = GateResult("drawn", "mask IoU", 12, 0.9987, 0.99)
    spec = ModelSpec(
        "a",
        "det",
        "a.onnx",
        license="MIT",
        origin="a test",
        precision="fp16",
        gates=(gate, replace(gate, text="real")),
    )
    path = tmp_path / "manifest.toml"
    text = publish.to_toml(Manifest((spec,)))
    path.write_text(text, encoding="utf-8")
    assert read_manifest(path).models == (spec,)
    path.write_text(re.sub("worst = 0.99", "worst = 1.5", text), encoding="utf-8")
    with pytest.raises(ModelError, match="0 <= worst <= mean <= 1"):
        read_manifest(path)
