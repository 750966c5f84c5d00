# Baseline and edge loss in full training on generated images, where there are no photographs at hand.
_base_ = '../../convergence/specs/shapes_full.py'
_seeds = list(range(20))
runs = [dict(settings=['baseline', 'sobel-p2-w3-s0.25'], budgets=[150], learning_rates=[0.02], seeds=_seeds)]
