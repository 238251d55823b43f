"""Jobs on this machine, to try a profile: each a shell that runs the script of the job."""

import subprocess
from pathlib import Path

from dask_jobqueue import local


class LocalJob(local.LocalJob):
    """A job that runs the whole script, as a queue would, in a session of its own."""

    async def _submit_job(self, script_filename: str) -> str:
        folder = self.log_directory
        with open(Path(folder, f"{self.name}.log") if folder else "/dev/null", "ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", Path(script_filename).read_text()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return str(process.pid)


class LocalCluster(local.LocalCluster):
    """A cluster of such jobs."""

    job_cls = LocalJob
