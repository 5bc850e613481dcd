"""
Volumes against the ground truth and without it: metrics, baselines, perturbations, intervals, out-of-distribution.
"""
