"""A frozen segmentation model, from a local folder, that says which pixels show the agent."""

# Shape suffixes in this file: B frames, H height, W width.

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lafp.config import ConfigError
from lafp.models.hugging_face import CARD, files_sha256, load_pretrained, model_files, read_card

PROCESSOR = "preprocessor_config.json"
SEMANTIC = ("beit", "dpt", "mobilenet_v2", "mobilevit", "segformer", "upernet")
"""Types of models that give one class per pixel."""
UNIVERSAL = ("mask2former", "maskformer")
"""Types of models that give masks with classes. OneFormer is none of them: its preprocessing reads
the names of classes from the hub."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A model of transformers for semantic segmentation. Needs ``pip install 'lafp[segmenter]'``.

    BEiT, DPT, Mask2Former, MaskFormer, MobileNetV2, MobileViT, SegFormer and UPerNet are known.
    """

    path: str | None = None
    """Local folder as on the Hugging Face hub: ``config.json``, ``preprocessor_config.json`` and
    ``*.safetensors``. It must be at the same path on every node."""
    classes: tuple[str, ...] = ()
    """Classes of the agent, by name or number, as ``id2label`` in ``config.json`` has them. A pixel
    of any of them shows the agent."""


def segmenter_sha256(cfg: SegmenterConfig) -> str:
    """Checks the model's files and hashes them. See ``check_segmenter``."""
    return files_sha256(check_segmenter(cfg))


def check_segmenter(cfg: SegmenterConfig) -> list[Path]:
    """Checks all that can be known without reading the weights. Returns the model's files.

    Raises:
        ConfigError: There is no such model, it is of an unknown type, it lacks a class, or
            transformers is not installed.
    """
    folder = _folder(cfg)
    files = model_files(folder, "segmenter", "nvidia/segformer-b0-finetuned-ade-512-512.")
    if not (processor := folder / PROCESSOR).is_file():
        raise ConfigError(f"{folder} lacks {PROCESSOR}. Download the whole folder again.")
    card = read_card(folder)
    kind = card.get("model_type")
    if kind not in (*SEMANTIC, *UNIVERSAL):
        known = ", ".join(sorted((*SEMANTIC, *UNIVERSAL)))
        raise ConfigError(
            f"{folder / CARD} describes a model of type {kind!r}, which is no segmenter that lafp "
            f"knows. Known types: {known}."
        )
    if name := _named_backbone(card):
        raise ConfigError(
            f"{folder / CARD} names a backbone, {name!r}, which transformers would look up on the "
            "hub. Take a model whose config.json describes its backbone (`backbone_config`)."
        )
    class_numbers(cfg, card)
    if find_spec("transformers") is None:
        raise ConfigError(
            "A segmenter needs the package transformers: pip install 'lafp[segmenter]'."
        )
    return [*files, processor]


def class_numbers(cfg: SegmenterConfig, card: dict[str, Any]) -> list[int]:
    """Returns the numbers of the agent's classes.

    Args:
        cfg: Names or numbers of the classes.
        card: ``config.json`` of the model.

    Raises:
        ConfigError: The model does not know one of them, or none is named. It lists all classes.
    """
    names = card.get("id2label")
    if not isinstance(names, dict) or not all(str(number).isdecimal() for number in names):
        raise ConfigError(f"{Path(cfg.path or '') / CARD} has no `id2label`, the model's classes.")
    numbers: dict[str, list[int]] = {str(number): [int(number)] for number in names}
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():  # several numbers may have one name
        by_name.setdefault(str(name), []).append(int(number))
    numbers |= by_name
    unknown = [wanted for wanted in cfg.classes if wanted not in numbers]
    if unknown or not cfg.classes:
        listed = ", ".join(f"{number} {name}" for number, name in names.items())
        found = f"the segmenter has no class {unknown[0]!r}" if unknown else "none is named"
        raise ConfigError(
            f"segmenter.classes: {found}. Name the classes of the agent by name or number, e.g. "
            f"'segmenter.classes=[{next(iter(by_name), 0)}]'. Its classes: {listed}."
        )
    return sorted({number for wanted in cfg.classes for number in numbers[wanted]})


class Segmenter:
    """Draws the masks of frames.

    Args:
        cfg: Which model, and which of its classes are the agent.
        device: Where the model runs. CUDA computes in bf16.

    Raises:
        ConfigError: See ``check_segmenter``; or the weights do not fit, or do not load.
    """

    def __init__(self, cfg: SegmenterConfig, device: torch.device | str = "cpu") -> None:
        check_segmenter(cfg)
        # Imported late: it takes seconds, and only this job needs it.
        import transformers

        folder = _folder(cfg)
        card = read_card(folder)
        self.device = torch.device(device)
        self._numbers = torch.tensor(class_numbers(cfg, card), device=self.device)
        model_class = (
            transformers.AutoModelForSemanticSegmentation
            if card["model_type"] in SEMANTIC
            else transformers.AutoModelForUniversalSegmentation
        )
        try:
            self._processor: Any = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = load_pretrained(model_class, folder)
        except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"The segmenter in {folder} does not load: {error}") from None
        self._model = model.eval().requires_grad_(False).to(self.device)
        # A mask of the middle of a frame would be stretched over all of it.
        if getattr(self._processor, "do_center_crop", False):
            self._processor.do_center_crop = False

    @torch.no_grad()
    def draw(self, frames: np.ndarray) -> np.ndarray:
        """Returns which pixels show the agent.

        Args:
            frames: uint8 RGB [B, H, W, 3].

        Returns:
            bool [B, H, W].

        Raises:
            ConfigError: The device's memory does not hold so many frames.
        """
        try:
            return self._draw(frames)
        except torch.OutOfMemoryError:
            B, H, W = frames.shape[:3]
            raise ConfigError(
                f"{B} frames of {W}x{H} px do not fit into the memory of {self.device} beside the "
                "segmenter. Lower batch_size or max_side_px."
            ) from None

    def _draw(self, frames: np.ndarray) -> np.ndarray:
        inputs = self._processor(images=list(frames), return_tensors="pt").to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            outputs = self._model(**inputs)
        for name, value in outputs.items():
            if isinstance(value, torch.Tensor):
                outputs[name] = value.float()  # bf16 has too few digits to compare classes
        sizes = [frames.shape[1:3]] * len(frames)
        class_BHW = torch.stack(
            self._processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        )
        return torch.isin(class_BHW, self._numbers).cpu().numpy()


def _folder(cfg: SegmenterConfig) -> Path:
    if cfg.path is None:
        raise ConfigError(
            "Set segmenter.path=FOLDER, a local folder with a segmentation model, e.g. a download "
            "of nvidia/segformer-b0-finetuned-ade-512-512."
        )
    return Path(cfg.path)


def _named_backbone(part: Any) -> str | None:
    """Returns the name of a backbone that the model's config does not describe itself."""
    if isinstance(part, list):
        return next(filter(None, map(_named_backbone, part)), None)
    if not isinstance(part, dict):
        return None
    if isinstance(name := part.get("backbone"), str):
        return name
    return next(filter(None, map(_named_backbone, part.values())), None)
