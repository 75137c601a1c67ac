"""What a trainable is: a named, versioned function from a config and inputs to files and metrics.

A trainable knows nothing of sweeps, Ray, Optuna or MLflow. It is a generator: every `yield` is a point
where whoever runs it may report, show progress or stop it. Planning imports this module, and every module
that defines a trainable, without torch: heavy imports live inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from trainables import source

Scalar: TypeAlias = bool | int | float | str | None
Metrics: TypeAlias = Mapping[str, Scalar]


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line and names the way out."""


class Diverged(Exception):
    """The loss became NaN or infinite: a final result of the run, not a failure of the machine."""


class Stopped(Exception):
    """The run was asked to stop and has left a checkpoint; the next attempt goes on from there."""


class Config(BaseModel):
    """What decides a run's result, and nothing else; frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def identity(self) -> dict[str, Any]:
        """Return the JSON-able part that enters the run's digest: everything, unless a subclass knows better."""
        return self.model_dump(mode="json")


class Place(Config):
    """Where and how a run executes: provenance, never identity (contract C1). Set with `--place`."""

    workers: int = Field(1, ge=1, description="processes of one run; more than one is a gang")
    cpus: float = Field(1, gt=0, description="CPU cores per worker; also its number of threads")
    gpus: float = Field(0, ge=0, description="GPUs per worker; a fraction shares one")
    memory_gib: float | None = Field(None, gt=0, description="memory to reserve per worker, GiB")
    device_memory_gib: float | None = Field(
        None,
        gt=0,
        description="memory of one GPU, GiB (nvidia-smi's MiB / 1024); what a run needs is checked against it",
    )
    strategy: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where gpus > 0, else cpu")
    per_device_batch_size: int | None = Field(None, ge=1, description="micro-batch; default: the whole batch")
    evaluation_batch_size: int = Field(32, ge=1, description="sequences in one forward pass of an evaluation")
    gradient_checkpointing: bool = False
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage; 0: no DeepSpeed")
    offload: bool = Field(False, description="keep ZeRO's optimiser state in CPU memory")
    log_every: int = Field(1, ge=1, description="steps between logged training losses")
    checkpoint_every: int = Field(20, ge=1, description="steps between checkpoints")

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """The kind of device that a worker computes on."""
        return self.device if self.device != "auto" else ("cuda" if self.gpus else "cpu")

    @property
    def label(self) -> str:
        """The devices of a run in a word or two: cpu, or 2 x cuda."""
        return self.kind if self.workers == 1 else f"{self.workers} x {self.kind}"


@dataclass(frozen=True)
class Progress:
    """One yield of a trainable: how far it is, and what it measured at this step (may be nothing)."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One worker of a run that several processes share: its rank, how many they are, and where rank 0 listens."""

    rank: int
    size: int
    address: str
    port: int


@dataclass
class Context:
    """What a run is given: its inputs' folders, a folder to fill, and where it executes.

    `output` becomes the artefact when the run ends. `checkpoints` is this attempt's folder for checkpoints;
    `resume_from` is the newest complete checkpoint of an earlier attempt. `cache` lives as long as the
    process: a warm worker keeps tokenised data and imports there. When `stop_requested()` turns true, write a
    checkpoint and raise `Stopped`.

    A run of several workers calls `run` in each of them with another `member`. All advance their generators in step;
    what rank 0 yields and returns counts, and what it writes to `output`. `stop_requested` may answer differently in
    each worker at one moment: they have to agree. Raising in one of them ends them all.
    """

    run_id: str
    inputs: Mapping[str, Path]
    output: Path
    checkpoints: Path
    place: Place
    resume_from: Path | None = None
    log: Callable[[str], None] = print
    stop_requested: Callable[[], bool] = lambda: False
    cache: MutableMapping[str, Any] = field(default_factory=dict)
    member: Member | None = None


def kept_of_last(cache: MutableMapping[str, Any], name: str, subject: tuple[Any, ...]) -> MutableMapping[str, Any]:
    """Return what a process keeps under a name of this subject, to be added to; that of any other is dropped."""
    if cache.get(name, (None, {}))[0] != subject:
        cache[name] = (subject, {})
    kept: MutableMapping[str, Any] = cache[name][1]
    return kept


class Planner(Protocol):
    """What a trainable may ask of the planner while its config is pinned (see `Trainable.pin`)."""

    def fingerprint(self, path: Path) -> str:
        """Return the sha256 of a file, or of a folder's files and names; cached by path, size and time."""

    def directory(self) -> Path:
        """Return the folder that relative paths of the command line start from."""


def _pin_nothing(config: Any, planner: Planner) -> Any:
    return config


def _check_nothing(config: Any, inputs: Mapping[str, Path]) -> None:
    return None


def _no_cost(config: Any) -> float:
    return 1.0


def _no_plugins(config: Any) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Trainable:
    """A stage's function with its name, version and config type.

    run       generator; yields `Progress`, returns the final metrics; raises `Diverged`, `Stopped`, `InputError`
    roles     the inputs it can read; `needs(config)` says which of them this config does read. A role that a study
              fills with several runs reaches `Context.inputs` as ROLE_1, ROLE_2, ...
    pin       replaces what a name points at now (a file, a hub revision, `auto`) by its content or value; pure
              but for looking; raises `InputError`
    check     raises `InputError` for what can be known before anything trains; is given the folders of those
              inputs that exist already, so it is called at planning and again once the inputs are there
    cost_s    a rough guess of core-seconds, used until there are records to learn from
    plugins   files and folders below trainables/ that it finds by a name in its config, not by an import statement
    prepares  true for what must be there before any training is worth starting (base model, data)
    """

    name: str
    version: int
    config: type[Config]
    run: Callable[[Any, Context], Generator[Progress, None, Metrics]]
    roles: tuple[str, ...] = ()
    needs: Callable[[Any], tuple[str, ...]] | None = None
    pin: Callable[[Any, Planner], Any] = _pin_nothing
    check: Callable[[Any, Mapping[str, Path]], None] = _check_nothing
    cost_s: Callable[[Any], float] = _no_cost
    plugins: Callable[[Any], tuple[str, ...]] = _no_plugins
    prepares: bool = False

    def needed_roles(self, config: Config) -> tuple[str, ...]:
        """Return the roles that a run with this config reads."""
        return self.roles if self.needs is None else self.needs(config)

    def source_digest(self, config: Config) -> str:
        """Return a digest of the code that decides the result; `plan` warns when it changed unversioned."""
        return source.digest(Path(self.run.__code__.co_filename), self.plugins(config))
