"""Neural networks, and registries of those that a config picks by name."""

from lafp.config.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "dinov2": "lafp.models.dinov2:Dinov2",
        "impala": "lafp.models.encoders:Impala",
        "small_cnn": "lafp.models.encoders:SmallCnn",
        "strided_resnet": "lafp.models.encoders:StridedResnet",
        "vit": "lafp.models.vit:Vit",
    },
)

LATENT_PROJECTIONS = Registry(
    "latent projection",
    {
        "none": "lafp.models.latent_projection:NoProjection",
        "pca": "lafp.models.latent_projection:Pca",
    },
)

LATENT_STANDARDIZERS = Registry(
    "standardizer",
    {
        "global": "lafp.models.standardizer:GlobalScaleStandardizer",
        "range": "lafp.models.standardizer:RangeStandardizer",
        "std": "lafp.models.standardizer:LatentStandardizer",
    },
)

BOTTLENECKS = Registry(
    "bottleneck",
    {
        "fsq": "lafp.models.quantizers:Fsq",
        "layernorm_noise": "lafp.models.quantizers:LayerNormNoise",
        "none": "lafp.models.quantizers:NoBottleneck",
        "vq": "lafp.models.quantizers:Vq",
    },
)

PATCHES = Registry(
    "patches",
    {
        "dinov2": "lafp.models.patches:Dinov2Patches",
        "pixels": "lafp.models.patches:PixelPatches",
    },
)
