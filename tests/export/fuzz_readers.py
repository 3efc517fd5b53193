"""Coverage-guided fuzzing of the two readers of Paddle's files, run by hand (see export/README.md).

::

    python -m tests.export.fuzz_readers pir|pdiparams CORPUS -max_total_time=600 -timeout=10

CORPUS is a folder for the inputs found; the options are libFuzzer's. A reader may return or raise
`SourceFormatError` in one line. Anything else stops the run with the input that caused it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore] # in an environment of its own

with atheris.instrument_imports(include=["ocr_onnx_export"]):
    from ocr_onnx_export import pdiparams, pir
    from ocr_onnx_export.errors import SourceFormatError

from tests.export.pir_programs import tiny_det, tiny_rec

SEEDS = (tiny_det(), tiny_rec())
MAX_EDITS = 8
MAX_COPIED = 2000  # characters
MAX_DEPTH = 1100  # Python's own limit of recursion is 1000
DEEP = "lists in lists"  # stands for them, as `json.dumps` can't write so many
ODD_NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, -(2**63), 2**63, 10**400, 1e308, -0.5, float("inf"), float("nan"))
ODD_TEXTS = (
    "",
    "p",
    "1.",
    ".",
    "0.a_i32",
    "0.a_array",
    "1.a_intarray",
    "0.t_dtensor",
    "NULL",
    "\n",
    "\ud800",
)
ELEMENT_TYPES = (*pdiparams.DTYPES, "c64")


def fuzz_pir(data: bytes) -> None:
    """Read bytes as they are, or a program that they edited: bytes alone seldom stay JSON."""
    choice = atheris.FuzzedDataProvider(data)
    if choice.ConsumeBool():
        text = choice.ConsumeBytes(len(data))
    else:
        depth = choice.ConsumeIntInRange(0, MAX_DEPTH)
        document = _edited(SEEDS[choice.ConsumeIntInRange(0, len(SEEDS) - 1)].document(), choice)
        text = json.dumps(document).replace(f'"{DEEP}"', "[" * depth + "]" * depth).encode()
    try:
        program = pir.parse_program(text, Path("inference.json"))
    except SourceFormatError as error:
        _check_message(error)
        return
    defined = {each.number for each in program.parameters}
    for op in program.ops:
        assert defined.issuperset(op.inputs) or 0 in op.inputs, op.place
        defined.update(value.number for value in op.outputs)


def fuzz_pdiparams(data: bytes) -> None:
    """Read bytes against a program of ours, or against one that they made up."""
    choice = atheris.FuzzedDataProvider(data)
    seed = choice.ConsumeIntInRange(0, len(SEEDS))
    parameters = SEEDS[seed].program().parameters if seed < len(SEEDS) else _made_up(choice)
    in_order = sorted(parameters, key=lambda parameter: parameter.name)
    try:
        values = pdiparams.parse_parameters(choice.ConsumeBytes(len(data)), in_order, Path("p"))
    except SourceFormatError as error:
        _check_message(error)
        return
    assert sum(value.nbytes for value in values.values()) <= len(data)
    for parameter in in_order:
        assert values[parameter.name].shape == parameter.type.shape


def _edited(document: Any, choice: Any) -> Any:
    ops = document["program"]["regions"][0]["blocks"][0]["ops"]
    for _ in range(choice.ConsumeIntInRange(1, MAX_EDITS)):
        # mostly in the operations: what stands above them is soon told
        holder, key = _somewhere(ops if ops and choice.ConsumeIntInRange(0, 7) else document, choice)
        edit = choice.ConsumeIntInRange(0, 3)
        if edit == 0:
            del holder[key]
        elif edit == 1:
            holder[key] = _junk(choice)
        elif edit == 2:
            holder[key] = [holder[key]]
        else:
            source, name = _somewhere(document, choice)
            copied = json.dumps(source[name])  # not the part itself: it might become a part of itself
            if len(copied) < MAX_COPIED:
                holder[key] = json.loads(copied)
        if not document:
            break
    return document


def _somewhere(document: Any, choice: Any) -> tuple[Any, Any]:
    """Walk down to a list or object that is not empty, and a key of it."""
    holder = document
    while True:
        keys: Any = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = keys[choice.ConsumeIntInRange(0, len(keys) - 1)]
        below = holder[key]
        if not isinstance(below, dict | list) or not below or choice.ConsumeIntInRange(0, 7) == 0:
            return holder, key
        holder = below


def _junk(choice: Any) -> Any:
    kind = choice.ConsumeIntInRange(0, 5)
    if kind == 0:
        return choice.PickValueInList(list(ODD_NUMBERS))
    if kind == 1:
        return choice.PickValueInList(list(ODD_TEXTS))
    if kind == 2:
        return choice.ConsumeUnicode(20)
    if kind == 3:
        return DEEP
    return choice.PickValueInList([None, True, False, {}, [], {"#": "0.a_array", "D": []}])


def _made_up(choice: Any) -> list[pir.Parameter]:
    return [
        pir.Parameter(
            f"p{number}",
            number,
            pir.TensorType(
                choice.PickValueInList(list(ELEMENT_TYPES)),
                tuple(
                    choice.ConsumeIntInRange(1, choice.PickValueInList([3, 300, pir.MAX_DIMENSION]))
                    for _ in range(choice.ConsumeIntInRange(0, pir.MAX_RANK))
                ),
            ),
        )
        for number in range(choice.ConsumeIntInRange(0, 3))
    ]


def _check_message(error: SourceFormatError) -> None:
    assert str(error).isprintable(), repr(str(error))


def _write_seeds(corpus: Path) -> None:
    """Lay seeds in; `FuzzedDataProvider` takes its choices from the end of the data."""
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(SEEDS):
        (corpus / f"seed-pir-{index}").write_bytes(seed.text() + b"\x01")
        (corpus / f"seed-pdiparams-{index}").write_bytes(pdiparams.to_bytes(seed.parameters) + bytes([index]))


TARGETS: dict[str, Callable[[bytes], None]] = {"pir": fuzz_pir, "pdiparams": fuzz_pdiparams}

if __name__ == "__main__":
    name, corpus, *options = sys.argv[1:]
    _write_seeds(Path(corpus))
    atheris.Setup([sys.argv[0], corpus, *options], TARGETS[name])
    atheris.Fuzz()
