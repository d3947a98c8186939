from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.objects.annotations import find_annotation
from guidxmage.objects.label_map import LabelMap, read_regions
from guidxmage.objects.raster import fill_polygon
from guidxmage.objects.segmentation import segment_image
from guidxmage.objects.table import object_table

EXAMPLES = Path(__file__).parents[1] / "examples"


# --- table -------------------------------------------------------------------------------------

CONTRIBUTIONS = np.array(
    [
        [[1.0, -2.0, 3.0], [4.0, 0.5, -0.5]],
        [[0.0, -1.0, -1.0], [1.0, 0.0, -0.5]],
    ]
)  # per pixel: 1, −3, 2 / 5, 0.5, −1
LABELS = np.array([[0, 1, 1], [255, 2, 2]])


def test_table_by_hand():
    table = object_table(CONTRIBUTIONS, LabelMap(LABELS, {1: "cat", 2: "bowl"}))
    assert [row.name for row in table] == ["background", "bowl", "cat"]
    assert [row.label for row in table] == [0, 2, 1]
    assert [row.pixels for row in table] == [1, 2, 2]
    assert [row.sum for row in table] == [1.0, -0.5, -1.0]
    assert [row.positive for row in table] == [1.0, 0.5, 2.0]
    assert [row.negative for row in table] == [0.0, -1.0, -3.0]
    assert [row.share_of_positive for row in table] == [1 / 8.5, 0.5 / 8.5, 2 / 8.5]
    assert [row.share_of_negative for row in table] == [0.0, 0.25, 0.75]
    assert (table.rest.name, table.rest.pixels, table.rest.sum) == ("rest", 1, 5.0)
    assert table.total == CONTRIBUTIONS.sum() == 4.5
    assert len(table) == 3
    assert table["cat"].sum == -1.0
    with pytest.raises(InputError, match=r"'dog'; the objects are background, bowl, cat"):
        table["dog"]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), labels=st.lists(st.sampled_from([0, 1, 2, 70_000, 255])))
def test_rows_and_rest_add_up(seed, labels):
    rng = np.random.default_rng(seed)
    label_map = np.resize(np.array([*labels, 3]), (7, 11))
    values = (rng.standard_normal((3, 7, 11)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    table = object_table(values, LabelMap(label_map))
    total = values.astype(np.float64).sum()
    scale = np.abs(values).sum()
    assert abs(sum(row.sum for row in table) + table.rest.sum - total) <= 1e-13 * scale
    assert abs(table.total - total) <= 1e-13 * scale
    assert sum(row.pixels for row in table) + table.rest.pixels == label_map.size
    for row in (*table, table.rest):
        inside = values[:, label_map == row.label].astype(np.float64).sum(0)
        assert abs(row.sum - inside.sum()) <= 1e-13 * scale
        assert abs(row.positive - inside[inside > 0].sum()) <= 1e-13 * scale
        assert abs(row.positive + row.negative - row.sum) <= 1e-13 * scale
    assert [row.sum for row in table] == sorted((row.sum for row in table), reverse=True)


def test_sums_are_float64():
    values = np.full((1, 1, 4), np.float32(2**24))
    values[0, 0, 1:] = 1
    assert object_table(values, LabelMap(np.ones((1, 4), int))).total == 2**24 + 3


def test_flat_contributions_and_absent_objects():
    table = object_table(np.zeros((2, 3)), LabelMap(LABELS, {9: "outside"}))
    assert table["outside"].pixels == 0
    assert {row.share_of_positive for row in table} == {0.0}
    assert "total" in str(table)


def test_table_texts():
    table = object_table(CONTRIBUTIONS, LabelMap(LABELS, {1: "<b>cat</b>", 2: "bowl"}))
    lines = str(table).splitlines()
    assert lines[0].split()[:3] == ["object", "pixels", "sum"]
    assert lines[1].split() == ["background", "1", "+1.000", "+1.000", "+0.000", "11.8%", "0.0%"]
    assert lines[4].split()[:3] == ["rest", "1", "+5.000"]
    assert lines[5].split() == ["total", "6", "+4.500", "+8.500", "-4.000"]
    assert len({len(line) for line in lines[:5]}) == 1
    html = table._repr_html_()
    assert "&lt;b&gt;cat" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 6


def test_table_to_json():
    values = json.loads(json.dumps(object_table(CONTRIBUTIONS, LabelMap(LABELS)).to_dict()))
    assert values["total"] == 4.5
    assert values["rest"]["sum"] == 5.0
    assert [row["name"] for row in values["rows"]] == ["background", "object 2", "object 1"]


def test_table_refuses():
    regions = LabelMap(LABELS)
    with pytest.raises(InputError, match=r"3×2 against 4×5 pixels"):
        object_table(np.zeros((3, 5, 4)), regions)
    with pytest.raises(InputError, match="for one image"):
        object_table(np.zeros((1, 3, 2, 3)), regions)
    with pytest.raises(InputError, match="NaN"):
        object_table(np.full((2, 3), np.nan), regions)


# --- masks and label maps ----------------------------------------------------------------------


def mask_of(rows: slice, columns: slice, size=(4, 6)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


LEFT = mask_of(slice(None), slice(0, 3))
RIGHT = mask_of(slice(None), slice(3, 5))
MIDDLE = mask_of(slice(1, 3), slice(2, 4))


def test_regions_are_frozen_copies():
    labels = LABELS.astype(np.int32)
    regions = LabelMap(labels, {1: "cat"})
    labels[:] = 7
    assert regions.labels[0, 1] == 1
    assert regions.names == {0: "background", 1: "cat", 2: "object 2"}
    assert regions.size == (2, 3)
    with pytest.raises(ValueError, match="read-only"):
        regions.labels[0, 0] = 1


@pytest.mark.parametrize(
    "labels",
    [np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.zeros((0, 2), int), -np.ones((2, 2), int)],
)
def test_regions_refuse(labels):
    with pytest.raises(InputError, match="label"):
        LabelMap(labels)


def test_masks_by_name():
    regions = read_regions({"left": LEFT, "right": RIGHT.astype(np.uint8) * 255})
    assert regions.names == {0: "background", 1: "left", 2: "right"}
    assert regions.labels[0].tolist() == [1, 1, 1, 2, 2, 0]


def test_overlapping_masks():
    masks = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}
    with pytest.raises(InputError, match="masks left and middle overlap in 2 pixels"):
        read_regions({"left": LEFT, "far": ~(LEFT | RIGHT), "middle": MIDDLE})
    first = read_regions(masks, overlap="first")
    assert first.labels[1].tolist() == [1, 1, 1, 2, 2, 0]
    smallest = LabelMap.from_masks(masks, overlap="smallest")
    assert smallest.labels[1].tolist() == [1, 1, 3, 3, 2, 0]
    backwards = LabelMap.from_masks(list(masks.items())[::-1], overlap="smallest")
    assert backwards.labels[1].tolist() == [3, 3, 1, 1, 2, 0]
    with pytest.raises(InputError, match="'last'"):
        read_regions(masks, overlap="last")


def test_stack_of_masks_and_tensors():
    stack = np.stack([LEFT, RIGHT])
    for source in (stack, torch.from_numpy(stack)):
        regions = read_regions(source)
        assert regions.names == {0: "background", 1: "object 1", 2: "object 2"}
        assert regions.labels[0].tolist() == [1, 1, 1, 2, 2, 0]
    assert read_regions(LEFT).names == {0: "background", 1: "object"}
    assert read_regions(torch.from_numpy(LABELS)).labels.tolist() == LABELS.tolist()


def test_more_masks_than_labels_before_255():
    stack = np.eye(300, dtype=bool)[:, None, :]
    regions = read_regions(stack)
    assert 255 not in regions.names
    assert len(regions.names) == 301
    assert len(np.unique(regions.labels)) == 300
    assert regions.names[256] == "object 255"


def test_repeated_names_are_numbered():
    regions = LabelMap.from_masks([("cup", LEFT), ("cup", RIGHT), ("cat", ~(LEFT | RIGHT))])
    assert list(regions.names.values()) == ["background", "cup 1", "cup 2", "cat"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a": LEFT, "b": LEFT.T}, r"the mask b and the others differ in size: 4×6 against 6×4"),
        ({"a": LEFT * 3}, "mask a is not binary"),
        ({"a": LEFT * 0.5}, "mask a is not binary"),
        ({"a": np.stack([LEFT, LEFT])}, "mask a is not height×width"),
        ({}, "no masks"),
        ({"a": 3}, "from int"),
        ([1, 2], "from list"),
        (np.zeros((4, 6)), "type float64"),
        (np.full((1, 4, 6), 7), "not binary"),
    ],
)
def test_unusable_masks(source, message):
    with pytest.raises(InputError, match=message):
        read_regions(source)


def test_size_is_checked():
    assert read_regions(LEFT, size=(4, 6)).size == (4, 6)
    with pytest.raises(InputError, match=r"6×4 against 5×4 pixels"):
        read_regions(LEFT, size=(4, 5))
    regions = LabelMap(LABELS)
    assert read_regions(regions) is regions


def test_cropped_regions_follow_the_photo():
    regions = LabelMap(np.array([[1, 2, 255, 4]]), {1: "cat"})
    cropped = regions.cropped(Preprocessing(crop=(3, 2)))
    assert cropped.labels.tolist() == [[0, 0], [2, 255], [0, 0]]
    # An object that the crop cuts off keeps its row.
    assert cropped.names == {
        0: "background",
        1: "unseen cat",
        2: "object 2",
        4: "unseen object 4",
    }


# --- mask files --------------------------------------------------------------------------------


def save(path: Path, values, mode: str | None = None) -> Path:
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if mode == "P":
        image = image.copy()
        image.putpalette(list(range(255, -1, -1)) * 3)
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize("mode", [None, "P", "RGB"])
def test_label_image(tmp_path, mode):
    regions = read_regions(save(tmp_path / "photo.png", LABELS, mode))
    assert regions.labels.tolist() == LABELS.tolist()
    assert regions.names == {0: "background", 1: "object 1", 2: "object 2"}


@pytest.mark.parametrize("top", [1, 255])
def test_binary_mask_image(tmp_path, top):
    regions = read_regions(str(save(tmp_path / "mask.png", LEFT * top)))
    assert regions.labels[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert regions.names == {0: "background", 1: "object"}


def test_bilevel_and_pillow_masks(tmp_path):
    Image.fromarray(LEFT).save(tmp_path / "mask.png")
    for source in (tmp_path / "mask.png", Image.fromarray(LEFT)):
        assert read_regions(source).names == {0: "background", 1: "object"}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dog.png", "dog"),
        ("cat_mask.png", "cat"),
        ("Mask-red cup.png", "red cup"),
        ("masked man.png", "masked man"),
        ("photo_mask.png", "object"),
        ("photo.png", "object"),
        ("masks.png", "object"),
    ],
)
def test_the_object_of_a_mask_file_is_called_after_it(tmp_path, file, name):
    path = save(tmp_path / file, LEFT * 255)
    assert read_regions(path, image="photos/photo.jpg").names == {0: "background", 1: name}


def test_masks_and_labels_with_a_dimension_for_one_channel():
    flat, deep = read_regions({"cat": LEFT}), read_regions({"cat": LEFT[..., None]})
    assert np.array_equal(flat.labels, deep.labels)
    assert deep.names == {0: "background", 1: "cat"}
    assert np.array_equal(read_regions(LABELS[..., None]).labels, LABELS)
    assert np.array_equal(read_regions(torch.from_numpy(LEFT[..., None])).labels, LEFT)
    assert read_regions(np.ones((1, 3, 3), bool)).labels.shape == (3, 3)  # one mask of a stack


def test_the_bad_file_of_a_folder_is_named(tmp_path):
    save(tmp_path / "cat.png", LEFT)
    bad = save(tmp_path / "dog.png", LABELS)
    with pytest.raises(InputError, match=r"dog\.png is not binary"):
        read_regions(tmp_path)
    save(bad, LEFT[:, :5])
    with pytest.raises(InputError, match=r"dog\.png and .*cat\.png differ in size"):
        read_regions(tmp_path)
    save(bad, np.arange(36).reshape(3, 4, 3))
    with pytest.raises(InputError, match=r"dog\.png is a picture of mode RGB"):
        read_regions(tmp_path)
    bad.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"dog\.png is not an image"):
        read_regions(tmp_path)


def test_label_images_that_are_none(tmp_path):
    colourful = save(tmp_path / "photo.png", np.arange(36).reshape(3, 4, 3))
    with pytest.raises(InputError, match=r"photo\.png is a picture of mode RGB"):
        read_regions(colourful)
    with pytest.raises(InputError, match="mode LA"):
        read_regions(save(tmp_path / "alpha.png", LABELS, "LA"))
    with pytest.raises(InputError, match="JPEG"):
        read_regions(save(tmp_path / "mask.jpg", LABELS))
    for name in ("missing.png", "missing.json", "missing.xml"):
        with pytest.raises(InputError, match=f"{name} does not exist"):
            read_regions(tmp_path / name)


def test_folder_of_masks(tmp_path):
    save(tmp_path / "cup.png", RIGHT * 255)
    save(tmp_path / "cat.png", LEFT)
    regions = read_regions(tmp_path)
    assert regions.names == {0: "background", 1: "cat", 2: "cup"}
    assert regions.labels[0].tolist() == [1, 1, 1, 2, 2, 0]
    save(tmp_path / "dog.png", MIDDLE)
    with pytest.raises(InputError, match="overlap"):
        read_regions(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no mask images"):
        read_regions(tmp_path / "empty")


def test_find_annotation(tmp_path):
    photo = tmp_path / "a.png"
    save(photo, np.zeros((4, 6, 3)))
    assert find_annotation(photo, tmp_path) is None
    masks = tmp_path / "masks"
    (masks / "a").mkdir(parents=True)
    assert find_annotation(photo, masks) == masks / "a"
    (masks / "a.xml").touch()
    assert find_annotation(photo, masks) == masks / "a.xml"
    save(masks / "a.png", LEFT)
    assert find_annotation(photo, masks) == masks / "a.png"
    assert find_annotation(tmp_path / "b.png", masks) is None
    assert find_annotation(photo, masks / "a.xml") == masks / "a.xml"
    assert read_regions(masks, image=photo).names == {0: "background", 1: "object"}
    with pytest.raises(InputError, match="does not exist"):
        find_annotation(photo, tmp_path / "nowhere")


# --- COCO --------------------------------------------------------------------------------------


def coco(path: Path, segmentations, size=(4, 6), names=("cat",)) -> Path:
    content = {
        "images": [
            {"id": 3, "file_name": "other.jpg", "height": 9, "width": 9},
            {"id": 7, "file_name": "train/photo.jpg", "height": size[0], "width": size[1]},
        ],
        "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"image_id": 7, "category_id": 10 + k, "segmentation": segmentation}
            for k, segmentation in enumerate(segmentations)
        ]
        + [{"image_id": 3, "category_id": 10, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}],
    }
    path.write_text(json.dumps(content))
    return path


def test_polygon_covers_the_pixels_whose_centres_it_holds():
    square = np.array([[1, 1], [3, 1], [3, 3], [1, 3]], float)
    assert np.array_equal(fill_polygon(square, (4, 6)), mask_of(slice(1, 3), slice(1, 3)))
    between_centres = np.array([[0.4, 0.6], [2.6, 0.6], [2.6, 2.4], [0.4, 2.4]])
    assert np.array_equal(fill_polygon(between_centres, (4, 6)), mask_of(slice(1, 2), slice(0, 3)))
    triangle = np.array([[0.1, 0], [4.1, 0], [0.1, 4]])
    assert fill_polygon(triangle, (4, 6)).sum(1).tolist() == [4, 3, 2, 1]
    outside = np.array([[-9, -9], [99, -9], [99, 99], [-9, 99]], float)
    assert fill_polygon(outside, (4, 6)).all()


def test_polygon_is_rounded_to_fifths_of_a_pixel():
    """By hand: columns are passed between the fifths 2 and 3, rows count below the upper one."""
    below = np.array([[0, 0.49], [6, 0.49], [6, 2.49], [0, 2.49]])  # 0.49 · 5 + ½ = 2.95 → 2
    assert np.array_equal(fill_polygon(below, (4, 6)), mask_of(slice(0, 2), slice(0, 6)))
    at = np.array([[0, 0.5], [6, 0.5], [6, 2.5], [0, 2.5]])  # 0.5 · 5 + ½ = 3
    assert np.array_equal(fill_polygon(at, (4, 6)), mask_of(slice(1, 3), slice(0, 6)))


def odd_polygons(seed):
    """Polygons (N, 2) of many kinds and the sizes of their images, from seeded draws."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 60, 2).tolist())
    n = int(rng.integers(3, 12))
    around = rng.uniform(-10, 70, (n, 2))
    line = around.copy()
    line[:, seed % 2] = rng.uniform(0, 50)
    far = np.where(rng.random((n, 2)) < 0.3, rng.uniform(-2e4, 2e4, (n, 2)), around)
    for corners in (
        around,
        rng.uniform(0, 3, (n, 2)) + rng.uniform(-3, 60, 2),  # as small as a pixel
        far,
        np.round(around),
        np.round(around, 1),
        np.floor(around) + 0.5,  # on the middles of pixels
        np.repeat(around, 2, axis=0),
        line,
        around[[0, 0, 0]],
        around[[0, 1, 0]],
    ):
        yield corners, size


@pytest.mark.parametrize("seed", range(60))
def test_polygons_are_those_of_pycocotools(seed):
    """Pixel for pixel, whether they are tiny or huge, partly outside, crossing or flat."""
    coco_mask = pytest.importorskip("pycocotools.mask")
    for corners, size in odd_polygons(seed):
        (runs,) = coco_mask.frPyObjects([corners.ravel().tolist()], *size)
        assert np.array_equal(fill_polygon(corners, size), coco_mask.decode(runs)), corners


def test_a_polygon_of_many_corners_is_filled_in_parts(monkeypatch):
    corners = np.random.default_rng(0).uniform(-20, 120, (3000, 2))
    whole = fill_polygon(corners, (90, 100))
    monkeypatch.setattr("guidxmage.objects.raster._AT_ONCE", 70)  # an edge may pass more columns
    assert np.array_equal(fill_polygon(corners, (90, 100)), whole)


@pytest.mark.parametrize("seed", range(10))
def test_parts_and_boxes_are_those_of_pycocotools(tmp_path, seed):
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(-5, 45, 2 * int(rng.integers(3, 9))).tolist() for _ in range(3)]
    box = [*rng.uniform(-5, 20, 2), *rng.uniform(0.3, 30, 2)]
    file = coco(tmp_path / "a.json", [parts], size=(30, 40))
    runs = coco_mask.merge(coco_mask.frPyObjects(parts, 30, 40))
    assert np.array_equal(read_regions(file, image="photo.jpg").labels, coco_mask.decode(runs))
    file = boxed(tmp_path / "b.json", {"bbox": box}, size=(30, 40))
    (runs,) = coco_mask.frPyObjects(np.array([box]), 30, 40)
    assert np.array_equal(read_regions(file, image="photo.jpg").labels, coco_mask.decode(runs))


def boxed(path, shape, size=(4, 6)):
    content = json.loads(coco(path, [None], size=size).read_text())
    del content["annotations"][0]["segmentation"]
    content["annotations"][0].update(shape)
    path.write_text(json.dumps(content))
    return path


BOX = mask_of(slice(1, 3), slice(2, 5))


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ({"bbox": [2, 1, 3, 2]}, BOX),
        ({"bbox": [2, 1, 3, 2], "segmentation": []}, BOX),
        ({"bbox": [2, 1, 3, 2], "segmentation": [[]]}, BOX),
        ({"bbox": [2, 1, 3, 2], "segmentation": None}, BOX),
        ({"bbox": [2.4, 0.6, 3.0, 1.9]}, BOX),
        ({"bbox": [-9, -9, 99, 99]}, mask_of(slice(0, 4), slice(0, 6))),
        ({"bbox": [2, 1, 0, 2]}, mask_of(slice(0, 0), slice(0, 0))),
        ({"segmentation": [2, 1, 5, 1, 5, 3, 2, 3]}, BOX),  # without the list around it
        ({"segmentation": [[2, 1, 5, 3]]}, mask_of(slice(0, 0), slice(0, 0))),
        ({"segmentation": [[2, 1], [2, 1, 5, 1, 5, 3, 2, 3], []]}, BOX),
        ({"segmentation": [[2, 1, 5, 1, 3, 1]]}, mask_of(slice(0, 0), slice(0, 0))),
    ],
)
def test_coco_boxes_and_flat_polygons(tmp_path, shape, mask):
    """A flat polygon has no pixels; a box is the mask only where there is nothing else."""
    path = boxed(tmp_path / "instances.json", shape)
    assert np.array_equal(read_regions(path, image="photo.jpg").labels, mask)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({}, "neither polygons nor run lengths, nor is there a box"),
        ({"segmentation": []}, "nor is there a box"),
        ({"bbox": [2, 1, 3]}, "four numbers"),
        ({"bbox": 3}, "four numbers"),
        ({"bbox": [2, 1, -3, 2]}, "a width or a height below 0"),
        ({"bbox": "2132"}, "list of numbers"),
        ({"bbox": [2, 1, 3, float("inf")]}, "finite"),
        ({"bbox": [2, 1, 3, 1e9]}, "far outside"),
        ({"segmentation": [2, 1, 5, 1, 5]}, "not an x and a y"),
        ({"segmentation": [[[2, 1], [5, 1], [5, 3]]]}, "a corner is not a number"),
        ({"segmentation": [[[2, 1, 5, 1, 5, 3]]]}, "a corner is not a number"),
    ],
)
def test_coco_shapes_that_cannot_be_drawn(tmp_path, shape, message):
    path = boxed(tmp_path / "instances.json", shape)
    with pytest.raises(InputError, match=message):
        read_regions(path, image="photo.jpg")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_triangles_around_a_point_tile_their_polygon(seed):
    corners = np.random.default_rng(seed).uniform(-2, 22, (5, 2))
    centre = np.array([7.3, 9.1])
    whole = fill_polygon(corners, (20, 18))
    parts = [
        fill_polygon(np.stack([centre, a, b]), (20, 18))
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    assert np.array_equal(np.logical_xor.reduce(parts), whole)


def test_coco_polygons_smaller_on_top(tmp_path):
    big, small = [[0, 0, 6, 0, 6, 4, 0, 4]], [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 6, 3, 6, 4, 5, 4]]
    for order in ((0, 1), (1, 0)):
        segmentations = [(big, small)[k] for k in order]
        names = [("sofa", "cat")[k] for k in order]
        path = coco(tmp_path / "instances.json", segmentations, names=names)
        regions = read_regions(path, image=Path("somewhere/photo.jpg"))
        sofa, cat = (1 + order.index(k) for k in (0, 1))
        assert regions.names[sofa] == "sofa"
        assert regions.names[cat] == "cat"
        assert regions.labels[0].tolist() == [cat, cat, sofa, sofa, sofa, sofa]
        assert regions.labels[3].tolist() == [sofa, sofa, sofa, sofa, sofa, cat]


RLE_MASK = np.zeros((6, 5), bool)
RLE_MASK[1:4, 2] = RLE_MASK[2, 4] = True
RLE_MASK[:, 3] = True
LARGE_MASK = np.zeros((40, 50), bool)
LARGE_MASK[3:30, 5:45] = True
LARGE_MASK[10:12, 20:22] = False


@pytest.mark.parametrize(
    ("counts", "mask"),
    [
        ([13, 3, 2, 6, 2, 1, 3], RLE_MASK),
        ("=3230K1", RLE_MASK),  # as pycocotools writes them
        (
            "[6k0=0000000000000000000000000000\\OE;;EE;;9000000000000000000000000000000000000"
            "00000000U6",
            LARGE_MASK,
        ),
        ("n0", np.zeros((6, 5), bool)),
        ("0n0", np.ones((6, 5), bool)),
    ],
)
def test_coco_run_lengths(tmp_path, counts, mask):
    segmentation = {"size": list(mask.shape), "counts": counts}
    path = coco(tmp_path / "instances.json", [segmentation], size=mask.shape)
    assert np.array_equal(read_regions(path, image="photo.jpg").labels, mask)


def test_coco_photo_without_objects(tmp_path):
    regions = read_regions(coco(tmp_path / "instances.json", []), image="photo.jpg")
    assert not regions.labels.any()
    assert regions.size == (4, 6)


def test_coco_ids_as_numbers_and_as_texts(tmp_path):
    file = coco(tmp_path / "instances.json", [[[0, 0, 6, 0, 6, 4, 0, 4]]])
    content = json.loads(file.read_text())
    content["categories"][0]["id"] = "10"
    content["annotations"][0]["image_id"] = "7"
    file.write_text(json.dumps(content))
    regions = read_regions(file, image="photo.jpg")
    assert regions.labels.all()
    assert regions.names[1] == "cat"
    content["images"][1]["id"] = content["annotations"][0]["image_id"] = "a/photo"
    file.write_text(json.dumps(content))
    assert read_regions(file, image="photo.jpg").labels.all()
    content["annotations"][0]["image_id"] = ["a/photo"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="neither a number nor a text"):
        read_regions(file, image="photo.jpg")


@pytest.mark.parametrize("missing", [("height", "width"), ("height",)])
def test_coco_sizes_that_are_missing_are_the_photos_own(tmp_path, missing):
    """A photo on its side is as high as it is shown."""
    file = coco(tmp_path / "instances.json", [[[0, 0, 6, 0, 6, 2, 0, 2]]])
    content = json.loads(file.read_text())
    for key in missing:
        del content["images"][1][key]
    file.write_text(json.dumps(content))
    expected = mask_of(slice(0, 2), slice(0, 6))
    assert np.array_equal(read_regions(file, image="photo.jpg", size=(4, 6)).labels, expected)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (4, 6)).save(tmp_path / "photo.jpg", exif=exif)
    assert np.array_equal(read_regions(file, image=tmp_path / "photo.jpg").labels, expected)
    with pytest.raises(InputError, match=r"states no height of the photo; .* image= with"):
        read_regions(file, image="photo.jpg")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 6], "counts": [20]}, "add up to 20"),
        ({"size": [6, 4], "counts": [24]}, r"\[6, 4\]"),
        ({"size": [4, 6], "counts": "n"}, "middle of a number"),
        ({"size": [4, 6]}, "counts"),
        ([[1, 2, 3]], "cannot be drawn"),
        ([[1, 2, 3, float("nan"), 5, 6]], "finite"),
        (None, "cannot be drawn"),
    ],
)
def test_coco_damaged_segmentations(tmp_path, segmentation, message):
    path = coco(tmp_path / "instances.json", [segmentation])
    with pytest.raises(InputError, match=message) as caught:
        read_regions(path, image="photo.jpg")
    assert str(path) in str(caught.value)


def test_coco_damaged_files(tmp_path):
    path = coco(tmp_path / "instances.json", [])
    with pytest.raises(InputError, match="describes 2 images; say which"):
        read_regions(path)
    with pytest.raises(InputError, match=r"no image with the file name x\.jpg"):
        read_regions(path, image="x.jpg")
    with pytest.raises(InputError, match="9×8 against"):
        read_regions(coco(path, [], size=(8, 9)), image="photo.jpg", size=(1, 1))
    for text in ("{", "[]", '{"images": [3]}', '{"images": 5}', "\x00"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a COCO instances file"):
            read_regions(path, image="photo.jpg")


# --- Pascal VOC --------------------------------------------------------------------------------


def voc(path: Path, boxes, size=(4, 6)) -> Path:
    objects = "".join(
        f"<object><name>{name}</name><part><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in boxes
    )
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else ""
    path.write_text(f"<annotation>{stated}{objects}</annotation>")
    return path


def test_voc_boxes_count_from_one_and_small_ones_lie_on_top(tmp_path):
    path = voc(tmp_path / "a.xml", [("cat", 2, 1, 3, 2), ("sofa", 1, 1, 5, 9)])
    regions = read_regions(path)
    assert regions.names == {0: "background", 1: "cat", 2: "sofa"}
    assert regions.labels.tolist() == [[2, 1, 1, 2, 2, 0]] * 2 + [[2, 2, 2, 2, 2, 0]] * 2


def test_voc_size_may_be_missing(tmp_path):
    for size in (None, (0, 0)):
        path = voc(tmp_path / "a.xml", [("cat", 1, 1, 1, 1)], size)
        assert read_regions(path, size=(2, 2)).labels.tolist() == [[1, 0], [0, 0]]
        with pytest.raises(InputError, match="does not state the size"):
            read_regions(path)


def test_voc_damaged_files(tmp_path):
    path = voc(tmp_path / "a.xml", [("cat", 8, 1, 9, 2)])
    with pytest.raises(InputError, match=r"box without pixels.*columns 8 to 9, rows 1 to 2"):
        read_regions(path)
    for text in ("", "<a>", "<a><object><name>cat</name></object></a>", "<a><size/></a>"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.xml is not a Pascal VOC annotation"):
            read_regions(path)


# --- segmentation ------------------------------------------------------------------------------


def test_segments_of_plain_colours():
    image = Image.new("RGB", (60, 40), "navy")
    image.paste("red", (0, 0, 20, 40))
    image.paste("yellow", (40, 0, 60, 10))
    labels = np.full((40, 60), 1)
    labels[:, :20] = 2
    labels[:10, 40:] = 3
    regions = segment_image(image, 3)
    assert regions.names == {1: "A", 2: "B", 3: "C"}
    assert (regions.labels == labels).mean() > 0.97
    assert set(np.unique(segment_image(image, 2).labels)) == {1, 2}


def test_merged_segments_are_compared_by_their_mean_colour():
    greys = np.repeat(np.array([100, 112, 129, 153], np.uint8), [20, 60, 20, 60])
    regions = segment_image(Image.fromarray(np.tile(greys, (100, 1))), 2)
    # The third bar is nearer to the mean of the first two than to the last one.
    assert regions.labels[50, [10, 50, 90, 130]].tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 200)])
def test_segments_of_tiny_and_empty_pictures(size):
    regions = segment_image(Image.new("L", size, 9))
    assert regions.size == size[::-1]
    assert regions.names == {1: "A"}


def test_segments_of_a_photo():
    with Image.open(EXAMPLES / "coffee.png") as photo:
        regions = segment_image(photo)
        again = segment_image(photo)
    assert regions.size == (400, 600)
    assert len(regions.names) == 6
    counts = np.bincount(regions.labels.ravel())
    assert counts[0] == 0
    assert (np.diff(counts[1:]) <= 0).all()
    assert np.array_equal(regions.labels, again.labels)
    # The table's top right and its lower left corner belong together, the cup's inside does not.
    assert regions.labels[20, 580] == regions.labels[380, 20] != regions.labels[120, 290]


def test_segmentation_needs_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtraError, match="scikit-image"):
        segment_image(Image.new("RGB", (4, 4)))
    with pytest.raises(InputError, match="regions is 0"):
        segment_image(Image.new("RGB", (4, 4)), 0)
