from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import PIXELS, Preprocessing, describe_preprocessing
from guidxmage.models import import_torchvision

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def transforms():
    try:
        import_torchvision()
    except MissingExtraError:
        pytest.skip("torchvision is not installed")
    import torchvision.transforms as loaded

    return loaded


@pytest.fixture(scope="module")
def v2(transforms):
    import torchvision.transforms.v2 as loaded

    return loaded


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)


@pytest.mark.parametrize("size", [(48, 64), (65, 41), (33, 33), (17, 90), (90, 17), (7, 9), (1, 5)])
@pytest.mark.parametrize(
    ("resize", "crop"),
    [
        (32, 28),
        (32, 27),
        (31, 28),
        (20, 40),
        ((30, 45), (33, 40)),
        (None, 24),
        (37, None),
        (24, 24),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_same_numbers_as_torchvision(transforms, size, resize, crop, interpolation):
    steps = []
    if resize is not None:
        mode = transforms.InterpolationMode(interpolation)
        steps.append(transforms.Resize(resize, interpolation=mode))
    if crop is not None:
        steps.append(transforms.CenterCrop(crop))
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    theirs = transforms.Compose(steps)(photo(*size))
    ours = Preprocessing(resize, crop, MEAN, STD, interpolation)(photo(*size))
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_input_of_a_hand_made_photo():
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 51))
    x = Preprocessing(mean=(0.5, 0.25, 0.2), std=(0.5, 0.25, 0.1))(image)
    expected = torch.tensor([[[1.0, -1.0]], [[-1.0, -1.0]], [[0.0, -2.0]]])
    torch.testing.assert_close(x, expected)


def test_defaults_are_pixels_at_own_size():
    image = photo(5, 7)
    x = PIXELS(image)
    assert x.shape == (3, 5, 7)
    assert torch.equal(
        (x * 255).round().to(torch.uint8).permute(1, 2, 0), torch.tensor(np.array(image))
    )


def test_grey_network_takes_grey_planes():
    grey = Preprocessing(mean=(0.5,), std=(0.5,))
    assert grey.mode == "L"
    assert PIXELS.mode == "RGB"
    assert grey(photo(4, 6)).shape == (1, 4, 6)
    assert grey(photo(4, 6, channels=1)).shape == (1, 4, 6)
    assert PIXELS(photo(4, 6, channels=1)).shape == (3, 4, 6)


def test_other_pillow_modes_are_refused():
    with pytest.raises(InputError, match=r"'RGBA'.*read_image"):
        PIXELS(Image.new("RGBA", (3, 3)))


def test_crop_image_is_what_the_network_sees():
    preprocessing = Preprocessing(20, 16, MEAN, STD)
    image = photo(31, 45)
    seen = preprocessing.crop_image(image)
    assert (seen.size, seen.mode) == ((16, 16), "RGB")
    pixels = torch.tensor(np.array(seen)).permute(2, 0, 1) / 255
    torch.testing.assert_close(preprocessing.to_pixels(preprocessing(image)), pixels)


def test_photo_smaller_than_the_crop_lies_in_the_middle_of_black():
    seen = np.array(Preprocessing(crop=(4, 5)).crop_image(Image.new("RGB", (2, 3), "white")))
    expected = np.zeros((4, 5), np.uint8)
    expected[0:3, 1:3] = 255
    assert np.array_equal(seen[..., 0], expected)


def test_crop_labels_by_hand():
    labels = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert np.array_equal(Preprocessing(crop=2).crop_labels(labels), [[2, 3], [6, 7]])
    assert np.array_equal(
        Preprocessing(crop=(4, 2)).crop_labels(labels), [[0, 0], [2, 3], [6, 7], [0, 0]]
    )
    doubled = Preprocessing(resize=4, crop=4).crop_labels(labels)
    assert np.array_equal(doubled, [[2, 2, 3, 3], [2, 2, 3, 3], [6, 6, 7, 7], [6, 6, 7, 7]])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.none() | st.integers(1, 30) | st.tuples(st.integers(1, 30), st.integers(1, 30)),
    crop=st.none() | st.integers(1, 30) | st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_labels_follow_the_photo(size, resize, crop):
    """A label map in the geometry of the photo equals the photo of that label map."""
    preprocessing = Preprocessing(resize, crop, (0.0,), (1.0,), "nearest")
    labels = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    seen = np.array(preprocessing.crop_image(Image.fromarray(labels)))
    assert np.array_equal(preprocessing.crop_labels(labels), seen)


def test_crop_labels_keeps_large_labels_and_refuses_other_shapes():
    assert Preprocessing(crop=1).crop_labels(np.array([[70_000]])).item() == 70_000
    with pytest.raises(InputError, match="height×width"):
        PIXELS.crop_labels(np.zeros((1, 2, 3), int))


def test_pixels_and_input_are_inverse():
    preprocessing = Preprocessing(mean=MEAN, std=STD)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels = preprocessing.to_pixels(x)
    assert pixels.dtype == torch.float64
    torch.testing.assert_close(pixels[1, 2], x[1, 2] * STD[2] + MEAN[2])
    torch.testing.assert_close(preprocessing.from_pixels(pixels), x)
    with pytest.raises(InputError, match="3, height, width"):
        preprocessing.to_pixels(x[:, :2])


def test_manifest_round_trip():
    preprocessing = Preprocessing((5, 6), 4, MEAN, STD, "bicubic", "mine")
    values = json.loads(json.dumps(preprocessing.to_dict()))
    assert Preprocessing.from_dict(values) == preprocessing
    assert hash(Preprocessing.from_dict(values)) == hash(preprocessing)
    with pytest.raises(InputError, match="zoom"):
        Preprocessing.from_dict({**values, "zoom": 2})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resize": 0}, "resize is 0"),
        ({"crop": (3, -1)}, "crop is"),
        ({"crop": (3, 3, 3)}, "crop is"),
        ({"resize": 2.5}, "resize is 2.5"),
        ({"mean": (0.5,)}, "mean has 1 and std 3"),
        ({"mean": (0.1, 0.2), "std": (1,)}, "mean has 2 and std 1"),
        ({"mean": (), "std": ()}, "mean has 0"),
        ({"crop_starts": "up"}, "crop_starts is 'up'"),
        ({"mean": 0.5}, "mean is 0.5"),
        ({"mean": (0, float("nan"), 0)}, "finite"),
        ({"std": (1, 0, 1)}, "above 0"),
        ({"interpolation": "lanczos"}, "bilinear, bicubic, nearest"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**wrong)


def test_absurdly_elongated_photo():
    with pytest.raises(InputError, match="60000×1 pixels: too elongated"):
        Preprocessing(resize=256)(Image.new("RGB", (60_000, 1)))


def test_from_torchvision_preset(transforms):
    from torchvision.transforms._presets import ImageClassification

    bicubic = transforms.InterpolationMode.BICUBIC
    preset = ImageClassification(crop_size=30, resize_size=35, interpolation=bicubic)
    ours = Preprocessing.from_torchvision(preset)
    assert (ours.resize, ours.crop, ours.mean, ours.std) == (35, 30, MEAN, STD)
    assert ours.interpolation == "bicubic"
    torch.testing.assert_close(ours(photo(41, 52)), preset(photo(41, 52)), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="Compose is not a torchvision preset"):
        Preprocessing.from_torchvision(transforms.Compose([transforms.ToTensor()]))


def reproducible(t, v2):
    """Pipelines that a Preprocessing can stand for."""
    f32 = torch.float32
    bicubic = t.InterpolationMode.BICUBIC
    return {
        "v1": t.Compose([t.Resize(20), t.CenterCrop(16), t.ToTensor(), t.Normalize(MEAN, STD)]),
        "only tensor": t.Compose([t.ToTensor()]),
        "pil": t.Compose([t.Resize((9, 20)), t.PILToTensor(), t.ConvertImageDtype(f32)]),
        "one mean": t.Compose([t.CenterCrop([12]), t.ToTensor(), t.Normalize([0.5], [0.25])]),
        "v2": v2.Compose(
            [
                v2.Resize(20, interpolation=bicubic),
                v2.CenterCrop((16, 18)),
                v2.ToImage(),
                v2.ToDtype(f32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        ),
        "v2 pil": v2.Compose([v2.PILToTensor(), v2.ConvertImageDtype(f32)]),
    }


def test_described_transforms_give_the_same_input(transforms, v2):
    for name, transform in reproducible(transforms, v2).items():
        ours = describe_preprocessing(transform)
        assert ours is not None, name
        image = photo(29, 37)
        difference = (ours(image) - transform(image)).abs().max()
        assert difference <= 1e-6, name


def test_described_for_grey_images(transforms):
    t = transforms
    mnist = t.Compose([t.Resize(20), t.ToTensor(), t.Normalize((0.13,), (0.3,))])
    ours = describe_preprocessing(mnist, channels=1)
    grey = photo(28, 28, channels=1)
    torch.testing.assert_close(ours(grey), mnist(grey), rtol=0, atol=1e-6)
    colour = t.Compose([t.ToTensor(), t.Normalize(MEAN, STD)])
    assert describe_preprocessing(colour, channels=1) is None


def opaque(t, v2):
    """Pipelines that a Preprocessing cannot stand for, each with a lookalike above."""
    f32 = torch.float32

    class Resize(t.Resize):
        def forward(self, img):
            return super().forward(img).rotate(90)

    lanczos = t.InterpolationMode.LANCZOS
    return {
        "function": lambda image: t.ToTensor()(image) * 2,
        "subclass": t.Compose([Resize(20), t.ToTensor()]),
        "random": t.Compose([t.RandomHorizontalFlip(), t.ToTensor()]),
        "crop before resize": t.Compose([t.CenterCrop(16), t.Resize(20), t.ToTensor()]),
        "resize of a tensor": t.Compose([t.ToTensor(), t.Resize(20)]),
        "crop after normalise": t.Compose([t.ToTensor(), t.Normalize(MEAN, STD), t.CenterCrop(60)]),
        "twice": t.Compose([t.Resize(30), t.Resize(20), t.ToTensor()]),
        "max size": t.Compose([t.Resize(20, max_size=22), t.ToTensor()]),
        "no antialias": t.Compose([t.Resize(20, antialias=False), t.ToTensor()]),
        "lanczos": t.Compose([t.Resize(20, interpolation=lanczos), t.ToTensor()]),
        "bytes": t.Compose([t.PILToTensor()]),
        "unscaled": v2.Compose([v2.PILToTensor(), v2.ToDtype(f32)]),
        "double": t.Compose([t.ToTensor(), t.ConvertImageDtype(torch.float64)]),
        "image": t.Compose([t.Resize(20)]),
        "no steps": t.Compose([]),
        "not a pipeline": t.ToTensor(),
    }


def test_opaque_transforms(transforms, v2):
    for name, transform in opaque(transforms, v2).items():
        assert describe_preprocessing(transform) is None, name
    assert describe_preprocessing(None) is None


def test_preprocessing_describes_itself():
    assert describe_preprocessing(PIXELS) is PIXELS
