"""Models of clips: a model of pictures that looks at each frame, and a small recurrent network.

Letters: B samples, F frames, C channels or classes, H×W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from limbeck.students.zoo._parts import Config, conv, whole, wholes

__all__ = ["Frames", "FramesGRU", "frames", "frames_gru"]


def frames(
    model: str,
    args: Mapping[str, Any] | None = None,
    *,
    image: Sequence[int] = (3, 32, 32),
    channels_in: int = 3,
    classes: int = 10,
) -> Frames:
    """Return a model of pictures that answers to each frame of a clip; their mean is its answer.

    It has no weights of its own: a file of those of the model of pictures fits as it is.

    Args:
        model: of the zoo, by name.
        args: its arguments; it also gets those below that it takes.
        image: channels, height and width of a frame.
        channels_in: of a frame.
        classes: number of logits.

    >>> import torch
    >>> model = frames("cnn", {"channels": [4], "hidden": []}, image=(3, 8, 8), classes=2)
    >>> model(torch.zeros(5, 6, 3, 8, 8)).shape
    torch.Size([5, 2])
    """
    from limbeck.students import zoo  # which lists this module's models

    known = {"image": list(image), "channels_in": channels_in, "classes": classes}
    taken = zoo.arguments(model)
    whole_args = {k: v for k, v in known.items() if k in taken} | dict(args or {})
    return Frames(model, whole_args)


@final
class Frames(nn.Module):
    """Clips (B, F, C, H, W) to logits (B, C).

    Taps: ``each`` has the answers frame by frame, (B, F, C). Those of the model inside have a row
    for each frame, (B·F, ...), and cannot be matched with anything that has one for each clip.

    Args:
        model: of the zoo, by name.
        args: its arguments.
    """

    def __init__(self, model: str, args: Mapping[str, Any]) -> None:
        from limbeck.students import zoo

        super().__init__()
        self.config: Config = {"build": "frames", "args": {"model": model, "args": dict(args)}}
        self.model = zoo.build(model, **args)
        self.each = nn.Identity()

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, C)."""
        answers: Tensor = self.model(clips.flatten(0, 1))
        logits: Tensor = self.each(answers.unflatten(0, clips.shape[:2]))
        return logits.mean(dim=1)


def frames_gru(
    channels: Sequence[int] = (16, 32, 32),
    hidden: int = 32,
    *,
    channels_in: int = 3,
    classes: int = 10,
) -> FramesGRU:
    """Return a small network for clips: convolutions on each frame, then gated recurrent units.

    Args:
        channels: of the convolutions, each of which halves height and width.
        hidden: D, units that remember from frame to frame.
        channels_in: of a frame.
        classes: number of logits.

    Source: after Donahue et al. 2015, "Long-term Recurrent Convolutional Networks",
    arXiv:1411.4389, with the gated units of Cho et al. 2014, arXiv:1406.1078.

    >>> import torch
    >>> frames_gru((4, 8), 6, classes=2)(torch.zeros(5, 6, 3, 8, 8)).shape
    torch.Size([5, 2])
    """
    return FramesGRU(channels, hidden, channels_in, classes)


@final
class FramesGRU(nn.Module):
    """Clips (B, F, C, H, W) to logits (B, C), the mean of the answers after each frame.

    Taps: ``each`` has these answers, (B, F, C); ``gru[0]`` the states before, (B, F, D). Arguments:
    see :func:`frames_gru`.
    """

    def __init__(
        self, channels: Sequence[int], hidden: int, channels_in: int, classes: int
    ) -> None:
        super().__init__()
        widths = wholes("channels", channels)
        args: dict[str, Any] = {
            "channels": widths,
            "hidden": whole("hidden", hidden),
            "channels_in": whole("channels_in", channels_in),
            "classes": whole("classes", classes),
        }
        self.config: Config = {"build": "frames_gru", "args": args}
        before = [args["channels_in"], *widths[:-1]]
        self.convs = nn.Sequential(
            *(
                nn.Sequential(conv(a, b, stride=2), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in zip(before, widths, strict=True)
            )
        )
        self.gru = nn.GRU(widths[-1], args["hidden"], batch_first=True)
        self.each = nn.Linear(args["hidden"], args["classes"])

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, C)."""
        maps: Tensor = self.convs(clips.flatten(0, 1))
        seen = maps.mean(dim=(2, 3)).unflatten(0, clips.shape[:2])
        answers: Tensor = self.each(self.gru(seen)[0])
        return answers.mean(dim=1)
