"""Tiny segmenters with random weights, as the Hugging Face hub's folders are."""

from pathlib import Path

import numpy as np
import pytest
import torch

CLASSES = ("wall", "person", "robot")
SIDE_PX = 64
KINDS = (
    "beit", "dpt", "mask2former", "maskformer", "mobilenet_v2", "mobilevit", "segformer", "upernet"
)  # fmt: skip


def _model(kind: str, t):  # transformers takes seconds to import, of every collection of tests
    names = dict(enumerate(CLASSES))
    of_classes = {"id2label": names, "label2id": {name: n for n, name in names.items()}}
    stages = [f"stage{n}" for n in range(1, 5)]
    vit = {
        "image_size": SIDE_PX,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }

    def swin():
        return t.SwinConfig(
            image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
            out_features=stages,
        )  # fmt: skip

    if kind == "segformer":
        config = t.SegformerConfig(
            depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16, **of_classes,
        )  # fmt: skip
        return t.SegformerForSemanticSegmentation(config), t.SegformerImageProcessor
    if kind == "beit":
        config = t.BeitConfig(
            **vit, patch_size=8, out_indices=[1, 2, 3, 4], auxiliary_channels=8, **of_classes
        )
        return t.BeitForSemanticSegmentation(config), t.BeitImageProcessor
    if kind == "dpt":
        config = t.DPTConfig(
            **vit, patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4,
            fusion_hidden_size=8, **of_classes,
        )  # fmt: skip
        return t.DPTForSemanticSegmentation(config), t.DPTImageProcessor
    if kind == "mobilevit":
        config = t.MobileViTConfig(
            image_size=SIDE_PX, hidden_sizes=[16] * 3, neck_hidden_sizes=[8] * 6 + [16],
            num_attention_heads=2, aspp_out_channels=8, atrous_rates=[2, 3, 4], **of_classes,
        )  # fmt: skip
        return t.MobileViTForSemanticSegmentation(config), t.MobileViTImageProcessor
    if kind == "mobilenet_v2":
        config = t.MobileNetV2Config(image_size=SIDE_PX, depth_multiplier=0.35, **of_classes)
        return t.MobileNetV2ForSemanticSegmentation(config), t.MobileNetV2ImageProcessor
    if kind == "upernet":
        backbone = t.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, out_features=stages)
        config = t.UperNetConfig(
            backbone_config=backbone, hidden_size=16, auxiliary_in_channels=8,
            auxiliary_channels=8, **of_classes,
        )  # fmt: skip
        return t.UperNetForSemanticSegmentation(config), t.SegformerImageProcessor
    if kind == "mask2former":
        config = t.Mask2FormerConfig(
            backbone_config=swin(), feature_size=32, mask_feature_size=32, hidden_dim=32,
            encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2,
            num_attention_heads=2, dim_feedforward=16, num_queries=6, **of_classes,
        )  # fmt: skip
        return t.Mask2FormerForUniversalSegmentation(config), t.Mask2FormerImageProcessor
    assert kind == "maskformer"
    decoder = t.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6,
        use_timm_backbone=False, backbone_config=t.ResNetConfig(out_features=["stage4"]),
    )  # fmt: skip
    config = t.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32,
        mask_feature_size=32, **of_classes,
    )  # fmt: skip
    return t.MaskFormerForInstanceSegmentation(config), t.MaskFormerImageProcessor


def write_segmenter(folder: Path, kind: str = "segformer", seed: int = 0) -> Path:
    """Writes ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``."""
    transformers = pytest.importorskip("transformers", reason="the extra segmenter is missing")
    torch.manual_seed(seed)
    model, processor_class = _model(kind, transformers)
    model.save_pretrained(folder)
    processor_class(size={"height": SIDE_PX, "width": SIDE_PX}).save_pretrained(folder)
    return folder


def classes_of(folder: Path, kind: str, frames: np.ndarray) -> np.ndarray:
    """What transformers itself says: int64 [T, H, W], the number of each pixel's class."""
    import transformers

    auto = (
        transformers.AutoModelForUniversalSegmentation
        if kind in ("mask2former", "maskformer")
        else transformers.AutoModelForSemanticSegmentation
    )
    model = auto.from_pretrained(folder, use_safetensors=True).eval()
    # The whole frame, also where the processor would look at the middle only.
    crop = {"do_center_crop": False} if kind in ("beit", "mobilenet_v2", "mobilevit") else {}
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **crop)
    found = []
    for frame in frames:
        with torch.no_grad():
            outputs = model(**processor(images=[frame], return_tensors="pt"))
        sizes = [frame.shape[:2]]
        found += processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    return torch.stack(found).numpy()
