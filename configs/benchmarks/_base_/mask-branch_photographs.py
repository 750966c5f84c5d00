# The mask branch on photographs, from a backbone with ImageNet weights: what trains it best, whoever proposed it.
_base_ = './mask-branch.py'
features = dict(num_train=8000)
runs = [
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.1, 0.05, 0.2, 0.02], seeds=[0]),
]
