"""What metrics are called, and which of them are shares, told in percent."""

from __future__ import annotations

__all__ = ["is_share", "title"]

_ENDS = ("accuracy", "match", "rate")
# Of the first so many: recall_at_5.
_AT = ("precision", "recall", "hit_rate", "image_to_text", "text_to_image")
_SHARES = {
    "agreement", "box_map", "box_map_50", "box_recall", "ece", "mAP", "macro_f1", "map_at_r",
    "mean_iou", "micro_f1",
}  # fmt: skip
_TITLES = {
    "top5_accuracy": "Top-5 accuracy",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "Exact match",
    "word_overlap": "Word overlap with the text",
    "macro_f1": "F1, mean over classes",
    "micro_f1": "F1, all labels together",
    "precision_at_1": "Nearest has the label",
    "map_at_r": "Average precision among neighbours",
    "mAP": "Average precision, mean over labels",
    "box_map": "Average precision of boxes, IoU 0.5 to 0.95",
    "box_map_50": "Average precision of boxes, IoU 0.5",
    "box_recall": "Boxes found, IoU 0.5 to 0.95",
    "r2": "R², explained variance",
    "rmse": "Root of the mean squared error",
    "mae": "Mean absolute error",
    "mean_iou": "Intersection over union, mean over classes",
    "exact_accuracy": "All labels right",
    "hit_rate_at_10": "Hit rate, the first ten",
    "image_to_text_at_1": "Caption found by its picture",
    "image_to_text_at_5": "Caption found among the first five",
    "text_to_image_at_1": "Picture found by its caption",
    "text_to_image_at_5": "Picture found among the first five",
    "ndcg_at_10": "NDCG@10",
    "mrr": "Mean reciprocal rank",
    "ece": "Calibration error (ECE)",
    "loss": "Loss, nats",
    "kl": "KL from the teacher, nats",
    "agreement": "Agreement with the teacher",
}


def is_share(metric: str) -> bool:
    """Return whether a metric is a fraction of 1 that people read in percent.

    >>> [is_share(name) for name in ("accuracy", "hit_rate_at_10", "ndcg_at_10", "loss")]
    [True, True, False, False]
    """
    name, at, _ = metric.rpartition("_at_")
    return metric.endswith(_ENDS) or metric in _SHARES or (bool(at) and name in _AT)


def title(metric: str) -> str:
    """Return a metric's name as a heading.

    >>> title("bleu"), title("word_error_rate")
    ('BLEU', 'Word error rate')
    """
    return _TITLES.get(metric, metric.replace("_", " ").capitalize())
