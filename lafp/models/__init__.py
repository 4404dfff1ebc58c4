"""Neural networks. Encoders and bottlenecks plug in by the name that YAML gives them."""

from lafp.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "impala": "lafp.models.encoders:Impala",
        "small_cnn": "lafp.models.encoders:SmallCnn",
        "strided_resnet": "lafp.models.encoders:StridedResnet",
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
