"""Tests of the manifest reader: the manifest that ships, and every way a manifest can be wrong."""

from pathlib import Path

import pytest

from ocr_onnx.errors import ModelContractError, ModelError, ModelMissingError
from ocr_onnx.manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest

DIGEST = "0123456789abcdef" * 4
MODEL = """
[[model]]
name = "own-det"
stage = "det"
file = "own-det.onnx"
license = "Apache-2.0"
origin = "made here"
precision = "fp32"
"""
SET = '[[set]]\nname = "own"\ndet = "own-det"\nrec = "own-rec"\ncls = "own-cls"\n'
CONTRACT = """
[model.input]
name = "x"
layout = "NCHW"
color = "BGR"
min_shape = [1, 3, 32, 32]
opt_shape = [1, 3, 64, 64]
max_shape = [1, 3, 96, 96]
"""


def read(folder: Path, text: str) -> Manifest:
    path = folder / "manifest.toml"
    path.write_text(text, encoding="utf-8")
    return read_manifest(path)


def with_stages(*stages: str) -> str:
    names = ("det", "rec", "cls")
    return "".join(
        MODEL.replace("own-det", f"own-{name}").replace('stage = "det"', f'stage = "{stage}"')
        for name, stage in zip(names, stages, strict=True)
    )


def test_reads_every_key(tmp_path: Path) -> None:
    pinned = f'sha256 = "{DIGEST}"\nsize_bytes = 7\nopset = 17\nclasses = 3\nofficial = "Own_det"\n'
    urls = 'urls = ["https://models.example.org/a.onnx"]\n'
    source = (
        '[[model.source]]\nlayout = "pir"\nbase_url = "https://models.example.org/own/"\n'
        f'files = [{{ name = "inference.json", sha256 = "{DIGEST}", size_bytes = 5 }}, {{ name = "a.yml" }}]'
    )
    model = read(tmp_path, MODEL + pinned + urls + CONTRACT + source).model("Own_det")
    assert (model.name, model.sha256, model.size_bytes, model.opset, model.classes) == (
        "own-det",
        DIGEST,
        7,
        17,
        3,
    )
    assert model.urls == ("https://models.example.org/a.onnx",)
    assert model.input is not None
    assert model.input.max_shape == (1, 3, 96, 96)
    (found,) = model.sources
    assert found.base_url == "https://models.example.org/own/"
    assert [(file.name, file.sha256, file.size_bytes) for file in found.files] == [
        ("inference.json", DIGEST, 5),
        ("a.yml", None, None),
    ]


def test_what_is_not_said_is_none(tmp_path: Path) -> None:
    model = read(tmp_path, MODEL).model("own-det")
    assert (model.sha256, model.size_bytes, model.opset, model.classes, model.input) == (None,) * 5
    assert (model.urls, model.sources) == ((), ())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[model]", "not valid TOML"),
        ("model = 3", "model must be of type list, not int"),
        ("model = [3]", "must be a list of dict"),
        ('extra = "x"', "unknown keys: extra"),
        (MODEL + 'colour = "red"', "own-det: has unknown keys: colour"),
        (MODEL.replace('name = "own-det"\n', ""), "has no name"),
        (MODEL.replace('"fp32"', '""'), "has no precision"),
        (MODEL.replace('"fp32"', "32"), "precision must be of type str, not int"),
        (MODEL.replace('stage = "det"', 'stage = "dec"'), "stage must be one of det, rec, cls, not 'dec'"),
        (MODEL.replace("own-det.onnx", "../own-det.onnx"), "plain file name"),
        (MODEL.replace("own-det.onnx", "/own-det.onnx"), "plain file name"),
        (MODEL.replace("own-det.onnx", ".hidden"), "plain file name"),
        (MODEL + 'sha256 = "abc"', "64 hexadecimal digits"),
        (MODEL + f'sha256 = "{DIGEST.upper()}"', "64 hexadecimal digits"),
        (MODEL + "size_bytes = 0", "size_bytes must be at least 1"),
        (MODEL + "size_bytes = true", "size_bytes must be of type int, not bool"),
        (MODEL + 'urls = ["https://models.example.org/a"]', "no sha256"),
        (MODEL + f'sha256 = "{DIGEST}"\nurls = ["file:///a"]', "http(s) addresses, not 'file:///a'"),
        (MODEL + "urls = [1]", "urls must be a list of str"),
        (MODEL + CONTRACT.replace("[1, 3, 64, 64]", "[1, 3, 64]"), "three shapes of 4 axes"),
        (MODEL + CONTRACT.replace("[1, 3, 64, 64]", "[1, 3, 64, 16]"), "min <= opt <= max"),
        (MODEL + CONTRACT.replace("[1, 3, 32, 32]", "[0, 3, 32, 32]"), "from 1 up"),
        (MODEL + CONTRACT + 'dtype = "f4"', "unknown keys: dtype"),
        (MODEL + '[[model.source]]\nlayout = "zip"', "layout must be one of pir, legacy, tar"),
        (MODEL + '[[model.source]]\nlayout = "tar"', "names no files"),
        (MODEL + '[[model.source]]\nlayout = "tar"\nfiles = [{ name = "a/b" }]', "plain file name"),
        (MODEL + '[[model.source]]\nlayout = "tar"\nbase_url = "ftp://x/"', "base_url must hold http(s)"),
        (MODEL + MODEL, "describes the model own-det twice"),
        (SET + SET, "describes the set own twice"),
        (SET + "size = 3", "own: has unknown keys: size"),
    ],
)
def test_a_wrong_manifest_is_one_clear_error(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)
    assert str(tmp_path / "manifest.toml") in caught.value.subject
    assert "ocr-onnx export" in caught.value.remedy


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="not valid TOML"):
        read_manifest(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        read_manifest(tmp_path / "absent.toml")


def test_beyond_the_bound(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="larger than"):
        read(tmp_path, "#" * (MAX_MANIFEST_BYTES + 1))


def test_unknown_names_list_the_nearest(tmp_path: Path) -> None:
    manifest = read(tmp_path, with_stages("det", "rec", "cls") + SET)
    with pytest.raises(ModelMissingError, match="is in no manifest") as caught:
        manifest.set_models("onw")
    assert caught.value.remedy == "did you mean own? there are: own"
    with pytest.raises(ModelMissingError, match=r"mean own-det\? there are: own-det, own-rec, own-cls$"):
        manifest.model("own-dett")
    with pytest.raises(ModelMissingError, match=r"is in no manifest; there are: own$"):
        manifest.set_models("zzzzzz")
    with pytest.raises(ModelMissingError, match=r"is in no manifest; there are: none$"):
        Manifest().set_models("own")


def test_a_set_of_wrong_stages(tmp_path: Path) -> None:
    manifest = read(tmp_path, with_stages("det", "det", "cls") + SET)
    with pytest.raises(ModelContractError, match="names own-rec as its rec model, which is a det model"):
        manifest.set_models("own")


def test_a_set_of_unknown_models(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="'own-rec'"):
        read(tmp_path, MODEL + SET).set_models("own")


def test_overlaid_prefers_the_other(tmp_path: Path) -> None:
    ours = read(tmp_path, with_stages("det", "rec", "cls") + SET)
    theirs = read(tmp_path, MODEL.replace("made here", "made there") + MODEL.replace("own-det", "new-det"))
    both = ours.overlaid(theirs)
    assert both.model("own-det").origin == "made there"
    assert both.model("own-rec").origin == "made here"
    assert both.model("new-det").file == "new-det.onnx"
    assert both.set_models("own").det.origin == "made there"
    assert ours.model("own-det").origin == "made here"
