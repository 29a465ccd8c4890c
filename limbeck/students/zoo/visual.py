"""Models that look and read: answers to questions about pictures, and embeddings of both.

All are called with ``image``, (B, 3, H, W) from 0 to 1, ``input_ids`` and ``attention_mask``
(B, T).

Letters: B samples, T tokens, C classes or channels, D features, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.students.zoo._parts import Config, number, whole, wholes
from limbeck.students.zoo._towers import Looking, Reading, text_config, wanted

__all__ = ["DualEncoder", "VisualQuestion", "dual_encoder", "visual_question"]

_MODALITIES = ("image", "question")


def visual_question(
    vocab: int,
    *,
    channels: Sequence[int] = (16, 32, 64),
    words: int = 32,
    reader: str = "gru",
    width: int = 64,
    dropout: float = 0.0,
    modalities: Sequence[str] = _MODALITIES,
    padding: int = 0,
    classes: int,
) -> VisualQuestion:
    """Return a model that answers questions about pictures: two towers, whose features multiply.

    Args:
        vocab: how many tokens there are.
        channels: of the convolutions that look; each halves height and width.
        words: features of a word, and of the question.
        reader: ``gru`` reads word after word; ``bag`` takes their mean, and knows no order.
        width: D, of each tower's features and of what becomes of them.
        dropout: share of the fused features that training hides.
        modalities: ``image``, ``question`` or both: one that is not named is not looked at, and
            there is no tower for it.
        padding: the token that fills shorter questions.
        classes: number of logits: of answers.

    Source: Antol et al. 2015, "VQA: Visual Question Answering", arXiv:1505.00468: features of both
    through a linear layer and tanh, multiplied, then a perceptron. The convolutions have stride 2
    (Springenberg et al. 2015, "Striving for Simplicity", arXiv:1412.6806), with batch norms.

    >>> model = visual_question(50, channels=(4, 8), words=8, width=8, classes=3).eval()
    >>> model(torch.zeros(1, 3, 16, 16), torch.tensor([[5, 6]]), torch.ones(1, 2).long()).shape
    torch.Size([1, 3])
    """
    return VisualQuestion(
        vocab, channels, words, reader, width, dropout, modalities, padding, classes
    )


@final
class VisualQuestion(nn.Module):
    """Pictures and questions to logits (B, C).

    Taps: ``image_features``, ``question_features`` and ``fused``, (B, D) each; ``stage[i]``, the
    maps of the tower that looks; ``classifier``. Arguments: see :func:`visual_question`.
    """

    def __init__(
        self,
        vocab: int,
        channels: Sequence[int],
        words: int,
        reader: str,
        width: int,
        dropout: float,
        modalities: Sequence[str],
        padding: int,
        classes: int,
    ) -> None:
        super().__init__()
        args: Config = {
            **text_config(vocab, words, reader, padding),
            "channels": wholes("channels", channels),
            "width": whole("width", width),
            "dropout": number("dropout", dropout, zero=True, below=1),
            "modalities": _modalities(modalities),
            "classes": whole("classes", classes),
        }
        self.config: Config = {"build": "visual_question", "args": args}
        self.looking = self.image_features = self.reading = self.question_features = None
        if "image" in args["modalities"]:
            self.looking = Looking(args["channels"])
            self.image_features = _squashed(self.looking.features, width)
        if "question" in args["modalities"]:
            self.reading = Reading(vocab, words, reader, padding)
            self.question_features = _squashed(self.reading.features, width)
        self.fused = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(width, classes)

    def forward(
        self,
        image: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, C).

        Raises:
            InputError: a modality that the model knows is not given.
        """
        features: list[Tensor] = []
        if self.looking is not None and self.image_features is not None:
            features.append(self.image_features(self.looking(wanted(image, "picture"))))
        if self.reading is not None and self.question_features is not None:
            tokens = wanted(input_ids, "question"), wanted(attention_mask, "question")
            features.append(self.question_features(self.reading(*tokens)))
        both = features[0] if len(features) == 1 else features[0] * features[1]
        logits: Tensor = self.classifier(self.fused(both))
        return logits


def dual_encoder(
    vocab: int,
    *,
    channels: Sequence[int] = (16, 32, 64),
    words: int = 32,
    reader: str = "bag",
    width: int = 64,
    padding: int = 0,
) -> DualEncoder:
    """Return two towers that embed pictures and texts in one space, as CLIP does.

    Args:
        vocab: how many tokens there are.
        channels: of the convolutions that look; each halves height and width.
        words: features of a word, and of the text before it is embedded.
        reader: ``bag`` takes the mean of the words, and knows no order; ``gru`` reads them in turn.
        width: D, of an embedding.
        padding: the token that fills shorter texts.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
    Supervision", arXiv:2103.00020: a linear layer without bias after each tower, and vectors of
    length 1. The scale of their cosines is the task's.

    >>> model = dual_encoder(50, channels=(4, 8), words=8, width=6).eval()
    >>> model(torch.zeros(1, 3, 16, 16), torch.tensor([[5, 6]]), torch.ones(1, 2).long()).shape
    torch.Size([1, 2, 6])
    """
    return DualEncoder(vocab, channels, words, reader, width, padding)


@final
class DualEncoder(nn.Module):
    """Pictures and texts to embeddings of length 1, (B, 2, D): the picture's, then the text's.

    Called with pictures alone, or texts alone, it returns (B, 1, D). Taps: ``image_embedding`` and
    ``text_embedding`` (B, D), before they get their length; ``stage[i]``, the maps of the tower
    that looks. Arguments: see :func:`dual_encoder`.
    """

    def __init__(
        self,
        vocab: int,
        channels: Sequence[int],
        words: int,
        reader: str,
        width: int,
        padding: int,
    ) -> None:
        super().__init__()
        args: Config = {
            **text_config(vocab, words, reader, padding),
            "channels": wholes("channels", channels),
            "width": whole("width", width),
        }
        self.config: Config = {"build": "dual_encoder", "args": args}
        self.looking = Looking(args["channels"])
        self.image_embedding = nn.Linear(self.looking.features, width, bias=False)
        self.reading = Reading(vocab, words, reader, padding)
        self.text_embedding = nn.Linear(self.reading.features, width, bias=False)

    def forward(
        self,
        image: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return embeddings (B, 2, D), or (B, 1, D) of what is given.

        Raises:
            InputError: there is neither a picture nor a text.
        """
        found: list[Tensor] = []
        if image is not None:
            found.append(self.image_embedding(self.looking(image)))
        if input_ids is not None:
            read = self.reading(input_ids, wanted(attention_mask, "mask of the text"))
            found.append(self.text_embedding(read))
        if not found:
            raise InputError(
                "the model got no picture and no text", expected="one of them, or both"
            )
        return F.normalize(torch.stack(found, dim=1).float(), dim=-1)


def _squashed(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.Tanh())


def _modalities(wanted: Sequence[str]) -> list[str]:
    """Return the modalities in their order, none of them unknown."""
    if isinstance(wanted, str) or not wanted or set(wanted) - set(_MODALITIES):
        raise InputError(
            f"modalities is {wanted!r}", expected=f"a list of {' and '.join(_MODALITIES)}"
        )
    return [name for name in _MODALITIES if name in wanted]
