"""Old files in an opset that has the operations the passes write."""

from onnx import ModelProto, version_converter

from ocr_onnx_export.rewrite.fuse_hard_swish import FIRST_OPSET

OPSET = 17
IR_VERSION = 8  # the first that allows opset 17


def upgrade_opset(model: ModelProto) -> ModelProto:
    """Return the model in opset 17 if it is older than 14, else the model itself.

    Opset 14 brought HardSwish. Newer files are left as they are: their producer chose.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not 0 < version < FIRST_OPSET:
        return model
    upgraded: ModelProto = version_converter.convert_version(model, OPSET)
    upgraded.ir_version = max(model.ir_version, IR_VERSION)
    # The converter drops what the runtime reads the dictionary from.
    del upgraded.metadata_props[:]
    upgraded.metadata_props.extend(model.metadata_props)
    return upgraded
