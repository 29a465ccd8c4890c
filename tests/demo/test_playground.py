"""The playground: the finished models of a run, asked side by side, and the page in a browser."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limbeck import pipeline, recipe
from limbeck.demo import Playground
from limbeck.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
import page_in_browser

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.run(recipe.load(str(TINY)), tmp_path_factory.mktemp("demo") / "tiny")


def test_teacher_and_student_answer_a_test_sample(folder: Path) -> None:
    """Without it, the page could show answers of untrained models, or of the wrong sample."""
    ground = Playground(folder)
    assert ground.names[:2] == ["teacher", "student"]
    batch = ground.sample(5)
    wanted = ground.run.task.wanted(batch, 0)
    assert ground.shown(5) == (ground.run.data.test.shown(5), wanted)
    teacher, student = ground.answers(batch)[:2]
    for answer in (teacher, student):
        assert answer.milliseconds > 0
        assert answer.shares[0][0] == answer.text
        assert [share for _, share in answer.shares] == sorted(
            (share for _, share in answer.shares), reverse=True
        )


def test_a_picture_of_ones_own_is_read_as_the_samples_are(folder: Path, tmp_path: Path) -> None:
    """Without it, one's own picture might be scaled otherwise, and every answer be nonsense."""
    ground = Playground(folder)
    batch = ground.sample(5)
    pixels = (batch["inputs"][0, 0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    own = ground.given({"Picture": str(tmp_path / "digit.png")})
    assert np.allclose(own["inputs"], batch["inputs"], atol=1 / 255)
    assert [a.text for a in ground.answers(own)] == [a.text for a in ground.answers(batch)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="could not be decoded"):
        ground.given({"Picture": str(tmp_path / "broken.png")})


def test_an_unfinished_run_is_refused_and_not_trained(folder: Path, tmp_path: Path) -> None:
    """Without it, looking at a run could start hours of training."""
    with pytest.raises(InputError, match="not the folder of a run"):
        Playground(tmp_path)
    stage = next(folder.glob("stages/student-*"))
    hidden = stage.rename(stage.with_name("gone"))
    try:
        with pytest.raises(InputError, match=r"not finished: its stage student-\d is not done"):
            Playground(folder)
        assert not stage.exists()
    finally:
        hidden.rename(stage)


def test_the_page_answers_in_a_browser(folder: Path) -> None:
    """Without it, the page could load and never answer."""
    if page_in_browser.missing():
        pytest.skip(page_in_browser.missing())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "limbeck", "demo", str(folder), "--port", str(port)]
    server = subprocess.Popen([*words, "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        with page_in_browser.browser() as driver:
            driver.get(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + 30
            while "ms" not in _answers(driver) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert {"teacher", "student"} <= set(_answers(driver).split())
    finally:
        server.terminate()  # what runs in the background may have been told to ignore Ctrl-C
        server.communicate(timeout=30)


def _answers(driver) -> str:
    found = driver.find_elements("css selector", "#sample .answers")
    return found[0].text if found else ""
