"""Training: the optimiser, schedules, the data-parallel step, checkpoints and the run folder. It knows no model."""

from minissl.training.adamw import AdamW, adamw_update
from minissl.training.schedule import warmup_linear
from minissl.training.trainer import NonFiniteError, StepRecord, Trainer, TrainingOptions

__all__ = ["AdamW", "NonFiniteError", "StepRecord", "Trainer", "TrainingOptions", "adamw_update", "warmup_linear"]
