# Chaos on real servers: faults at random, by a seed, while everything that a client does goes on; each history checked.
#
# __main__     python -m tests.chaos: what is asked for, the report at the end, how it ends when it is interrupted
# running      rounds: faults, then waiting until all is whole again, then the checks
# arenas       a service with Sentinels and a cluster, with a proxy in front of each of their servers
# faults       what befalls them
# scanning     scans of every kind, and whether each of them kept its promise
# traffic      commands, and whether what the servers hold in the end is what the replies allow
# listening    a subscriber and a watcher of the topology
# report       the account of a run
#
# The schedule of faults is drawn from a seed. What real processes make of it is not replayed by it.
