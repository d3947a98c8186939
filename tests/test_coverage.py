"""The check of networks: torchvision's and timm's, rows that are kept, refusals by name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from guidxmage.cli import app
from guidxmage.errors import InputError
from guidxmage.evaluation.coverage import (
    CoverageRow,
    check_network,
    read_rows,
    summary,
    survey,
    table,
)
from guidxmage.models import load_model

SPREAD = {
    "shufflenet_v2_x0_5": ("on region", ("decisions",)),
    "mobilenet_v3_small": ("at input", ("activations", "decisions", "products")),
    "timm:convnext_atto": ("at input", ("activations", "normalisation")),
    "timm:vit_tiny_patch16_224": ("at input", ("activations", "normalisation", "products")),
    "timm:resnet10t": ("on region", ("decisions",)),
}


@pytest.mark.parametrize("name", SPREAD)
def test_networks_are_explained_and_their_sums_close(name: str) -> None:
    row = check_network(name)
    assert row.error == ""
    assert (row.exactness, row.kinds) == SPREAD[name]
    assert row.covered
    assert row.residual64 is not None
    assert row.residual64 < 1e-12
    assert row.residual32 is not None
    assert 0 < row.residual32 < 1e-4


def test_what_cannot_be_explained_says_why(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    (row,) = survey(["no_such_network"], out)
    assert not row.covered
    assert "no network called 'no_such_network'" in row.error
    assert "**refused**" in table([row])
    assert summary([row]).startswith("0 of 1")


def test_rows_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    made = []

    def check(name: str) -> CoverageRow:
        made.append(name)
        error = "refused" if name == "b" else ""
        return CoverageRow(name, exactness="on region", within=True, error=error)

    monkeypatch.setattr("guidxmage.evaluation.coverage.check_network", check)
    survey(["a", "b"], out)
    survey(["a", "b", "c"], out)
    assert made == ["a", "b", "b", "c"]  # refused ones are tried again
    assert [row.network for row in read_rows(out)] == ["a", "b", "c"]
    out.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="no coverage table"):
        survey(["a"], out)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["models", "nothing", "--check", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["network"] == "nothing"
    result = CliRunner().invoke(app, ["models", "resnet18"])
    assert result.exit_code == 2
    assert "go with --check" in result.stderr


def test_timm_by_name() -> None:
    pytest.importorskip("timm")
    state = torch.get_rng_state()
    loaded = load_model("timm:convnext_atto", weights="none")
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.crop in (224, (224, 224))
    with pytest.raises(InputError, match="timm has no network called 'convnext_ato'; did you mean"):
        load_model("timm:convnext_ato")


def test_networks_of_one_input_size_are_calibrated_there() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    model = load_model("timm:halonet_h1", weights="none").model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(bool((norm.running_var != 1).any()) for norm in norms)


def test_rows_of_another_run_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checks into one file: neither takes away what the other has found meanwhile."""
    out = tmp_path / "rows.json"

    def checked(name: str) -> CoverageRow:
        if name == "first":
            survey(["other"], out)
        return CoverageRow(name, within=True)

    monkeypatch.setattr("guidxmage.evaluation.coverage.check_network", checked)
    survey(["first", "second"], out)
    assert [row.network for row in read_rows(out)] == ["other", "first", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    out.write_text(json.dumps({"schema": "guid-xmage/coverage/1", "rows": []}))
    with pytest.raises(InputError, match="is no coverage table"):
        read_rows(out)
