# General layout:
#
# __main__.py          the command line: python -m benchmarks scan|latency|failover|memory|commands
# scan.py ...          one file per verb: which runs are made, and what their figures are called
# peers.py             who is compared, and whether it is there
# runs.py              one run of one worker: a fresh process, watched from outside
# servers.py           the server, its keys, and the proxy that delays
# report.py, plots.py  tables, JSON and SVG
# machine.py           the machine, its clocks, and who else was using it
# workers/             the programs that are measured, each written as its client's users would write it
"""What the client costs and what it brings, beside others, on servers of its own. See README.md in this folder."""
