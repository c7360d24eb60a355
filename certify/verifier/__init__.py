"""The verifier of certificates. It shares no numeric code with the rest of the package.

``verify(path)`` re-derives every number from what the certificate records, with 50 digits (mpmath, decimal) and rational
arithmetic. It needs numpy only to read ``sets.npz``.
"""

from neurosym.certify.verifier.common import Check
from neurosym.certify.verifier.core import VerifyResult, verify

__all__ = ["Check", "VerifyResult", "verify"]
