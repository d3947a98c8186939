"""The outputs of real libraries, as those give them: random weights, but MTCNN's own.

Every explanation closes to rounding in float64. Where the network is piecewise linear from the
image to what is asked, Δ is autograd's gradient, too.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidxmage import Explainer, Explanation, InputError
from guidxmage.models import import_torchvision
from guidxmage.outputs import (
    Box,
    Boxes,
    BoxSide,
    Embedding,
    Mask,
    Pixel,
    Regression,
    Segmentation,
    Similarity,
    Value,
)

if find_spec("torchvision"):  # others import it as they find it
    import_torchvision()


def _random(*shape: int, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64, generator=generator)


X = _random(3, 64, 64)
AREA = np.zeros((64, 64), bool)
AREA[16:40, 8:48] = True


@pytest.fixture(autouse=True)
def _the_same_weights() -> None:
    torch.manual_seed(0)


def closes(
    explainer: Explainer, image: Tensor, target: Any, where: str = "on region"
) -> Explanation:
    """The explanation of a target, its numbers compared with the network and with autograd."""
    found = explainer.explain(image, target, depth="default")
    cotangent = found.symbolic_model.cotangent[0, 0]
    Z = image.clone().requires_grad_()
    score = explainer.model(Z[None])[0] @ cotangent
    (gradient,) = torch.autograd.grad(score, Z)
    score = score.detach()
    size = abs(float(score))
    assert size > 0
    assert float(gradient.abs().max()) > 0
    assert abs(float(found.score) - float(score)) <= 1e-12 * size
    assert abs(float(found.contributions.sum() + found.bias) - float(score)) <= 1e-10 * size
    for one in found.placements:
        assert abs(float(one.whole.sum() + one.unplaced) - float(score)) <= 1e-10 * size
    assert found.exactness == where
    if where == "on region":
        error = float((found.weights - gradient).abs().max())
        assert error <= 1e-12 * float(gradient.abs().max())
    assert found.meaning is not None
    return found


def _area(found: Explanation) -> int:
    """How many places a mask has."""
    assert found.meaning is not None
    return sum(found.meaning.choice["area"][1::2])


def torchvision() -> Any:
    """The library, where it is installed."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return import_torchvision()


# --- torchvision -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fcn", "deeplabv3"])
def test_torchvision_segmentation(kind: str) -> None:
    vision = torchvision()
    from torchvision.models._utils import IntermediateLayerGetter

    segmentation = getattr(vision.models.segmentation, kind)
    backbone = IntermediateLayerGetter(vision.models.resnet18(weights=None), {"layer4": "out"})
    if kind == "fcn":
        model = segmentation.FCN(backbone, segmentation.FCNHead(512, 5))
    else:
        head = segmentation.DeepLabHead(512, 5, atrous_rates=(1, 2, 3))
        model = segmentation.DeepLabV3(backbone, head)
    labels = ["background", "cat", "dog", "cup", "bird"]
    explainer = Explainer(
        model.double().eval().requires_grad_(False), output=Segmentation("out"), labels=labels
    )
    values = explainer.model.model(X[None])["out"][0]
    assert values.shape == (5, 64, 64)

    found = closes(explainer, X, Mask(AREA, "cup", against="dog"))
    assert found.target_name == "cup rather than dog over 960 places of 64×64"
    inside = torch.from_numpy(AREA)
    assert float(found.score) == pytest.approx(float((values[3] - values[2])[inside].sum()))
    assert found.regions().names == {1: "inside", 2: "near", 3: "elsewhere"}

    seen = closes(explainer, X, "top1")
    best = int(seen.meaning.choice["class"])
    assert _area(seen) == int((values.argmax(0) == best).sum())
    assert labels[best] in seen.target_name

    pixel = closes(explainer, X, Pixel(10, 12, "bird"))
    assert float(pixel.score) == pytest.approx(float(values[4, 10, 12]))


def _anchors(vision: Any, maps: list[Tensor]) -> Tensor:
    """RetinaNet's, nine for each cell of each map, (N, 4)."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes = tuple((n, int(n * 2 ** (1 / 3)), int(n * 2 ** (2 / 3))) for n in (8, 16, 32))
    make = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    (anchors,) = make(ImageList(X[None].float(), [(64, 64)]), maps)
    return anchors.double()


class _Raw(nn.Module):
    """A detector up to its head: nothing is dropped, and no compiled operator runs."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return found


def _decoded(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Middle and size from offsets (B, N, 4) of anchors (N, 4)."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    middles = anchors[:, :2] + sizes / 2 + offsets[..., :2] * sizes
    return torch.cat([middles, offsets[..., 2:].exp() * sizes], -1)


def test_torchvision_retinanet() -> None:
    vision = torchvision()
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.retinanet import RetinaNetHead

    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(vision.models.resnet18(weights=None), layers, [128, 256, 512], 16)
    backbone.fpn.extra_blocks = None
    model = _Raw(backbone, RetinaNetHead(16, 9, 3)).double().eval().requires_grad_(False)
    anchors = _anchors(vision, list(backbone(X[None]).values()))
    output = Boxes(
        boxes=lambda o: _decoded(o["bbox_regression"], anchors),
        scores="cls_logits",
        form="cxcywh",
        threshold=-9,
    )
    explainer = Explainer(model, output=output, labels=["cat", "dog", "cup"])
    raw = model(X[None])
    offsets = raw["bbox_regression"][0]
    wanted = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(offsets, anchors)
    # The sizes are exponentials, so that the program as a whole is smooth.
    score = closes(explainer, X, Box(0), "at input")
    anchor = score.meaning.choice["anchor"]
    assert score.meaning.box == pytest.approx(wanted[anchor].tolist())
    assert float(score.score) == pytest.approx(float(raw["cls_logits"][0, anchor].max()))
    assert float(score.score) == pytest.approx(float(raw["cls_logits"].max()))
    middle = closes(explainer, X, BoxSide(0, "center_x"), "at input")
    for found in (score, middle):  # neither goes through an exponential
        Z = X.clone().requires_grad_()
        value = explainer.model(Z[None])[0] @ found.symbolic_model.cotangent[0, 0]
        (gradient,) = torch.autograd.grad(value, Z)
        assert torch.allclose(found.weights, gradient, rtol=0, atol=1e-12 * gradient.abs().max())
    for n, side in enumerate(("left", "top", "right", "bottom")):
        found = closes(explainer, X, BoxSide(0, side), "at input")
        assert float(found.score) == pytest.approx(float(wanted[anchor, n]))
        assert found.meaning.unit == "px"
    assert "inside" in score.regions().names.values()


# --- segmentation-models-pytorch ---------------------------------------------------------------


@pytest.mark.parametrize(("name", "where"), [("Unet", "on region"), ("FPN", "at input")])
def test_segmentation_models_pytorch(name: str, where: str) -> None:
    torchvision()
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = (
        getattr(smp, name)("resnet18", encoder_weights=None, classes=4)
        .double()
        .eval()
        .requires_grad_(False)
    )
    explainer = Explainer(model, output=Segmentation())
    found = closes(explainer, X, Mask(AREA, 2), where)  # FPN: group normalisation
    assert found.target_name == "class 2 rather than the runner-up over 960 places of 64×64"
    closes(explainer, X, Pixel(30, 20, 1, against=3), where)


def test_segmentation_models_pytorch_binary() -> None:
    torchvision()
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = (
        smp.Linknet("resnet18", encoder_weights=None, classes=1)
        .double()
        .eval()
        .requires_grad_(False)
    )
    explainer = Explainer(model, output=Segmentation())
    found = closes(explainer, X, Mask(AREA, 1))
    assert float(found.score) == pytest.approx(float(model(X[None])[0, 0][AREA].sum()))


def test_an_image_too_small_is_told_of_the_network() -> None:
    torchvision()
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.PAN("resnet18", encoder_weights=None, classes=4).eval()
    with pytest.raises(InputError, match="an image of 3×64×64 is too small for PAN: nothing is"):
        Explainer(model, output=Segmentation()).explain(X.float())


# --- Hugging Face transformers -----------------------------------------------------------------


def test_transformers_segformer() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_labels=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 16],
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=16,
    )
    model = (
        transformers.SegformerForSemanticSegmentation(config).double().eval().requires_grad_(False)
    )
    explainer = Explainer(model, output=Segmentation("logits"), labels=list("abcd"))
    found = closes(explainer, X, Mask(AREA, "b"), "at input")
    assert found.target_name.endswith("of 16×16")  # a quarter of the image
    # A function of the output is explained along with the network.
    large = lambda o: nn.functional.interpolate(o.logits, size=(64, 64), mode="bilinear")  # noqa: E731
    fine = closes(Explainer(model, output=Segmentation(large)), X, Mask(AREA, 1), "at input")
    assert _area(fine) == 16 * _area(found) == int(AREA.sum())


def _detector(transformers: Any, name: str) -> nn.Module:
    if name == "yolos":
        config = transformers.YolosConfig(
            num_labels=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=[64, 64],
            patch_size=16,
            num_detection_tokens=10,
        )
        return transformers.YolosForObjectDetection(config)
    resnet = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=resnet,
        num_labels=4,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=10,
    )
    return transformers.DetrForObjectDetection(config)


@pytest.mark.parametrize("name", ["yolos", "detr"])
def test_transformers_detection(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = _detector(transformers, name).double().eval().requires_grad_(False)
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 5][-1]
    with torch.no_grad():  # "no object" is the last class; untrained, it may win everywhere
        last.bias[-1] -= 2
    output = Boxes(
        "pred_boxes",
        "logits",
        form="cxcywh",
        unit="share",
        overlap=None,
        background=-1,
        threshold=-9,
    )
    explainer = Explainer(model, output=output)
    score = closes(explainer, X, Box(0), "at input")
    left = closes(explainer, X, BoxSide(0, "left"), "at input")
    raw = model(X[None])
    anchor = score.meaning.choice["anchor"]
    x, _, w, _ = raw.pred_boxes[0, anchor].tolist()
    assert float(left.score) == pytest.approx(64 * (x - w / 2))
    assert left.meaning.box[0] == pytest.approx(float(left.score))
    assert float(score.score) == pytest.approx(float(raw.logits[0, :, :4].max()))
    assert not explainer.explain(X, "box:0").meaning.choice.get("rather_than")


def test_transformers_clip() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        projection_dim=16,
    )
    model = transformers.CLIPVisionModelWithProjection(config).double().eval().requires_grad_(False)
    explainer = Explainer(model, output=Embedding("image_embeds"))
    text = _random(16, seed=9)  # what a text tower would give
    found = closes(explainer, X, Similarity(text), "at input")
    own = model(X[None]).image_embeds[0]
    cosine = nn.functional.cosine_similarity(own, text, dim=0)
    assert float(found.score) == pytest.approx(float(cosine))
    closes(explainer, X, Similarity(_random(3, 64, 64, seed=6), text), "at input")


# --- MTCNN, its own weights --------------------------------------------------------------------


def _mtcnn(name: str, *, smooth: bool = False) -> nn.Module:
    """One of the three networks; without its softmax, whose place is taken by the logits."""
    torchvision()
    pytest.importorskip("facenet_pytorch")
    from facenet_pytorch.models import mtcnn

    model = getattr(mtcnn, name)()
    if not smooth:
        (last,) = [n for n, m in model.named_children() if isinstance(m, nn.Softmax)]
        setattr(model, last, nn.Identity())
    return model.double().eval().requires_grad_(False)


def _astronaut(size: int, box: tuple[int, int, int, int] = (0, 0, 512, 512)) -> Tensor:
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    photo = Image.fromarray(data.astronaut()).crop(box).resize((size, size), Image.BILINEAR)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).double()
    return (pixels - 127.5) * 0.0078125


def _cells(output: tuple[Tensor, Tensor]) -> Tensor:
    """P-Net's boxes (B, N, 4): a cell of 12 pixels at every second one, moved by the offsets."""
    offsets = output[0]
    rows, columns = (torch.arange(n, dtype=offsets.dtype) for n in offsets.shape[2:])
    y, x = torch.meshgrid(2 * rows + 1, 2 * columns + 1, indexing="ij")
    cells = torch.stack([x, y, x + 11, y + 11], -1).reshape(-1, 4)
    return cells + 11 * offsets.flatten(2).mT


def _margin(output: tuple[Tensor, ...]) -> Tensor:
    """Face rather than no face, (B, N, 1)."""
    logits = output[-1].flatten(2)
    return (logits[:, 1:] - logits[:, :1]).mT


def test_mtcnn_p_net() -> None:
    model = _mtcnn("PNet")
    image = _astronaut(92)
    threshold = float(np.log(0.6 / 0.4))  # a probability of 0.6
    explainer = Explainer(
        model, output=Boxes(_cells, _margin, threshold=threshold), labels=["face"]
    )
    score = closes(explainer, image, Box(0))
    assert score.target_name == "box 0: face"
    assert 8 < float(score.score) < 9
    left, top, right, bottom = score.meaning.box
    assert 35 < left < 42  # her face
    assert 46 < right < 52
    assert 12 < top < 18
    assert 24 < bottom < 30
    for n, side in enumerate(("left", "top", "right", "bottom")):
        found = closes(explainer, image, BoxSide(0, side))
        assert float(found.score) == pytest.approx(score.meaning.box[n])
    closes(explainer, image, Box(0, rather_than="suppressed"))
    # As the library decodes them.
    from facenet_pytorch.models.utils.detect_face import generateBoundingBox

    offsets, odds = model(image[None])
    cells, _ = generateBoundingBox(offsets, odds.softmax(1)[:, 1], 1.0, 0.6)
    sizes = (cells[:, 2:4] - cells[:, :2]).repeat(1, 2)
    wanted = (cells[:, :4] + cells[:, 5:] * sizes)[cells[:, 4].argmax()]
    assert torch.allclose(torch.tensor(score.meaning.box).double(), wanted, atol=1e-9)


def test_mtcnn_p_net_as_a_segmentation() -> None:
    explainer = Explainer(_mtcnn("PNet"), output=Segmentation(1), labels=["other", "face"])
    image = _astronaut(92)
    found = closes(explainer, image, Mask("face"))
    assert 0 < _area(found) < 100
    smooth = Explainer(_mtcnn("PNet", smooth=True), output=Segmentation(1))
    same = closes(smooth, image, Mask(1), "at input")  # probabilities
    assert same.meaning.choice["area"] == found.meaning.choice["area"]


def test_mtcnn_o_net() -> None:
    model = _mtcnn("ONet")
    image = _astronaut(48, (160, 30, 300, 170))
    frame = torch.tensor([0, 0, 48, 48], dtype=torch.float64)
    one_box = Boxes(lambda o: (48 * o[0] + frame)[:, None], lambda o: _margin((o[2][..., None],)))
    explainer = Explainer(model, output=one_box, labels=["face"])
    score = closes(explainer, image, Box(0))
    assert float(score.score) > 5
    left = closes(explainer, image, BoxSide(0, "left"))
    offsets, points, odds = model(image[None])
    assert float(left.score) == pytest.approx(48 * float(offsets[0, 0]))
    assert float(score.score) == pytest.approx(float(odds[0, 1] - odds[0, 0]))
    names = [f"{what} {axis}" for axis in "xy" for what in ("eye", "eye 2", "nose", "m", "m 2")]
    marks = Explainer(model, output=Regression(lambda o: 48 * o[1], names=names, units="px"))
    nose = closes(marks, image, Value("nose x"))
    assert float(nose.score) == pytest.approx(48 * float(points[0, 2]))
    assert nose.meaning.unit == "px"


def test_mtcnn_r_net() -> None:
    model = _mtcnn("RNet")
    explainer = Explainer(model, output=1, labels=["other", "face"])
    image = _astronaut(24, (160, 30, 300, 170))
    found = explainer.explain(image, ("contrast", "face", "other"))
    assert float(found.score) > 3
    assert abs(float(found.residual)) <= 1e-10 * float(found.score)
    sides = Explainer(model, output=Regression(0, names=("left", "top", "right", "bottom")))
    for side in ("left", "bottom"):
        closes(sides, image, Value(side))


# --- volumes -----------------------------------------------------------------------------------


def test_monai_on_a_nifti_volume(tmp_path: Path) -> None:
    nets = pytest.importorskip("monai.networks.nets")
    nibabel = pytest.importorskip("nibabel")
    scan = _random(24, 16, 8, seed=7).numpy()  # x, y, z, as NIfTI has it
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), tmp_path / "scan.nii.gz")
    read = nibabel.load(tmp_path / "scan.nii.gz").get_fdata()
    volume = torch.from_numpy(np.ascontiguousarray(read.T))[None]
    assert volume.shape == (1, 8, 16, 24)

    model = nets.UNet(3, 1, 3, channels=(4, 8, 16), strides=(2, 2), act="relu", norm="batch")
    explainer = Explainer(
        model.double().eval().requires_grad_(False), output=Segmentation(), labels=list("abc")
    )
    values = explainer.model.model(volume[None])[0]
    area = np.zeros((8, 16, 24), bool)
    area[2:6, 4:12, 8:20] = True
    found = closes(explainer, volume, Mask(area, "b", against="c"))
    assert found.contributions.shape == (1, 8, 16, 24)
    assert "over 384 places of 8×16×24" in found.target_name
    assert float(found.score) == pytest.approx(float((values[1] - values[2])[area].sum()))
    voxel = closes(explainer, volume, Pixel(9, 13, "c", z=3))
    assert float(voxel.score) == pytest.approx(float(values[2, 3, 9, 13]))
    with pytest.raises(InputError, match="8×16×24"):
        explainer.explain(volume, Pixel(9, 13, "c"))


# --- timm --------------------------------------------------------------------------------------


def test_timm_features_and_embeddings() -> None:
    torchvision()
    timm = pytest.importorskip("timm")
    features = timm.create_model("resnet10t", pretrained=False, features_only=True)
    explainer = Explainer(features.double().eval().requires_grad_(False), output=lambda o: o[2])
    values = explainer.model.model(X[None])[2][0]
    place = np.unravel_index(int(values.argmax()), values.shape)
    found = closes(explainer, X, tuple(int(n) for n in place))
    assert float(found.score) == pytest.approx(float(values.max()))

    tower = (
        timm.create_model("resnet10t", pretrained=False, num_classes=0)
        .double()
        .eval()
        .requires_grad_(False)
    )
    embedding = Explainer(tower, output=Embedding())
    a, b = _random(3, 64, 64, seed=6), X.flip(-1)
    ranking = closes(embedding, X, Similarity(a, b))
    own, first, second = (tower(one[None])[0] for one in (X, a, b))
    wanted = own @ (first / first.norm() - second / second.norm())
    assert float(ranking.score) == pytest.approx(float(wanted))
    closes(embedding, X, Similarity(b))


# --- as ultralytics exports its detectors ------------------------------------------------------


class _OneTensor(nn.Module):
    """(B, 4 + classes, N) of three strides: middles and sizes in pixels, then class scores."""

    def __init__(self, classes: int, *, sigmoid: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 8), (8, 16), (16, 16))
        )
        self.heads = nn.ModuleList(nn.Conv2d(c, 4 + classes, 1) for c in (8, 16, 16))
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for level, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            raw, stride = head(x), 2 ** (level + 1)
            rows, columns = (torch.arange(n, dtype=x.dtype) + 0.5 for n in x.shape[2:])
            y, x_ = torch.meshgrid(rows, columns, indexing="ij")
            cell = torch.stack([x_, y, 4 + 0 * y, 4 + 0 * y])
            boxes = (raw[:, :4] + cell) * stride
            scores = raw[:, 4:].sigmoid() if self.sigmoid else raw[:, 4:]
            found.append(torch.cat([boxes, scores], 1).flatten(2))
        return torch.cat(found, 2)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_head_of_one_tensor(sigmoid: bool) -> None:
    model = _OneTensor(6, sigmoid=sigmoid).double().eval().requires_grad_(False)
    output = Boxes(
        boxes=lambda o: o[:, :4].mT,
        scores=lambda o: o[:, 4:].mT,
        form="cxcywh",
        threshold=0.25 if sigmoid else -1.1,
        overlap=0.45,
    )
    explainer = Explainer(model, output=output)
    where = "at input" if sigmoid else "on region"
    score = closes(explainer, X, Box(0), where)
    left = closes(explainer, X, BoxSide(0, "left"), where)
    closes(explainer, X, Box(0, rather_than=1), where)
    closes(explainer, X, Box(0, rather_than="suppressed"), where)
    raw = model(X[None])[0]
    x, _, w, _ = raw[:4, score.meaning.choice["anchor"]].tolist()
    assert float(left.score) == pytest.approx(x - w / 2)
    assert float(score.score) == pytest.approx(float(raw[4:].max()))
