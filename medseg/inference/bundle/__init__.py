"""MONAI bundles, without running what they say: known networks and known transforms, or a refusal."""
