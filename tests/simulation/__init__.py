# A whole deployment in one process, under faults that a seed draws, with an oracle that knows what a scan owes:
#
# schedule.py                  what happens in one run: a seed, a world's settings, its faults; as a line of text
# playing.py                   what a world is, and the account of one run
# runner.py                    one schedule, one trio.run, whose order of events repeats exactly
# agenda.py                    the clock, and what a world does at its times
# pairs.py                     which two classes of faults the schedule of a number has on purpose
# shrinking.py                 the simplest schedule that still goes wrong in the same way
# many.py                      many schedules, in several processes
# report.py                    what many runs amount to; classes of faults and pairs of them that were never hit
# worlds.py                    the worlds by their names
# __main__.py                  python -m tests.simulation --minutes 30
"""The deterministic simulation."""
