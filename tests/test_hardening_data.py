from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.hardening.data import backgrounds, placing
from guidxmage.hardening.data.cifar10 import load_cifar10
from guidxmage.hardening.data.dataset import InMemory, as_it_is
from guidxmage.hardening.data.fashion_mnist import SYSTEM_FOLDER, read_fashion, read_idx
from guidxmage.hardening.data.garments import SPLITS, build_garments, load_garments
from guidxmage.hardening.data.image_folder import ImageFolder

# --- IDX ---------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The format by its description: magic number, big-endian sizes, bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_by_hand(tmp_path, pack):
    file = tmp_path / "file"
    content = b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes([1, 2, 3, 4, 5, 255])
    file.write_bytes(pack(content))
    assert read_idx(file).tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no IDX file"),
        (b"\0\0\x08\x01\0\0\0\x03ab", "holds 10, not the 11 bytes"),
        (b"\0\0\x08\x01\0\0\0\x03abcd", "holds more than the 11 bytes"),
        (b"\0\0\x08\x03\0\0", "holds 6, not the 17 bytes"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"a", "no IDX file"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "announces .* bytes, which Fashion-MNIST does not have"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03" + bytes(10**7)), "holds more than the 11"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x03abc", mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_damaged_idx(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file")


def write_fashion(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # One of the two compressed, as both occur.
    packed = gzip.compress(idx(images), 1, mtime=0)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(packed)
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
def test_fashion_is_found(tmp_path, below):
    images = np.arange(2 * 784).reshape(2, 28, 28) % 256
    write_fashion(tmp_path / below, "t10k", images, np.array([9, 0]))
    found = read_fashion(tmp_path, "t10k")
    assert np.array_equal(found.images, images)
    assert found.labels.tolist() == [9, 0]
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte\.gz"):
        read_fashion(tmp_path, "train")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 27)), np.zeros(2), r"shape \[2, 28, 27\]"),
        (np.zeros((2, 28, 28)), np.zeros(3), r"labels \[3\]"),
        (np.zeros((1, 28, 28)), np.array([10]), "a label 10"),
    ],
)
def test_what_is_no_fashion(tmp_path, images, labels, message):
    write_fashion(tmp_path, "train", images, labels)
    with pytest.raises(InputError, match=message):
        read_fashion(tmp_path, "train")


# --- garments ----------------------------------------------------------------------------------

SIZES = {"train": 1500, "validation": 300, "test": 400}
CORRELATION = 0.7


def fake_garments(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectangles of one grey level each on black, their labels, and their boxes."""
    rng = np.random.default_rng(seed)
    images, boxes = np.zeros((count, 28, 28), np.uint8), np.empty((count, 4), int)
    for k in range(count):
        height, width = rng.integers(9, 25, 2)
        top, left = rng.integers(29 - height), rng.integers(29 - width)
        images[k, top : top + height, left : left + width] = rng.integers(60, 256)
        boxes[k] = top, left, height, width
    return images, rng.integers(10, size=count), boxes


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """A small Fashion-MNIST, and 23 photos whose left 60 % have red below 100, the rest above."""
    root = tmp_path_factory.mktemp("sources")
    for part, count, seed in (("train", 2000, 1), ("t10k", 450, 2)):
        images, labels, _ = fake_garments(count, seed)
        images[7] = 0  # an empty picture, to be left out
        write_fashion(root / "fashion", part, images, labels)
    (root / "photos").mkdir()
    rng = np.random.default_rng(3)
    for k in range(23):
        width, height = 140 + 10 * k, 250 - 5 * k
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        middle = round(width * 0.6)
        pixels[:, :middle, 0], pixels[:, middle:, 0] = k, 255 - k
        Image.fromarray(pixels).save(root / "photos" / f"{k:02}.png")
    return {"fashion": root / "fashion", "backgrounds": root / "photos"}


@pytest.fixture(scope="module")
def built(tmp_path_factory, sources) -> Path:
    out = tmp_path_factory.mktemp("built") / "garments"
    return build_garments(out, **sources, **SIZES, correlation=CORRELATION, seed=5)


def arrays(folder: Path, split: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{split}.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_same_seed_same_bytes(built, sources, tmp_path):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    again = build_garments(tmp_path / "a", **sources, **SIZES, correlation=CORRELATION, seed=5)
    assert digests(again) == digests(built)
    assert set(digests(built)) == {f"{s}.npz" for s in SPLITS} | {"manifest.json", "DATASHEET.md"}
    other = build_garments(tmp_path / "b", **sources, **SIZES, correlation=CORRELATION, seed=6)
    assert not set(digests(other).values()) & set(digests(built).values())
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


def test_manifest_tells_what_is_there(built, sources):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["schema"] == "guid-xmage/garments/1"
    assert (manifest["seed"], manifest["correlation"]) == (5, CORRELATION)
    found = digests(built)
    for split, told in manifest["splits"].items():
        own = arrays(built, split)
        assert told["sha256"] == found[f"{split}.npz"]
        assert told["per_class"] == [int((own["labels"] == k).sum()) for k in range(10)]
        assert told["own_background"] == (own["labels"] == own["backgrounds"]).mean()
    photos = manifest["sources"]["photos"]
    assert [photo["class"] for photo in photos] == [k % 10 for k in range(23)]
    assert {photo["name"]: photo["sha256"] for photo in photos} == digests(sources["backgrounds"])
    sheet = (built / "DATASHEET.md").read_text()
    for heading in (
        "Motivation",
        "Composition",
        "Collection",
        "Splits",
        "Licences",
        "Known limits",
    ):
        assert f"## {heading}" in sheet
    assert "| train | 1500 |" in sheet
    assert "{" not in sheet
    assert all(photo["name"] in sheet for photo in photos)


def test_splits(built, sources):
    labels = fake_garments(2000, 1)[1]
    train, validation = arrays(built, "train"), arrays(built, "validation")
    numbers = np.concatenate([train["sources"], validation["sources"]])
    assert len(set(numbers.tolist())) == 1800
    assert 7 not in numbers
    assert np.array_equal(labels[train["sources"]], train["labels"])
    for split in SPLITS:
        data = load_garments(built, split)
        assert isinstance(data, InMemory)
        assert len(data) == SIZES.get(split, SIZES["test"])
        assert (data.images.dtype, data.labels.dtype) == (torch.uint8, torch.int64)
        assert data.images.shape == (len(data), 3, 32, 32)
        assert data.masks.shape == (len(data), 32, 32)
        assert data.name(3) == f"{split} 3"
        assert len(data.classes) == 10
    batch = next(iter(DataLoader(data, 5, collate_fn=as_it_is)))
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, data.images[:5].float() / 255)


def test_no_background_pixel_is_in_train_and_test(built):
    # Photos are red below 23 to the left of the cut and above 232 to its right, so that even one
    # grey level mixed across the cut would show.
    for split in SPLITS:
        data = load_garments(built, split)
        red = data.images[:, 0][~data.masks]
        expected = (red <= 22) if split == "train" else (red >= 233)
        assert len(red) > 1000
        assert expected.all(), split


def test_outside_the_mask_lies_the_named_photo(built, sources):
    files = sorted(sources["backgrounds"].iterdir())
    for split, part in (("train", "left"), ("mixed_random", "right")):
        own, data = arrays(built, split), load_garments(built, split)
        assert np.array_equal(own["photos"] % 10, own["backgrounds"])
        assert torch.equal(data.backgrounds, torch.from_numpy(own["backgrounds"].astype(int)))
        assert len(set(own["photos"].tolist())) == len(files)
        for k in range(60):
            pixels = getattr(backgrounds.read_photo(files[own["photos"][k]]), part)
            top, left = own["corners"][k]
            crop = pixels[top : top + 32, left : left + 32].transpose(2, 0, 1)
            outside = ~data.masks[k].numpy()
            assert np.array_equal(own["images"][k][:, outside], crop[:, outside])


def test_inside_the_mask_lies_the_tinted_garment(built):
    images, _, boxes = fake_garments(2000, 1)
    data, rows = load_garments(built, "train"), arrays(built, "train")["sources"]
    scales, colours = [], []
    for k, row in enumerate(rows):
        mask = data.masks[k].numpy()
        colour = np.unique(data.images[k].numpy()[:, mask], axis=1)
        # A garment of one grey level has one colour up to its rim, brighter than black.
        assert colour.shape == (3, 1)
        shade = 51 / 255 + 204 / 255 * images[row].max() / 255
        assert np.all((colour >= 89 * shade - 1) & (colour <= 255 * shade))
        colours.append(colour[:, 0] / shade)
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = ys[-1] - ys[0] + 1, xs[-1] - xs[0] + 1
        # A corner pixel may be covered by less than half.
        assert height * width - 4 <= mask.sum() <= height * width
        scale = np.sqrt(height * width / np.prod(boxes[row, 2:]))
        assert 24 / 28 - 0.1 < scale < 32 / 28 + 0.1
        scales.append(scale)
        assert abs(height - scale * boxes[row, 2]) <= 1.1
    assert np.std(scales) > 0.05
    tints = np.array(colours)
    labels = data.labels.numpy()
    spread = tints.std(0) / np.sqrt(np.bincount(labels).min())
    for k in range(10):
        assert np.all(np.abs(tints[labels == k].mean(0) - tints.mean(0)) < 4 * spread)


def test_correlation(built, sources, tmp_path):
    def own_share(folder: Path, split: str, expected: float) -> None:
        own = arrays(folder, split)
        deviation = np.sqrt(expected * (1 - expected) / len(own["labels"]))
        share = (own["labels"] == own["backgrounds"]).mean()
        assert abs(share - expected) <= 4 * deviation, (split, share)

    for split in SIZES:
        own_share(built, split, CORRELATION + (1 - CORRELATION) / 10)
    own_share(built, "mixed_same", 1.0)
    own_share(built, "mixed_random", 0.1)
    for correlation, expected in ((0.0, 0.1), (1.0, 1.0)):
        folder = tmp_path / str(correlation)
        build_garments(folder, **sources, train=800, validation=1, test=1, correlation=correlation)
        own_share(folder, "train", expected)


def test_mixed_backgrounds_keep_the_object(built):
    test = load_garments(built, "test")
    for split in ("mixed_same", "mixed_random"):
        mixed = load_garments(built, split)
        assert torch.equal(mixed.masks, test.masks)
        assert torch.equal(mixed.labels, test.labels)
        object_ = test.masks[:, None].expand_as(test.images)
        assert torch.equal(mixed.images[object_], test.images[object_])
        changed = (mixed.images != test.images).flatten(1).any(1)
        assert changed.float().mean() > 0.99


def test_closing_by_hand():
    grey = np.zeros((1, 28, 28), np.uint8)
    grey[0, 2:20, 2:20] = 200
    grey[0, 5:7, 4:12] = 16  # a dark stripe of two pixels
    grey[0, 10:13, 10:13] = 0  # an opening of three
    grey[0, 25, 25] = placing.THRESHOLD + 1
    expected = np.zeros((28, 28), bool)
    expected[2:20, 2:20] = True
    expected[10:13, 10:13] = False
    expected[25, 25] = True
    assert np.array_equal(placing.closed_masks(grey)[0], expected)
    framed = np.full((1, 28, 28), 200, np.uint8)
    assert placing.closed_masks(framed).all()


def test_scaling_agrees_with_floats():
    """Against bilinear interpolation by torch, without its own borders."""
    grey = np.random.default_rng(0).integers(20, 256, (1, 28, 28)).astype(np.uint8)
    for size in (24, 28, 32):
        sizes, places = np.array([size]), np.zeros((1, 2), np.int64)
        levels, masks = placing._scaled(grey, sizes, places, 32)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(grey)[None].double(), size=(size, size), mode="bilinear"
        )[0, 0]
        inner = levels[0, :size, :size]
        assert np.abs(inner - expected.numpy())[1:-1, 1:-1].max() <= 8  # 1/64 of 255, both axes
        assert masks.sum() == size * size


@pytest.mark.parametrize("size", [24, 27, 32])
def test_a_pixel_that_is_half_covered_is_object(size):
    blob = np.zeros((1, 28, 28), np.uint8)
    blob[0, 3:17, 5:20] = blob[0, 10:25, 12:16] = 255
    places = np.array([[32 - size, 0]])
    masks = placing._scaled(blob, np.array([size]), places, 32)[1]

    def weights(place: int) -> np.ndarray:
        """Bilinear weights (32, 28) of the source's rows, by the distance of pixel centres."""
        centres = (np.arange(32) - place + 0.5) * 28 / size - 0.5
        return np.maximum(1 - np.abs(centres[:, None] - np.arange(28)), 0)

    covered = weights(places[0, 0]) @ (blob[0] / 255) @ weights(0).T
    sure = np.abs(covered - 0.5) > 2 / 64
    assert sure.mean() > 0.9
    assert ((covered > 0.1) & (covered < 0.9)).sum() > 20
    assert np.array_equal(masks[0][sure], covered[sure] > 0.5)


def test_existing_results_are_replaced_and_nothing_else(built, sources, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds something other"):
        build_garments(tmp_path, **sources, **SIZES)
    out = tmp_path / "out"
    for seed in (0, 1):
        build_garments(out, **sources, train=5, validation=5, test=5, seed=seed)
        assert json.loads((out / "manifest.json").read_text())["seed"] == seed


def test_a_data_set_that_is_there_is_kept(sources, tmp_path):
    out, few = tmp_path / "out", {"train": 5, "validation": 5, "test": 5}
    said: list[str] = []

    def build(**options):
        build_garments(out, **sources, **few, **options, say=said.append)
        return {f.name: f.stat().st_mtime_ns for f in out.iterdir()}

    first = build()
    assert not said
    assert build() == first
    assert said == [f"{out} holds this data set already; it is kept"]
    said.clear()
    assert build(overwrite=True) != first
    (out / "test.npz").unlink()
    again = build()
    assert set(again) == set(first)
    assert build(correlation=0.5) != again
    assert not said
    (out / "train.npz").write_bytes(b"notes")
    with pytest.raises(InputError, match=r"train\.npz was changed after it was written"):
        build()
    assert (out / "train.npz").read_bytes() == b"notes"
    build(overwrite=True)
    (out / "thesis.txt").write_text("years")
    for options in ({"seed": 3}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"holds thesis\.txt beside an earlier result"):
            build(**options)
    assert (out / "thesis.txt").read_text() == "years"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_a_manifest_is_not_ours_for_that(sources, tmp_path):
    for text in ("{}", '{"schema": "guid-xmage/garments/1"}', '{"name": "web extension"}', ""):
        (tmp_path / "manifest.json").write_text(text)
        (tmp_path / "thesis.txt").write_text("years")
        with pytest.raises(InputError, match="something other than an earlier result"):
            build_garments(tmp_path, **sources, train=5, validation=5, test=5)
        assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 1.1}, "correlation is 1.1"),
        ({"correlation": float("nan")}, "correlation is nan"),
        ({"test": 0}, "test is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"train": 1990}, "train and validation ask for 2290 images, .* 1999 usable"),
        ({"test": 450}, "test ask for 450 images, .* 449 usable"),
        ({"backgrounds": "nowhere"}, "nowhere does not exist"),
        ({"fashion": "nowhere"}, "nowhere has no train-images"),
    ],
)
def test_what_cannot_be_built(sources, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build_garments(tmp_path / "out", **{**sources, **SIZES, **options})
    assert not list(tmp_path.iterdir())


def test_photos_that_cannot_be_used(sources, tmp_path):
    for k in range(19):
        Image.new("RGB", (130, 130)).save(tmp_path / f"{k:02}.png")
    with pytest.raises(InputError, match="19 photos are too few for 10 classes; give 20"):
        build_garments(tmp_path / "o", sources["fashion"], backgrounds=tmp_path, train=1)
    Image.new("RGB", (500, 127)).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match=r"flat\.png has 500×127 pixels"):
        build_garments(tmp_path / "o", sources["fashion"], backgrounds=tmp_path, train=1)
    (tmp_path / "flat.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"flat\.png is not an image"):
        build_garments(tmp_path / "o", sources["fashion"], backgrounds=tmp_path, train=1)


def test_what_cannot_be_loaded(built, tmp_path):
    with pytest.raises(InputError, match="'dev' is unknown; choose from train"):
        load_garments(built, "dev")
    with pytest.raises(InputError, match="holds no garments"):
        load_garments(tmp_path, "test")
    for content in ("[]", '{"schema": "other"}', '{"schema": "guid-xmage/garments/1"}', "{"):
        (tmp_path / "manifest.json").write_text(content)
        (tmp_path / "test.npz").write_bytes(b"")
        with pytest.raises(InputError, match="holds"):
            load_garments(tmp_path, "test")
    for name in ("manifest.json", "test.npz"):
        (tmp_path / name).write_bytes((built / name).read_bytes())
    assert len(load_garments(tmp_path, "test")) == SIZES["test"]
    content = bytearray((built / "test.npz").read_bytes())
    content[5000] ^= 1
    (tmp_path / "test.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"test\.npz was changed"):
        load_garments(tmp_path, "test")


def test_default_photos(monkeypatch):
    pytest.importorskip("foolbox")
    pytest.importorskip("skimage")
    files = backgrounds.default_photos()
    assert len(files) >= 20
    assert backgrounds.Scenery.read(None, 10).photos[0].name == files[0].name
    monkeypatch.setattr(backgrounds.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"foolbox .*\[robust\]"):
        backgrounds.default_photos()


@pytest.mark.skipif(not SYSTEM_FOLDER.is_dir(), reason="Fashion-MNIST is not installed")
def test_real_garments(tmp_path):
    pytest.importorskip("foolbox")
    pytest.importorskip("skimage")
    built = build_garments(tmp_path / "out", train=300, validation=50, test=50)
    data = load_garments(built, "train")
    share = data.masks.float().flatten(1).mean(1)
    assert 0.03 < share.min() < 0.2 < share.mean() < 0.6
    assert sorted(data.labels.unique().tolist()) == list(range(10))


# --- masks of a dataset in memory --------------------------------------------------------------


def test_masks_are_made_a_batch_at_a_time():
    images = torch.randint(256, (10, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    none = torch.zeros(10, 4, 4, dtype=torch.bool)
    data = InMemory(images, torch.arange(10), none, ["a"], "photo")
    seen = []

    def make(pixels, labels):
        seen.append((len(pixels), labels.tolist()))
        return pixels[:, 0] > 0.5

    made = data.with_masks(make, rows=4)
    assert seen == [(4, [0, 1, 2, 3]), (4, [4, 5, 6, 7]), (2, [8, 9])]
    assert torch.equal(made.masks, images[:, 0] > 127)
    assert made.name(2) == "photo 2"
    assert not data.masks.any()
    for wrong in (none[:9], none.float(), none[:, :2]):
        with pytest.raises(InputError, match=r"masks are bool \[10, 4, 4\]"):
            data.with_masks(wrong)


# --- folders of photos -------------------------------------------------------------------------


def photo(path: Path, size=(40, 30), alpha: np.ndarray | None = None) -> np.ndarray:
    """A random photo of (width, height); PNG, so that pixels survive."""
    rng = np.random.default_rng(len(path.name) + size[0])
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stored = pixels if alpha is None else np.dstack([pixels, alpha])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored).save(path)
    return pixels


def label_image(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


LABELS = np.zeros((30, 40), np.uint8)
LABELS[10:20, 12:30] = 1
LABELS[10:12, 12:30] = 255


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Two classes of two photos of 40×30 pixels each, with label images."""
    for name in ("dog/a", "dog/b", "cat/c", "cat/d"):
        photo(tmp_path / "photos" / f"{name}.png")
        label_image(tmp_path / "masks" / f"{name}.png", LABELS)
    return tmp_path / "photos", tmp_path / "masks"


def test_folder(folders):
    root, masks = folders
    (root / "dog" / "notes.txt").touch()
    (root / ".hidden").mkdir()
    pixels = photo(root / "cat" / "e.png")
    label_image(masks / "cat" / "e.png", LABELS)
    data = ImageFolder(root, masks, size=30)
    assert data.classes == ("cat", "dog")
    assert [data.name(k) for k in range(len(data))] == [
        *("cat/c.png", "cat/d.png", "cat/e.png", "dog/a.png", "dog/b.png")
    ]
    batch = data.__getitems__([3, 2])
    assert batch.labels.tolist() == [1, 0]
    assert batch.indices.tolist() == [3, 2]
    assert batch.images.shape == (2, 3, 30, 30)
    # The shorter side is 30 already: the centre is cropped, of photo and mask alike.
    expected = torch.from_numpy(pixels[:, 5:35]).permute(2, 0, 1).float() / 255
    assert torch.equal(batch.images[1], expected)
    assert np.array_equal(batch.masks[1].numpy(), (LABELS == 1)[:, 5:35])
    data.check()
    loaded = list(DataLoader(data, 2, collate_fn=as_it_is))
    assert [len(batch.labels) for batch in loaded] == [2, 2, 1]


def test_folder_is_scaled(folders):
    root, masks = folders
    batch = ImageFolder(root, masks, size=60)[0]
    assert batch.images.shape == (1, 3, 60, 60)
    doubled = (LABELS == 1).repeat(2, 0).repeat(2, 1)[:, 10:70]
    assert np.array_equal(batch.masks[0].numpy(), doubled)


def test_folder_with_alpha(tmp_path):
    alpha = np.where(LABELS == 1, 128, 127).astype(np.uint8)
    for name in ("a", "b"):
        pixels = photo(tmp_path / "dog" / f"{name}.png", alpha=alpha)
    batch = ImageFolder(tmp_path, size=30)[1]
    assert np.array_equal(batch.masks[0].numpy(), (LABELS == 1)[:, 5:35])
    assert np.array_equal((batch.images[0] * 255).round().numpy()[0], pixels[:, 5:35, 0])
    photo(tmp_path / "dog" / "c.png")
    data = ImageFolder(tmp_path, size=30)
    with pytest.raises(InputError, match=r"c\.png has no alpha channel"):
        data.check()


def test_folder_refuses_at_once(folders, tmp_path):
    root, masks = folders
    with pytest.raises(InputError, match="nowhere is no folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="dog holds no folders"):
        ImageFolder(root / "dog")
    photo(root / "dog" / "e.png")
    with pytest.raises(InputError, match=r"e\.png has no mask; .*masks/dog/e\.png does not exist"):
        ImageFolder(root, masks)
    (root / "dog" / "e.png").rename(root / "dog" / "a.bmp")
    with pytest.raises(InputError, match=r"a\.bmp and a\.png would share a mask"):
        ImageFolder(root, masks)
    (root / "dog" / "a.bmp").unlink()
    (root / "bird").mkdir()
    with pytest.raises(InputError, match="bird holds no images"):
        ImageFolder(root, masks)
    photo(root / "bird" / "f.png")
    with pytest.raises(InputError, match="bird holds one image only; a class needs 2"):
        ImageFolder(root, masks)


@pytest.mark.parametrize("damage", ["empty", "text", "changed"])
def test_damaged_photo_is_found_at_once(folders, damage):
    root, masks = folders
    file = root / "dog" / "b.png"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes({"empty": b"", "text": b"nonsense", "changed": bytes(content)}[damage])
    with pytest.raises(InputError, match=r"dog/b\.png (cannot be read|is empty|is not an image)"):
        ImageFolder(root, masks)


def test_photo_damaged_within_an_epoch(folders):
    root, masks = folders
    data = ImageFolder(root, masks, size=30)
    file = root / "dog" / "b.png"
    file.write_bytes(file.read_bytes()[:1000])
    batches = iter(DataLoader(data, 1, collate_fn=as_it_is))
    for _ in range(3):
        next(batches)
    with pytest.raises(InputError, match=r"dog/b\.png"):
        next(batches)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.T, r"masks/dog/b\.png cannot be used: .*30×40 against 40×30"),
        (np.zeros_like(LABELS), r"the mask of .*dog/b\.png shows no object"),
        (np.arange(40)[None].repeat(30, 0) < 4, r"dog/b\.png has its object outside of the crop"),
    ],
)
def test_masks_that_do_not_fit(folders, labels, message):
    root, masks = folders
    label_image(masks / "dog" / "b.png", labels)
    data = ImageFolder(root, masks, size=30)
    assert len(data.__getitems__([0, 1, 2]).labels) == 3
    for read in (data.check, lambda: data[3]):
        with pytest.raises(InputError, match=message):
            read()


# --- CIFAR-10 ----------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path) -> tuple[Path, np.ndarray, np.ndarray]:
    """The binary version with two images in each file, by its description."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(10, size=12)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for k, name in enumerate(names):
        records = [bytes([labels[j]]) + images[j].tobytes() for j in (2 * k, 2 * k + 1)]
        (folder / name).write_bytes(b"".join(records))
    return tmp_path, images, labels


def test_cifar_by_hand(cifar):
    folder, images, labels = cifar
    for where in (folder, folder / "cifar-10-batches-bin"):
        train, test = load_cifar10(where), load_cifar10(where, train=False)
        assert np.array_equal(train.images.numpy(), images[:10])
        assert train.labels.tolist() == labels[:10].tolist()
        assert np.array_equal(test.images.numpy(), images[10:])
        assert (len(test), test.name(1), test.classes[3]) == (2, "test 1", "cat")
        assert not train.masks.any()


def test_cifar_masks(cifar, tmp_path):
    folder, images, _ = cifar
    masks = images[:10, 0] > 99
    np.save(tmp_path / "a.npy", masks)
    np.savez(tmp_path / "b.npz", masks)
    np.savez(tmp_path / "c.npz", other=0, masks=masks)
    given = ("a.npy", "b.npz", "c.npz")
    for source in (*(tmp_path / name for name in given), torch.from_numpy(masks)):
        assert np.array_equal(load_cifar10(folder, masks=source).masks.numpy(), masks)
    made = load_cifar10(folder, masks=lambda pixels, labels: pixels[:, 0] * 255 > 99.5)
    assert np.array_equal(made.masks.numpy(), masks)
    with pytest.raises(InputError, match=r"masks are bool \[2, 32, 32\]"):
        load_cifar10(folder, False, tmp_path / "a.npy")


def test_cifar_masks_that_are_none(cifar, tmp_path):
    folder = cifar[0]
    np.savez(tmp_path / "two.npz", a=np.zeros(3, bool), b=np.zeros(3, bool))
    np.save(tmp_path / "bytes.npy", np.zeros((10, 32, 32), np.uint8))
    (tmp_path / "text.npy").write_text("nonsense")
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04nonsense")
    for name in ("missing.npy", "two.npz", "text.npy", "zip.npz"):
        with pytest.raises(InputError, match=f"{name} holds no masks"):
            load_cifar10(folder, masks=tmp_path / name)
    with pytest.raises(InputError, match=r"bytes\.npy holds uint8, not bool"):
        load_cifar10(folder, masks=str(tmp_path / "bytes.npy"))


def test_damaged_cifar(cifar, tmp_path):
    folder = cifar[0]
    file = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(
        InputError, match=r"data_batch_3\.bin holds 6145 bytes, no multiple of 3073"
    ):
        load_cifar10(folder)
    file.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(InputError, match=r"data_batch_3\.bin has a label 10"):
        load_cifar10(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"data_batch_3\.bin cannot be read"):
        load_cifar10(folder)
    with pytest.raises(InputError, match="holds neither cifar-10-batches-bin nor"):
        load_cifar10(tmp_path / "nowhere")


def test_cifar_through_torchvision(tmp_path, monkeypatch):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from guidxmage.models import import_torchvision

    module = import_torchvision().datasets.cifar
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with pytest.raises(InputError, match=r"data_batch_1 cannot be read \(No such file"):
        load_cifar10(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    content = {"data": images.reshape(2, -1), "labels": [3, 9]}
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    for where in (tmp_path, folder):
        data = load_cifar10(where, train=False)
        assert np.array_equal(data.images.numpy(), images)
        assert data.labels.tolist() == [3, 9]
