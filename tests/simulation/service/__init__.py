# machines.py                  the network between the client and the programs
# servers.py                   data servers that replicate
# actors.py, leading.py        Sentinels that act, and lead failovers; sentinels.py has what they answer
# deployment.py                all of it put together
# ledger.py                    since when each key is there: what the oracle knows
# reader.py, traffic.py        what the client under test is made to do
# judging.py                   what is judged of a scan
# faults.py                    the faults of a schedule, waiting for their moments
# fault_classes.py             what can befall it; in server_faults.py and network_faults.py
# drawing.py                   schedules by lot
# world.py                     one schedule played
"""The world of one service that Sentinels watch."""

from __future__ import annotations

from .world import ServiceWorld as ServiceWorld
