"""A job service of Beam's own parts, with a pool that starts a process for each worker it is asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

WORKERS = 2


class Job(BeamJob):
    """A pipeline on several workers; Beam's own job service has one."""

    def _invoke_runner(self) -> Any:
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = WORKERS
        return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())


def main() -> None:
    """Serves until it is stopped; says where in `addresses`: the job service and the pool."""
    folder = Path(os.environ["WORKERS_FOLDER"])
    pool, _server = BeamFnExternalWorkerPoolServicer.start(
        use_process=True, container_executable=os.environ["WORKERS_BOOT"]
    )
    port = LocalJobServicer(beam_job_type=Job).start_grpc_server()
    (folder / "addresses.part").write_text(f"localhost:{port} {pool}")
    (folder / "addresses.part").rename(folder / "addresses")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
