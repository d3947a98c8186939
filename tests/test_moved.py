"""What has moved is found by its old name for one more release, and says where it is now."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import guidxmage
from guidxmage import Explainer
from guidxmage.moved import MODULES, RENAMED

ROOT = Path(guidxmage.__file__).parent


@pytest.mark.parametrize("old", sorted(MODULES))
def test_an_old_name_warns_and_has_what_is_at_the_new_place(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old.endswith("foolbox_attack"):
        pytest.importorskip("foolbox")
    new = import_module(f"guidxmage.{MODULES[old]}")
    own = [
        name
        for name, value in vars(new).items()
        if getattr(value, "__module__", None) == new.__name__
    ]
    assert own
    assert not (ROOT / f"{old.replace('.', '/')}.py").exists()
    if (ROOT / old.replace(".", "/")).is_dir():  # a package now, where each name warns
        package = import_module(f"guidxmage.{old}")
        with pytest.warns(DeprecationWarning, match=f"{MODULES[old]}.{own[0]}"):
            assert getattr(package, own[0]) is vars(new)[own[0]]
        return
    monkeypatch.delitem(sys.modules, f"guidxmage.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=MODULES[old]):
        module = import_module(f"guidxmage.{old}")
    assert all(vars(module)[name] is vars(new)[name] for name in own)
    assert all(vars(module)[was] is vars(new)[now] for was, now in RENAMED.get(old, {}).items())


@pytest.mark.parametrize(
    "line", ["from guidxmage.regions import Regions", "from guidxmage.objects import ObjectTable"]
)
def test_the_warning_is_about_the_users_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "guidxmage.regions", raising=False)
    with pytest.warns(DeprecationWarning, match="next release") as told:
        exec(compile(f"\n\n{line}", "users_script.py", "exec"), {})
    assert (told[0].filename, told[0].lineno) == ("users_script.py", 3)


def test_rays_were_a_method() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    explainer = Explainer(network, dtype=torch.float64)
    a, b = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    with pytest.warns(DeprecationWarning, match="trace_ray") as told:
        ray = explainer.ray(a, b, targets=[1])
    assert ray.classes == (1,)
    assert told[0].filename == __file__


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        import_module("guidxmage.elsewhere")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = import_module("guidxmage.objects").nothing


def test_certified_minima_are_found_by_their_old_name() -> None:
    from guidxmage import adversarial

    with pytest.warns(DeprecationWarning, match="is CertifiedMinimum now"):
        assert adversarial.Certificate is adversarial.CertifiedMinimum
    with pytest.raises(AttributeError, match="no attribute 'Certifcate'"):
        _ = adversarial.Certifcate
