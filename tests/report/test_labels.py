"""Names beside points."""

from __future__ import annotations

import itertools

from limbeck.report.labels import _LETTER, _box, seats


def test_no_name_covers_another_or_leaves_the_plot() -> None:
    """Without it, the names of several files of like cost could not be read."""
    names = ["teacher", "student", "control", "student.onnx", "student-pruned", "student-int8.onnx"]
    spots = [
        (400.0, 200.0),
        (50.0, 100.0),
        (60.0, 100.0),
        (55.0, 104.0),
        (58.0, 99.0),
        (57.0, 96.0),
    ]
    size = (440.0, 230.0)
    found = seats(spots, names, ["left"] * 6, size)
    pairs = zip(spots, names, found, strict=True)
    boxes = [_box(spot, _LETTER * len(name), *seat) for spot, name, seat in pairs]
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(box[0] >= 0 and box[2] <= size[0] and 0 <= box[1] <= size[1] for box in boxes)
    assert found[0] == ("left", 0)


def test_names_without_room_stay_in_the_plot() -> None:
    """Without it, the name that found no place would lie cut off at the plot's edge."""
    name, spots, size = "weights-int8.onnx", [(8.0 + n, 30.0) for n in range(9)], (200.0, 60.0)
    found = seats(spots, [name] * 9, ["left"] * 9, size)
    boxes = [
        _box(spot, _LETTER * len(name), *seat) for spot, seat in zip(spots, found, strict=True)
    ]
    assert all(box[0] >= 0 and box[2] <= size[0] for box in boxes)
