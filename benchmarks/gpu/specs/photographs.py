# Baseline and edge loss in full training on photographs: as many pairs of seeds as the time allows.
_base_ = '../../convergence/specs/animals_full.py'
_edge = 'sobel-p2-w3-s0.25'
runs = [
    # Six runs at a time: the rates, and the edge loss at those that are likely to be the best.
    dict(settings=['baseline'], budgets=[1200], learning_rates=[0.02, 0.01, 0.03], seeds=[0]),
    dict(settings=[_edge], budgets=[1200], learning_rates=[0.02, 0.01], seeds=[0]),
    dict(settings=[_edge], budgets=[1200], learning_rates=[0.02], seeds=[1]),
    dict(settings=['baseline', _edge], budgets=[1200], learning_rates='tuned', seeds=list(range(20))),
]
