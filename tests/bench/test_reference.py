"""The reference's figures as data: complete, and under names that the manifest knows."""

import dataclasses

from ocr_onnx import model_store
from ocr_onnx_bench import reference


def test_six_models_under_their_official_names() -> None:
    stages = {model.name: model.stage for model in reference.read()}
    assert len(stages) == 6
    known = {model.official: model.stage for model in model_store.load_manifest().models}
    assert {name: known[name] for name in stages} == stages


def test_every_figure_is_of_its_declared_type_and_positive() -> None:
    for model in reference.read():
        for field in dataclasses.fields(model):
            value = getattr(model, field.name)
            if field.type is float:
                assert isinstance(value, float), (model.name, field.name)
                assert value > 0, (model.name, field.name)
            else:
                assert value, (model.name, field.name)


def test_one_model_by_name() -> None:
    found = reference.find("PP-OCRv4_mobile_det")
    assert found is not None
    assert (found.accuracy, found.measure, found.cpu_ms) == (77.79, "Hmean", 120.177)
    assert reference.find("own.onnx") is None
    assert reference.find(None) is None
