# The mask branch on photographs, from a backbone with ImageNet weights: all losses, ours and those of others.
_base_ = './mask-branch.py'
features = dict(num_train=8000)

_main = ['sobel-p2-w3', 'dice-w10', 'sobel-p1.5-w3']
_others = [
    *('sobel-two-scales-p2-w3', 'dice-w10+sobel-p2-w3', 'dice-w10+sobel-p1.5-w3', 'sobel-p2-w1', 'sobel-p2-w10'),
    *('sobel-p1.5-w1', 'squared-w10', 'squared-w30', 'dice-w3', 'dice-w30', 'bce-w4', 'bce-w10'),
    *('sobel-two-scales-p1.5-w3', 'sobel-p1.5-w10', 'sobel-identity-p2-w6', 'sobel-p2-w0-to-w3'),
]
_peers = [
    *('signed-distance-w1', 'signed-distance-w3', 'signed-distance-w10', 'contour-distance-w0.3'),
    *('contour-distance-w1', 'contour-distance-w3', 'laplacian-boundary-w0.1', 'laplacian-boundary-w0.3'),
    *('laplacian-boundary-w1', 'lovasz-w0.3', 'lovasz-w1', 'lovasz-w3', 'focal-w1', 'focal-w4', 'focal-w16'),
    *('border-bce-w1', 'border-bce-w3', 'border-bce-w10'),
    *('active-boundary-w0.3', 'active-boundary-w1', 'active-boundary-w3'),
]
_best = [
    *('sobel-p1.75-w3', 'dice-w10+sobel-p2-w3', 'lovasz-w3', 'dice-w10+sobel-p1.5-w3', 'sobel-two-scales-p2-w3'),
    *('contour-distance-w1', 'focal-w16', 'border-bce-w3', 'signed-distance-w10', 'laplacian-boundary-w0.3'),
]
_three = [0, 1, 2]
runs = [
    # The best rate is above what was best on nuclei and shapes.
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.1, 0.05, 0.2, 0.02, 0.4], seeds=[0]),
    dict(settings=_main, budgets=[240], learning_rates=[0.1], seeds=_three),
    # At 0.4 one of three seeds nearly collapses on the animals.
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.2, 0.4], seeds=_three),
    # All others short, one seed: which weights, and who is worth more.
    dict(settings=['baseline'], budgets=[60], learning_rates=[0.2, 0.4, 0.1], seeds=[0]),
    dict(settings=[*_main, *_peers], budgets=[60], learning_rates=[0.1], seeds=[0]),
    dict(settings=_main, budgets=[240], learning_rates=[0.1], seeds=[3, 4]),
    dict(settings=['baseline'], budgets=[240], learning_rates=[0.2, 0.4], seeds=[3, 4]),
    # The best of the peers at both weights that were best.
    dict(settings=['lovasz-w1', 'lovasz-w3'], budgets=[240], learning_rates=[0.1], seeds=_three),
    dict(settings=_others, budgets=[60], learning_rates=[0.1], seeds=[0]),
    dict(settings=_main, budgets=[240], learning_rates=[0.05, 0.1, 0.2], seeds=[0]),
    # The end of training, and how much shorter a training run with the edge loss can be.
    dict(settings=['baseline', 'sobel-p2-w3'], budgets=[960], learning_rates=[0.1, 0.2], seeds=_three),
    dict(settings=['sobel-p2-w3'], budgets=[60, 120], learning_rates=[0.1], seeds=_three),
    dict(settings=['dice-w10', 'sobel-p1.5-w3', 'lovasz-w3'], budgets=[960], learning_rates=[0.1], seeds=_three),
    # What was best at 60 iterations on one of the two sets.
    dict(settings=_best, budgets=[240], learning_rates=[0.1], seeds=_three),
]
