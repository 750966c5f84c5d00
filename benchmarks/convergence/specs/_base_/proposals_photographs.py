# The same losses on loose boxes: the proposals of the detector's own RPN, after 300 iterations.
_base_ = './mask-branch.py'
features = dict(num_train=8000, jitter=0)
_seeds = [0, 1, 2]
runs = [
    # The rates that are best on jittered ground-truth boxes; the baseline's others with one seed.
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.2], seeds=[0]),
    dict(settings=['sobel-p2-w3', 'dice-w10'], budgets=[240], learning_rates=[0.1], seeds=[0]),
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.1], seeds=[0]),
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.2], seeds=_seeds),
    dict(settings=['sobel-p2-w3', 'dice-w10'], budgets=[240], learning_rates=[0.1], seeds=_seeds),
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.05, 0.4], seeds=[0]),
]
