"""`export`: what a fine-tuned model learnt, as a LoRA adapter on its base; for any two checkpoints, without a study.

The change dW of every linear layer is factorised (singular value decomposition, with a certificate), cut to the ranks
that you choose, written as a PEFT adapter, loaded again and compared with base + dW on logits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.options import add_json, print_json

if TYPE_CHECKING:
    from trainables.adapter_export import AdapterExportConfig
    from trainables.data.config import DatasetConfig

CRITERIA = {"rank": "rank", "energy": "energy", "error": "error", "budget": "parameters"}
"""The options that choose ranks, and the setting that each of them is."""
SENSE = {
    "rank": "a number of singular triplets, 1 or more, such as 16",
    "energy": "a share of ||dW||^2 between 0 and 1, such as 0.9",
    "error": "a share of ||dW|| between 0 and 1, such as 0.15",
    "budget": "a number of parameters, 1 or more, such as 2000000",
}

EPILOG = """\
how many singular triplets each layer keeps (exactly one of these)
  --rank 16        the same for all; a smaller layer keeps all it has
  --energy 0.9     in each layer the fewest that keep 90 % of its ||dW||^2, the sum of squared singular values
  --error 0.15     in each layer the fewest with ||dW - dW_r|| / ||dW|| of at most 0.15, which is an energy of 0.9775:
                   error^2 = 1 - energy, so an energy of 0.85 is an error of 0.39, and not of 0.15
  --budget 2000000 the best use of so many adapter parameters over all layers; some may get none

examples
  python -m orchestrator export --base ./base --tuned ./tuned --rank 16 --out adapter
  python -m orchestrator export --base Qwen/Qwen2.5-0.5B --tuned Qwen/Qwen2.5-0.5B-Instruct --energy 0.9 --out adapter
  python -m orchestrator export --base ./base --tuned ./tuned --budget 2000000 --layers attention --layers 0-11 \\
      --data questions.json --out adapter      held-out loss of base, tuned and every rank between, on your items

The adapter is OUT itself: PeftModel.from_pretrained(base, "OUT"). OUT/README.md says what it holds, OUT/report has the
tables and figures. Stopped or killed, the same command goes on from the finished layers; finished, it does nothing.
"""


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export",
        help="a LoRA adapter from any two checkpoints",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = "a folder of safetensors, or a hub id (org/name, org/name@revision)"
    parser.add_argument("--base", metavar="MODEL", required=True, help=f"the model that training started from: {about}")
    parser.add_argument("--tuned", metavar="MODEL", required=True, help="the model that came of it, likewise")
    parser.add_argument("--out", metavar="DIR", required=True, help="the adapter's folder: new, empty, or unfinished")
    ranks = parser.add_argument_group("ranks").add_mutually_exclusive_group(required=True)
    ranks.add_argument("--rank", metavar="R", type=int, help="the same rank for every layer")
    ranks.add_argument("--energy", metavar="E", type=float, help="share of each layer's ||dW||^2 that is kept")
    ranks.add_argument("--error", metavar="E", type=float, help="relative error of each layer, sqrt(1 - energy)")
    ranks.add_argument("--budget", metavar="N", type=int, help="parameters of the whole adapter, spent where they tell")
    _add_adapter(parser.add_argument_group("the adapter"))
    _add_data(parser.add_argument_group("what the ranks do (optional)"))
    where = parser.add_argument_group("where it runs")
    where.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: GPUs if there are")
    where.add_argument("--threads", metavar="N", type=int, help="CPU cores, one layer on each (default: all)")
    add_json(parser)
    parser.set_defaults(execute=execute)


def _add_adapter(group: Any) -> None:
    group.add_argument(
        "--layers",
        metavar="A,B",
        action="append",
        default=[],
        help="only these: depths (3, 0-11), attention or mlp, types (q_proj), names or globs (model.layers.3.*); "
        "given again, a layer must satisfy all",
    )
    group.add_argument("--alpha", metavar="A", type=float, help="lora_alpha of all layers (default: each one's rank)")
    group.add_argument("--rslora", action="store_true", help="scaling alpha / sqrt(rank) instead of alpha / rank")
    group.add_argument("--balanced", action="store_true", help="A = sqrt(S) V^T, B = U sqrt(S) (default: V^T and U S)")
    group.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the adapter (default: fp32)")


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data",
        metavar="DATA",
        help="measure the held-out loss on it: a file (.json .jsonl .csv .parquet), the folder of a finished dataset "
        "run (its test side), a hub id or a reasoning-gym task",
    )
    group.add_argument("--data-items", metavar="N", type=int, default=200, help="at most so many items (default: 200)")
    group.add_argument(
        "--data-set",
        metavar="SETTING=VALUE",
        action="append",
        default=[],
        help="a setting of the dataset stage, such as chat_template=true or prompt=question (repeatable)",
    )


def execute(options: argparse.Namespace) -> int:
    """Make the adapter; print what it keeps on stdout."""
    from orchestrator import export

    config = _config(options)
    out = Path(options.out).expanduser().absolute()
    export.check_out(out)
    base = export.find_checkpoint("--base", options.base)
    tuned = export.find_checkpoint("--tuned", options.tuned)
    names = {"base_name": base.name, "base_revision": base.revision}
    names |= {"tuned_name": tuned.name, "tuned_revision": tuned.revision}
    request = export.Request(base, tuned, config.model_copy(update=names), out, options.device, options.threads)
    code, result = export.execute(request, export.say)
    if result is not None and options.json:
        print_json(result)
    elif result is not None:
        print("\n".join(_told(result)))
    return code


def _config(options: argparse.Namespace) -> AdapterExportConfig:
    """Return the typed config; raises UserError naming the option whose value does not fit."""
    from pydantic import ValidationError

    from orchestrator.errors import UserError
    from trainables.adapter_export import AdapterExportConfig

    chosen = next(name for name in CRITERIA if getattr(options, name) is not None)
    settings = {"ranks": {CRITERIA[chosen]: getattr(options, chosen)}, "lora_alpha": options.alpha}
    settings |= {"use_rslora": options.rslora, "balanced": options.balanced, "dtype": options.dtype}
    settings |= {"layers": [text.split(",") for text in options.layers], "data_items": options.data_items}
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more")
    try:
        return AdapterExportConfig.model_validate({**settings, "data": _data(options)})
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        if name == "ranks":
            raise UserError(f"--{chosen} {getattr(options, chosen)}: it is {SENSE[chosen]}") from None
        option = {"lora_alpha": f"--alpha {options.alpha}", "data_items": f"--data-items {options.data_items}"}
        raise UserError(f"{option.get(str(name), name)}: {error.errors()[0]['msg']}") from None


def _data(options: argparse.Namespace) -> DatasetConfig | None:
    """Return the dataset's config, or None; raises UserError for a setting that it has not, or a value that misfits."""
    from pydantic import ValidationError

    from orchestrator.errors import UnknownName, UserError
    from trainables.data.config import DatasetConfig

    if options.data is None:
        if options.data_set:
            raise UserError(f"--data-set {options.data_set[0]}: there is no --data that it could belong to")
        return None
    settings: dict[str, Any] = {"source": options.data, "items": max(3, options.data_items)}
    for text in options.data_set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--data-set {text}: write it as SETTING=VALUE, such as chat_template=true")
        if name not in DatasetConfig.model_fields:
            known = DatasetConfig.model_fields
            raise UnknownName(f"--data-set {text}: the dataset has no setting {name!r}", known, name, "Settings")
        settings[name] = _literal(value)
    try:
        return DatasetConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--data-set {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _literal(text: str) -> Any:
    """Return the value of a JSON literal (true, 40), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _told(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was kept, how it was checked, what to beware of, and how to load it."""
    from trainables.export.words import percent

    low, high = result["smallest_rank"], result["largest_rank"]
    ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
    size = percent(result["parameters"] / result["layer_parameters"])
    yield f"{result['out']}: a LoRA adapter of {result['parameters']:,} parameters, {size} of its layers' own"
    yield f"  layers    {result['layers_adapted']} of {result['layers']} factorised, {ranks}"
    yield f"  keeps     {percent(result['energy'])} of these layers' ||dW||^2 (relative error {result['error']:.3f})"
    yield f"  outside   {percent(result['outside_share'])} of the model's ||dW||^2 lies outside these layers"
    if "loss_adapter" in result:
        share = result["functional_gain"]
        said = "the tuned model is no better here" if share is None else f"{100 * share:.0f} % of the improvement"
        losses = f"base {result['loss_base']:.3f}, tuned {result['loss_tuned']:.3f}"
        yield f"  function  held-out loss {result['loss_adapter']:.3f} ({losses}): {said}"
    yield (
        f"  checked   loaded by PEFT, its logits differ from those of base + dW by {result['reload_difference']:.1e} "
        f"of the change (rounding: up to {result['reload_tolerance']:.1e})"
    )
    if result["near_noise_layers"]:
        yield (
            f"  WARNING   {result['near_noise_layers']} of {result['layers']} layers changed by less than ten times "
            "the rounding noise of the stored weights."
        )
        yield "            There the adapter and its energies are of that noise as much as of the training:"
        yield "            export a tuned model that was saved in fp32, if there is one."
    yield f"  report    {result['out']}/report/report.txt"
    model = f"AutoModelForCausalLM.from_pretrained({json.dumps(result['base'], ensure_ascii=False)})"
    yield f"  load it   PeftModel.from_pretrained({model}, {json.dumps(result['out'], ensure_ascii=False)})"
