"""Clips: frames from files and from stills; which frames, which pixels, which cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.data import sources
from limbeck.errors import InputError


def film(frames: int, shade: int, size: int = 6) -> np.ndarray:
    """A film whose frames can be told apart by their pixels."""
    steps = np.arange(frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return np.broadcast_to(shade + steps, (frames, size, size, 3)).copy()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, kind in enumerate(("jump", "run")):
        for each in range(5):
            (tmp_path / kind).mkdir(exist_ok=True)
            shot = film(9, 50 * number + 10 * each)
            if each % 2:
                np.save(tmp_path / kind / f"film{each}.npy", shot)
                continue
            (tmp_path / kind / f"film{each}").mkdir()
            for place, frame in enumerate(shot):
                Image.fromarray(frame).save(tmp_path / kind / f"film{each}" / f"{place:03}.png")
    return tmp_path


def test_frames_are_taken_at_equal_distances_from_both_kinds_of_files(folder: Path) -> None:
    """A model would see the beginning of a film alone, or channels in the place of rows."""
    data = sources.clips(folder, frames=3, validation=0.2, test=0.2)
    assert data.labels == ("jump", "run")
    assert data.facts["inputs"] == {"frames": 3, "image": [3, 6, 6], "channels_in": 3}
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 2)
    for part in (data.train, data.validation, data.test):
        for row, number in enumerate(part.ids.tolist()):
            seen = part.column("inputs")[row]
            assert seen.shape == (3, 3, 6, 6)
            first = 50 * (number // 5) + 10 * (number % 5)
            assert seen[:, 0, 0, 0].tolist() == [first + 1, first + 4, first + 7]
            assert int(part.column("targets")[row]) == number // 5
    shown = data.test.shown(0)
    assert shown["kind"] == "picture"
    assert shown["text"] == "3 pictures of 6×6"
    assert sources.clips(folder, frames=2, size=4).train.column("inputs").shape[1:] == (2, 3, 4, 4)


def test_wrong_films_are_told(folder: Path) -> None:
    """A damaged film would be found out in the middle of training."""
    np.save(folder / "run" / "odd.npy", film(9, 0, size=8))
    with pytest.raises(InputError, match=r"frames of 6×6×3 and .*odd.npy of 8×8×3.*data.args.size"):
        sources.clips(folder)
    np.save(folder / "run" / "odd.npy", film(9, 0).astype(np.float32))
    with pytest.raises(InputError, match=r"odd.npy holds float32"):
        sources.clips(folder)
    (folder / "run" / "odd.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"odd.npy could not be read"):
        sources.clips(folder)


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for each in range(10):
            pixels = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{each}.png")
    return tmp_path


def test_a_camera_pans_evenly_over_a_still(stills: Path) -> None:
    """Frames would be of other pictures, or jump, and clips differ from run to run."""
    data = sources.panned_stills(stills, frames=5, reach=4)
    again = sources.panned_stills(stills, frames=5, reach=4, limit=6)
    plain = sources.image_folder(stills)
    assert data.name.endswith("panned stills")
    assert data.train.ids.tolist() == plain.train.ids.tolist()
    moved = 0
    for row, number in enumerate(data.train.ids.tolist()):
        clip, still = data.train.column("inputs")[row], plain.train.column("inputs")[row]
        wide = np.pad(still.numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        places = []
        for frame in clip:
            found = [
                (down, across)
                for down in range(5)
                for across in range(5)
                if np.array_equal(frame.numpy(), wide[:, down : down + 12, across : across + 12])
            ]
            assert found, "a frame that is no part of the still"
            places.append(found[0])
        steps = np.diff(np.array(places), axis=0)
        assert (np.abs(steps - steps.mean(axis=0)) <= 1).all()
        assert np.array(places).mean(axis=0) == pytest.approx([2, 2], abs=0.5)
        moved += places[0] != places[-1]
        if number in again.train.ids.tolist():
            same = again.train.ids.tolist().index(number)
            assert torch.equal(again.train.column("inputs")[same], clip)
    assert moved > 10
    with pytest.raises(InputError, match=r"reach of 40 pixels.*data.args.reach"):
        sources.panned_stills(stills, reach=40)
    with pytest.raises(InputError, match="0 frames"):
        sources.panned_stills(stills, frames=0)
