# Baseline, edge loss and Dice in full training on photographs: as many seeds as the time allows, each a whole block.
_base_ = '../../convergence/specs/animals_full.py'
_seeds = list(range(20))
runs = [dict(settings=['baseline', 'sobel-p2-w3', 'dice-w10'], budgets=[300], learning_rates=[0.02], seeds=_seeds)]
