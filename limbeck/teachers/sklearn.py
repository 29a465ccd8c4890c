"""An estimator with scikit-learn's methods as a teacher: forests, boosted trees, and the rest.

Letters: B samples, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from limbeck.data.samples import Batch
from limbeck.errors import InputError, unknown
from limbeck.teachers.contents import contents
from limbeck.teachers.foreign import Foreign, Size, arrays
from limbeck.teachers.returns import Kind

__all__ = ["estimates", "from_sklearn", "is_fitted"]

_METHODS: dict[str, Kind] = {
    "predict_proba": "probabilities",
    "decision_function": "logits",
    "predict": "values",
}


def from_sklearn(
    estimator: Any,
    preprocess: Callable[[Any], Any] | None = None,
    *,
    labels: Sequence[Any] | None = None,
    inputs: str | Callable[[Batch], Any] = "inputs",
    clip: float = 1e-7,
) -> Foreign:
    """Return a teacher that asks a fitted estimator.

    A classifier is asked for ``predict_proba``, whose logarithm are the logits, or else for
    ``decision_function``, which is taken as logits; a regressor for ``predict``, whose numbers,
    (B, K), stand for logits. It gets the samples as rows: (B, ...) is flattened to (B, D). Anything
    with these methods will do, XGBoost's and LightGBM's estimators too.

    Args:
        estimator: fitted.
        preprocess: what this teacher does to the batch's tensors first. It may return what the
            estimator was fitted on, a data frame for example.
        labels: the task's classes in the order of their numbers, in the estimator's words:
            ``("ham", "spam")``. By default 0, 1, ..., C − 1. Columns are brought into this order;
            a class that the estimator never saw has the probability ``clip``.
        inputs: which field of the batch it reads, or a function of the batch.
        clip: the smallest probability.

    Raises:
        InputError: it is not fitted, has none of these methods, or its classes are not the labels.

    >>> import torch
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> tree = DecisionTreeClassifier(random_state=0).fit([[0.0], [1.0]], [0, 1])
    >>> from_sklearn(tree, clip=0.01).knowledge({"inputs": torch.ones(1, 1)}).logits.exp()
    tensor([[0.0100, 1.0000]])
    """
    method = estimates(estimator)
    if method is None:
        raise InputError(
            f"a {type(estimator).__name__} as an estimator",
            expected=f"one with {', '.join(_METHODS)}",
        )
    if not is_fitted(estimator):
        raise InputError(
            f"{type(estimator).__name__} is not fitted",
            expected="a trained teacher",
            remedy="Call estimator.fit(x, y) first.",
        )
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        raise InputError(
            f"a {type(estimator).__name__} that answers {len(classes)} questions at once",
            expected="one with a single set of classes",
        )
    columns = None if classes is None else _columns(list(classes), labels, method)
    model = _Estimator(estimator, method, columns)
    returns = _METHODS[method]
    return Foreign(model, preprocess, inputs=inputs, returns=returns, clip=clip)


def estimates(thing: Any) -> str | None:
    """Return the best of an estimator's methods, or ``None`` if it has none.

    Some estimators have a method only with certain options, which no protocol can see.

    >>> from sklearn.svm import SVC
    >>> estimates(SVC()), estimates(print)
    ('decision_function', None)
    """
    return next((name for name in _METHODS if callable(getattr(thing, name, None))), None)


@final
class _Estimator:
    """A fitted estimator, its columns in the order of the task's classes."""

    def __init__(self, estimator: Any, method: str, columns: NDArray[np.intp] | None) -> None:
        self.estimator, self.method, self.columns = estimator, method, columns

    @property
    def name(self) -> str:
        return type(self.estimator).__name__

    def ask(self, inputs: Any, taps: tuple[str, ...]) -> Mapping[str, Any]:
        for tap in taps:
            if tap != "logits":
                raise unknown(
                    f"tap of {self.name}:", tap, ["logits"], remedy="An estimator has no layers."
                )
        rows = arrays(inputs)
        if isinstance(rows, np.ndarray) and rows.ndim != 2:
            rows = rows.reshape(len(rows), -1)
        said = np.asarray(getattr(self.estimator, self.method)(rows))
        if self.method == "predict":
            said = said.astype(np.float32).reshape(len(said), -1)
        return {"logits": said if self.columns is None else self._ordered(said)}

    def fingerprint(self) -> str:
        order = None if self.columns is None else self.columns.tolist()
        return contents([self.estimator, self.method, order])

    def size(self) -> Size:
        return Size()

    def _ordered(self, said: NDArray[Any]) -> NDArray[Any]:
        """Put the estimator's columns where the task has its classes; −1 is a class not seen."""
        assert self.columns is not None
        if said.ndim == 1 or said.shape[1] == 1:  # the log-odds of the second class
            return said if self.columns[0] == 0 else -said
        seen = (self.columns >= 0).sum()
        if said.shape[1] != seen:
            raise InputError(
                f"{self.name}.{self.method} gave {said.shape[1]} columns for {seen} classes",
                expected="one for each class",
                remedy="For scikit-learn's SVC: decision_function_shape='ovr'.",
            )
        found = said[:, self.columns]
        found[:, self.columns < 0] = 0.0
        return found


def is_fitted(thing: Any) -> bool:
    """Say whether an estimator was fitted; of others than scikit-learn's it is taken for granted.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> is_fitted(DecisionTreeClassifier()), is_fitted("anything else")
    (False, True)
    """
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(thing, BaseEstimator):
        return True
    try:
        check_is_fitted(thing)
    except NotFittedError:
        return False
    return True


def _columns(
    classes: list[Any], labels: Sequence[Any] | None, method: str
) -> NDArray[np.intp] | None:
    """Return which column of the estimator belongs to each class of the task; −1 for none.

    ``None`` if they agree as they are.
    """
    wanted = list(range(len(classes))) if labels is None else list(labels)
    strange = [each for each in classes if each not in wanted]
    if strange:
        raise InputError(
            f"the estimator's classes are {_few(classes)}",
            expected=f"{_few(wanted)}, the task's classes in order",
            consequence="The student would learn each class's answer as another's.",
            remedy="Say which is which: labels=[...], the estimator's names of the classes "
            "0, 1, 2, ...",
        )
    found = [classes.index(each) if each in classes else -1 for each in wanted]
    if -1 in found and method != "predict_proba":
        raise InputError(
            f"the estimator never saw the class {wanted[found.index(-1)]!r}",
            expected="a score for each class",
            remedy="Fit it on samples of all classes, or use one with predict_proba.",
        )
    return None if found == list(range(len(classes))) else np.array(found)


def _few(names: list[Any]) -> str:
    shown = ", ".join(repr(getattr(name, "item", lambda name=name: name)()) for name in names[:8])
    return f"[{shown}{', …' if len(names) > 8 else ''}]"
