"""The sources of the methods that a study used, as BibTeX and as text; none that it did not use.

What a source is cited for is looked for in the study: an init by what its file gives as reference, a library by the
records' packages, a model or a data generator by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.report.material import Material
from orchestrator.report.paper.library import LIBRARY, Reference
from orchestrator.results import arm_stage


def used(material: Material) -> list[Reference]:
    """Return the references of a study, in the order in which its methods are told; each once."""
    found = [reference for key in _keys(material) if (reference := LIBRARY.get(key))]
    found += list(_of_unknown_inits(material))
    return list({reference.key: reference for reference in found}.values())


def _keys(material: Material) -> Iterator[str]:
    text = " ".join(_names(material)).lower()
    yield from (key for key, reference in LIBRARY.items() if any(mark in text for mark in reference.marks))
    yield "hu2022lora"
    yield from (key for told in init_references(material).values() for key in keys_in(told))
    if any(record.trainable == "ia3" for record in material.records.values()):
        yield "liu2022ia3"
    if any(_setting(material, "use_rslora")):
        yield "kalajdzievski2023rslora"
    yield "loshchilov2019decoupled"
    if material.summary.differences:
        yield "fisher1935design"
        yield from (ADJUSTED_BY[method] for method in adjustments(material))
    if material.summary.quotes:
        yield "fieller1954"
    if material.summary.margin is not None:
        yield "schuirmann1987"
    yield from (key for package, key in PACKAGES.items() if package in packages(material))
    if is_distributed(material):
        yield "rajbhandari2020zero"


def adjustments(material: Material) -> list[str]:
    """Return how the family's p were adjusted: westfall-young, holm, or both where lost runs made it so."""
    used = [item.adjusted_by for item in material.summary.differences if item.p_adjusted is not None]
    return list(dict.fromkeys(str(method) for method in used or [material.summary.method] if method in ADJUSTED_BY))


ADJUSTED_BY = {"westfall-young": "westfall1993", "holm": "holm1979"}


def init_references(material: Material) -> dict[str, str]:
    """Return, for every arm, what the file of its init gives as its reference."""
    from trainables import inits

    return {arm: inits.find(init).reference for arm, init in inits_of(material).items() if init in inits.names()}


def inits_of(material: Material) -> dict[str, str]:
    """Return the init of every arm whose students have one and the same; nothing where all arms have that one."""
    family = material.family
    if family.arm is None or "init" not in family.rows:
        return {}
    found = {arm: set(family.rows_of(arm, family.rows)["init"].dropna()) for arm in family.arms}
    known = {arm: str(*inits) for arm, inits in found.items() if len(inits) == 1}
    return known if len(set(known.values())) > 1 else {}


def keys_in(reference: str) -> list[str]:
    """Return the keys of the library's entries that an init's reference names: by arXiv id, or by authors."""
    return [key for key, marks in INIT_MARKS.items() if any(mark in reference for mark in marks)]


def packages(material: Material) -> dict[str, str]:
    """Return the versions of the libraries that the records name, of several versions all.

    Records name what is installed: DeepSpeed counts where a run had several workers, Ray unless it was `--local`.
    """
    found: dict[str, set[str]] = {}
    for record in material.records.values():
        for name, version in record.provenance.packages.items():
            found.setdefault(name, set()).add(version)
    if not is_distributed(material):
        found.pop("deepspeed", None)
    if "--local" in material.command.split():
        found.pop("ray", None)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def is_distributed(material: Material) -> bool:
    """Say whether a run had several workers, which DeepSpeed trains."""
    return any(int(record.provenance.place.get("workers", 1)) > 1 for record in material.records.values())


def _of_unknown_inits(material: Material) -> Iterator[Reference]:
    """Yield an entry for an init whose reference the library lacks, with no more in it than its file says."""
    for arm, told in init_references(material).items():
        arxiv = re.search(r"arXiv (\d{4}\.\d{4,5})", told)
        if arxiv and not keys_in(told):
            fields = {"title": f"{{{arm}}}: {told}", "eprint": arxiv[1], "archiveprefix": "arXiv"}
            yield Reference(f"arxiv{arxiv[1].replace('.', '')}", "misc", fields)


def _names(material: Material) -> Iterator[str]:
    """Yield what models and data are called in the configs of the records."""
    for record in material.records.values():
        if record.stage in ("base_model", "dataset"):
            yield from (str(record.settings.get(name)) for name in ("source", "task"))
            yield str(record.metrics.get("task"))
            yield str(record.config.get("kind")) if record.config.get("kind") == "generated" else ""


def _setting(material: Material, name: str) -> list[object]:
    stage = arm_stage(material.plan.study)
    return [record.settings.get(name) for record in material.records.values() if record.stage == stage]


INIT_MARKS = {
    "hu2022lora": ("2106.09685",),
    "meng2024pissa": ("2404.02948",),
    "eckart1936": ("Eckart",),
    "vulic2026squeeze": ("2602.10993",),
    "mezzadri2007": ("0609050",),
}
PACKAGES = {
    "torch": "paszke2019pytorch",
    "transformers": "wolf2020transformers",
    "peft": "peft",
    "ray": "liaw2018tune",
}
