# A first look at many losses: one seed, trained on the proposals of the detector's own RPN instead of jittered true boxes.
_base_ = './mask-branch.py'
features = dict(jitter=0)
_combined = [
    *('bce-w4', 'squared-w10', 'dice-w3', 'sobel-p1-w0.3', 'sobel-p1-w1', 'sobel-p1-w3', 'sobel-p1.5-w1'),
    *('sobel-p1.5-w3', 'sobel-p2-w1', 'sobel-p2-w3', 'sobel-p2-w10', 'sobel-p1-w1-smooth-both', 'sobel-p1-w1+p2-w3'),
    *('dice-w1+sobel-p2-w1', 'dice-w2+sobel-p1-w1', 'dice-w2+sobel-p1-w2', 'dice-w2+sobel-p2-w3'),
    *('dice-w3+sobel-p1-w3', 'dice-w3+sobel-p2-w3', 'squared-w10+sobel-p1-w1'),
]
_kernels = [
    *('scharr-p1-w0.25', 'scharr-p2-w0.1875', 'sobel-identity-p1-w2', 'sobel-identity-p2-w6', 'sobel-twofold-p2-w3'),
    *('sobel-two-scales-p1-w1', 'sobel-two-scales-p1.5-w3', 'sobel-two-scales-p2-w1', 'sobel-two-scales-p2-w3'),
    *('sobel-two-scales-p2-w10', 'sobel-three-scales-p1-w1', 'sobel-three-scales-p1.5-w1', 'sobel-three-scales-p2-w1'),
    *('sobel-three-scales-p2-w3', 'sobel-four-scales-p1-w1', 'sobel-four-scales-p2-w1', 'sobel-four-scales-p2-w3'),
]
_schedules = [
    *('sobel-p1-w0-to-w3', 'sobel-p1-w3-to-w0.3', 'sobel-p2-w0-to-w3', 'sobel-p2-w0-to-w6', 'sobel-p2-w10-to-w1'),
    *('sobel-p1-to-p2-w3', 'sobel-p2-to-p1-w3'),
]
runs = [
    dict(settings=['baseline'], budgets=[120], learning_rates=[0.02, 0.05, 0.1, 0.2], seeds=[0]),
    dict(settings=[*_combined, *_kernels, *_schedules], budgets=[120], learning_rates='tuned', seeds=[0]),
]
