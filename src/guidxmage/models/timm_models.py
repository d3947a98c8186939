"""Networks of timm (PyTorch Image Models) by name, as ``timm:NAME``."""

from __future__ import annotations

import difflib
import warnings
from functools import partial
from types import ModuleType
from typing import Any, cast

from torch import nn

from guidxmage.errors import InputError, MissingExtraError
from guidxmage.inputs.preprocessing import Interpolation, Preprocessing
from guidxmage.models.architecture import Architecture, Published
from guidxmage.models.torchvision_import import import_torchvision
from guidxmage.models.weights import StateDict

PREFIX = "timm:"

# The smallest network of each of timm 1.0.31's modules, its test networks left out.
REPRESENTATIVES = (
    "beit_base_patch16_224", "halonet_h1", "mobileone_s0", "cait_xxs24_224", "coat_tiny",
    "convit_tiny", "convmixer_768_32", "convnext_atto", "cpubone_nano", "crossvit_tiny_240",
    "csatv2", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny", "deepseek_vit_412m",
    "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "edgenext_xx_small",
    "efficientformer_l1", "efficientformerv2_s0", "tinynet_e", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050",
    "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small",
    "iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4",
    "lcnetv2_small", "levit_128s", "lowformer_b0", "mambaout_femto", "coatnet_pico_rw_224",
    "poolformerv2_s12", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilenetv5_base",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_parfac_gap", "nasnetalarge",
    "nest_tiny", "nextvit_small", "eca_nfnet_l0", "pit_ti_224", "pnasnet5large", "pvt_v2_b0",
    "qwen3_vit_88m", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50",
    "resnest14d", "resnet10t", "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224",
    "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11",
    "visformer_tiny", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "vit_relpos_small_patch16_224", "samvit_base_patch16_224", "vitamin_small_224", "volo_d1_224",
    "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p", "xcit_nano_12_p8_224",
)  # fmt: skip


def import_timm() -> ModuleType:
    """The timm module. Raises MissingExtraError when it is not installed."""
    import_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingExtraError("timm", "timm") from None
    return timm


def timm_architecture(name: str) -> Architecture:
    """The network called ``name`` in timm. Raises InputError where there is none."""
    timm = import_timm()
    plain = name.partition(".")[0]
    if plain not in timm.list_models():
        close = difflib.get_close_matches(plain, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise InputError(f"timm has no network called {name!r}; {hint}")
    settings = timm.get_pretrained_cfg(name)
    config = timm.data.resolve_data_config({}, pretrained_cfg=settings.to_dict(), verbose=False)
    size = int(config["input_size"][-1])
    return Architecture(
        name=name,
        source="timm",
        piecewise_linear=False,
        input_size=size,
        preprocessing=_preprocessing(name, config),
        build=partial(_build, name),
        adapt=lambda weights: weights,
        published=Published(
            description=f"timm {settings.architecture}.{settings.tag or 'untagged'}",
            parameters=0,
            read=partial(_read, name),
            available_offline=False,
        ),
    )


def _preprocessing(name: str, config: dict[str, Any]) -> Preprocessing:
    """Resize to size / crop_pct, centre crop, normalisation, as timm's evaluation has it."""
    size = int(config["input_size"][-1])
    known = config["interpolation"] in ("bilinear", "bicubic")
    whole = config.get("crop_mode") == "squash"
    return Preprocessing(
        resize=(size, size) if whole else int(size / config["crop_pct"]),
        crop=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=cast("Interpolation", config["interpolation"] if known else "bilinear"),
        name=f"timm {name}",
    )


def _build(name: str, num_classes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = import_timm().create_model(name, pretrained=False)
        if getattr(model, "num_classes", num_classes) != num_classes:
            model = import_timm().create_model(name, pretrained=False, num_classes=num_classes)
    return model


def _read(name: str) -> StateDict:
    try:
        found: StateDict = import_timm().create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub, the network and the disk each raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"timm could not download the weights of {name} ({reason}); give a local weight file "
            "(--weights FILE), or weights='none' for random ones (--weights none)"
        ) from None
    return found
