"""Losses between maps after a learned translation of both or one of them: FT, OFD.

Each is a pure function beside a module that owns its parameters. The modules are trained with the
student and dropped with the loss.

Letters: B samples, C channels, H×W positions of a map, K factors. Maps are (B, C, H, W). The
teacher never receives a gradient; all is computed in float32 or better.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import InputError
from limbeck.losses.geometry import unit
from limbeck.losses.margins import channel_margins, measured_margins, norm_before
from limbeck.losses.spec import Reduction, Setting, Spec, comparable, declare, reduce

__all__ = [
    "FactorTransfer",
    "Overhaul",
    "Paraphraser",
    "Translator",
    "channel_margins",
    "factor_transfer",
    "overhaul",
    "reconstruction_loss",
]

_REMEDY = "The loss's module brings the channels together; sizes must be equal before."
_FT = "Kim, Park, Kwak 2018 (FT), arXiv:1802.04977"
_OFD = "Heo et al. 2019 (OFD), arXiv:1904.01866"
_SLOPE = 0.1  # of the leaky ReLUs of paraphraser and translator


@declare(Spec("feature", _FT, "shape"))
def factor_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    p: Literal[1, 2] = 1,
    features: Literal["sum", "mean"] = "sum",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Distance between the directions of two factors: features told in other words.

    $$\Big\lVert \frac{F_s}{\lVert F_s \rVert_2} - \frac{F_t}{\lVert F_t \rVert_2} \Big\rVert_p$$

    A factor is what a paraphraser makes of the teacher's map and a translator of the student's; see
    :class:`FactorTransfer`, which has both.

    Args:
        student: factors (B, K, H, W) or (B, K) of the student; one vector per sample.
        teacher: factors of the same shape; no gradient reaches them.
        p: of the norm; 1 is the authors' choice.
        features: ``sum`` is the paper's norm; ``mean`` divides it by the number of entries, as the
            authors' code does, for which their weight 500 was chosen.
        reduction: mean over samples.

    Raises:
        InputError: the shapes differ, or are those of tokens.

    Source: Kim, Park, Kwak 2018, "Paraphrasing Complex Network: Network Compression via Factor
    Transfer", arXiv:1802.04977; code: Jangho-Kim/Factor-Transfer-pytorch.

    >>> factor_transfer(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(2.)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    if student.ndim == 3:
        raise InputError(f"factor_transfer got {tuple(student.shape)}", expected="(B, K, H, W)")
    difference = unit(student.flatten(1)) - unit(teacher.flatten(1))
    distance = torch.linalg.vector_norm(difference, ord=p, dim=1)
    share = 1 if features == "sum" else difference.shape[1]
    return reduce(distance / share, None, reduction)


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's map; its code is the factor that the student learns.

    Args:
        channels: C of the teacher's map.
        factors: K, channels of the code; C/2 is usual.
        batch_norm: after each convolution as the paper describes; the released code has none.

    >>> paraphraser = Paraphraser(8, 4)
    >>> paraphraser(torch.zeros(2, 8, 3, 3)).shape, paraphraser.reconstruct(torch.zeros(2, 8, 3, 3)
    ...                                                                     ).shape
    (torch.Size([2, 4, 3, 3]), torch.Size([2, 8, 3, 3]))
    """

    def __init__(self, channels: int, factors: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.channels, self.factors = channels, factors
        there = [channels, channels, factors, factors]
        back = [factors, factors, channels, channels]
        self.encoder = _steps(nn.Conv2d, there, batch_norm)
        self.decoder = _steps(nn.ConvTranspose2d, back, batch_norm)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Return the factor (B, K, H, W)."""
        factor: Tensor = self.encoder(maps_BCHW)
        return factor

    def reconstruct(self, maps_BCHW: Tensor) -> Tensor:
        """Return what the decoder makes of the factor, (B, C, H, W)."""
        maps: Tensor = self.decoder(self(maps_BCHW))
        return maps


class Translator(nn.Module):
    """A network that makes a factor of the student's map.

    Args:
        channels: C of the student's map.
        factors: K, as the paraphraser's.
        batch_norm: as the paraphraser's.

    >>> Translator(6, 4)(torch.zeros(2, 6, 3, 3)).shape
    torch.Size([2, 4, 3, 3])
    """

    def __init__(self, channels: int, factors: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.encoder = _steps(nn.Conv2d, [channels, channels, factors, factors], batch_norm)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Return the factor (B, K, H, W)."""
        factor: Tensor = self.encoder(maps_BCHW)
        return factor


def reconstruction_loss(
    paraphraser: Paraphraser,
    maps_BCHW: Tensor,
    *,
    form: Literal["squared", "absolute"] = "squared",
) -> Tensor:
    r"""The loss of a paraphraser's training, before the student's: how well it tells a map again.

    $$\lVert x - P(x) \rVert^2$$

    Args:
        paraphraser: to be trained.
        maps_BCHW: of the teacher.
        form: ``squared`` is the paper's formula, the mean over samples of the sum over features;
            ``absolute`` is the authors' code, the mean over everything of |x − P(x)|.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977; code: Jangho-Kim/Factor-Transfer-pytorch.

    >>> silent = Paraphraser(1, 1)
    >>> _ = [nn.init.zeros_(p) for p in silent.parameters()]
    >>> reconstruction_loss(silent, torch.full((2, 1, 2, 2), 3.0))  # 4 features, 3² each
    tensor(36., grad_fn=<MeanBackward0>)
    """
    error = paraphraser.reconstruct(maps_BCHW) - maps_BCHW.detach()
    if form == "absolute":
        return error.abs().mean()
    return error.square().flatten(1).sum(1).mean()


@declare(Spec("feature", _FT, "positions", zero_at_equal=False, per_sample=False))
class FactorTransfer(nn.Module):
    """:func:`factor_transfer` with its paraphraser and its translator.

    Train the paraphraser first, with :func:`reconstruction_loss`, and hand it in: it is then
    frozen. Or let ``reconstruction`` train it beside the student: its mean absolute error is added
    to the loss, and nothing else reaches it. A paraphraser as drawn gives random projections of
    the teacher's map.

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map.
        rate: K/C, factors per channel of the teacher.
        p: of the norm.
        batch_norm: as :class:`Paraphraser`.
        paraphraser: one that is trained; it then fixes K.
        features: as :func:`factor_transfer`.
        reconstruction: factor of the paraphraser's own error; with 0 it is frozen.

    Raises:
        InputError: the sizes H×W of the maps differ; the paraphraser is of another teacher.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977; code: Jangho-Kim/Factor-Transfer-pytorch.

    >>> loss = FactorTransfer(6, 8)
    >>> loss(torch.randn(2, 6, 3, 3), torch.randn(2, 8, 3, 3)).ndim
    0
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        rate: float = 0.5,
        p: Literal[1, 2] = 1,
        batch_norm: bool = True,
        paraphraser: Paraphraser | None = None,
        features: Literal["sum", "mean"] = "sum",
        reconstruction: float = 0.0,
    ) -> None:
        super().__init__()
        factors = max(1, round(rate * teacher_channels))
        made = paraphraser or Paraphraser(teacher_channels, factors, batch_norm=batch_norm)
        if made.channels != teacher_channels:
            raise InputError(
                f"a paraphraser of {made.channels} channels, a teacher's map of {teacher_channels}",
                expected="one that was trained on the tapped map",
            )
        self.paraphraser = made.requires_grad_(reconstruction > 0).train(reconstruction > 0)
        self.translator = Translator(student_channels, made.factors, batch_norm=batch_norm)
        self.p: Literal[1, 2] = p
        self.features: Literal["sum", "mean"] = features
        self.reconstruction = reconstruction

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        rate: float = 0.5,
        p: Literal[1, 2] = 1,
        batch_norm: bool = True,
        paraphraser: Paraphraser | None = None,
        features: Literal["sum", "mean"] = "sum",
        reconstruction: float = 0.0,
    ) -> FactorTransfer:
        """Return the module for the channels of these maps, with a copy of the paraphraser."""
        return cls(
            student.shape[1],
            teacher.shape[1],
            rate=rate,
            p=p,
            batch_norm=batch_norm,
            paraphraser=copy.deepcopy(paraphraser),
            features=features,
            reconstruction=reconstruction,
        )

    def train(self, mode: bool = True) -> FactorTransfer:
        """Set the mode; a frozen paraphraser stays as its own training left it."""
        super().train(mode)
        self.paraphraser.train(mode and self.reconstruction > 0)
        return self

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        factor, own = self.paraphraser(teacher), self.translator(student)
        told: Tensor = factor_transfer(own, factor, p=self.p, features=self.features)
        if not self.reconstruction:
            return told
        error: Tensor = (self.paraphraser.decoder(factor) - teacher).abs().mean()
        return told + self.reconstruction * error


@declare(Spec("feature", _OFD, "shape"))
def overhaul(
    student: Tensor, teacher: Tensor, *, margin: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    r"""Partial squared distance before the activation: what the teacher silences may be silent.

    $$\sum_i d_i, \qquad d_i = \begin{cases} 0 & s_i \le r_i \le 0 \\ (s_i - r_i)^2 &
    \text{otherwise} \end{cases}, \qquad r_i = \max(t_i, m_c)$$

    The teacher's negative values count only down to the margin m of their channel, and a student
    below them is left alone. The factor 1/1000 (CIFAR) or 1/10000 (ImageNet) and the weights of
    layers in the authors' scripts are left to the weight of the match.

    Args:
        student: maps (B, C, H, W) or features (B, C) before the activation, after a connector.
        teacher: of the same shape, before the activation; no gradient reaches them.
        margin: (C,), not positive; see :func:`channel_margins`.
        reduction: mean over samples of the sum over features.

    Raises:
        InputError: the shapes differ, or there is not one margin per channel.

    Source: Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866;
    code: clovaai/overhaul-distillation.

    >>> s, t = torch.tensor([[3.0, 0.5, -9.0]]), torch.tensor([[1.0, -9.0, -9.0]])
    >>> overhaul(s, t, margin=torch.full((3,), -0.5))  # 2² + 1² + 0
    tensor(5.)
    """
    student, teacher = comparable(student, teacher, None, remedy=_REMEDY)
    target = torch.maximum(teacher, per_channel(margin, student, "margin").to(teacher.dtype))
    counted = (student > target) | (target > 0)
    distance = torch.where(counted, student - target, 0.0).square()
    return reduce(distance.flatten(1).sum(1), None, reduction)


@declare(Spec("feature", _OFD, "positions", zero_at_equal=False, per_sample=False))
class Overhaul(nn.Module):
    """:func:`overhaul` with its connector, a 1×1 convolution and a batch normalisation.

    Args:
        student_channels: of the student's map.
        teacher_channels: of the teacher's map.
        margin: one number, or one for each of the teacher's channels; see :func:`channel_margins`.

    Raises:
        InputError: the sizes H×W of the maps differ, or the margins do not fit.

    Source: Heo et al. 2019, arXiv:1904.01866; code: clovaai/overhaul-distillation.

    >>> loss = Overhaul(6, 8, margin=-0.5)
    >>> loss(torch.randn(2, 6, 3, 3), torch.randn(2, 8, 3, 3)).ndim
    0
    """

    margin: Tensor

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        margin: float | Sequence[float] | Tensor,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        self.connector = ConvNorm(conv, teacher_channels)
        given = torch.as_tensor(margin, dtype=torch.float32).detach().flatten()
        self.register_buffer("margin", given.expand(teacher_channels).clone())

    @classmethod
    def build(
        cls,
        student: Tensor,
        teacher: Tensor,
        setting: Setting,
        *,
        margin: float | Sequence[float] | Tensor | None = None,
        batch_norm: str = "",
        tap: str = "",
    ) -> Overhaul:
        """Return the module for these maps.

        Args:
            student: a map of the student.
            teacher: a map of the teacher.
            setting: the two models.
            margin: as the class's; else it is computed from ``batch_norm``.
            batch_norm: path of the teacher's batch normalisation that gives the tapped map.
            tap: the teacher's tap: without the two above, that batch normalisation is looked for
                by name (:func:`norm_before`), and where it is not found, the margins are those of
                the teacher's map here (:func:`measured_margins`).

        Raises:
            InputError: there is none of the three.
        """
        if margin is None and tap and not batch_norm:
            near = norm_before(setting.teacher, tap, teacher.shape[1])
            margin = channel_margins(near.weight, near.bias) if near else measured_margins(teacher)
        if margin is None:
            try:
                norm = setting.teacher.get_submodule(batch_norm) if setting.teacher else None
            except AttributeError:
                norm = None
            if not batch_norm or not isinstance(norm, _BatchNorm):
                raise InputError(
                    f"overhaul got no margin, and {batch_norm!r} is no batch norm of the teacher",
                    expected="margin=, or batch_norm= with the path of the one that is tapped",
                )
            margin = channel_margins(norm.weight, norm.bias)
        return cls(student.shape[1], teacher.shape[1], margin=margin)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return overhaul(self.connector(student), teacher, margin=self.margin)


class ConvNorm(nn.Module):
    """A convolution, a batch normalisation and an activation, for loss modules.

    A batch with a single value per channel (one sample, one position) has no statistics: it gets
    the running ones instead of an error.
    """

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(channels)
        self.activation = activation or nn.Identity()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        maps, norm = self.conv(maps_BCHW), self.norm
        if maps.numel() > maps.shape[1]:
            normal = norm(maps)
        else:
            running = norm.running_mean, norm.running_var
            normal = F.batch_norm(maps, *running, norm.weight, norm.bias, eps=norm.eps)
        active: Tensor = self.activation(normal)
        return active


def _steps(
    convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: list[int], batch_norm: bool
) -> nn.Sequential:
    """Return 3×3 convolutions from one width to the next, with leaky ReLUs."""
    steps: list[nn.Module] = []
    for here, there in itertools.pairwise(widths):
        conv = convolution(here, there, 3, padding=1, bias=not batch_norm)
        active = nn.LeakyReLU(_SLOPE)
        steps += [ConvNorm(conv, there, active)] if batch_norm else [conv, active]
    return nn.Sequential(*steps)


def per_channel(values: Tensor, features: Tensor, name: str) -> Tensor:
    """Return one value per channel in a shape that meets features (B, C, ...)."""
    if values.shape != features.shape[1:2] or features.ndim == 3:
        raise InputError(
            f"{name} has the shape {tuple(values.shape)}, the features {tuple(features.shape)}",
            expected=f"one {name} per channel, of maps (B, C, H, W) or features (B, C)",
        )
    return values.view(-1, *[1] * (features.ndim - 2))
