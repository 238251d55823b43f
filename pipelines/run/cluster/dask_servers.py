"""Dask's scheduler and worker without the HTTP server that each of them starts besides.

It answers everybody, whatever certificates the others ask for.
"""

from typing import Any

from distributed import Scheduler, Worker


class PrivateScheduler(Scheduler):
    """Answers HTTP only where a dashboard was asked for."""

    def start_http_server(
        self, routes: Any, dashboard_address: str | None, *arguments: Any, **options: Any
    ) -> None:
        if dashboard_address is not None:
            super().start_http_server(routes, dashboard_address, *arguments, **options)


class PrivateWorker(Worker):
    """Answers no HTTP."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        pass
