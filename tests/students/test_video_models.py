"""Models of clips: the mean over frames, what can be tapped, weights of a model of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import limbeck as lb
from limbeck.errors import InputError
from limbeck.students import load_weights, zoo


def test_a_model_of_pictures_answers_to_each_frame(tmp_path: Path) -> None:
    """Frames of several clips could be mixed, or its own weights not be found."""
    torch.manual_seed(0)
    args = {"channels": [4], "hidden": [5]}
    picture = zoo.build("cnn", **args, image=[3, 8, 8], classes=3)
    clips = torch.rand(4, 6, 3, 8, 8)
    model = zoo.build("frames", model="cnn", args=args, image=[3, 8, 8], classes=3)
    save_file(picture.state_dict(), tmp_path / "picture.safetensors")
    load_weights(model, tmp_path / "picture.safetensors")
    with torch.no_grad():
        each = torch.stack([picture(clips[:, frame]) for frame in range(6)], dim=1)
        torch.testing.assert_close(model(clips), each.mean(dim=1))
        teacher = lb.Teacher(model)
        known = teacher.knowledge({"inputs": clips}, ("logits", "each"))
    torch.testing.assert_close(known["each"], each)
    again = zoo.build(model.config["build"], **model.config["args"])
    again.load_state_dict(model.state_dict())
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not fit Frames"):
        load_weights(model, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="zoo model 'cnnn' is not known"):
        zoo.build("frames", model="cnnn", classes=3)


def test_the_small_network_remembers_frames() -> None:
    """The order of the frames could not matter, or later ones change what was said before."""
    torch.manual_seed(0)
    model = zoo.build("frames_gru", channels=[4, 6], hidden=5, classes=3).eval()
    clips = torch.rand(2, 5, 3, 8, 8)
    said: list[torch.Tensor] = []
    model.each.register_forward_hook(lambda module, args, out: said.append(out))
    with torch.no_grad():
        whole, begun = model(clips), model(clips[:, :3])
        turned = model(clips.flip(1))
    torch.testing.assert_close(said[0][:, :3], said[1])
    torch.testing.assert_close(whole, said[0].mean(dim=1))
    assert not torch.allclose(whole, turned)
    assert begun.shape == (2, 3)
    again = zoo.build(model.config["build"], **model.config["args"])
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_frames_can_be_matched_one_by_one() -> None:
    """A method that uses what clips are made of would run on none of a recipe's models."""
    teacher = zoo.build("frames", model="cnn", args={"channels": [4]}, image=[3, 8, 8], classes=3)
    student = zoo.build("frames_gru", channels=[4], hidden=4, classes=3)
    match = lb.Match("each", "each", lb.losses.kl, temperature=4)
    task = lb.tasks.Classification(3)
    distiller = lb.Distiller(teacher, student, task=task, method=match)
    out = distiller((torch.rand(4, 5, 3, 8, 8), torch.tensor([0, 1, 2, 0])))
    assert out.teacher is not None
    kept = out.student["each"].detach(), out.teacher["each"]
    log_q, log_p = ((rows / 4).log_softmax(-1) for rows in kept)
    by_hand = 16 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    torch.testing.assert_close(out.terms["kl each"], by_hand)
