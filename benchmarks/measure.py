"""
One measurement, in this process alone: `python benchmarks/measure.py '{"projector": "nanodrr", "size": 64, ...}'`
prints the result as JSON. :mod:`projector` runs it for every row of its tables.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from peers import beam, diffdrr_siddon, diffdrr_trilinear, nanodrr, plain_slice_stack, rtk_joseph
from scripts import BiplanarGeometry, project
from scripts import lift as lift_features

OURS, PLAIN, RTK = "this bundle", "plain slice stack", "RTK Joseph"
PEERS = {
    "nanodrr torch": partial(nanodrr, samples=256),
    "nanodrr triton": partial(nanodrr, samples=256, backend="triton"),
    "DiffDRR trilinear": partial(diffdrr_trilinear, samples=256),
    "DiffDRR Siddon": partial(diffdrr_siddon, rays=2**16),
    RTK: rtk_joseph,
}
MIB = 2**20
RESET_PEAK = Path("/proc/self/clear_refs")
"""Linux sets a process's peak of resident memory to its present one when 5 is written here."""
TINY = 8
"""A first run of this size imports what is imported late, before memory is read."""


def measure(kind: str, **arguments) -> dict[str, float | str]:
    """One of the functions below, by its name; the keys of its result end in the unit."""
    return {"machine": machine, "projection": projection, "lift": lift}[kind](**arguments)


def machine(device: str, size: int) -> dict[str, float | str]:
    """Names, and the speed at which memory is copied, bytes read plus bytes written, of tensors of `size`³ values."""
    source = torch.rand(size**3, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, budget=1.0)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "bandwidth_bytes_per_s": 2 * source.nbytes / seconds,
    }


def projection(projector: str, size: int, views: int, device: str, budget: float) -> dict[str, float]:
    """
    `size`³ voxels to (2 `size`)² pixels: medians of forward, and of forward and the gradient in the volume (not with
    RTK, which has none); memory at the start and what each has added to it at most.
    """
    run(projector, TINY, views, device)(backward=projector != RTK)
    step = run(projector, size, views, device)
    start = start_of_memory(device)
    result = {"start_mib": start, "forward_s": median_seconds(lambda: step(backward=False), device, budget)}
    result["forward_added_mib"] = peak_of_memory(device) - start
    if projector != RTK:
        result["both_s"] = median_seconds(lambda: step(backward=True), device, budget)
        result["both_added_mib"] = peak_of_memory(device) - start
    return result


def run(projector: str, size: int, views: int, device: str) -> Callable[[bool], None]:
    """Projects a volume of random attenuation; one view after the other, each with its backward, save for ours."""
    geometry = BiplanarGeometry(detector_pixels=2 * size)
    volume = (0.02 * torch.rand(1, 1, size, size, size, device=device)).requires_grad_()
    gradient = torch.rand(geometry.detector_pixels, geometry.detector_pixels, device=device)
    if projector == OURS:
        projections = [lambda: project(volume, geometry)]
    elif projector == PLAIN:
        projections = [lambda view=view: plain_slice_stack(volume, geometry, view) for view in range(views)]
    else:
        beams = [beam(geometry, view) for view in range(views)]
        projections = [lambda rays=rays: PEERS[projector](volume, geometry.fov_mm, rays) for rays in beams]

    def step(backward: bool) -> None:
        volume.grad = None
        with torch.set_grad_enabled(backward):
            for make in projections:
                image = make()
                if backward:
                    image.backward(gradient.expand_as(image))

    return step


def lift(size: int, channels: int, device: str, budget: float) -> dict[str, float]:
    """Backprojects feature maps of (2 `size`)² pixels into two volumes of `size`³; times the writing of such, too."""
    features = torch.rand(1, 2, channels, 2 * size, 2 * size, device=device)
    geometry = BiplanarGeometry(detector_pixels=2 * size)
    lift_features(features[..., :TINY, :TINY], geometry, TINY)
    start = start_of_memory(device)
    shape = (1, 2, channels, size, size, size)
    write = median_seconds(lambda: torch.full(shape, 1.0, device=device), device, budget)
    seconds = median_seconds(lambda: lift_features(features, geometry, size), device, budget)
    return {"start_mib": start, "lift_s": seconds, "write_s": write, "added_mib": peak_of_memory(device) - start}


def median_seconds(operation: Callable[[], object], device: str, budget: float) -> float:
    """
    After a first run that does not count, at least three, more while `budget` seconds last; where the first alone takes
    longer than the budget, it is the only one.
    """
    first = seconds(operation, device)
    if first > budget:
        return first
    runs, end = [], time.perf_counter() + budget
    while len(runs) < 3 or time.perf_counter() < end:
        runs.append(seconds(operation, device))
    return statistics.median(runs)


def seconds(operation: Callable[[], object], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    operation()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def start_of_memory(device: str) -> float:
    """Where the system can, forgets the peak of the imports."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif RESET_PEAK.exists():
        RESET_PEAK.write_text("5")
    return peak_of_memory(device)


def peak_of_memory(device: str) -> float:
    """Of this process so far, in MiB: resident memory, or what PyTorch holds on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
