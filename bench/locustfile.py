"""``make load``: Locust against one model of any server of the Open Inference Protocol v2 (docs/load-testing.md)."""

import logging
import signal
import sys
import time
from array import array
from collections import Counter
from itertools import count
from typing import Any

import gevent
import numpy as np
from locust import FastHttpUser, events, stats, task
from locust.env import Environment

from bench.load_settings import LoadSettings, add_settings, load_settings
from bench.oip import HEADER_LENGTH, Answer, LoadError, Target, find

DIFFERENT_BITS = "200, but the bits differ from those of the first answer to the same input (CHECK=no compares nothing)"
USERS_AT_ONCE = 100  # Locust warns of more a second
BUSY = 0.9  # of a core: from there on it is Locust's own pace that is measured
REACHED = 0.95  # of the rate: the first and the last user's turns are not whole ones
KINDS_OF_FAILURE = 10  # the report page has them all


class Figures:
    """What Locust counts, unrounded: its own percentiles are whole milliseconds, from 100 on tens of them."""

    def __init__(self) -> None:
        self.times_ms = array("d")
        self.failures: Counter[str] = Counter()
        self.began = self.ended = self.cpu_s = 0.0

    def start(self) -> None:
        """With the load, not with the process."""
        self.began, self.cpu_s = time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        """Once the last answer is there; later calls change nothing."""
        if not self.ended:
            self.ended, self.cpu_s = time.perf_counter(), self.cpu_s + time.process_time()

    def add(self, response_time: float, exception: BaseException | None) -> None:
        """Of the times only those of good answers: a quick 429 must not make the median better."""
        if exception is None:
            self.times_ms.append(response_time)
        else:
            self.failures[str(exception)] += 1


class InferenceUser(FastHttpUser):
    """One connection that sends the next request when the answer to the last is there."""

    target: Target
    compares: bool
    period_s = 0.0  # from a user's request to its next; 0: as soon as there is an answer
    delay_s = 0.0  # from a user's first request to the next user's
    numbers = count()

    def on_start(self) -> None:
        """With a rate, users begin one after another: all at once they would send in bursts."""
        self.turn = next(self.numbers)
        time.sleep(self.turn * self.delay_s)  # gevent's: Locust has replaced it, and other users go on
        self.due = time.perf_counter()

    def wait_time(self) -> float:
        """What Locust's constant_throughput waits, which counts the sleep of on_start as work and so undoes it."""
        now = time.perf_counter()
        self.due = max(now, self.due + self.period_s)  # a late user does not catch up
        return self.due - now

    @task
    def infer(self) -> None:
        """Send an input; say what was wrong with the answer."""
        request = self.target.requests[self.turn % len(self.target.requests)]
        self.turn += 1
        with self.client.post(
            self.target.path,
            data=request.body,  # type: ignore[arg-type]  # it takes bytes as well
            headers=request.headers,
            catch_response=True,
        ) as response:
            if not response.status_code:
                return  # no answer at all: Locust has the reason
            header_length = response.headers.get(HEADER_LENGTH) if response.headers else None
            answer = Answer(response.status_code, bytes(response.content or b""), header_length)
            if answer.status != 200:
                response.failure(f"{answer.status}: {answer.error}")
            elif self.compares and not answer.has_the_outputs_of(request.first):
                response.failure(DIFFERENT_BITS)


events.init_command_line_parser.add_listener(add_settings)


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Before any load: settings, server and model. What is wrong ends the process with one line."""
    options: Any = environment.parsed_options
    try:
        settings = load_settings(options)
        target = find(settings.url, settings.wanted)
    except LoadError as error:
        sys.exit(f"make load: {error}")
    environment.host = settings.url
    options.spawn_rate = min(settings.users, USERS_AT_ONCE)
    InferenceUser.target, InferenceUser.compares = target, settings.compares
    if settings.rate is not None:
        InferenceUser.period_s = settings.users / settings.rate
        InferenceUser.delay_s = 1 / settings.rate
    stats.HISTORY_STATS_INTERVAL_SEC = 1  # the page's curves have a point every 5 s else: two of a run of ten
    logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)  # summarise() is shorter
    runner = environment.runner
    if (
        runner is not None
    ):  # Ctrl-C ends the load early, with its figures; Locust would raise it inside some user's request
        gevent.signal_handler(signal.SIGINT, runner.quit)
    figures = Figures()
    environment.events.test_start.add_listener(lambda **_: figures.start())
    environment.events.test_stop.add_listener(lambda **_: figures.stop())
    environment.events.request.add_listener(lambda response_time, exception, **_: figures.add(response_time, exception))
    environment.events.quitting.add_listener(lambda **_: summarise(environment, settings, figures))
    pace = "as fast as answers come" if settings.rate is None else f"{settings.rate:g} requests/s in all"
    say(f"{settings.wanted.model} at {settings.url}: {settings.users} users, {pace}, {settings.seconds} s")
    say(f"each request: {target.described}")


def summarise(environment: Environment, settings: LoadSettings, figures: Figures) -> None:
    """The figures, what failed, and what makes the figures mean less than they seem to."""
    figures.stop()  # after a SIGTERM Locust quits without stopping
    answered, failed, seconds = len(figures.times_ms), figures.failures.total(), figures.ended - figures.began
    if not answered and not failed:
        environment.process_exit_code = 1
        say(f"no request was answered within {settings.seconds} s")
        return
    cores = figures.cpu_s / seconds
    say(f"requests/s  {answered / seconds:.1f} ({answered} good answers in {seconds:.1f} s)")
    if answered:
        for percent in (50, 95, 99):
            say(f"p{percent}         {np.percentile(figures.times_ms, percent):.2f} ms")
    say(f"failures    {failed}")
    say(f"Locust      {cores:.0%} of a core")
    if settings.report:
        say(f"report      {settings.report}")
    for text, times in figures.failures.most_common(KINDS_OF_FAILURE):
        say(f"  {times} x {text}")
    if cores > BUSY:
        say("Locust has no more than one core: the server may well answer more than it can ask.")
    if settings.rate is not None and (answered + failed) / seconds < REACHED * settings.rate:
        say(f"RATE={settings.rate:g} was not reached: the times leave out how long requests waited to be sent.")


def say(text: str) -> None:
    """At once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
