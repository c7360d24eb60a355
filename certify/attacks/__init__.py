"""Attacks on smoothed reasoning: the lower bounds to hold against certificates.

``pgd`` follows gradients through noise, network, circuit and score; ``square`` needs no gradient, and finds what a
network with vanishing gradients hides from the first. Both stay exactly within their ball.
"""

from neurosym.certify.attacks.pgd import pgd as pgd
from neurosym.certify.attacks.square import square as square
from neurosym.certify.attacks.target import differentiable as differentiable
from neurosym.certify.attacks.target import lac as lac
