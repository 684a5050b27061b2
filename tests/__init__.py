# core/    what the core decides: plain calls, no I/O, no clock
# trio/    the drivers, on memory streams and a clock that jumps
# real/    real server processes, killed, stopped and failed over
# typing/  what a type checker must see; never run
