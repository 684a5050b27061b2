# A cluster, for the simulation:
#
# nodes.py                     one node: what it believes of the others, and what it answers
# bus.py                       gossip, failure detection, elections, replication
# deployment.py                all of them, what an operator does to them, and where each key really is
# faults.py                    what befalls them, as scripts
# clients.py                   the client under test: its scan, commands, a subscriber, and what is owed to each
# world.py                     a schedule drawn, and played
"""A simulated cluster."""
