"""
The parts of `launch.py`, which need Python 3.10 or newer and nothing else. Each imports only what stands before it:
places and failures; the bundle's own modules that it reads; computing, loading, processes, environments; workflows;
overlays and weights; training, evaluation, inference and the demo; verbs and their arguments.
"""
