"""Bottleneck adapters: small layers behind the base's sublayers (Houlsby et al., 1902.00751)."""
