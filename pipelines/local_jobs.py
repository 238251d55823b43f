"""Jobs on this machine, to try a profile: each a shell that runs the script of the job."""

from dask.utils import tmpfile
from dask_jobqueue import local


class LocalJob(local.LocalJob):
    """Runs the script by a shell, as a queue would."""

    async def _submit_job(self, script_filename: str) -> str:
        # It runs the words in a file, without a shell.
        with tmpfile() as words:
            with open(words, "w") as stream:
                stream.write(f"bash {script_filename}")
            return await super()._submit_job(words)


class LocalCluster(local.LocalCluster):
    """A cluster of such jobs."""

    job_cls = LocalJob
