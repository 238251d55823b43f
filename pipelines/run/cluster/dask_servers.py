"""Dask's scheduler and worker without the HTTP server that each of them also starts.

That server answers everybody, whatever the certificates.
"""

from typing import Any

from distributed import Scheduler, Worker


class PrivateScheduler(Scheduler):
    """A scheduler that answers HTTP only if a dashboard was asked for."""

    def start_http_server(
        self, routes: Any, dashboard_address: str | None, *arguments: Any, **options: Any
    ) -> None:
        if dashboard_address is not None:
            super().start_http_server(routes, dashboard_address, *arguments, **options)


class PrivateWorker(Worker):
    """A worker that does not answer HTTP."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        pass
