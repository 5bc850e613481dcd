"""Handlers of a training: checkpoints, resume, clipping, early stopping, progress, devices, processes."""
