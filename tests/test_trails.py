"""Trails of several images: distances by hand, files, pictures, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guidxmage import Explainer, InputError
from guidxmage.analysis.trail_comparison import compare_trails
from guidxmage.engine.kernels.bits import unpack_bits
from guidxmage.engine.trail.pairwise import PairwiseDistances
from guidxmage.engine.trail.trail import Trail
from guidxmage.view.trails import shaded
from tests.test_cli import folder, run, save_photo  # noqa: F401, the fixture of its name


def tiny() -> nn.Module:
    """Two ReLUs at each pixel, of x and of 1 − x, then a pool of four and a third ReLU."""
    conv = nn.Conv2d(1, 2, 1)
    conv.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    conv.bias.data = torch.tensor([0.0, 1.0])
    head = nn.Linear(2, 2)
    head.weight.data = torch.eye(2)
    head.bias.data = torch.tensor([0.0, -2.0])
    layers = [conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head, nn.ReLU()]
    return nn.Sequential(*layers).eval()


# Pixels row by row. ReLU 1 is on above 0, ReLU 2 below 1.
IMAGES = torch.tensor(
    [
        [2.0, 3.0, -1.0, 0.5],  # on: 1101, 0011; pooled: 1 and 2; scores 3, 2 − 2 = 0
        [3.0, 2.0, -1.0, 0.5],  # on: 1101, 0011; pooled: 0 and 2; scores 3, 0
        [2.0, -4.0, 0.0, 3.0],  # on: 1001, 0110; pooled: 3 and 1; scores 3, 3
    ]
).reshape(3, 1, 2, 2)


@pytest.fixture
def explainer() -> Explainer:
    return Explainer(tiny(), name="tiny", dtype=torch.float64)


def test_distances_by_hand(explainer: Explainer) -> None:
    compared = compare_trails(explainer, list(IMAGES), ["a", "b", "c"])
    pairs = compared.pairs
    relu, pool, last = pairs.by_layer.values()
    assert list(pairs.by_layer) == ["1", "2", "5"]
    assert relu.tolist() == [[0, 0, 3], [0, 0, 3], [3, 3, 0]]
    assert pool.tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    assert last.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert pairs.shared == {"1": 5, "2": 0, "5": 1}
    assert pairs.decisions == {"1": 8, "2": 2, "5": 2}
    assert pairs.total.tolist() == [[0, 1, 6], [1, 0, 6], [6, 6, 0]]
    assert pairs.share[0, 2] == 0.5
    assert pairs.extremes() == ((0, 1), (0, 2))


def test_where_two_images_part(explainer: Explainer) -> None:
    compared = compare_trails(explainer, list(IMAGES), ["a", "b", "c"])
    found = compared.parting(0, 2)
    assert (found.differing, found.first) == (6, "1 at [0, 0, 1]")
    # Second pixel: both ReLUs; third: 2 is on in both, 1 off in both; fourth: 2 alone.
    assert {site: values.tolist() for site, values in found.maps.items()} == {
        "1": [[0.0, 1.0], [0.0, 0.5]]
    }
    assert compared.parting(0, 1).first == "2 at [0, 0, 0]"
    assert compared.parting(1, 1).first is None


def test_pairs_agree_with_one_by_one_comparison() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU6(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(45, 7)]
    network = nn.Sequential(*layers, nn.ReLU()).eval()
    X = 4 * torch.randn(4, 3, 9, 9, generator=generator)
    trail = Explainer(network).trail(X)
    pairs = trail.pairs()
    for a in range(4):
        distance = trail.distance(trail.image(a))
        for site, counts in pairs.by_layer.items():
            assert counts[a].tolist() == distance.by_layer[site].tolist()
    for site, entry in trail.items():
        planes = [unpack_bits(plane, entry.shape) for plane in entry.planes]
        alike = torch.stack([(p == p[:1]).all(0) for p in planes]).all(0)
        assert pairs.shared[site] == int(alike.sum())
    assert json.loads(json.dumps(pairs.to_dict()))["differing"] == pairs.total.tolist()


def test_one_image_has_no_pairs_and_none_differ(explainer: Explainer) -> None:
    pairs: PairwiseDistances = explainer.trail(IMAGES[:1]).pairs()
    assert pairs.total.tolist() == [[0]]
    assert pairs.shared == pairs.decisions


@pytest.mark.parametrize("smooth", [False, True])
def test_a_trail_is_saved_and_read(smooth: bool, tmp_path: Path) -> None:
    network = nn.Sequential(tiny(), nn.GELU()) if smooth else tiny()
    trail = Explainer(network.eval()).trail(IMAGES)
    path = trail.save(tmp_path / "kept" / "trail.npz")
    back = Trail.load(path)
    assert bool(back.same(trail).all())
    assert (back.rows, back.header, list(back)) == (3, trail.header, list(trail))
    assert bool(back.gates) is smooth
    with np.load(path, allow_pickle=False) as stored:
        assert {array.dtype.kind for array in stored.values()} <= {"u", "f"}


def test_the_trail_of_a_saved_explanation(explainer: Explainer, tmp_path: Path) -> None:
    explanation = explainer.explain(IMAGES[0])
    explanation.save(tmp_path / "one")
    assert bool(Trail.load(tmp_path / "one" / "arrays.npz").same(explanation.trail).all())


def test_files_without_a_trail_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Trail.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    (tmp_path / "text.npz").write_text("nothing", encoding="utf-8")
    np.savez(tmp_path / "pickled.npz", trail=np.array([{}], dtype=object))
    for name in ("other.npz", "text.npz", "pickled.npz"):
        with pytest.raises(InputError, match="holds no trail, or a damaged one"):
            Trail.load(tmp_path / name)
    with pytest.raises(InputError, match="cannot write"):
        Explainer(tiny()).trail(IMAGES).save(tmp_path / "text.npz" / "trail.npz")


def test_what_is_not_compared(explainer: Explainer) -> None:
    with pytest.raises(InputError, match="2 to 200 images are compared, not 1"):
        compare_trails(explainer, [IMAGES[0]], ["a"])
    conv = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="a comes out at 1×2×2 and b at 1×3×3"):
        compare_trails(Explainer(conv.eval()), [IMAGES[0], torch.zeros(1, 3, 3)], ["a", "b"])
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.GELU()).eval()
    with pytest.raises(InputError, match="takes no decisions"):
        compare_trails(Explainer(smooth), list(IMAGES), ["a", "b", "c"])


def test_shades_go_from_white_to_dark() -> None:
    colors = shaded(np.array([0.0, 0.5, 1.0, 2.0]), 1.0).astype(int).sum(1)
    assert colors[0] == 3 * 255
    assert colors[0] > colors[1] > colors[2] == colors[3]


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_figure(count: int, explainer: Explainer) -> None:
    images: list[Tensor] = [IMAGES[n % 3] for n in range(count)]
    names = [f"$image_{n}$" for n in range(count)]
    figure = compare_trails(explainer, images, names).figure()
    figure.canvas.draw()
    words = [text.get_text() for text in figure.texts]
    assert f"tiny: the trails of {count} images" in words
    assert any(word.startswith("farthest: ") for word in words) is (count > 2)
    assert any("of 12 decisions differ" in word for word in words)


# --- guid-xmage trails ---------------------------------------------------------------------------


def three_photos() -> None:
    save_photo(Path("photos/one.png"), (40, 30))
    image = np.asarray(Image.open("photos/one.png"))
    Image.fromarray(255 - image).save("photos/two.png")
    Image.fromarray(image[:, ::-1]).save("photos/three.png")


def test_the_command(folder: Path) -> None:  # noqa: F811
    Path("photos").mkdir(exist_ok=True)
    three_photos()
    result = run("trails", "photos", "--model", "net.py:build", "--out", "apart")
    assert result.exit_code == 0, result.stderr
    assert "3 photos → apart/" in result.stdout
    assert "nearest: " in result.stdout
    kept = json.loads((folder / "apart" / "trails.json").read_text(encoding="utf-8"))
    assert kept["schema"] == "guid-xmage/trails/1"
    assert [image["name"] for image in kept["images"]] == ["one.png", "three.png", "two.png"]
    total = np.array(kept["differing"])
    assert (total == total.T).all()
    assert total[0, 2] > 0
    layers = np.array([layer["differing"] for layer in kept["layers"]])
    assert (layers.sum(0) == total).all()
    assert Trail.load(folder / "apart" / "trails.npz").rows == 3
    with Image.open(folder / "apart" / "trails.png") as picture:
        assert picture.size[0] > 1600
    two = run("trails", "photos/one.png", "photos/two.png", "--model", "net.py:build", "--json")
    assert json.loads(two.stdout)["differing"][0][1] == total[0, 2]


def test_bad_input_is_one_sentence(folder: Path) -> None:  # noqa: F811
    Path("photos").mkdir(exist_ok=True)
    three_photos()
    alone = run("trails", "photos/one.png", "--model", "net.py:build")
    assert alone.exit_code == 2
    assert alone.stderr == "guid-xmage: 2 to 200 images are compared, not 1\n"
    missing = run("trails", "photos", "nowhere", "--model", "net.py:build")
    assert (missing.exit_code, missing.stderr) == (2, "guid-xmage: nowhere does not exist\n")
    Path("photos/bad.png").write_text("no image", encoding="utf-8")
    rest = run("trails", "photos", "--model", "net.py:build")
    assert rest.exit_code == 2
    assert "bad.png is not an image" in rest.stderr
    assert "3 photos → trails/" in rest.stdout
