import pytest
import torch

from mmdet_edge import EdgeAgreementMaskHead

SMALL = dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=4)


def gradients(head, inputs, names=('loss_mask', 'loss_edge')):
    """Losses, and the gradients of features and parameters for the sum of these losses."""
    features = torch.linspace(-1, 1, 4 * 8 * 14 * 14).view(4, 8, 14, 14).requires_grad_()
    losses = head.loss_and_target(**{**inputs, 'mask_preds': head(features)})['loss_mask']
    sum(losses[name].sum() for name in names).backward()
    return losses, features.grad, [parameter.grad for parameter in head.parameters()]


@pytest.mark.parametrize('scales', [(0.25, 0), (1, 0.5)])
def test_each_loss_has_its_own_scale(scales, tried_mask_heads, head_inputs):
    inputs = head_inputs([0, 3, 0, 1], channels=4)
    torch.manual_seed(0)
    head = tried_mask_heads.TwoScalesMaskHead(*scales, **SMALL)
    head.init_weights()
    losses, of_features, of_parameters = gradients(head, inputs)
    plain = EdgeAgreementMaskHead(**SMALL, feature_grad_scale=1)
    plain.load_state_dict(head.state_dict())
    expected_losses, _, expected = gradients(plain, inputs)
    # The first run computes the logits of all classes, in another order of summation.
    torch.testing.assert_close(losses, expected_losses)
    torch.testing.assert_close(of_parameters, expected)
    mask, edge = (gradients(plain, inputs, [name])[1] for name in ('loss_mask', 'loss_edge'))
    assert mask.abs().sum() > 0 and edge.abs().sum() > 0
    torch.testing.assert_close(of_features, scales[0] * mask + scales[1] * edge)
