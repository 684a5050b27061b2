# General layout:
#
# _app       the verbs; what a failure looks like, and the exit status. _options: their options.
# _settings  from options, environment and URL to a client. _tls: its TLS contexts.
# _scan      scan and count, without click: they can be called with any output and report.
# _dedupe    what remembers the keys that were written. _checkpoint: how far they are, in a file.
# _formats   keys as bytes for stdout. _output: stdout itself.
# _report    what is said on stderr. _progress: the same with a bar. _bars: bars on a terminal.
# _running   Trio's run, ended by a signal as by a cancellation.
# _demo      the demo's story. _stage and _screen: where it is shown. _naive: the scan that it is compared with.
#            _tidings: what the Sentinels make of it.
"""The command line: ``trio-sentinel-scan``, or ``python -m trio_sentinel_scan``."""

from __future__ import annotations

from ._app import main as main
