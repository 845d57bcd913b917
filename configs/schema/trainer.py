"""The training loop: length, machine, precision, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from detector.configs.errors import require


class OnNonFinite(Enum):
    """What a loss that is not finite does."""

    stop = "stop"  # ends the run with code 4 and says why
    skip = "skip"  # the step is left out
    rollback = "rollback"  # the weights go back to the last checkpoint, the images go on


@dataclass
class TrainerConfig:
    max_steps: int = 40000  # length of training; one step is one update of the weights
    trained: list[str] | None = None  # modules that learn, as head or backbone.layer4; None: all not frozen
    max_minutes: float | None = None  # stop, evaluate and save after this long
    images_per_step: int = 2  # over all processes and micro-batches
    micro_batches: int = 1  # a process takes its images in so many parts, one after the other: less memory, same step
    workers: int = 2  # processes that load images; 0: the main process
    prefetch: int = 2  # batches that each worker keeps ready
    group_by_aspect: bool = False  # batches of wide or of tall images: less padding (py-faster-rcnn's ASPECT_GROUPING)
    profile_steps: int = 0  # so many steps after the first few are traced, into the run's folder
    seed: int = 3  # the original's
    device: str = "auto"  # auto: the GPU if there is one; or cpu, cuda, cuda:1
    threads: int | None = None  # CPU threads of the main process; None: torch's choice
    deterministic: bool = False  # two runs with one seed give the same checkpoint, bit for bit
    precision: str = "fp32"  # fp32 | bf16 | fp16 | auto: bf16 where the machine computes it in hardware, else fp32
    ema_decay: float | None = None  # 0.999: evaluate the weights' moving average; None: the weights themselves
    patience: int | None = None  # stop after so many evaluations without a better figure; None: never
    on_nonfinite: OnNonFinite = OnNonFinite.stop  # what a loss that is not finite does
    compile: bool = False  # backbone and tail by torch.compile; set input.canvas_multiple too
    gradient_checkpointing: bool = False  # of ResNets and VGG: less memory, a third more time
    sync_batch_norm: bool = True  # of several processes: statistics of norm=bn over the images of all
    timeout_minutes: float = 15.0  # after which a process of several that is stuck ends the run
    log_every: int = 20  # steps between two lines of the log and TensorBoard
    eval_every: int = 5000  # 0: only at the end
    eval_images: int = 4  # test images drawn in TensorBoard at each evaluation
    checkpoint_every: int = 1000  # `last`; every `keep_every` steps one is kept
    keep_every: int = 0  # 0: none besides last and best
    keep_newest: int | None = None  # how many of those kept stay; None: all

    def __post_init__(self) -> None:
        require(self.images_per_step >= 1, f"trainer.images_per_step is {self.images_per_step}; expected at least 1")
        require(self.max_steps >= 1, f"trainer.max_steps is {self.max_steps}; expected at least 1")
        require(self.log_every >= 1, f"trainer.log_every is {self.log_every}; expected at least 1")
        require(self.micro_batches >= 1, f"trainer.micro_batches is {self.micro_batches}; expected at least 1")
        require(
            self.images_per_step % self.micro_batches == 0,
            f"trainer.images_per_step is {self.images_per_step}; expected a multiple of trainer.micro_batches, "
            f"{self.micro_batches}",
        )
        require(
            self.ema_decay is None or 0 <= self.ema_decay < 1,
            f"trainer.ema_decay is {self.ema_decay}; expected at least 0 and below 1",
        )
        require(self.patience is None or self.patience >= 1, f"trainer.patience is {self.patience}; expected 1 or more")
        require(self.timeout_minutes > 0, f"trainer.timeout_minutes is {self.timeout_minutes}; expected above 0")
        require(self.prefetch >= 1, f"trainer.prefetch is {self.prefetch}; expected at least 1")
        require(self.profile_steps >= 0, f"trainer.profile_steps is {self.profile_steps}; expected 0 or more")
        require(self.workers >= 0, f"trainer.workers is {self.workers}; expected 0 or more")
        require(
            self.precision in ("fp32", "bf16", "fp16", "auto"),
            f"trainer.precision is {self.precision!r}; use fp32, bf16, fp16 or auto",
        )
