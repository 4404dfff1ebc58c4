"""The long table of results, ``evaluation/results.parquet``: its columns, once.

Metrics and the methods that have them:

==========================  ====================================================================
``success``                 share of episodes, where the task knows success; ``low`` and ``high``
                            are its 95 % interval
``return``                  mean sum of rewards, with interval
``return_above_random``     return above that of random actions, over the demonstrators' above it,
                            with interval, where the environment has a return of its own; older
                            tables hold ``return_normalized``, over the demonstrators' alone
``success_on_<task>``       the same for the episodes of one task, where an environment has several
``length``                  mean steps of an episode
``side_entropy``            mean over forks of the entropy of the way taken, over the demonstrators'
``mode_coverage``           entropy of the whole path (all forks jointly), over the demonstrators'
``action_mse``              of the whole stack on held-out labeled clips, in the environment's units
``action_r2``               1 - MSE / variance, over all dimensions, in [-1, 1] action units
``action_accuracy``         instead of both, for discrete actions
``alignment_to_idm``        energy distance of the decoder's training latents (from its anchors)
                            from raw IDM latents, standardized, on held-out labeled clips
``alignment_to_deployed``   the same from the policy's own samples at these observations
``action_mse_on_idm``       of the decoder on raw IDM latents, in [-1, 1] action units
``action_mse_on_deployed``  of the decoder on the policy's own samples (for discrete actions
                            ``action_accuracy_on_...`` instead of both)
``latency_b1_ms``           median time of one ``act`` for 1 (``latency_b64_ms``: 64) observations
``latency_b1_ratio``        median over rounds of the time over latent_bc's in the same round
``latency_b1_disturbance``  how much other work on the machine disturbed these timings, as a share
                            of their time; above 0.1 no page shows them
``probe_mse, probe_r2``     linear probe of latent actions on held-out episodes; the method says of
                            what: ``lam``, and the controls ``embedding``, ``random_lam``,
                            ``nothing``; of a frozen encoder ``encoder_pair`` and
                            ``encoder_difference``, and the control ``encoder_frame``
``probe_r2_standardized``   the same on features of unit variance, ``probe_r2_mlp`` with a small MLP
``probe_r2_at_<n>``         the same after a fit on n transitions
``probe_r2_seen``           on held-out episodes before known videos, ``probe_r2_unseen`` unknown
``probe_r2_noise``          of the exploration noise alone, which no state tells
``probe_gain_over_...``     of z: R2 above that of a control, on the same episodes
``background_share``        of ``evaluate_lam`` with ``swapped_shards``: share of the variance of z
                            that comes from the background, of the same transitions before two
``action_share``            share of the same variance that a linear map of the true action predicts
``lary_mse``                with ``lary_stride``: squared error of the actions between two frames,
                            standardized, as LARY (arXiv:2604.11689) measures it
``lary_accuracy``           with ``lary_probe``: share of the clips of LARY's table val whose class
                            of action its attentive probe names
``additivity_error``        of ``evaluate_lam``, whose table has the controls ``pixel_difference``
                            and ``dinov2_difference`` too: squared error of z(a, b) + z(b, c) as a
                            prediction of z(a, c), over the variance of z(a, c)
``reversal_error``          the same error of -z(a, b) as a prediction of z(b, a)
``s_pcfc``                  mean cosine of z from the past and from the future to a frame (CoMo);
                            ``s_pcfc_centered``: without the constant that all latents share
``codebook_usage``          share of the codes that some held-out transition took;
                            ``codebook_perplexity`` how many codes are as varied
``transfer_error``          squared error of the z that is inferred from a predicted frame, over the
                            variance of z: z of another clip. ``transfer_error_own``: of this clip
==========================  ====================================================================
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lafp.evaluate.rows.statistics import Interval
from lafp.storage.tables import read_records, write_rows

DEMONSTRATOR: Final = "demonstrator"
RANDOM: Final = "random"
"""Actions that are drawn uniformly."""
BEHAVIOR_CLONING = "behavior_cloning"
"""Cloning of true actions, on the labels alone."""

SUCCESS_ON = "success_on_"
"""Beginning of the metrics of single tasks, where an environment has several."""

Key = tuple[str | None, float | None, str]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A method that was measured (policy, decoder and noise), or a latent action model."""

    label: str
    """Unique within a run; names the method in charts."""
    method: str
    """``latent_bc``, ``latent_bc_idm_decoder``, ``latent_flow``, ``behavior_cloning``,
    ``demonstrator``, ``random``, or a probe's."""
    study: str | None = None
    variant: str | None = None
    """The setting of this run that the study varied, its seed aside."""
    task: str | None = None
    distractors: bool | None = None
    objective: str | None = None
    supervision_weight: float | None = None
    anchor_low: float | None = None
    """Lowest τₐ of the action decoder's training. Each of its samples draws one up to
    ``anchor_high``."""
    anchor_high: float | None = None
    """Highest τₐ, equal to ``anchor_low`` where all samples have the same."""
    anchor_steps: str | None = None
    """Solver steps that followed τₐ there: ``remaining``, ``all`` or ``one``."""
    noise: str | None = None
    """Name of the noise at deployment."""
    noise_hold_steps: int | None = None
    """Number of steps for which noise ``held`` stays the same."""
    solver_steps: int | None = None
    sample_actions: bool | None = None
    """Discrete actions were drawn from the decoder's distribution, instead of the likeliest."""
    label_fraction: float | None = None
    """Share of the labeled clips that training saw."""
    labeled_transitions: int | None = None
    """Number of labeled transitions that training saw, of ``labeled_episodes`` episodes. For probes
    it is the LAM's training: 0 without supervision, None if its labels are not at hand."""
    labeled_episodes: int | None = None
    label_scope: str | None = None
    """Training that ``label_fraction`` limits: ``action_decoder``, ``lam`` or ``both``;
    ``policy`` for a method that has nothing but labels."""
    seed: int | None = None
    """Seed of the policy's training (for probes, of the LAM's)."""

    @property
    def anchor_time(self) -> float | None:
        """τₐ where all samples have the same; None for a range, and where no solver started."""
        return self.anchor_low if self.anchor_low == self.anchor_high else None

    @property
    def anchors(self) -> tuple[float, float] | None:
        """Lowest and highest τₐ; None where no solver started."""
        if self.anchor_low is None or self.anchor_high is None:
            return None
        return self.anchor_low, self.anchor_high

    @property
    def key(self) -> Key:
        """Variant, share of the labels and label. They are equal if only the seed differs."""
        return self.variant, self.label_fraction, self.label


@dataclass(frozen=True, kw_only=True)
class Result(Subject):
    """One row of the table."""

    metric: str
    value: float
    """NaN where it is undefined, e.g. the coverage of a policy that passes no fork."""
    low: float | None = None
    """95 % bootstrap interval over episodes, where there is one."""
    high: float | None = None
    n: int
    """Episodes, transitions or timings behind ``value``."""

    @property
    def interval(self) -> Interval:
        """``value`` with ``low`` and ``high``; a single value where it has none."""
        if self.low is None or self.high is None:
            return Interval(
                mean=self.value, low=self.value, high=self.value, num_values=1, num_seeds=1
            )
        return Interval(
            mean=self.value, low=self.low, high=self.high, num_values=self.n, num_seeds=1
        )

    @classmethod
    def of(
        cls,
        subject: Subject,
        metric: str,
        value: float,
        n: int,
        low: float | None = None,
        high: float | None = None,
    ) -> "Result":
        """Makes a row about ``subject``."""
        return cls(**vars(subject), metric=metric, value=value, n=n, low=low, high=high)


RETURN_ABOVE_RANDOM = "return_above_random"
OUTCOMES = ("success", RETURN_ABOVE_RANDOM, "return")
"""Metrics that say how well a policy does: success; where a task knows none, its return between
that of random actions and the demonstrators'; where these do not differ, its return."""


def outcome_metric(rows: Iterable[Result]) -> str:
    """Returns the first of ``OUTCOMES`` that was measured, or the first one if none was."""
    metrics = {row.metric for row in rows}
    return next((metric for metric in OUTCOMES if metric in metrics), OUTCOMES[0])


def without_repeats(metrics: Sequence[str]) -> list[str]:
    """Leaves out the plain return of a task that knows success."""
    return [metric for metric in metrics if metric != "return" or "success" not in metrics]


def write_results(uri: str, rows: Sequence[Result]) -> None:
    """Writes the table to ``uri``, replacing one that is there."""
    write_rows(uri, Result, rows)


def read_results(uri: str) -> list[Result]:
    """Reads what ``write_results`` wrote."""
    return read_records(Result, uri)
