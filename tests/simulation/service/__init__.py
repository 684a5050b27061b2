# machines.py                  the network between the client and the programs
# servers.py, sentinels.py     data servers that replicate; Sentinels that act
# deployment.py                all of it put together
# ledger.py                    since when each key is there: what the oracle knows
# reader.py, traffic.py        what the client under test is made to do, each with its own checks
# faults.py, drawing.py        what can befall it; schedules by lot
# world.py                     one schedule played
"""The world of one service that Sentinels watch."""

from __future__ import annotations

from .world import ServiceWorld as ServiceWorld
