"""What several workers count, read as one."""

import os
from collections.abc import Sequence

import pytest

from service.metrics import Metrics
from service.statistics import model_statistics
from service.tallies import CHUNK, Tallies, Tally

MODEL = ("m", "1")


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("normserve_"), *map(str, sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def started(tallies: Sequence[Tally], mine: int) -> Metrics:
    """A worker that has loaded its models."""
    ours = Tallies(tallies, mine)
    metrics = Metrics(ours)
    ours.serve()
    return metrics


def test_whichever_worker_is_asked_tells_the_total() -> None:
    tallies = [Tally.create() for _ in range(3)]
    workers = [started(tallies, number) for number in range(3)]
    for number, worker in enumerate(workers):
        model = worker.of_model(*MODEL)
        for _ in range(number):
            model.request_ended(None, 0.5)
            model.observe_batch(number, [0.25], 2.0)
    for worker in workers:
        found = samples(worker)
        assert found["requests_total", *MODEL, "success"] == 3
        assert found["rows_total", *MODEL] == 1 + 2 * 2
        assert found["request_seconds_count", *MODEL, "success"] == 3
        assert found["request_seconds_sum", *MODEL, "success"] == 1.5
        assert found["request_seconds_bucket", *MODEL, "success", "0.25"] == 0
        assert found["request_seconds_bucket", *MODEL, "success", "0.5"] == 3
        assert found["batch_size_seconds_count", *MODEL, "2"] == 2
        assert found["workers",] == 3
        (stats,) = model_statistics(worker, [MODEL])["model_stats"]
        assert stats["inference_stats"]["compute_infer"] == {"count": 3, "ns": 6_000_000_000}
        assert [size["batch_size"] for size in stats["batch_stats"]] == [1, 2]


def test_gauges_are_of_the_workers_that_serve() -> None:
    tallies = [Tally.create() for _ in range(3)]
    workers = [started(tallies, number) for number in range(3)]
    models = [worker.of_model(*MODEL) for worker in workers]
    for number, model in enumerate(models):
        model.set_ready(True)
        model.pending_changed(number + 1)
    assert samples(workers[0])["pending_requests", *MODEL] == 6
    models[1].set_ready(False)
    assert samples(workers[0])["model_ready", *MODEL] == 0

    tallies[1].serves = False
    found = samples(workers[0])
    assert (found["pending_requests", *MODEL], found["model_ready", *MODEL], found["workers",]) == (4, 1, 2)


def test_last_inference_is_the_latest_of_any_worker() -> None:
    tallies = [Tally.create() for _ in range(2)]
    workers = [started(tallies, number) for number in range(2)]
    for worker in (workers[1], workers[0], workers[1]):
        worker.of_model(*MODEL).observe_batch(1, [0.0], 0.0)
        latest = samples(workers[0])["last_inference_timestamp_seconds", *MODEL]
        assert latest == worker.last_inference.labels(*MODEL).value


def test_a_replacement_goes_on_with_what_its_predecessor_counted_and_has_nothing_pending() -> None:
    tallies = [Tally.create() for _ in range(2)]
    other, killed = (started(tallies, number) for number in range(2))
    model = killed.of_model(*MODEL)
    model.request_ended(None, 0.5)
    model.pending_changed(+1)
    tallies[1].serves = False  # as the parent does
    assert samples(other)["requests_total", *MODEL, "success"] == 1

    replacement = started(tallies, 1)
    replacement.of_model(*MODEL).request_ended(None, 0.5)
    for worker in (other, replacement):
        found = samples(worker)
        assert found["requests_total", *MODEL, "success"] == 2
        assert found["request_seconds_sum", *MODEL, "success"] == 1.0
        assert found["pending_requests", *MODEL] == 0


def test_a_tally_is_as_long_as_what_is_counted() -> None:
    tally = Tally.create()
    writer, reader = Tallies([tally]), Tallies([Tally.create(), tally])
    keys = [("rows", "model" * 9, str(number)) for number in range(3 * CHUNK // 100)]
    for number, key in enumerate(keys):
        writer.numbers(key, 3)[2] = number
    _, (read, _) = reader.read()
    assert [numbers[:] for numbers in read.values()] == [[0, 0, number] for number in range(len(keys))]
    assert list(read) == keys
    assert Tallies([tally]).numbers(keys[-1], 3)[2] == len(keys) - 1


@pytest.mark.parametrize("size", [0, 8, CHUNK - 8])
def test_a_file_too_small_to_hold_anything_holds_nothing(size: int) -> None:
    file = os.memfd_create("small")
    os.ftruncate(file, size)
    tally = Tally(file)
    assert list(tally.records()) == []
    assert not tally.serves
    os.close(file)


def test_a_record_whose_writer_was_killed_is_overwritten_by_the_next() -> None:
    file = os.memfd_create("torn")
    os.ftruncate(file, CHUNK)
    Tallies([Tally(file)]).numbers(("whole",), 1)[0] = 1
    used = os.pread(file, 8, 0)
    Tallies([Tally(file)]).numbers(("torn", "and longer than the next"), 1)[0] = 7
    os.pwrite(file, used, 0)  # as it is when the writer is killed before it says how much is in use
    successor = Tallies([Tally(file)])
    assert successor.numbers(("next",), 2)[:] == [0, 0]
    assert {key: numbers[:] for key, numbers in Tally(file).records()} == {("whole",): [1], ("next",): [0, 0]}
    os.close(file)
