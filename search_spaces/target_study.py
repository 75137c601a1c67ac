"""Which linear layers does an adapter need, and on which of them does the SVD start help?

Queries and values, attention, MLP, or all linear layers, at one rank and with a learning rate of its own for every arm;
each has an export of the teacher's change in its own layers. The names are those of Llama and Qwen2 (q_proj, ...) and
of GPT-2, where queries, keys and values are one layer, c_attn: `--set base_model.source=tiny-gpt2`.
"""

from __future__ import annotations

from orchestrator.study import By, Comparison, Study, repeats
from search_spaces.scales import Scale

TARGETS = {
    "qv": r".*\.(q_proj|v_proj|c_attn)",
    "attention": r".*\.([qkvo]_proj|c_attn|attn\.c_proj)",
    "mlp": r".*\.((gate|up|down)_proj|c_fc|mlp\.c_proj)",
    "all-linear": "all-linear",
}
"""Regular expressions for whole module names, as PEFT reads them."""


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    stages = scale.stages()
    chosen = {"target_modules": By("targets", TARGETS)}
    return Study(
        name="target_study",
        description=str(__doc__).splitlines()[0],
        stages={**stages, **{name: stages[name].but(chosen) for name in ("svd_export", "student")}},
        axes={
            "student.rank": (scale.rank,),
            "targets": tuple(TARGETS),
            "student.init": ("random", "svd"),
            "student.seed": repeats(scale.seeds),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=scale.notes(),
    )
