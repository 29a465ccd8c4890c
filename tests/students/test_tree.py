"""The soft tree: its answer by hand, the likeliest way, and the questions as text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data.columns import Feature
from limbeck.errors import InputError
from limbeck.students import zoo


def test_its_answer_by_hand() -> None:
    """A sample could go left where it should go right, and the tree would still train."""
    torch.manual_seed(0)
    tree = zoo.build("soft_tree", features=3, depth=2, classes=4)
    x = torch.randn(5, 3)
    w, b = (p.detach().double().numpy() for p in (tree.questions.weight, tree.questions.bias))
    leaves = np.exp(tree.leaves.detach().double().numpy())
    leaves /= leaves.sum(axis=1, keepdims=True)
    for row in range(5):
        right = 1 / (1 + np.exp(-(w @ x[row].double().numpy() + b)))
        ways = [
            (1 - right[0]) * (1 - right[1]), (1 - right[0]) * right[1],
            right[0] * (1 - right[2]), right[0] * right[2],
        ]  # fmt: skip
        with torch.no_grad():
            shares = tree(x[row : row + 1]).exp()[0].numpy()
        np.testing.assert_allclose(shares, np.array(ways) @ leaves, rtol=1e-5)
        assert int(tree.leaf(x[row : row + 1])) == int(np.argmax(ways))


def test_rules_are_in_the_columns_units() -> None:
    """Nobody could check a threshold that is told in standard deviations."""
    tree = zoo.build("soft_tree", features=3, depth=1, classes=2)
    tree.load_state_dict({
        "questions.weight": torch.tensor([[0.5, 0.01, -2.0]]),
        "questions.bias": torch.tensor([0.25]),
        "leaves": torch.tensor([[3.0, 0.0], [0.0, 1.0]]),
    })  # fmt: skip
    features = [Feature("age", 40.0, 10.0), Feature("height", 1.7, 0.1), Feature("town = Rome")]
    told = tree.rules(features, ("no", "yes"), most=2)
    # 0.5·(age − 40)/10 − 2·[Rome] + 0.25 > 0, the height as it is on the average
    assert told.splitlines() == [
        "is − 2·[town = Rome] + 0.05·age > 1.75?",
        "  yes: yes 73 %",
        "  no: no 95 %",
    ]
    with pytest.raises(InputError, match=r"1 features\. Expected: 3"):
        tree.rules(features[:1])
    with pytest.raises(InputError, match="depth 20"):
        zoo.build("soft_tree", features=3, depth=20, classes=2)
