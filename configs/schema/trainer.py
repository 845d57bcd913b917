"""The training loop: length, machine, precision, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require


class OnNonFinite(Enum):
    """The action if a loss is not finite."""

    stop = "stop"  # end the run with exit code 4
    skip = "skip"  # skip the update
    rollback = "rollback"  # load the weights of the last checkpoint and continue with the next images


@dataclass
class TrainerConfig:
    """The training loop, its evaluations and its checkpoints."""

    max_steps: int = 40000  # length of training; one step is one update of the weights
    trained: list[str] | None = None  # modules to train, such as head or backbone.layer4; None: all that are not frozen
    max_minutes: float | None = None  # stop, evaluate and save after this many minutes; None: no limit
    images_per_step: int = 2  # number of images of a step, over all processes and micro-batches
    micro_batches: int = 1  # parts of a step, computed one after the other: less memory, same result
    workers: int = 2  # number of processes that load images; 0: the main process loads them
    prefetch: int = 2  # number of batches that each worker prepares in advance
    group_by_aspect: bool = False  # a batch has only wide or only tall images: less padding (py-faster-rcnn)
    profile_steps: int = 0  # number of steps to profile, after the first few; the trace goes into the run's folder
    seed: int = 3  # seed of all random numbers; 3 as in fast-rcnn
    device: str = "auto"  # auto: the GPU if there is one; or cpu, cuda, cuda:1
    threads: int | None = None  # CPU threads of the main process; None: torch's default
    deterministic: bool = False  # two runs with the same seed give the same checkpoint, bit for bit
    precision: str = "fp32"  # fp32 | bf16 | fp16 | auto: bf16 if the machine has hardware for it, else fp32
    ema_decay: float | None = None  # evaluate a moving average of the weights with this decay: 0.999; None: no average
    patience: int | None = None  # stop after this many evaluations without a better mAP; None: never
    on_nonfinite: OnNonFinite = OnNonFinite.stop  # the action if a loss is not finite
    compile: bool = False  # use torch.compile for backbone and tail; set input.canvas_multiple too
    gradient_checkpointing: bool = False  # for ResNets and VGG: less memory, a third more time
    sync_batch_norm: bool = True  # with several processes: statistics of norm=bn are over all of them
    timeout_minutes: float = 15.0  # with several processes: end the run if one is stuck for this many minutes
    log_every: int = 20  # steps between two lines in the log and in TensorBoard
    eval_every: int = 5000  # steps between two evaluations; 0: only at the end
    eval_images: int = 4  # number of test images drawn in TensorBoard at each evaluation
    checkpoint_every: int = 1000  # steps between two saves of the checkpoint `last`
    keep_every: int = 0  # steps between two numbered checkpoints (step_N.pt); 0: none, only last and best
    keep_newest: int | None = None  # number of numbered checkpoints to keep, the newest ones; None: all

    def __post_init__(self) -> None:
        require(
            self.images_per_step % self.micro_batches == 0,
            f"trainer.images_per_step is {self.images_per_step}; expected a multiple of trainer.micro_batches, "
            f"{self.micro_batches}",
        )
        require(
            self.precision in ("fp32", "bf16", "fp16", "auto"),
            f"trainer.precision is {self.precision!r}; use fp32, bf16, fp16 or auto",
        )
