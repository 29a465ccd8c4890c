"""Models that hear: their front end, what padding must not change, and what they may look at."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.stages import penultimate, stages
from limbeck.students import shrink, zoo
from limbeck.students.zoo.logmel import LogMel, mel_filters

KINDS: dict[str, dict[str, Any]] = {
    "audiocnn": {},
    "audiogru": {},
    "audiogru, both ways": {"bidirectional": True},
    "conv_transformer": {},
}
CAUSAL = ("audiocnn", "audiogru")


def _model(kind: str, **args: Any) -> nn.Module:
    stated = {"rate": 8000, "width": 8, "depth": 2, "classes": 3} | KINDS[kind] | args
    return zoo.build(kind.partition(",")[0], **stated).eval()


def _batch(lengths: tuple[int, ...], width: int) -> dict[str, Tensor]:
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    waves = (3000 * torch.randn(len(lengths), width)).to(torch.int16)
    return {"waveform": waves * mask.to(torch.int16), "mask": mask}


@pytest.mark.parametrize(("rate", "size", "mels"), [(8000, 256, 40), (16000, 512, 80)])
def test_mel_filters_against_transformers(rate: int, size: int, mels: int) -> None:
    """Without it, the bands could lie elsewhere than everybody's."""
    oracle = pytest.importorskip("transformers.audio_utils").mel_filter_bank(
        size // 2 + 1, mels, 20.0, rate / 2, rate, norm=None, mel_scale="htk"
    )
    np.testing.assert_allclose(mel_filters(rate, size, mels, 20, rate / 2), oracle, atol=1e-6)


def test_features_against_a_loop() -> None:
    """Without it, windows could be shifted, or a square or a logarithm be missing."""
    transformers = pytest.importorskip("transformers.audio_utils")
    waves = torch.randn(1, 1234) / 9
    found, keep = LogMel(8000)(waves, torch.ones(1, 1234))
    assert found.shape == (1, 16, 40)
    assert keep.all()
    filters = transformers.mel_filter_bank(129, 40, 20.0, 4000, 8000, norm=None, mel_scale="htk")
    silence = np.concatenate([np.zeros(120), waves[0].double().numpy(), np.zeros(46)])
    for frame in range(16):
        # the last 25 ms before the frame's end, every 10 ms
        heard = silence[80 * frame : 80 * frame + 200]
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
        power = np.abs(np.fft.fft(heard * shape, 256))[:129] ** 2
        expected = (np.log(power @ filters + 1e-6) + 4) / 4
        np.testing.assert_allclose(found[0, frame], expected, atol=1e-4)


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_and_neighbours_change_nothing(kind: str, frames: bool) -> None:
    """Without it, an answer would depend on which other recordings are in the batch."""
    lengths = (2000, 1111, 333)
    model, batch = _model(kind, frames=frames), _batch(lengths, 2000)
    with torch.no_grad():
        together = model(**batch)
        wider = model(**{k: nn.functional.pad(t, (0, 500)) for k, t in batch.items()})
        noise = torch.full_like(batch["waveform"], 999) * (1 - batch["mask"]).to(torch.int16)
        garbled = model(batch["waveform"] + noise, batch["mask"])
        for row, length in enumerate(lengths):
            alone = model(**{k: t[row : row + 1, :length] for k, t in batch.items()})[0]
            kept = slice(len(alone)) if frames else slice(None)
            assert len(alone) == (-(-length // 160) if frames else 3)
            for other in (together, wider, garbled):
                torch.testing.assert_close(other[row][kept], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_frame_may_look_at(kind: str) -> None:
    """Without it, a model that is said to answer live would have to wait, or a teacher be deaf."""
    model, batch = _model(kind, frames=True), _batch((4000,), 4000)
    changed = batch | {"waveform": batch["waveform"].clone()}
    changed["waveform"][:, 2000:] = 0
    with torch.no_grad():
        same = (model(**batch) == model(**changed)).all(-1)[0]
    assert bool(same[:12].all()) == (kind in CAUSAL)
    assert not same[13:].any()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_weight_learns_and_the_config_builds_it_again(kind: str) -> None:
    """Without it, a part could be left out of the forward pass, or of the blueprint."""
    model = _model(kind, hidden_bands=1, dropout=0.1).train()
    model(**_batch((2000, 900, 1500), 2000)).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    config = json.loads(json.dumps(model.config))
    again = zoo.build(config["build"], **config["args"])
    assert {k: t.shape for k, t in again.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()
    }
    model.eval()
    inputs = _batch((800, 700), 800)
    assert stages(model, inputs) == ["blocks.0", "blocks.1"]
    assert penultimate(model, inputs) == "classifier:input"
    with torch.no_grad():
        scaled = {**inputs, "waveform": inputs["waveform"] / 32768}
        torch.testing.assert_close(model(**inputs), model(**scaled))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_shrinks(kind: str) -> None:
    """Without it, a teacher could not suggest its own student."""
    model = _model(kind, width=16, depth=4)
    half = shrink(model, depth=0.5, width=0.5)
    args = half.config["args"]
    assert (args["depth"], args["width"]) == (2, 8)
    with torch.no_grad():
        assert half.eval()(**_batch((900,), 900)).shape == (1, 3)


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("audiocnn", {"rate": 8000.5}, "rate is 8000.5"),
        ("audiocnn", {"stride": 0}, "stride is 0"),
        ("audiocnn", {"mels": 200}, "Fewer bands"),
        ("audiocnn", {"hop": 0.1}, "hop of 0.1 s"),
        ("audiogru, both ways", {"width": 7}, "an even number"),
        ("conv_transformer", {"heads": 3}, "that the heads divide"),
        ("conv_transformer", {"kernel": 4}, "an odd number"),
    ],
)
def test_wrong_arguments_are_refused(kind: str, args: dict[str, Any], message: str) -> None:
    """Without it, a model could be built that is silently deaf to some frequencies."""
    with pytest.raises(InputError, match=message):
        _model(kind, **args)
