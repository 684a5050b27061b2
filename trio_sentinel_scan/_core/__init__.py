# What the client decides. Nothing here waits, opens a socket or reads a clock: whatever happened comes in as an
# argument, and what is to be done comes out as a value. So each decision can be tested as a plain function, and one
# source serves every event loop.
