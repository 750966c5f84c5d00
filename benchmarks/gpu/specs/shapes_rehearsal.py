# The same in so few iterations that a CPU ends some runs; their values mean nothing.
_base_ = './shapes.py'
runs = [
    dict(settings=['baseline', 'sobel-p2-w3-s0.25'], budgets=[32], learning_rates=[0.02], seeds=[seed])
    for seed in range(20)
]
