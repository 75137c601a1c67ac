"""methods.tex: how the study was made, in the words of a paper, with the settings and sizes that its records hold.

A sentence whose facts the records lack is left out; nothing is filled in.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.record import Record
from orchestrator.report import formatting
from orchestrator.report.material import Material
from orchestrator.report.paper import bibliography
from orchestrator.report.paper.latex import escape, inline
from orchestrator.report.paper.library import Reference
from orchestrator.results import arm_stage


def paragraph(material: Material, references: Sequence[Reference]) -> str:
    """Return methods.tex; it cites the keys of `references` only."""
    text = _Text(material, {reference.key for reference in references})
    parts = (text.base(), text.data(), text.teacher(), text.export(), text.students(), text.tuning(), text.tests())
    told = [" ".join(part) for part in map(list, (*parts, text.software())) if part]
    head = f"% Methods of the study {escape(material.summary.study)}. Needs references.bib.\n"
    return head + "\n\n".join(told) + "\n"


class _Text:
    """The sentences, each part an iterator of them."""

    def __init__(self, material: Material, keys: set[str]) -> None:
        self.material, self.keys, self.summary = material, keys, material.summary

    def cite(self, *keys: str) -> str:
        """Return a citation of those of the keys that the bibliography has, after a space that does not break."""
        known = [key for key in keys if key in self.keys]
        return f"~\\cite{{{','.join(known)}}}" if known else ""

    def records(self, stage: str) -> list[Record]:
        tuned = set(self.material.family.tuning["run_id"])
        runs = [run.id for run in self.material.plan.of_stage(stage) if run.id not in tuned]
        found = [self.material.records[run] for run in runs if run in self.material.records]
        return [record for record in found if record.status == "done"]

    def base(self) -> Iterator[str]:
        for record in self.records("base_model")[:1]:
            sizes = [_sized(record.metrics.get(name), f"{word}") for name, word in SIZES]
            told = f" ({', '.join(size for size in sizes if size)})" if any(sizes) else ""
            name = _code(record.settings.get("source"))
            yield f"The base model is {name}{told}{self.cite('allal2025smollm2', 'yang2024qwenmath')}."

    def data(self) -> Iterator[str]:
        found = self.records("dataset")
        for record in found[:1]:
            settings, metrics = record.settings, record.metrics
            counts = [_sized(metrics.get(f"{name}_items"), word) for name, word in SPLITS.items()]
            yield (
                f"The data are {_code(settings.get('source'))}{self.cite('stojanovski2025reasoninggym')}: "
                f"{_listed([count for count in counts if count])} items"
                + (f", generated with seed {settings['seed']}" if record.config.get("kind") == "generated" else "")
                + (f", split with seed {settings['split_seed']}" if "split_seed" in settings else "")
                + "."
            )
            if settings.get("max_length"):
                lost = f"{metrics.get('cut', 0)} were cut and {metrics.get('dropped', 0)} dropped"
                yield f"Sequences have at most {settings['max_length']} tokens ({lost})."
            if settings.get("completion_only"):
                yield "The loss is the mean over completion tokens."
        folds = {record.settings.get("folds") for record in found} - {None}
        if folds:
            yield f"Records are tested in {_listed(sorted(map(str, folds)))} folds, each once."

    def teacher(self) -> Iterator[str]:
        found = self.records("teacher")
        for record in found[:1]:
            if record.trainable == "lora_mean":
                yield from self._synthesised(record)
                continue
            if record.trainable == "ia3":
                yield (
                    f"The teacher is the base model with a factor for each channel of its keys, values and "
                    f"feed-forward layers, (IA)$^3${self.cite('liu2022ia3')}, trained for {_training(record)} and "
                    "merged into the weights."
                )
                continue
            if "steps" not in record.metrics:
                yield f"The teacher was given ({_code(record.settings.get('source'))}); nothing was trained for it."
                continue
            some = record.settings.get("parameters") == "linears"
            what = "the weights of the linear layers" if some else "all parameters"
            share = record.metrics.get("trainable_share")
            told = f" ({100 * share:.3g}\\,\\% of the model)" if isinstance(share, float) and share < 1 else ""
            how = f"by training {what}{told} for {_training(record)}"
            seeds = sorted({int(item.settings.get("seed", 1)) for item in found})
            yield f"The teacher is the base model fine-tuned {how}{self.cite('loshchilov2019decoupled')}."
            yield f"There {_are(len(found), 'teacher')}, from {_named('seed', seeds)}."

    def _synthesised(self, record: Record) -> Iterator[str]:
        """Tell how a mean of LoRAs was made."""
        metrics, inputs = record.metrics, record.inputs
        members = [self.material.records[id_] for role, id_ in inputs.items() if role.startswith("member")]
        count, rank = len(members), metrics.get("member_rank")
        yield f"The teacher is the base model plus the mean of what {count} LoRAs of rank {rank} learnt."
        if members:
            seeds = _named("seed", sorted(int(member.settings["seed"]) for member in members))
            yield f"Each was trained for {_training(members[0])}, with {seeds}; no full fine-tuning was needed."

    def export(self) -> Iterator[str]:
        for record in self.records("svd_export")[-1:]:
            ranks = [rank for rank in self.material.ranks if f"energy_{rank}" in record.metrics]
            energies = [f"{float(record.metrics[f'energy_{rank}'] or 0):.3f} at rank {rank}" for rank in ranks]
            kept = f"; it keeps {_listed(energies)} of the squared norm" if energies else ""
            layers = _sized(record.metrics.get("layers"), "linear layers")
            yield (
                f"The teacher's weight change in {layers or 'its linear layers'} was truncated by singular value "
                f"decomposition{self.cite('eckart1936')} at rank {record.settings.get('rank')}{kept}."
            )
            bound = record.metrics.get("certified_bound")
            if isinstance(bound, float):
                yield f"Singular values are certified to a relative error of {_power(float(f'{bound:.1e}'))}."

    def students(self) -> Iterator[str]:
        found = self.records(arm_stage(self.material.plan.study))
        for record in found[:1]:
            ranks = f" at {_named('rank', self.material.ranks)}" if self.material.ranks else ""
            seeds = sorted({int(item.settings["seed"]) for item in found if "seed" in item.settings})
            layers = dict.fromkeys(str(item.settings.get("target_modules", "the linear layers")) for item in found)
            where = _listed([_code(name) for name in layers])
            yield f"Students are LoRA adapters{self.cite('hu2022lora')}{ranks} on {where}{_alpha(found)}."
            yield f"Each was trained for {_training(record, with_rate=False)}, with {_named('seed', seeds)}."
        told = [self._arm(arm) for arm in self.material.family.arms]
        if told:
            yield f"They differ in their start: {'; '.join(told)}."
        by_rates: dict[str, list[str]] = {}
        for group, rates in self._rates():
            by_rates.setdefault(rates, []).append(group)
        for rates, groups in by_rates.items():
            where = f" at {escape(_listed([group for group in groups if group]))}" if any(groups) else ""
            yield f"Learning rates{where}: {rates}."

    def _arm(self, arm: str) -> str:
        from trainables import inits

        references, init = (
            bibliography.init_references(self.material),
            bibliography.inits_of(self.material).get(arm, arm),
        )
        label = inits.find(init).label if arm in references else init
        told = [label] * (label != arm) + [f"{steps} steps" for steps in self._own_steps(arm)]
        about = f" ({escape(', '.join(told))})" if told else ""
        return f"{_code(arm)}{about}{self.cite(*bibliography.keys_in(references.get(arm, '')))}"

    def _own_steps(self, arm: str) -> list[int]:
        """Return the steps of an arm whose students train for others than the baseline's; else nothing."""
        family = self.material.family
        sides = [family.rows_of(name, family.rows) for name in (arm, str(family.comparison.baseline))]
        ours, theirs = (sorted(set(rows["steps"].dropna())) if "steps" in rows else [] for rows in sides)
        return [int(steps) for steps in ours] if ours != theirs else []

    def _rates(self) -> Iterator[tuple[str, str]]:
        family = self.material.family
        for group, rows in family.cells() if "learning_rate" in family.rows else ():
            by_arm = {arm: sorted(set(family.rows_of(arm, rows)["learning_rate"].dropna())) for arm in family.arms}
            told = [
                f"{_code(arm)} {_listed([_power(rate) for rate in rates])}" for arm, rates in by_arm.items() if rates
            ]
            if told:
                yield formatting.group(group), ", ".join(told)

    def tuning(self) -> Iterator[str]:
        rows = self.material.family.tuning
        if len(rows):
            rates = sorted(set(rows["learning_rate"].dropna())) if "learning_rate" in rows else []
            seeds = sorted({int(seed) for seed in rows["seed"].dropna()}) if "seed" in rows else []
            among = f" among {_listed([_power(rate) for rate in rates])}" if rates else ""
            where = f" on tuning {_named('seed', seeds)}, which no verdict uses" if seeds else ""
            yield f"Learning rates were chosen{among} by validation loss{where} ({len(rows)} tuning runs)."
        for note in self.material.plan.study.notes:
            yield f"{inline(note[:1].upper() + note[1:]).rstrip('.')}."

    def tests(self) -> Iterator[str]:
        summary, found = self.summary, self.summary.differences
        if not found:
            return
        better = "higher" if summary.higher_is_better else "lower"
        yield f"The primary outcome is the {escape(summary.metric.replace('_', ' '))} ({better} is better)."
        planned = _listed(list(map(str, sorted({item.planned for item in found}))))
        unit = "items, averaged over runs," if found[0].unit == "item" else "pairs"
        exact = "exact" if all(item.is_exact for item in found) else "Monte Carlo"
        yield (
            f"Every arm was compared with {_code(found[0].baseline)} in {planned} {unit} by the "
            f"two-sided {exact} sign-flip test of the mean difference{self.cite('fisher1935design')}; "
            f"{_intervals(sorted({item.interval_method for item in found if item.interval_method}))}."
        )
        keys = [bibliography.ADJUSTED_BY[method] for method in bibliography.adjustments(self.material)]
        adjusted = re.sub(r"^p adjusted", "the values of p are adjusted", formatting.adjusted(summary))
        yield f"{escape(adjusted[0].upper() + adjusted[1:])}{self.cite(*keys)}, at a level of {summary.alpha:g}."
        if summary.counted:
            yield f"Here {escape(summary.counted)}."
        if summary.looks:
            looks = _listed(list(map(str, summary.looks)))
            yield f"Looks were declared after {looks} replicates; they share the level."
        if summary.margin is not None:
            yield (
                f"Equivalence is judged within a margin of {summary.margin:g} declared beforehand, by two one-sided "
                f"tests{self.cite('schuirmann1987')}."
            )
        if summary.quotes:
            yield f"Percentages are ratios of means with Fieller's interval{self.cite('fieller1954')}."
        yield f"Verdicts hold {escape(summary.scope)}."

    def software(self) -> Iterator[str]:
        versions = bibliography.packages(self.material)
        named = [
            f"{escape(name)} {escape(version)}{self.cite(bibliography.PACKAGES.get(name, ''))}"
            for name, version in versions.items()
        ]
        if named:
            yield f"Software: {', '.join(named)}."
        about = [record.provenance for record in self.material.records.values()]
        seconds = sum(
            item.seconds * float(item.place.get("cpus", 1)) * int(item.place.get("workers", 1)) for item in about
        )
        hosts, devices = {item.host for item in about}, sorted({item.device for item in about if item.device})
        if about:
            yield (
                f"All {len(about)} runs took {_grouped(round(seconds))} core-seconds on "
                f"{len(hosts)} host{'s' if len(hosts) != 1 else ''} ({escape(', '.join(devices))})."
            )
        commits = sorted({item.git for item in about if item.git})
        if commits:
            yield f"Commit: {', '.join(map(_code, commits))}."


SPLITS = {"train": "training", "validation": "validation", "test": "test"}
SIZES = (("parameters", "parameters"), ("layers", "layers"), ("hidden_size", "hidden units"))


def _training(record: Record, *, with_rate: bool = True) -> str:
    """Return how a training run went: "60 steps of 8 sequences with AdamW (...)"."""
    settings = record.settings
    about = [
        f"peak learning rate {_power(float(settings['learning_rate']))}" if with_rate else "",
        f"{settings['schedule']} schedule" if "schedule" in settings else "",
        f"{settings['warmup_steps']} warm-up steps" if settings.get("warmup_steps") else "",
        f"weight decay {settings['weight_decay']:g}" if settings.get("weight_decay") else "",
        f"gradient norm clipped at {settings['max_grad_norm']:g}" if settings.get("max_grad_norm") else "",
        escape(str(settings["precision"])) if "precision" in settings else "",
    ]
    told = ", ".join(part for part in about if part)
    steps = record.metrics.get("steps", settings.get("steps"))
    return f"{steps} steps of {settings.get('batch_size')} sequences with AdamW{f' ({told})' if told else ''}"


def _alpha(records: Sequence[Record]) -> str:
    settings = [record.settings for record in records]
    rule = "\\alpha/\\sqrt{r}" if any(item.get("use_rslora") for item in settings) else "\\alpha/r"
    values = {item.get("lora_alpha") for item in settings}
    if "lora_alpha" not in settings[0]:
        return ""
    if values <= {None} or all(item.get("lora_alpha") in (None, item.get("rank")) for item in settings):
        return f" with $\\alpha = r$ and scaling ${rule}$"
    given = sorted(f"{value:g}" for value in values if value is not None)
    return f" with $\\alpha$ of {_listed(given)} and scaling ${rule}$"


def _intervals(methods: Sequence[str]) -> str:
    if not methods:
        return "no interval is given"
    words: Mapping[str, str] = {"sign-flip test inverted": "the 95\\,\\% intervals invert this test"}
    return " and ".join(words.get(name, f"95\\,\\% intervals are {escape(name)}") for name in methods)


def _sized(value: Any, word: str) -> str:
    return f"{_grouped(value)} {word}" if isinstance(value, int) else ""


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", "{,}")


def _power(value: float) -> str:
    r"""Return a number as LaTeX: 0.003, or $3 \times 10^{-5}$ where it is small."""
    if value >= 1e-3:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
    return f"${float(mantissa):g} \\times 10^{{{int(exponent)}}}$"


def _named(word: str, values: Sequence[int]) -> str:
    """Return "seed 1", "seeds 1 to 7", "ranks 4, 16 and 64"."""
    if len(values) == 1:
        return f"{word} {values[0]}"
    is_run = len(values) > 2 and all(b == a + 1 for a, b in itertools.pairwise(values))
    told = f"{values[0]} to {values[-1]}" if is_run else _listed(list(map(str, values)))
    return f"{word}s {told}"


def _are(count: int, noun: str) -> str:
    return f"is one {noun}" if count == 1 else f"are {count} {noun}s"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _code(value: Any) -> str:
    return rf"\texttt{{{escape(str(value))}}}"
