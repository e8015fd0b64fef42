"""The held-out digits and the metrics measured on them."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from export.held_out import classification_metrics, digits, held_out_digits


def test_the_split_is_fixed() -> None:
    once, again = digits.__wrapped__(), digits.__wrapped__()  # past the cache: made twice
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert once.sha256 == again.sha256


def test_the_split_is_the_seeded_order_cut_after_1437() -> None:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    assert len(test) == 360
    assert not set(train) & set(test)
    data = digits()
    for name, rows in (("train", train), ("test", test)):
        np.testing.assert_array_equal(getattr(data, f"{name}_images") * 16, images[rows])
        np.testing.assert_array_equal(getattr(data, f"{name}_labels"), labels[rows])


def test_no_held_out_image_is_trained_on() -> None:
    data = digits()
    trained = {image.tobytes() for image in data.train_images}
    assert not trained & {image.tobytes() for image in data.test_images}


def test_images_are_float32_between_0_and_1_and_every_digit_is_held_out() -> None:
    data = digits()
    assert data.train_images.dtype == data.test_images.dtype == np.float32
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert set(data.test_labels) == set(data.train_labels) == set(range(10))


def test_the_sha256_is_of_the_whole_data_set() -> None:
    images, labels = load_digits(return_X_y=True)
    content = bytes(images.astype("u1").ravel()) + bytes(labels.astype("u1"))
    assert held_out_digits().sha256 == hashlib.sha256(content).hexdigest()


def test_held_out_digits_are_the_360_rows_and_their_metrics() -> None:
    held_out, data = held_out_digits(), digits()
    np.testing.assert_array_equal(held_out.inputs["x"], data.test_images)
    right = np.eye(10)[data.test_labels] * 5
    assert held_out.metrics({"logits": right})["accuracy"] == 1.0
    assert held_out.metrics({"logits": -right})["accuracy"] == 0.0


def test_metrics_are_the_share_of_right_answers_and_torchs_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((50, 10)).astype("f4"), rng.integers(0, 10, 50)
    metrics = classification_metrics(logits, labels)
    assert list(metrics) == ["accuracy", "nll"]
    right = sum(row.tolist().index(max(row.tolist())) == label for row, label in zip(logits, labels, strict=True))
    assert metrics["accuracy"] == right / 50
    nll = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert metrics["nll"] == pytest.approx(nll.item(), rel=1e-12)


def test_metrics_of_very_large_logits_are_finite() -> None:
    logits = np.array([[1e4, 0, 0], [0, 1e4, 0]], "f4")
    assert classification_metrics(logits, np.array([0, 2])) == {"accuracy": 0.5, "nll": 5000.0}
