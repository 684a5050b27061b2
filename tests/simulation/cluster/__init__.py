# A cluster, for the simulation:
#
# beliefs.py                   what a node believes of the others, and what it lets itself be told
# nodes.py, hosts.py           what it answers as a process; where that runs
# bus.py                       gossip, failure detection, elections, replication
# deployment.py, keys.py       all nodes, and what an operator does to them; keys of given slots
# truth.py                     which keys were there all the time
# scripts.py, wire_scripts.py  what befalls nodes and slots, and connections, as scripts
# faults.py                    how that is drawn, and what it waits for
# clients.py                   the client under test: its scan, commands, a subscriber, and what is owed to each
# world.py                     a schedule drawn, and played
"""A simulated cluster."""
