# What the client does: one thin driver per thing that touches the network. Whatever has to be decided is decided in
# _core. Outside of streams.py only such parts of Trio are used as have a twin in AnyIO.
