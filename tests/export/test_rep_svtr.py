"""A recogniser in the manner of RepSVTR, written here with Paddle: by both routes the same as Paddle.

RepViT blocks (a 3x3 depthwise convolution beside a 1x1 one and the input itself, squeeze-excite in every
other block, a GELU mixer), pooling with a stride over the height, an SVTR neck (narrowed, two blocks of
global attention, widened, joined with what went in), and a CTC head. Batch norms have the statistics of
drawn text, without which a random net gives nearly the same answer everywhere.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest

from ocr_onnx_export import parity
from ocr_onnx_export.paddle_route import PaddleTool
from ocr_onnx_export.routes import Route, convert_source
from ocr_onnx_export.sources import read_source

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

CHARACTERS = 40


@pytest.fixture(scope="module")
def paddle() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "paddle", reason="PaddlePaddle is not installed (dependency group `paddle`)"
        )


def conv_bn(nn: Any, inputs: int, outputs: int, kernel: Any, stride: Any = 1, groups: int = 1) -> Any:
    padding = [size // 2 for size in kernel] if isinstance(kernel, tuple) else kernel // 2
    conv = nn.Conv2D(inputs, outputs, kernel, stride, padding, groups=groups, bias_attr=False)
    return nn.Sequential(conv, nn.BatchNorm2D(outputs))


def rep_vit_block(nn: Any) -> Any:
    """Return the class of a token mixer with or without squeeze-excite, and a channel mixer."""

    class SqueezeExcite(nn.Layer):  # type: ignore[misc]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.squeeze, self.excite = nn.Conv2D(width, width // 4, 1), nn.Conv2D(width // 4, width, 1)

        def forward(self, x: Any) -> Any:
            mean = x.mean((2, 3), keepdim=True)
            return x * nn.functional.sigmoid(self.excite(nn.functional.relu(self.squeeze(mean))))

    class RepViT(nn.Layer):  # type: ignore[misc]
        def __init__(self, width: int, excite: bool) -> None:
            super().__init__()
            self.wide = conv_bn(nn, width, width, 3, groups=width)
            self.point = nn.Conv2D(width, width, 1, groups=width)
            self.norm = nn.BatchNorm2D(width)
            self.excite = SqueezeExcite(width) if excite else nn.Identity()
            self.mixer = nn.Sequential(
                conv_bn(nn, width, 2 * width, 1), nn.GELU(), conv_bn(nn, 2 * width, width, 1)
            )

        def forward(self, x: Any) -> Any:
            x = self.excite(self.norm(self.wide(x) + self.point(x) + x))
            return x + self.mixer(x)

    return RepViT


def attention_block(nn: Any) -> Any:
    """Return the class of a transformer block with global attention."""

    class Attention(nn.Layer):  # type: ignore[misc]
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, self.size = heads, width // heads
            self.norm, self.second_norm = nn.LayerNorm(width, epsilon=1e-6), nn.LayerNorm(width, epsilon=1e-6)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 2 * width), nn.Swish(), nn.Dropout(0.1), nn.Linear(2 * width, width)
            )

        def forward(self, x: Any) -> Any:
            qkv = self.qkv(self.norm(x)).reshape((0, -1, 3, self.heads, self.size)).transpose((2, 0, 3, 1, 4))
            query, key, value = qkv[0] * self.size**-0.5, qkv[1], qkv[2]
            weights = nn.functional.softmax(query.matmul(key.transpose((0, 1, 3, 2))), axis=-1)
            mixed = weights.matmul(value).transpose((0, 2, 1, 3)).reshape((0, -1, self.heads * self.size))
            x = x + self.out(mixed)
            return x + self.mlp(self.second_norm(x))

    return Attention


def rep_svtr(paddle: Any) -> Any:
    """Build the network, in inference mode, its batch norms' statistics measured on drawn text."""
    nn = paddle.nn

    rep_vit, attention = rep_vit_block(nn), attention_block(nn)

    class RepSvtr(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(conv_bn(nn, 3, 16, 3, 2), nn.GELU(), conv_bn(nn, 16, 32, 3, 2))
            self.first = nn.Sequential(rep_vit(32, True), rep_vit(32, False))
            self.down = conv_bn(nn, 32, 48, 3, (2, 1))
            self.second = nn.Sequential(rep_vit(48, True), rep_vit(48, False))
            narrow = conv_bn(nn, 48, 24, (1, 3)), nn.Swish(), conv_bn(nn, 24, 24, 1), nn.Swish()
            self.reduce = nn.Sequential(*narrow)
            self.attention = nn.Sequential(attention(24, 4), attention(24, 4))
            self.norm = nn.LayerNorm(24, epsilon=1e-6)
            self.widen = nn.Sequential(conv_bn(nn, 24, 48, 1), nn.Swish())
            join = conv_bn(nn, 96, 24, (1, 3)), nn.Swish(), conv_bn(nn, 24, 24, 1), nn.Swish()
            self.join = nn.Sequential(*join)
            self.head = nn.Linear(24, CHARACTERS + 2)

        def forward(self, x: Any) -> Any:
            x = self.second(self.down(self.first(self.stem(x))))
            x = nn.functional.avg_pool2d(x, [6, 2], stride=[6, 2])
            steps = self.reduce(x).flatten(2).transpose((0, 2, 1))
            steps = self.norm(self.attention(steps)).transpose((0, 2, 1)).unsqueeze(2)
            x = self.join(paddle.concat((x, self.widen(steps)), axis=1))
            logits = self.head(x.squeeze(2).transpose((0, 2, 1)))
            return nn.functional.softmax(logits * 8.0, axis=2)

    paddle.seed(7)
    net = RepSvtr()
    net.eval()
    norms = [layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    for norm in norms:
        norm.train()
        norm._momentum = 0.0  # nothing of the statistics it had
    net(paddle.to_tensor(parity.normalise("rec", parity.samples([(8, 48, 320)], seed=1)[1].images)))
    net.eval()
    return net


@pytest.mark.parametrize("route", ["light", "paddle2onnx"])
def test_rep_svtr_agrees_with_paddle(paddle: Any, tmp_path: Path, route: Route) -> None:
    spec = [paddle.static.InputSpec([None, 3, 48, None], "float32", "x")]
    paddle.jit.save(rep_svtr(paddle), str(tmp_path / "inference"), spec)
    (tmp_path / "keys.txt").write_text("\n".join(chr(65 + n) for n in range(CHARACTERS)), encoding="utf-8")
    source = read_source(tmp_path)
    converted = convert_source(source, "rep-svtr", route=route)
    path = tmp_path / "rep-svtr.onnx"
    path.write_bytes(converted.data)
    grid = [(1, 48, 160), (3, 48, 320), (8, 48, 160), (1, 48, 1600), (1, 48, 3200)]
    report = parity.compare(source, "rec", {route: path}, grid, tool=PaddleTool.find())
    assert report.passed, report.to_markdown()
    assert converted.classes == CHARACTERS + 2
    texts = [one for one in report.comparisons if one.kind == "text"]
    assert min(one.variety for one in texts) >= 8  # equal best classes mean something
    assert report.answers["of them different"] > 0.7 * CHARACTERS
