"""The sources that a study may cite. Looked up, never guessed: an entry has a DOI or an arXiv number, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reference:
    """One entry: `fields` are BibTeX's, in plain text with LaTeX accents; `marks` are what a reference is known by."""

    key: str
    kind: str
    fields: Mapping[str, str]
    marks: tuple[str, ...] = field(default=())

    @property
    def bibtex(self) -> str:
        """The entry as BibTeX."""
        rows = ",\n".join(f"  {name} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{rows},\n}}\n"

    @property
    def text(self) -> str:
        """The entry as a line of text."""
        authors = [_plain(name) for name in self.fields.get("author", "").split(" and ") if name]
        is_whole = len(authors) <= 3 and "others" not in authors
        shown = authors if is_whole else [authors[0], "et al."]
        where = ("journal", "booktitle", "publisher", "howpublished", "note")
        place = next((_plain(self.fields[name]) for name in where if name in self.fields), "")
        joined = "; ".join(shown).replace("; et al.", " et al.")
        told = f"{joined} ({self.fields['year']})" if "year" in self.fields else joined
        return ". ".join(part for part in (told, _plain(self.fields.get("title", "")), place) if part) + "."

    @property
    def link(self) -> str:
        """Where to read it: a DOI, an arXiv page, a URL; empty if none is known."""
        if "doi" in self.fields:
            return f"https://doi.org/{self.fields['doi']}"
        if "eprint" in self.fields:
            return f"https://arxiv.org/abs/{self.fields['eprint']}"
        return self.fields.get("url", "")


def _plain(text: str) -> str:
    """Return BibTeX's text without braces and accents."""
    for mark, letter in ACCENTS.items():
        text = text.replace(mark, letter)
    text = re.sub(r"\\url\{([^}]*)\}", r"\1", text)
    return text.replace("{", "").replace("}", "").replace("--", "–").replace("\\&", "&")


ACCENTS = {
    r"{\"o}": "ö",
    r"{\'i}": "í",
    r"{\'e}": "é",
    r"{\'c}": "ć",
    r"{\v{c}}": "č",
    r"{\'\i}": "í",
}


LIBRARY: dict[str, Reference] = {
    entry.key: entry
    for entry in (
        Reference(
            "liu2022ia3",
            "inproceedings",
            {
                "title": "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
                "author": "Liu, Haokun and Tam, Derek and Muqeeth, Mohammed and Mohta, Jay and Huang, Tenghao and "
                "Bansal, Mohit and Raffel, Colin",
                "booktitle": "Advances in Neural Information Processing Systems",
                "volume": "35",
                "year": "2022",
                "eprint": "2205.05638",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "allal2025smollm2",
            "misc",
            {
                "title": "{SmolLM2}: When Smol Goes Big -- Data-Centric Training of a Small Language Model",
                "author": "Ben Allal, Loubna and Lozhkov, Anton and Bakouch, Elie and others",
                "year": "2025",
                "eprint": "2502.02737",
                "archiveprefix": "arXiv",
            },
            marks=("smollm2",),
        ),
        Reference(
            "yang2024qwenmath",
            "misc",
            {
                "title": "{Qwen2.5-Math} Technical Report: Toward Mathematical Expert Model via Self-Improvement",
                "author": "Yang, An and Zhang, Beichen and Hui, Binyuan and others",
                "year": "2024",
                "eprint": "2409.12122",
                "archiveprefix": "arXiv",
            },
            marks=("qwen2.5-math",),
        ),
        Reference(
            "stojanovski2025reasoninggym",
            "misc",
            {
                "title": "{Reasoning Gym}: Reasoning Environments for Reinforcement Learning with Verifiable Rewards",
                "author": "Stojanovski, Zafir and Stanley, Oliver and Sharratt, Joe and Jones, Richard and "
                r"Adefioye, Abdulhakeem and Kaddour, Jean and K{\"o}pf, Andreas",
                "year": "2025",
                "eprint": "2505.24760",
                "archiveprefix": "arXiv",
            },
            marks=("reasoning_gym", "generated"),
        ),
        Reference(
            "hu2022lora",
            "inproceedings",
            {
                "title": "{LoRA}: Low-Rank Adaptation of Large Language Models",
                "author": "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi "
                "and Wang, Shean and Wang, Lu and Chen, Weizhu",
                "booktitle": "International Conference on Learning Representations",
                "year": "2022",
                "eprint": "2106.09685",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "eckart1936",
            "article",
            {
                "title": "The Approximation of One Matrix by Another of Lower Rank",
                "author": "Eckart, Carl and Young, Gale",
                "journal": "Psychometrika",
                "volume": "1",
                "number": "3",
                "pages": "211--218",
                "year": "1936",
                "doi": "10.1007/BF02288367",
            },
        ),
        Reference(
            "meng2024pissa",
            "inproceedings",
            {
                "title": "{PiSSA}: Principal Singular Values and Singular Vectors Adaptation of Large Language Models",
                "author": "Meng, Fanxu and Wang, Zhaohui and Zhang, Muhan",
                "booktitle": "Advances in Neural Information Processing Systems",
                "year": "2024",
                "eprint": "2404.02948",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "vulic2026squeeze",
            "misc",
            {
                "title": "{LoRA-Squeeze}: Simple and Effective Post-Tuning and In-Tuning Compression of {LoRA} Modules",
                "author": r"Vuli{\'c}, Ivan and others",
                "year": "2026",
                "eprint": "2602.10993",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "mezzadri2007",
            "article",
            {
                "title": "How to Generate Random Matrices from the Classical Compact Groups",
                "author": "Mezzadri, Francesco",
                "journal": "Notices of the American Mathematical Society",
                "volume": "54",
                "number": "5",
                "pages": "592--604",
                "year": "2007",
                "eprint": "math-ph/0609050",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "kalajdzievski2023rslora",
            "misc",
            {
                "title": "A Rank Stabilization Scaling Factor for Fine-Tuning with {LoRA}",
                "author": "Kalajdzievski, Damjan",
                "year": "2023",
                "eprint": "2312.03732",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "loshchilov2019decoupled",
            "inproceedings",
            {
                "title": "Decoupled Weight Decay Regularization",
                "author": "Loshchilov, Ilya and Hutter, Frank",
                "booktitle": "International Conference on Learning Representations",
                "year": "2019",
                "eprint": "1711.05101",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "fisher1935design",
            "book",
            {
                "title": "The Design of Experiments",
                "author": "Fisher, Ronald A.",
                "publisher": "Oliver and Boyd",
                "address": "Edinburgh",
                "year": "1935",
            },
        ),
        Reference(
            "westfall1993",
            "book",
            {
                "title": "Resampling-Based Multiple Testing: Examples and Methods for p-Value Adjustment",
                "author": "Westfall, Peter H. and Young, S. Stanley",
                "publisher": "Wiley",
                "address": "New York",
                "year": "1993",
            },
        ),
        Reference(
            "holm1979",
            "article",
            {
                "title": "A Simple Sequentially Rejective Multiple Test Procedure",
                "author": "Holm, Sture",
                "journal": "Scandinavian Journal of Statistics",
                "volume": "6",
                "number": "2",
                "pages": "65--70",
                "year": "1979",
                "url": "https://www.jstor.org/stable/4615733",
            },
        ),
        Reference(
            "fieller1954",
            "article",
            {
                "title": "Some Problems in Interval Estimation",
                "author": "Fieller, E. C.",
                "journal": "Journal of the Royal Statistical Society: Series B (Methodological)",
                "volume": "16",
                "number": "2",
                "pages": "175--185",
                "year": "1954",
                "doi": "10.1111/j.2517-6161.1954.tb00159.x",
            },
        ),
        Reference(
            "schuirmann1987",
            "article",
            {
                "title": "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the "
                "Equivalence of Average Bioavailability",
                "author": "Schuirmann, Donald J.",
                "journal": "Journal of Pharmacokinetics and Biopharmaceutics",
                "volume": "15",
                "number": "6",
                "pages": "657--680",
                "year": "1987",
                "doi": "10.1007/BF01068419",
            },
        ),
        Reference(
            "paszke2019pytorch",
            "inproceedings",
            {
                "title": "{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
                "author": "Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and others",
                "booktitle": "Advances in Neural Information Processing Systems",
                "year": "2019",
                "eprint": "1912.01703",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "wolf2020transformers",
            "inproceedings",
            {
                "title": "Transformers: State-of-the-Art Natural Language Processing",
                "author": "Wolf, Thomas and Debut, Lysandre and Sanh, Victor and Chaumond, Julien and others",
                "booktitle": "Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing: "
                "System Demonstrations",
                "pages": "38--45",
                "year": "2020",
                "doi": "10.18653/v1/2020.emnlp-demos.6",
            },
        ),
        Reference(
            "peft",
            "misc",
            {
                "title": "{PEFT}: State-of-the-Art Parameter-Efficient Fine-Tuning Methods",
                "author": "Mangrulkar, Sourab and Gugger, Sylvain and Debut, Lysandre and Belkada, Younes and "
                "Paul, Sayak and Bossan, Benjamin",
                "howpublished": r"\url{https://github.com/huggingface/peft}",
                "url": "https://github.com/huggingface/peft",
                "year": "2022",
            },
        ),
        Reference(
            "liaw2018tune",
            "misc",
            {
                "title": "Tune: A Research Platform for Distributed Model Selection and Training",
                "author": "Liaw, Richard and Liang, Eric and Nishihara, Robert and Moritz, Philipp and "
                "Gonzalez, Joseph E. and Stoica, Ion",
                "year": "2018",
                "eprint": "1807.05118",
                "archiveprefix": "arXiv",
            },
        ),
        Reference(
            "rajbhandari2020zero",
            "inproceedings",
            {
                "title": "{ZeRO}: Memory Optimizations Toward Training Trillion Parameter Models",
                "author": "Rajbhandari, Samyam and Rasley, Jeff and Ruwase, Olatunji and He, Yuxiong",
                "booktitle": "International Conference for High Performance Computing, Networking, Storage and "
                "Analysis ({SC20})",
                "year": "2020",
                "eprint": "1910.02054",
                "archiveprefix": "arXiv",
            },
        ),
    )
}
