"""Pairs of degraded and clean pictures for training and measuring image restoration."""

from .degradations import KINDS, Degradation, apply_degradations, from_record, sample_degradation, to_record
from .degraded_patches import DegradedPatches, DegradedPictures
from .synthetic_restoration import SyntheticRestoration, SyntheticRestorationConfig, load_clean_photographs

__all__ = [
    "KINDS",
    "Degradation",
    "DegradedPatches",
    "DegradedPictures",
    "SyntheticRestoration",
    "SyntheticRestorationConfig",
    "apply_degradations",
    "from_record",
    "load_clean_photographs",
    "sample_degradation",
    "to_record",
]
