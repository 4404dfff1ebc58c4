"""Latent views of a model whose forward model needs the right latent action."""

from lafp.evaluate.latents.latent_views import LatentViews

VIEWS = LatentViews(
    split="val",
    num_clips=20,
    num_damaged_clips=0,
    num_videos=10,
    num_pairs=640,
    step_s=0.1,
    latent_action_dim=8,
    norms=[1.0, 2.0],
    motion=[0.1, 0.2],
    spectrum=[2.0, 1.0],
    effective_rank=3.2,
    near_null_share=0.0,
    spread=1.0,
    is_collapsed=False,
    prediction_error=0.1,
    wrong_latent_error=0.3,
    copy_error=0.4,
    skipped={},
)
