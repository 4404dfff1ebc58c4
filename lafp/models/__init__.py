"""Neural networks. Encoders plug in by the name that ``encoder.name`` takes in YAML."""

from lafp.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "impala": "lafp.models.encoders:Impala",
        "small_cnn": "lafp.models.encoders:SmallCnn",
        "strided_resnet": "lafp.models.encoders:StridedResnet",
    },
)
