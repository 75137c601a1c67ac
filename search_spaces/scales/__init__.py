"""Named sizes of the same study: what a laptop trains in minutes and eight GPUs in hours.

A scale holds what a machine and a model decide; a study adds what it varies. One file per family of models.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.scales.base import Scale, export_rank
from search_spaces.scales.known import NULL, PLANTED
from search_spaces.scales.qwen import QWEN_1_5B, QWEN_7B, QWEN_7B_48G
from search_spaces.scales.small import LAPTOP, TINY

__all__ = ["LAPTOP", "SCALES", "Scale", "export_rank"]

SCALES: Mapping[str, Scale] = {
    scale.name: scale for scale in (TINY, NULL, PLANTED, LAPTOP, QWEN_1_5B, QWEN_7B, QWEN_7B_48G)
}
