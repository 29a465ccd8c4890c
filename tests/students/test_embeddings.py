"""Embeddings that begin as a teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.students import inherit_embeddings, zoo


def test_they_are_the_principal_components_of_the_teachers() -> None:
    """Without it, words that mean the same to the teacher could lie anywhere."""
    sklearn = pytest.importorskip("sklearn.decomposition")
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Embedding(60, 12), nn.Embedding(99, 12), nn.Linear(12, 2))
    nn.init.normal_(teacher[0].weight, mean=2.0)
    with torch.no_grad():
        teacher[0].weight.mul_(torch.linspace(0.1, 3, 12))
    student = zoo.build("textcnn", vocab=60, width=4, classes=2)
    size = float(student.embedding.weight.detach().std())
    inherit_embeddings(student, teacher)
    found = student.embedding.weight.detach().numpy()
    wanted = sklearn.PCA(4).fit_transform(teacher[0].weight.detach().numpy())
    wanted *= size / wanted.std(ddof=1)
    turned = np.sign((found[1:] * wanted[1:]).sum(axis=0))
    np.testing.assert_allclose(found[1:] * turned, wanted[1:], atol=1e-5)
    assert not found[0].any()


@pytest.mark.parametrize("table", [(59, 8), (60, 3)])
def test_a_teacher_with_too_little_is_refused(table: tuple[int, int]) -> None:
    """Without it, some words would begin as others', or the error would name a shape."""
    student = zoo.build("bag", vocab=60, width=4, classes=2)
    with pytest.raises(InputError, match=r"embeddings of .* for a student's 60 with 4"):
        inherit_embeddings(student, nn.Embedding(*table))
    with pytest.raises(InputError, match="the teacher, a Linear, has no embeddings"):
        inherit_embeddings(student, nn.Linear(2, 2))
