"""`ich serve` under load: many clients, versions swapped, a client killed, the server stopped; and its throughput."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Result
from components.imaging.nifti import Volume, read_volume

CLIENTS = 8
MEMORY_GROWTH = 1.2
"""Memory in the last tenth of the scans over that in the second tenth, at most."""


@dataclass
class Tally:
    """What became of the scans, filled by all clients.

    Attributes:
        right: Scans whose mask is that of the version they name, by version.
        wrong: Scans whose mask is another.
        failed: Scans without an answer, by reason.
        memory_mib: The server's resident memory after each scan.
    """

    right: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def measure(scan: Path, model: Path, work: Path, scans: int) -> Iterator[Result]:
    """Yields the server's share of the in-process rate, what went wrong under load, and the growth of its memory.

    Three versions of one model are served one after the other; they differ in their threshold, so an answer that mixes
    two, or names another than it came from, shows.

    Args:
        scan: A scan.
        model: An exported model.
        work: A folder to write to.
        scans: Scans to ask for under load.
    """
    from serving.client.remote import RemoteModel
    from serving.prediction.outline import predict_volume
    from serving.prediction.predictor import Predictor

    served, kept = work / "serve" / "ich", work / "versions"
    _versions(model, kept)
    _push(kept / "1", served)
    volume = read_volume(scan)
    wanted = {}
    for folder in sorted(kept.iterdir()):
        wanted[folder.name] = predict_volume(Predictor(folder), volume, scan).mask
    local = Predictor(kept / "1")
    few = max(4, min(scans, 16))

    process, url = _start(served)
    try:
        with RemoteModel(url) as remote:
            predict_volume(remote, volume, scan)
            rates = []
            for engine in (local, remote, local, remote):
                began = time.perf_counter()
                for _ in range(few):
                    predict_volume(engine, volume, scan)
                rates.append(few / (time.perf_counter() - began))
        share = (rates[1] + rates[3]) / (rates[0] + rates[2])
        yield Result(
            "served scans a second over in-process", share, "x", 0.8, False,
            f"{(rates[1] + rates[3]) / 2:.2f} against {(rates[0] + rates[2]) / 2:.2f} scans a second, one client",
        )  # fmt: skip

        victim = _victim(url, scan)
        began = time.perf_counter()
        tally, waiting, clients = _ask(scans, url, volume, scan, wanted, process)
        for version, share_done in (("2", 1 / 3), ("3", 2 / 3)):
            while scans - waiting.qsize() < scans * share_done and any(client.is_alive() for client in clients):
                time.sleep(0.05)
            if version == "2":
                victim.kill()
            _push(kept / version, served)
        for client in clients:
            client.join()
        seconds = time.perf_counter() - began
        victim.wait()
        right = sum(tally.right.values())
        versions = ", ".join(f"{count} by version {version}" for version, count in sorted(tally.right.items()))
        detail = f"{right} right ({versions}) of {scans}, {CLIENTS} clients, {scans / seconds:.2f} a second"
        yield Result("wrong or mixed answers under load", tally.wrong, "", 0, True, detail)
        reasons = "; ".join(f"{count} x {reason}" for reason, count in tally.failed.items())
        yield Result("scans lost under load", scans - right - tally.wrong, "", 0, True, reasons)
        tenth = max(1, len(tally.memory_mib) // 10)
        first, last = (
            float(np.median(part)) for part in (tally.memory_mib[tenth : 2 * tenth], tally.memory_mib[-tenth:])
        )
        yield Result(
            "server memory at the end over the beginning", last / first, "x", MEMORY_GROWTH, True,
            f"{first:.0f} to {last:.0f} MiB; one model more is loaded at the end",
        )  # fmt: skip
        yield _stopped_under_load(process, url, volume, scan, wanted)
    finally:
        process.kill()
        process.wait()


def _versions(model: Path, folder: Path) -> None:
    """Three models that differ in the threshold of their contract alone."""
    import tensorflow as tf

    from serving.contract import Contract
    from serving.signatures import CONTRACT, DESCRIBE_SIGNATURE, QUERY
    from serving.versions import CONTRACT_FILE

    loaded = tf.saved_model.load(str(model))
    for number, threshold in enumerate((0.3, 0.5, 0.7), start=1):
        target = folder / str(number)
        tree = json.loads((model / CONTRACT_FILE).read_bytes())
        tree["postprocess"] = {**tree["postprocess"], "threshold": threshold, "core_threshold": threshold}
        text = Contract.from_json(json.dumps(tree)).to_json()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=QUERY)])
        def describe(query: tf.Tensor, text: str = text) -> dict[str, tf.Tensor]:
            return {CONTRACT: tf.fill(tf.shape(query), text)}

        signatures = {**dict(loaded.signatures), DESCRIBE_SIGNATURE: describe}
        tf.saved_model.save(loaded, str(target), signatures=signatures)
        shutil.copytree(model / "assets.extra", target / "assets.extra")
        (target / CONTRACT_FILE).write_text(text)


def _push(version: Path, served: Path) -> None:
    """Puts a version into service whole, as the pusher does."""
    served.mkdir(parents=True, exist_ok=True)
    part = served / f".{version.name}.part"
    shutil.copytree(version, part)
    part.rename(served / version.name)


def _start(served: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "pipeline", "serve", "-m", str(served), "--grpc-port", "0", "--rest-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("gRPC"):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, f"grpc://{line.split()[1]}"
    raise RuntimeError(f"the server ended at once, exit code {process.wait()}")


def _ask(
    scans: int, url: str, volume: Volume, scan: Path, wanted: dict[str, np.ndarray], process: subprocess.Popen[str]
) -> tuple[Tally, queue.SimpleQueue[int], list[threading.Thread]]:
    """Starts clients that ask for so many scans in all; their tally, the scans that wait, and the clients."""
    tally, server = Tally(), psutil.Process(process.pid)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(scans):
        waiting.put(number)
    ask = (url, volume, scan, wanted, waiting, tally, server)
    clients = [threading.Thread(target=_client, args=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    return tally, waiting, clients


def _client(
    url: str,
    volume: Volume,
    scan: Path,
    wanted: dict[str, np.ndarray],
    waiting: queue.SimpleQueue[int],
    tally: Tally,
    server: psutil.Process,
) -> None:
    from components.imaging.errors import IchError
    from serving.client.remote import RemoteModel
    from serving.prediction.outline import predict_volume

    with RemoteModel(url, concurrency=2) as remote:
        while True:
            try:
                waiting.get_nowait()
            except queue.Empty:
                return
            try:
                prediction = predict_volume(remote, volume, scan)
                right = np.array_equal(prediction.mask, wanted[prediction.report["model_version"]])
            except IchError as error:
                with tally.lock:
                    tally.failed[str(error)[:120]] += 1
                continue
            with tally.lock:
                tally.memory_mib.append(server.memory_info().rss / 1024**2)
                if right:
                    tally.right[prediction.report["model_version"]] += 1
                else:
                    tally.wrong += 1


def _victim(url: str, scan: Path) -> subprocess.Popen[bytes]:
    """A client in a process of its own, to be killed in the middle of its requests."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom components.imaging.nifti import read_volume\n"
        "from serving.client.remote import RemoteModel\nfrom serving.prediction.outline import predict_volume\n"
        "path = Path(sys.argv[2])\nwith RemoteModel(sys.argv[1]) as remote:\n"
        "    while True:\n        predict_volume(remote, read_volume(path), path)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, url, str(scan.resolve())], cwd=Path.cwd())


def _stopped_under_load(
    process: subprocess.Popen[str], url: str, volume: Volume, scan: Path, wanted: dict[str, np.ndarray]
) -> Result:
    """SIGTERM while clients ask: each scan is right or told that the server is away, and the exit code is 0."""
    tally, _, clients = _ask(CLIENTS * 3, url, volume, scan, wanted, process)
    while not tally.right:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    for client in clients:
        client.join()
    detail = f"exit code {code}; {sum(tally.right.values())} right, {sum(tally.failed.values())} told so"
    return Result("wrong answers as the server stops", tally.wrong + (code != 0), "", 0, True, detail)
