"""``python -m manvatar.benchmark``: a table for people, a file for comparisons."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from manvatar.benchmark import tracking
from manvatar.benchmark.cases import cases
from manvatar.benchmark.machine import Machine, best_seconds, look_at
from manvatar.benchmark.pipeline import measure
from manvatar.cli import run
from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.ops import keep_freed_memory, peak_memory_bytes

VERSION = 2


def benchmark(
    json_out: Path | None = None,
    compare: Path | None = None,
    preset: str = "fast",
    iterations: int = 400,
    ops_only: bool = False,
) -> None:
    """Time every native op beside its plain PyTorch twin and its floor, then tracking, training and rendering.

    The floor is what this machine needs at least for the op's bytes and arithmetic; its bandwidth and its matrix rate
    are measured first. Close everything else before: other work makes figures worse, not better.

    ``manvatar benchmark tracking`` shows instead how far tracks are off where the truth is known; see its own --help.

    Args:
        json_out: also write everything as JSON.
        compare: a file that --json-out has written before; its times are shown beside the new ones.
        preset: of the avatar that is trained.
        iterations: of that training, at least 200.
        ops_only: leave out tracking, training and rendering, which take about a minute.
    """
    if iterations < 200:
        raise UserError(f"--iterations {iterations} is too few to measure a rate; give 200 or more")
    before = _read(compare) if compare else {}
    keep_freed_memory()
    report: dict[str, Any] = {"version": VERSION, "devices": []}
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        report["devices"].append(_device(look_at(device), before))
    if not ops_only:
        report["pipelines"] = {}
        for device in devices:
            rates = dataclasses.asdict(measure(preset, iterations, device))
            rates |= {"preset": preset, "peak_memory_bytes": peak_memory_bytes()}
            report["pipelines"][device] = rates
            print(f"\n{device}\n" + "\n".join(_pipeline_lines(rates, before.get("pipelines", {}).get(device, {}))))
    if json_out is not None:
        with replacing(json_out) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def _device(machine: Machine, before: dict[str, Any]) -> dict[str, Any]:
    print("\n".join(_machine_lines(machine)))
    old = {
        (row["name"], row["size"]): row
        for device in before.get("devices", [])
        if device["machine"]["device"] == machine.device
        for row in device["ops"]
    }
    header = f"{'op':26} {'size':44} {'ms':>8} {'PyTorch':>9} {'ratio':>6} {'floor':>8} {'of floor':>8} {'limit':>10}"
    print(header + (f" {'before':>8}" if old else ""))
    rows = []
    for case in tqdm(cases(machine.device), desc="ops", unit="op", leave=False):
        with torch.set_grad_enabled("both ways" in case.name):
            seconds = best_seconds(case.run, machine.device)
            reference = best_seconds(case.reference, machine.device, budget_s=0.2, least=2)
        floor = machine.floor_s(case.moved_bytes, case.flops)
        row = {
            "name": case.name,
            "size": case.size,
            "seconds": seconds,
            "reference_seconds": reference,
            "floor_seconds": floor,
            "limit": "bandwidth" if case.moved_bytes / machine.bytes_per_s >= floor else "arithmetic",
        }
        rows.append(row)
        tqdm.write(_row_line(row, old.get((case.name, case.size))))
    return {"machine": dataclasses.asdict(machine), "ops": rows}


def _machine_lines(machine: Machine) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        f"{machine.device}: {machine.name}, {machine.threads} threads; {versions}",
        f"bandwidth {machine.bytes_per_s / 1e9:.1f} GB/s, matrix product {machine.flops_per_s / 1e9:.0f} GFLOP/s",
    ]


def _row_line(row: dict[str, Any], old: dict[str, Any] | None) -> str:
    seconds, reference, floor = row["seconds"], row["reference_seconds"], row["floor_seconds"]
    line = (
        f"{row['name']:26} {row['size']:44} {seconds * 1e3:8.2f} {reference * 1e3:9.2f} {reference / seconds:5.1f}x "
        f"{floor * 1e3:8.2f} {floor / seconds:8.0%} {row['limit']:>10}"
    )
    return line + (f" {old['seconds'] * 1e3:8.2f}" if old else "")


def _pipeline_lines(rates: dict[str, Any], old: dict[str, Any]) -> list[str]:
    names = {
        "track_frames_per_s": "tracking, 512 px video, frames/s",
        "matte_frames_per_s": "crops and mattes, frames/s",
        "train_iterations_per_s": f"training, preset {rates['preset']}, iterations/s",
        "render_256_frames_per_s": "rendering 256 x 256, frames/s",
        "render_512_frames_per_s": "rendering 512 x 512, frames/s",
    }
    lines = [
        f"{label:44} {rates[key]:8.2f}" + (f" {old[key]:8.2f}" if key in old else "") for key, label in names.items()
    ]
    return [*lines, f"{'peak memory, GB':44} {rates['peak_memory_bytes'] / 1e9:8.2f}"]


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that --json-out has written") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON; name a file that --json-out has written") from error
    if not isinstance(report, dict) or report.get("version") != VERSION:
        raise UserError(f"{path} was not written by this version's benchmark; write a new one with --json-out")
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command, or ``benchmark tracking`` where that is its first word; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["tracking"]:
        return tracking.main(arguments[1:])
    return run(benchmark, arguments)
