"""Neural networks, and registries of those that a config picks by name."""

from typing import TYPE_CHECKING

from lafp.config.registry import Registry

if TYPE_CHECKING:
    from lafp.models.bottlenecks.base import Bottleneck
    from lafp.models.encoders import Encoder
    from lafp.models.latent_projection import LatentProjection
    from lafp.models.patches import Patches
    from lafp.models.standardizer import LatentStandardizer

ENCODERS: Registry["Encoder"] = Registry(
    "encoder",
    {
        "dinov2": "lafp.models.dinov2:Dinov2",
        "impala": "lafp.models.encoders:Impala",
        "small_cnn": "lafp.models.encoders:SmallCnn",
        "strided_resnet": "lafp.models.encoders:StridedResnet",
        "vit": "lafp.models.vit:Vit",
    },
)

LATENT_PROJECTIONS: Registry["LatentProjection"] = Registry(
    "latent projection",
    {
        "none": "lafp.models.latent_projection:NoProjection",
        "pca": "lafp.models.latent_projection:Pca",
    },
)

LATENT_STANDARDIZERS: Registry["LatentStandardizer"] = Registry(
    "standardizer",
    {
        "global": "lafp.models.standardizer:GlobalScaleStandardizer",
        "range": "lafp.models.standardizer:RangeStandardizer",
        "std": "lafp.models.standardizer:LatentStandardizer",
    },
)

BOTTLENECKS: Registry["Bottleneck"] = Registry(
    "bottleneck",
    {
        "fsq": "lafp.models.bottlenecks.fsq:Fsq",
        "layernorm_noise": "lafp.models.bottlenecks.layernorm_noise:LayerNormNoise",
        "none": "lafp.models.bottlenecks.base:NoBottleneck",
        "vq": "lafp.models.bottlenecks.vq:Vq",
    },
)

PATCHES: Registry["Patches"] = Registry(
    "patches",
    {
        "dinov2": "lafp.models.patches:Dinov2Patches",
        "pixels": "lafp.models.patches:PixelPatches",
    },
)
