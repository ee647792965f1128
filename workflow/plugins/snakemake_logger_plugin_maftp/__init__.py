"""Snakemake's messages as one display of the whole run; a logger plugin, `--logger maftp`.

On a terminal the jobs that run, the whole run and the time left stand in its last lines. Elsewhere
the messages are Snakemake's own, with the time left beside the steps done. The file below
`.snakemake/log` is complete either way: Snakemake writes it.
"""

from __future__ import annotations

import atexit
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_maftp.forecast import Forecast, Job, time_left

if TYPE_CHECKING:
    from snakemake_logger_plugin_maftp.display import Display

_UNSAID = {  # of no use to one who watches
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.PROGRESS,
    LogEvent.RUN_INFO,
    LogEvent.SHELLCMD,
}


class LogHandler(LogHandlerBase):
    """Shows what Snakemake tells of a run."""

    def __post_init__(self) -> None:
        """Begin with Snakemake's own messages; the display comes with the first jobs."""
        from snakemake.logging import ColorizingTextHandler, DefaultFormatter

        settings = self.common_settings
        self._stream = sys.stdout if settings.stdout else sys.stderr
        self._plain = ColorizingTextHandler(nocolor=settings.nocolor, stream=self._stream)
        self._plain.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))
        self._forecast = Forecast()
        self._display: Display | None = None
        if self._on_terminal:  # a second that jobs would print in
            import snakemake_logger_plugin_maftp.display  # noqa: F401
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a message of Snakemake's, in the order in which they came."""
        try:
            self._show(record)
        except Exception:
            self.handleError(record)  # else the thread that hands out all later messages would end

    def _show(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        finished = self._take(event, record)
        if event == LogEvent.RUN_INFO and self._on_terminal and self._display is None:
            from snakemake_logger_plugin_maftp.display import Display

            self._display = Display(self._forecast)
        if self._display is None:
            if not (self._on_terminal and event == LogEvent.WORKFLOW_STARTED):
                self._plain.emit(self._with_time_left(event, record))
        elif event == LogEvent.JOB_FINISHED:
            if finished is not None:
                self._display.finished(finished, record.created)
        elif record.levelno >= logging.WARNING:
            style = "red" if record.levelno >= logging.ERROR else "yellow"
            self._display.note(self._plain.format(record), style)
        elif event not in _UNSAID and record.msg not in ("None", "Select jobs to execute..."):
            self._display.note(self._plain.format(record))

    def close(self) -> None:
        """Give the terminal back."""
        atexit.unregister(self.close)
        if self._display is not None:
            self._display.stop()
            self._display = None
        super().close()

    def _take(self, event: LogEvent | None, record: logging.LogRecord) -> Job | None:
        """Follow the jobs; return the one that this message says is finished."""
        forecast, said = self._forecast, record.__dict__
        if event == LogEvent.RUN_INFO:
            forecast.plan({rule: n for rule, n in said["stats"].items() if rule != "total"})
        elif event == LogEvent.RESOURCES_INFO:
            forecast.cores = said.get("cores", forecast.cores)
        elif event == LogEvent.JOB_INFO:
            job = Job(
                rule=said["rule_name"],
                title=said["rule_msg"] or said["rule_name"],
                threads=said["threads"],
                start=record.created,
                log=Path(said["log"][0]) if said["log"] else None,
                outputs=tuple(said["output"]),
            )
            forecast.begin(said["jobid"], job)
        elif event == LogEvent.JOB_ERROR:
            forecast.fail(said["jobid"])
        elif event == LogEvent.JOB_FINISHED:
            return forecast.finish(said["job_id"], record.created)
        return None

    def _with_time_left(
        self, event: LogEvent | None, record: logging.LogRecord
    ) -> logging.LogRecord:
        left = time_left(self._forecast, record.created) if event == LogEvent.PROGRESS else ""
        if left:
            text = f"{self._plain.format(record)}, {left}"
            record = logging.makeLogRecord({**record.__dict__, "event": None, "msg": text})
        return record

    @property
    def _on_terminal(self) -> bool:
        return (
            self._plain.is_tty and self._plain.can_color_tty() and not self.common_settings.dryrun
        )

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False
