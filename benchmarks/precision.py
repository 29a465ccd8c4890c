"""Training steps in float32 and in bfloat16 on a processor, for layers of several kinds and widths.

    python benchmarks/precision.py

Above 1, bfloat16 is faster. What `precision: auto` chooses is to agree with it. The time is that of
one thread alone, so that other work on the machine matters little.
"""

from __future__ import annotations

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from limbeck.distill import autocast, plan
from limbeck.students import zoo

CPU = torch.device("cpu")
IMAGES = {"resnet20": 64, "resnet8x4": 32, "vgg8": 16, "mobilenet_v2": 16, "shufflenet_v2": 16}
ENCODERS, NETWORKS = (64, 128, 384, 768), (64, 256, 2048)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table("model", "float32 / bfloat16", "from", "to", "auto chooses", box=None)
    for name, (model, inputs) in cases().items():
        ratios = measured(model, inputs)
        chosen = plan(model, CPU).precision
        told = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(name, *(f"{ratio:.2f}" for ratio in told), chosen)
    Console().print(table)


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return models and batches."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, count in IMAGES.items():
        model = zoo.build(name, classes=10).to(memory_format=torch.channels_last)
        found[name] = model, torch.randn(count, 3, 32, 32).to(memory_format=torch.channels_last)
    for width in ENCODERS:
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        found[f"Transformer, {width} wide"] = encoder, torch.randn(8, 64, width)
    for width in NETWORKS:
        layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        found[f"MLP, {width} wide"] = nn.Sequential(*layers), torch.randn(256, width)
    return found


def measured(model: nn.Module, inputs: Tensor, rounds: int = 7) -> list[float]:
    """Return the ratio of the times of a step, round by round."""
    plans = [plan(model, CPU, name) for name in ("fp32", "bf16")]

    def step(number: int) -> float:
        began = time.thread_time()
        with autocast(plans[number], CPU):
            answer = model(inputs)
        answer.float().square().mean().backward()
        model.zero_grad()
        return time.thread_time() - began

    step(0), step(1)
    return [step(0) / step(1) for _ in range(rounds)]


if __name__ == "__main__":
    main()
