"""`make bench`: compares the speed of the operators with torchvision's, on the same inputs in one process.

Ours and torchvision's run in turn, one call each. So a disturbance affects both, and each starts with the caches as the
other left them. Times are medians; the ratio is the median of the ratios of two successive calls. On one CPU thread,
the time is the thread's CPU time, so other programs on the machine do not count. On a GPU, both are timed eagerly (the
time that a user waits) and as CUDA graphs (the time of the device), with the inputs in the L2 cache and with other data
in it. Results are written to docs/benchmarks as JSON and as a table after every case. If a case fails, its error is
recorded, and the other cases go on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

from detector.ops import native_status
from detector.pipeline.versions import commit, cpu_name
from detector.tools.bench.op_cases import CASES, Case

FOLDER = Path("docs/benchmarks")
MIN_ROUNDS = 5
L2_FLUSH_BYTES = 256 << 20  # more than the L2 cache of any GPU


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one contestant: the best call, the median and the quartiles."""

    best: float
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One case, measured in one mode."""

    name: str
    size: str
    mode: str  # "cpu", or "eager", "graph, warm L2" and "graph, cold L2" on a GPU
    headline: bool
    ours: Timing
    torchvision: Timing
    ratio: float  # the median over the rounds

    @property
    def best_ratio(self) -> float:
        """The ratio of the best calls."""
        return self.torchvision.best / self.ours.best


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a run, with the machine and the versions."""

    command: str
    commit: str
    date: str
    device: str
    threads: int
    load: float  # the machine's load average over the last minute
    clock: str  # the kind of CPU time that is measured
    torch: str
    torchvision: str
    compiled: dict[str, str]  # operator -> "compiled" or "pytorch"
    rows: list[Row] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)  # case -> why rows are missing

    def geometric_mean(self, mode: str, *, best: bool = False) -> float:
        """Return the geometric mean of the ratios of a mode; NaN without rows. `best` takes the best calls."""
        rows = [row for row in self.rows if row.mode == mode and row.headline]
        ratios = [math.log(row.best_ratio if best else row.ratio) for row in rows]
        return math.exp(statistics.fmean(ratios)) if ratios else math.nan


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results. Return the exit code."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    report = _empty_report(options, device)
    for case in CASES:
        name = f"{case.name} {case.size}"
        if options.only not in name:
            continue
        try:
            for row in measure(case, device, options.seconds):
                report.rows.append(row)
                print(_line(row), flush=True)
        except Exception as error:
            report.errors[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
            print(f"{name}: {report.errors[name]}", flush=True)
        if not options.only:
            _write(report, options.folder, f"ops-{device.type}")
    for mode in dict.fromkeys(row.mode for row in report.rows):
        best = report.geometric_mean(mode, best=True)
        print(f"geometric mean ({mode}): {report.geometric_mean(mode):.1f}x, of the best calls {best:.1f}x")
    if options.only:
        print("--only measured a part of the cases: nothing is written")
    else:
        print(f"written to {options.folder}/ops-{device.type}.json and .md")
    return 1 if report.errors else 0


def _write(report: Report, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(_as_json(report), indent=1) + "\n")
    (folder / f"{name}.md").write_text(as_markdown(report))


def measure(case: Case, device: torch.device, seconds: float) -> Iterator[Row]:
    """The rows of a case: one on the CPU, up to three on a GPU, all on one separate stream.

    Autograd runs a backward pass on the stream of its forward pass, and a CUDA graph captures only one stream.
    """
    if device.type == "cpu":
        work = case.prepare(device)
        timer = _thread_time if torch.get_num_threads() == 1 else _wall_time
        yield _row(case, "cpu", _in_turn((work.ours, work.peer), timer, seconds))
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work = case.prepare(device)
        contestants = (work.ours, work.peer)
        yield _row(case, "eager", _in_turn(contestants, _eager_time, seconds))
        if case.capturable:
            graphs = tuple(_captured(run, stream) for run in contestants)
            yield _row(case, "graph, warm L2", _in_turn(graphs, _device_time, seconds / 2))
            yield _row(case, "graph, cold L2", _in_turn(graphs, _cold_device_time, seconds / 2))


def _in_turn(
    contestants: tuple[Callable[[], Any], ...], timer: Callable[[Callable[[], Any]], float], seconds: float
) -> tuple[list[float], ...]:
    """Times of ours and of torchvision's in milliseconds, measured in turn for about `seconds`."""
    ours, peer = contestants
    timer(ours), timer(peer), timer(ours)  # warm up
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < MIN_ROUNDS:
        times[0].append(timer(ours))
        times[1].append(timer(peer))
    return times


def _wall_time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def _thread_time(run: Callable[[], Any]) -> float:
    start = time.thread_time()
    run()
    return (time.thread_time() - start) * 1e3


def _eager_time(run: Callable[[], Any], calls: int = 10) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3 / calls


def _captured(run: Callable[[], Any], stream: torch.cuda.Stream) -> Callable[[], Any]:
    """Capture `run` as a CUDA graph, without launch overhead. `run` was prepared and warmed up on `stream`."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = run()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def _device_time(replay: Callable[[], Any], calls: int = 20) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / calls


def _cold_device_time(replay: Callable[[], Any], calls: int = 5) -> float:
    """Like `_device_time`, but the L2 cache is overwritten before each replay. This writing is not counted."""
    flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    marks = []
    for _ in range(calls):
        flush.zero_()
        marks.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
        marks[-1][0].record()
        replay()
        marks[-1][1].record()
    torch.cuda.synchronize()
    return statistics.fmean(start.elapsed_time(end) for start, end in marks)


def _row(case: Case, mode: str, times: tuple[list[float], ...]) -> Row:
    ours, peer = (_timing(contestant) for contestant in times)
    ratio = statistics.median(theirs / mine for mine, theirs in zip(*times, strict=True))
    return Row(case.name, case.size, mode, case.headline, ours, peer, ratio)


def _timing(times: list[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(min(times), median, low, high)


def _line(row: Row) -> str:
    return (
        f"{row.name:28} {row.size:38} {row.mode:14} ours {row.ours.median:9.3f} ms"
        f"   torchvision {row.torchvision.median:9.3f} ms   {row.ratio:6.1f}x"
        f"   best {row.best_ratio:6.1f}x"
    )


def as_markdown(report: Report) -> str:
    """The report as a table."""
    lines = [
        f"# The operators compared with torchvision's on {report.device}",
        "",
        f"Made by `{report.command}` at commit {report.commit}, {report.date}; torch {report.torch}, torchvision "
        f"{report.torchvision}, {report.threads} CPU threads, load {report.load:.1f} on {os.cpu_count()} cores.",
        f"Medians (and quartiles) of single calls in turn; {report.clock}.",
        "RoIs: areas log-uniform 16^2 to 500^2 pixels, sides 1:3 to 3:1, image 600x1000, stride 16. torchvision's "
        "`ps_roi_pool` has another rule than R-FCN's, so only its time is compared; `ps_roi_vote` is compared with it "
        "and `mean`. torchvision does not support bfloat16: it casts to fp32 and back. Rows of bfloat16 and "
        "channels-last do not count for the mean.",
        "",
    ]
    for mode in dict.fromkeys(row.mode for row in report.rows):
        lines += [
            f"## {mode}: geometric mean {report.geometric_mean(mode):.1f}x, of the best calls "
            f"{report.geometric_mean(mode, best=True):.1f}x",
            "",
            "| case | size | ours, ms | torchvision, ms | ratio | ratio of the best calls |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.name} | {row.size} | {_spread(row.ours)} | {_spread(row.torchvision)} | {row.ratio:.1f}x "
            f"| {row.best_ratio:.1f}x |"
            for row in report.rows
            if row.mode == mode
        ]
        lines.append("")
    if report.errors:
        lines += ["## Failed", "", *(f"- {name}: {error}" for name, error in report.errors.items()), ""]
    fallbacks = sorted(operator for operator, kernel in report.compiled.items() if kernel != "compiled")
    lines.append(f"Not compiled here, PyTorch kernels ran: {', '.join(fallbacks) or 'none'}.")
    return "\n".join(lines) + "\n"


def _spread(timing: Timing) -> str:
    return f"{timing.median:.3f} ({timing.low:.3f}-{timing.high:.3f})"


def _as_json(report: Report) -> dict[str, Any]:
    values = asdict(report)
    for values_of_row, row in zip(values["rows"], report.rows, strict=True):
        values_of_row["best_ratio"] = row.best_ratio
    values["geometric_mean"] = {row.mode: report.geometric_mean(row.mode) for row in report.rows}
    return values


def _empty_report(options: argparse.Namespace, device: torch.device) -> Report:
    return Report(
        command=f"python -m detector.tools.bench.operators --device {device.type} --seconds {options.seconds:g}"
        + f" --threads {options.threads}" * bool(options.threads),
        commit=commit(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        device=torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        clock="CPU time of the thread" if torch.get_num_threads() == 1 else "wall-clock time",
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        compiled={status.operator: status.kernel for status in native_status() if status.device == device.type},
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_ops", description=__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case (default 2)")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument("--only", default="", help="cases whose name or size contains this; writes nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the results (default {FOLDER})")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
